"""Where a lake is when nobody says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def default_lake_path(environment: Mapping[str, str]) -> Path:
    """`DTAFS_LAKE`, or the lake in the user data directory."""
    named = environment.get("DTAFS_LAKE")
    if named:
        return Path(named).expanduser()
    data_home = environment.get("XDG_DATA_HOME", "")
    # The XDG base directory specification: a relative path in it must be ignored.
    top = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return top / "dtafs" / "lake"
