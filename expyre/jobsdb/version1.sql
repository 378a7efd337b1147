-- What version 1 of the record adds to the jobs table. Triggers keep it right whoever writes to the jobs table,
-- and use nothing but built-in functions, so that any SQLite client (3.24 or newer) can do so.

CREATE INDEX jobs_by_name ON jobs (name);
CREATE INDEX jobs_by_status ON jobs (status);
CREATE INDEX jobs_by_system ON jobs (system, status);

CREATE TABLE details (
    num           INTEGER PRIMARY KEY,
    id            TEXT NOT NULL UNIQUE,        -- of the row in the jobs table
    scope         TEXT,                        -- jobs of one scope and key are one job
    key           TEXT,                        -- "k1:..." content key; "k0:..." of jobs that older programs made
    func          TEXT,                        -- dotted name of the function
    token         TEXT,                        -- word under which the queue system knows the submission
    owner         TEXT,                        -- process that is submitting it now
    submit_state  TEXT,                        -- NULL, 'submitting', 'submitted'
    t_claimed     REAL,                        -- last sign of life of the owner
    "partition"   TEXT,
    resources     TEXT,                        -- JSON
    options       TEXT,                        -- JSON: how it was submitted besides
    hmac_key      BLOB,
    tries         INTEGER NOT NULL DEFAULT 0,  -- how often it was tried again
    unknown_since REAL,                        -- the queue has not known the job since
    reason        TEXT,                        -- why it died
    end_detail    TEXT,
    exit_code     INTEGER,
    t_created     REAL,                        -- seconds since 1970, as all times
    t_submitted   REAL,
    t_started     REAL,
    t_ended       REAL,
    t_fetched     REAL,
    num_cores     INTEGER
);
CREATE INDEX details_by_key ON details (scope, key);
CREATE INDEX details_by_func ON details (func);

-- What entered the key of a job, zlib-compressed JSON.
CREATE TABLE parts (
    num  INTEGER PRIMARY KEY,                  -- of the row in details
    blob BLOB NOT NULL
);

-- What happened to a job after it was created.
CREATE TABLE history (
    seq           INTEGER PRIMARY KEY,
    num           INTEGER NOT NULL,            -- of the row in details
    time          REAL NOT NULL,
    status        TEXT,
    remote_status TEXT,
    note          TEXT
);
CREATE INDEX history_by_num ON history (num);

-- Jobs that can still produce results. Of one scope and key there is one, unless an older program made another.
CREATE VIEW live AS
SELECT d.scope, d.key, j.id, j.rowid AS position
FROM details AS d CROSS JOIN jobs AS j ON j.id = d.id
WHERE j.status IN ('created', 'submitted', 'started', 'succeeded', 'died');

-- Ids that older programs made are <name>_<hash, 44 characters, ends with =>_<8 characters>.
CREATE VIEW older_keys AS
SELECT id, substr(id, 1, length(id) - 54) AS scope, 'k0:' || substr(id, -53, 44) AS key
FROM jobs
WHERE length(id) > 54 AND substr(id, -54, 1) = '_' AND substr(id, -10, 2) = '=_'
  AND substr(id, -53, 43) NOT GLOB '*[^A-Za-z0-9_-]*';

INSERT INTO details (id, scope, key, submit_state, t_created)
SELECT jobs.id, older_keys.scope, older_keys.key,
       CASE WHEN jobs.status <> 'created' THEN 'submitted' END, jobs.creation_time
FROM jobs LEFT JOIN older_keys ON older_keys.id = jobs.id
WHERE jobs.id IS NOT NULL
GROUP BY jobs.id
ORDER BY min(jobs.rowid);

CREATE TRIGGER jobs_added AFTER INSERT ON jobs WHEN NEW.id IS NOT NULL
BEGIN
    INSERT INTO details (id, scope, key, submit_state, t_created)
    SELECT NEW.id, (SELECT scope FROM older_keys WHERE id = NEW.id), (SELECT key FROM older_keys WHERE id = NEW.id),
           CASE WHEN NEW.status <> 'created' THEN 'submitted' END, NEW.creation_time
    WHERE NOT EXISTS (SELECT 1 FROM details WHERE id = NEW.id);
END;

CREATE TRIGGER jobs_changed AFTER UPDATE OF status, remote_status ON jobs
WHEN NEW.status IS NOT OLD.status OR NEW.remote_status IS NOT OLD.remote_status
BEGIN
    INSERT INTO history (num, time, status, remote_status)
    SELECT num, (julianday('now') - 2440587.5) * 86400.0, NEW.status, NEW.remote_status
    FROM details WHERE id = NEW.id;
END;

-- A job that is queued again after it ran keeps the time of its submission; a late end moves the end.
CREATE TRIGGER jobs_moved AFTER UPDATE OF status ON jobs WHEN NEW.status IS NOT OLD.status
BEGIN
    UPDATE details SET
        submit_state = CASE NEW.status WHEN 'created' THEN NULL WHEN 'submitted' THEN 'submitted'
                       ELSE submit_state END,
        owner = CASE WHEN NEW.status IN ('created', 'submitted') THEN NULL ELSE owner END,
        t_submitted = CASE NEW.status
            WHEN 'created' THEN NULL
            WHEN 'submitted' THEN CASE WHEN OLD.status = 'started' AND t_submitted IS NOT NULL THEN t_submitted
                                  ELSE (julianday('now') - 2440587.5) * 86400.0 END
            ELSE t_submitted END,
        t_started = CASE
            WHEN NEW.status IN ('created', 'submitted') THEN NULL
            WHEN NEW.status = 'started' THEN coalesce(t_started, (julianday('now') - 2440587.5) * 86400.0)
            ELSE t_started END,
        t_ended = CASE
            WHEN NEW.status IN ('created', 'submitted', 'started') THEN NULL
            WHEN NEW.status IN ('succeeded', 'failed', 'died') AND (t_ended IS NULL OR OLD.status = 'died')
                THEN (julianday('now') - 2440587.5) * 86400.0
            ELSE t_ended END
    WHERE id = NEW.id;
END;

CREATE TRIGGER jobs_removed AFTER DELETE ON jobs WHEN NOT EXISTS (SELECT 1 FROM jobs WHERE id = OLD.id)
BEGIN
    DELETE FROM parts WHERE num = (SELECT num FROM details WHERE id = OLD.id);
    DELETE FROM history WHERE num = (SELECT num FROM details WHERE id = OLD.id);
    DELETE FROM details WHERE id = OLD.id;
END;

CREATE TRIGGER jobs_renamed AFTER UPDATE OF id ON jobs WHEN NEW.id IS NOT OLD.id
BEGIN
    UPDATE details SET id = NEW.id WHERE id = OLD.id;
END;

PRAGMA user_version = 1;
