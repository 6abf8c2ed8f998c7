"""Mending the superblock and the log from another lake's copy of them.

An entry is taken only if it is signed by this lake's key, is the entry of its place, and its hash is
the one that the entry after it names, or that the index has noted for the newest: so a lake that
went another way since it was copied gives nothing wrong. A damaged entry for which there is no other
stays where it is: its number must not be given to another.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dtafs.core.entries import ENTRY_LIMIT_BYTES, log_key
from dtafs.core.format import Superblock, encode_superblock
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, UnsupportedError
from dtafs.store.crypto import Signer
from dtafs.store.durable import Disk, read_file
from dtafs.store.founding import read_superblock
from dtafs.store.log import Log, parse_entry
from dtafs.store.repair_sources import OtherLake

OBJECT_MODE = 0o444

Heads = Mapping[str, tuple[int, bytes]]
"""For each dataset the newest entry that the index has applied, and the hash of its object."""


class Bad(NamedTuple):
    """A damaged or missing entry: what is wrong, and the bytes to put there, if there are any."""

    dataset: str
    sequence: int
    problem: str
    data: bytes | None
    where: str

    @property
    def key(self) -> str:
        return log_key(self.dataset, self.sequence)


def mend_superblock(
    path: Path, disk: Disk, others: Sequence[OtherLake], known: Superblock | None, dry_run: bool
) -> str | None:
    """Put back a damaged superblock; where it was found, or None where there is nothing to mend.

    `known` is the superblock that the lake was opened with, if it is open. Otherwise another lake's
    counts if this lake's signing key, or an entry of its log, is by the key that it names. Raises
    what is wrong with the superblock when there is none to put in its place.
    """
    try:
        found = read_superblock(path)
        if found == known or (known is None and _is_ours(path, found)):
            return None
        raise IntegrityError(f"{path / 'lake.json'} is that of another lake")
    except (IntegrityError, NotFoundError, UnsupportedError) as error:
        problem = error
    candidates = [(known, "memory")] if known is not None else []
    candidates += [
        (other.superblock, f"lake {other.path}")
        for other in others
        if other.superblock is not None and _is_ours(path, other.superblock)
    ]
    if not candidates:
        raise problem
    block, where = candidates[0]
    if not dry_run:
        disk.replace(path / "lake.json", encode_superblock(block), OBJECT_MODE)
    return where


def _is_ours(path: Path, block: Superblock) -> bool:
    with contextlib.suppress(DtafsError):
        if Signer.load(path / "keys" / "signing.pem").public_key.hex() == block.public_key:
            return True
    log = Log(Disk(path), block, None)
    for name in log.names():
        for sequence in log.sequences(name):
            with contextlib.suppress(DtafsError):
                log.read(name, sequence)
                return True
    return False


def find_bad_entries(
    log: Log, superblock: Superblock, heads: Heads, others: Sequence[OtherLake]
) -> list[Bad]:
    """Every entry that is not as it must be, with what to put there."""
    ours = [o for o in others if o.superblock is not None and o.superblock.lake == superblock.lake]
    bad: list[Bad] = []
    for name in sorted({*log.names(), *heads}):
        bad += _bad_in(log, superblock, name, heads.get(name, (0, b"")), ours)
    return bad


def _bad_in(
    log: Log, superblock: Superblock, name: str, head: tuple[int, bytes], ours: Sequence[OtherLake]
) -> Iterator[Bad]:
    """From the newest entry back to the first: each names the hash of the one before it."""
    top = max([head[0], *log.sequences(name)])
    expected = head[1] if top == head[0] else None
    for sequence in range(top, 0, -1):
        if sequence == head[0]:
            expected = head[1]
        try:
            data = log.read_object(name, sequence)
            previous = _previous(superblock, name, sequence, data, expected)
        except UnsupportedError:
            raise
        except DtafsError as error:
            previous, data, where = None, None, ""
            for other in ours:
                with contextlib.suppress(DtafsError):
                    other_data = read_file(other.path / log_key(name, sequence), ENTRY_LIMIT_BYTES)
                    previous = _previous(superblock, name, sequence, other_data, expected)
                    if expected is None and not _follows(log, name, sequence, previous):
                        continue
                    data, where = other_data, f"lake {other.path}"
                    break
            yield Bad(name, sequence, str(error), data, where)
            if data is None:
                previous = None
        expected = previous


def _previous(
    superblock: Superblock, name: str, sequence: int, data: bytes, expected: bytes | None
) -> bytes | None:
    """The hash of the object before an entry; IntegrityError unless the entry is sound."""
    appended = parse_entry(superblock, name, sequence, data)
    if expected is not None and appended.object_hash != expected:
        raise IntegrityError(
            f"log entry {sequence} of {name!r} is not the one that the entry after it follows"
        )
    before = appended.entry.previous
    return bytes.fromhex(before) if before else None


def _follows(log: Log, name: str, sequence: int, previous: bytes | None) -> bool:
    """Whether an entry whose own hash nobody knows goes on from what is there before it."""
    if sequence == 1:
        return previous is None
    with contextlib.suppress(DtafsError):
        return hashlib.sha256(log.read_object(name, sequence - 1)).digest() == previous
    return True


def put_back(disk: Disk, log: Log, bad: Bad) -> None:
    """Put the right bytes of an entry in its place, durably."""
    assert bad.data is not None
    path = log.path(bad.dataset, bad.sequence)
    disk.make_directory(path.parent)
    disk.replace(path, bad.data, OBJECT_MODE)
