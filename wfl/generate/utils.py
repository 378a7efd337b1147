"""What generating operations share."""

from __future__ import annotations

from ase import Atoms

__all__ = ["save_config_type"]


def save_config_type(at: Atoms, action: str | bool | None, config_type: str) -> None:
    """Note in info `config_type` which operation made a configuration.

    Parameters
    ----------
    at
        Configuration; modified.
    action
        `"append"` adds to what is there, after a colon; `"overwrite"` replaces it; false-like does nothing.
    config_type
        The note.

    Raises
    ------
    ValueError
        If the action is another one.
    """
    if not action:
        return
    if action not in ("append", "overwrite"):
        raise ValueError(f"update_config_type is 'append', 'overwrite' or False, not {action!r}")
    before = at.info.get("config_type") if action == "append" else None
    at.info["config_type"] = config_type if before is None else f"{before}:{config_type}"
