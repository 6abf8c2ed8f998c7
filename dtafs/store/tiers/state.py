"""What this host remembers of a tier: what the probe found, and what happened on the way to it.

A file a tier, `upkeep/tier-NAME.json`; losing it is harmless: the tier is probed again, the counts begin
anew. It counts for one URL only, so that a tier which was moved is probed again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from dtafs.core.names import format_time
from dtafs.errors import DtafsError
from dtafs.store.durable import Disk, read_file

STATE_LIMIT_BYTES = 1024 * 1024


class Capabilities(Struct, frozen=True):
    """What a store really does, as far as it was tried. Words, since there are more than two outcomes."""

    conditional_put: str = "unknown"
    """honoured · ignored (the object was replaced, and success answered) · raced (it held, but not for
    several writers at once) · refused (the store knows no such thing)"""
    overwrite: str = "unknown"
    """allowed · refused"""
    ranges: str = "unknown"
    """honoured · ignored"""
    archive: str = "unknown"
    """none · recall (objects must be recalled before they are read) · at once (the class is kept, or
    dropped, and objects are read at once)"""
    object_lock: str = "unknown"
    """enabled · off"""

    @property
    def creates_safely(self) -> bool:
        """Whether one of several writers of a new key wins, and the others are told."""
        return self.conditional_put == "honoured"


class TierState(Struct):
    """The file."""

    url: str
    probed: str | None = None
    capabilities: Capabilities = Capabilities()
    counters: dict[str, int] = {}
    since: str | None = None


def read_state(root: Path, name: str, url: str) -> TierState:
    """What is remembered of a tier; nothing where the file is absent, damaged, or of another URL."""
    try:
        data = read_file(_path(root, name), STATE_LIMIT_BYTES)
        state = msgspec.json.decode(data, type=TierState)
    except (DtafsError, msgspec.DecodeError):
        return TierState(url)
    return state if state.url == url else TierState(url)


def write_state(disk: Disk, name: str, state: TierState) -> None:
    """Remember it."""
    disk.make_directory(disk.root / "upkeep")
    disk.replace(_path(disk.root, name), msgspec.json.encode(state))


def add_counts(disk: Disk, name: str, url: str, counts: dict[str, int], now_ns: int) -> None:
    """Add to what has happened on the way to a tier."""
    if any(counts.values()):
        state = read_state(disk.root, name, url)
        for key, count in counts.items():
            state.counters[key] = state.counters.get(key, 0) + count
        state.since = state.since or format_time(now_ns)
        write_state(disk, name, state)


def forget_state(disk: Disk, name: str) -> None:
    """The tier is no more."""
    disk.remove(_path(disk.root, name))


def _path(root: Path, name: str) -> Path:
    return root / "upkeep" / f"tier-{name}.json"
