-- The table every program that reads this file knows. Its nine columns never change: rows are inserted by position.
CREATE TABLE jobs (
    id            TEXT,
    name          TEXT,
    from_dir      TEXT,
    status        TEXT,
    system        TEXT,
    remote_id     TEXT,
    remote_status TEXT,
    creation_time DATE,
    status_time   DATE
);
