"""The journal of staging: what was done since the last synced LMDB txn.

Two files take turns: while the changes of one are being written to LMDB, new ones go to the other.
An append is one write(2) without a sync, so it survives the death of the process but not of the
machine; `sync` makes all that was appended survive that too.

Layout of a file: records back to back, little-endian::

    offset  size
    0       4     CRC-32 of all that follows
    4       4     n, the size of the payload in bytes
    8       8     position: where this record begins, counted over all records ever appended
    16      8     synced: up to which position the journal was on the disk when this was appended
    24      n     payload

Positions tell which records LMDB has already (all before the `flushed` that its last txn stored)
and in which order the files are to be read.

What a crash leaves: what was not synced may be missing or garbled, in any part. Reading stops at
the first record that is missing. When a later record says that the journal had been synced past
that place, the damage is no crash's, and reading raises IntegrityError.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dtafs.errors import IntegrityError
from dtafs.store.durable import Disk, translated

_HEADER = struct.Struct("<IIQQ")
_CRC, _REST = struct.Struct("<I"), struct.Struct("<IQQ")
FILES = ("journal.0", "journal.1")


class Record(NamedTuple):
    """One append as it was read back."""

    position: int
    synced: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.position + _HEADER.size + len(self.payload)


class Journal:
    """The two files, open for appending. Threads: the caller serialises all but `sync`; `drop` may
    run beside `append`."""

    def __init__(self, disk: Disk, directory: Path, position: int) -> None:
        """Start with two empty files; the first record gets `position`."""
        self._disk = disk
        self._fds = [disk.open_file(directory / n, os.O_RDWR | os.O_CREAT, 0o600) for n in FILES]
        for fd in self._fds:
            disk.truncate(fd, 0)
        disk.sync_directory(directory)
        self.position = position
        self._synced = position
        self._active = 0
        self._sizes = [0, 0]
        self._sync_lock = threading.Lock()

    def append(self, payload: bytes) -> None:
        """Append one record; when that fails nothing of it remains."""
        fd, size = self._fds[self._active], self._sizes[self._active]
        rest = _REST.pack(len(payload), self.position, self._synced)
        record = _CRC.pack(zlib.crc32(payload, zlib.crc32(rest))) + rest + payload
        try:
            self._disk.write(fd, record, size)
        except BaseException:
            self._disk.truncate(fd, size)
            raise
        self._sizes[self._active] = size + len(record)
        self.position += len(record)

    def switch(self) -> int:
        """Append to the other file from now on, which must be empty; returns the position."""
        assert self._sizes[1 - self._active] == 0, "the batch of the other journal is not in LMDB"
        self._active = 1 - self._active
        return self.position

    def drop(self) -> None:
        """Empty the file that is not appended to: LMDB has what it says."""
        self._disk.truncate(self._fds[1 - self._active], 0)
        self._sizes[1 - self._active] = 0

    def sync(self) -> None:
        """Return when all that was appended before the call is on the disk. Any thread."""
        reached = self.position
        with self._sync_lock:
            if self._synced >= reached:
                return
            for fd in self._fds:
                self._disk.sync(fd)
            self._synced = max(self._synced, reached)

    def close(self) -> None:
        """Close the files; what they hold stays."""
        for fd in self._fds:
            os.close(fd)


def sync_journal(disk: Disk, directory: Path) -> None:
    """Return when what the files hold, as another process left them, is on the disk."""
    for name in FILES:
        if (directory / name).exists():
            fd = disk.open_file(directory / name, os.O_RDONLY)
            try:
                disk.sync(fd)
            finally:
                os.close(fd)
    disk.sync_directory(directory)


def read_journal(directory: Path, flushed: int) -> list[Record]:
    """The records that LMDB does not have yet, oldest first.

    Raises IntegrityError for damage to what had been synced.
    """
    with translated("reading the staging journal"):
        paths = [directory / name for name in FILES]
        files = [path.read_bytes() if path.exists() else b"" for path in paths]
    size = sum(map(len, files))
    # A record from elsewhere says nothing here. And bytes that only look like a record hardly ever
    # say one of these positions: so a damaged file is not summed up once for each of its bytes.
    positions = range(max(0, flushed - size), flushed + size + 1)
    found = [record for data in files for record in _records(data, positions)]
    found.sort(key=lambda record: record.position)
    promised = max((record.synced for record in found), default=0)
    expected, readable = flushed, []
    for record in found:
        if record.end <= flushed:
            continue
        if record.position != expected:
            break
        readable.append(record)
        expected = record.end
    if promised > expected:
        raise IntegrityError(
            f"the staging journal is damaged at position {expected}, which a sync had passed"
        )
    return readable


def _records(data: bytes, positions: range) -> Iterator[Record]:
    """The whole records in one file with such positions; what lies between is passed over."""
    at = 0
    while at + _HEADER.size <= len(data):
        record = _record_at(data, at, positions)
        if record is None:
            at += 1
        else:
            yield record
            at += _HEADER.size + len(record.payload)


def _record_at(data: bytes, at: int, positions: range) -> Record | None:
    crc, size, position, synced = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + size
    if (
        size == 0
        or position not in positions
        or end > len(data)
        or zlib.crc32(data[at + 4 : end]) != crc
    ):
        return None
    return Record(position, synced, data[at + _HEADER.size : end])
