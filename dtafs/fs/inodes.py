"""Inode numbers: which part of the mount a number belongs to, and numbers for what has none.

| range | what | where the number comes from |
|---|---|---|
| 1 | the root of the mount | fixed by FUSE |
| 2 .. 2**61 - 1 | staging | given by `dtafs.store.staging`, never reused |
| 2**61 .. 5 * 2**59 - 1 | datasets and links | `NumberTable`, this mount only |
| 5 * 2**59 .. 3 * 2**60 - 1 | views | `NumberTable`, this mount only |
| 3 * 2**60 .. 2**62 - 1 | sealed files with several names | hash of version and hard-link group |
| 2**62 .. 2**63 - 1 | everything else that is sealed | version's serial and preorder number |

A sealed number says by itself what it stands for, so it needs no table, no bookkeeping of what the
kernel remembers, and is the same in every mount. No number ever comes to mean something else while
the kernel may hold it (invariant I9).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from enum import Enum, auto

ROOT = 1
TABLE_BASE = 1 << 61
VIEW_BASE = 5 << 59
GROUP_BASE = 3 << 60
SEALED_BASE = 1 << 62

ORDINAL_BITS = 32
ORDINAL_LIMIT = 1 << ORDINAL_BITS
SERIAL_LIMIT = 1 << 30


class Region(Enum):
    """The part of the mount that answers for a number."""

    ROOT = auto()
    STAGED = auto()
    TABLE = auto()
    VIEW = auto()
    GROUP = auto()
    SEALED = auto()


def region_of(ino: int) -> Region:
    """The region of any number that the kernel may ask for."""
    if ino >= SEALED_BASE:
        return Region.SEALED
    if ino >= GROUP_BASE:
        return Region.GROUP
    if ino >= VIEW_BASE:
        return Region.VIEW
    if ino >= TABLE_BASE:
        return Region.TABLE
    return Region.ROOT if ino == ROOT else Region.STAGED


def sealed_number(serial: int, ordinal: int) -> int:
    """The number of the entry with a preorder number in the version with a serial.

    OverflowError for a version of 2**32 entries or the 2**30th version of a lake.
    """
    if not (0 <= serial < SERIAL_LIMIT and 0 <= ordinal < ORDINAL_LIMIT):
        raise OverflowError(f"no inode number for entry {ordinal} of version {serial}")
    return SEALED_BASE | serial << ORDINAL_BITS | ordinal


def split_sealed(ino: int) -> tuple[int, int]:
    """The serial and ordinal that `sealed_number` was given."""
    return (ino - SEALED_BASE) >> ORDINAL_BITS, ino & (ORDINAL_LIMIT - 1)


def group_number(serial: int, group: int) -> int:
    """The number that all names of one hard-linked file of a version share.

    60 bits of a hash: two groups of one lake collide with probability n**2 / 2**61.
    """
    digest = hashlib.sha256(f"{serial}/{group}".encode()).digest()
    return GROUP_BASE | int.from_bytes(digest[:8], "big") >> 4


class NumberTable:
    """Numbers for things known by a key, held for as long as the kernel remembers them.

    `remember` counts one kernel reference; `release` takes some back, and with the last the key is
    dropped. A key that comes back gets a new number: numbers are counted up and never reused.
    """

    def __init__(self, base: int = TABLE_BASE) -> None:
        self._next = base
        self._numbers: dict[Hashable, int] = {}
        self._keys: dict[int, Hashable] = {}
        self._counts: dict[int, int] = {}

    def number(self, key: Hashable) -> int:
        """The number of `key`, allocated now if it has none."""
        ino = self._numbers.get(key)
        if ino is None:
            ino = self._next
            self._next += 1
            self._numbers[key] = ino
            self._keys[ino] = key
        return ino

    def key(self, ino: int) -> Hashable:
        """The key of a number; KeyError when the table does not hold it."""
        return self._keys[ino]

    def remember(self, ino: int) -> None:
        """Count one reference of the kernel."""
        self._counts[ino] = self._counts.get(ino, 0) + 1

    def release(self, ino: int, count: int) -> None:
        """Give `count` references back."""
        left = self._counts.get(ino, 0) - count
        if left > 0:
            self._counts[ino] = left
            return
        self._counts.pop(ino, None)
        key = self._keys.pop(ino, None)
        if key is not None:
            del self._numbers[key]

    def __len__(self) -> int:
        return len(self._keys)
