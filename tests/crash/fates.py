"""What a crash of the simulated disk does to what was not synced."""

from __future__ import annotations

from typing import NamedTuple


class Fate(NamedTuple):
    """What a crash does to everything that was not synced."""

    data: str
    """kept, lost, torn, zeros, garbled."""
    names: str
    """kept, lost, or mixed: each one by the toss of a coin seeded with the point of the crash."""


FATES = (
    *(
        Fate(data, names)
        for data in ("kept", "lost", "torn", "zeros")
        for names in ("kept", "lost", "mixed")
    ),
    Fate("garbled", "kept"),
)

UNSEALED = "staging/data/"
"""Bytes without a checksum: here, file systems leave holes for what was not written, not anything."""
