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

A third file, the *mark*, says up to which position all records are safe, here or in LMDB::

    offset  size
    0       4     CRC-32 of all that follows
    4       4     version of this layout, 1
    8       8     position

What a crash leaves: what was not synced may be missing or garbled, in any part. Reading stops at
the first record that is missing. When the mark or a later record says that the journal had been
synced past that place, the damage is no crash's, and reading raises IntegrityError. The mark is
written over in place and is on the disk before `sync` returns; so what was promised and is gone is
noticed, the last record and a whole file included, as long as the mark is not damaged, too. An
unreadable mark, or none (journals of earlier programs), promises nothing.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dtafs.errors import IntegrityError, StorageError, StorageFullError
from dtafs.store.durable import Disk, translated

_HEADER = struct.Struct("<IIQQ")
_CRC, _REST = struct.Struct("<I"), struct.Struct("<IQQ")
_MARK = struct.Struct("<IQ")
MARK_VERSION = 1
FILES = ("journal.0", "journal.1")
MARK = "journal.synced"


class Record(NamedTuple):
    """One append as it was read back."""

    position: int
    synced: int
    payload: bytes

    @property
    def end(self) -> int:
        return self.position + _HEADER.size + len(self.payload)


class Journal:
    """The two files, open for appending. Threads: the caller serialises all but `sync` and
    `mark_safe`; `drop` may run beside `append`."""

    def __init__(self, disk: Disk, directory: Path, position: int) -> None:
        """Start with two empty files; the first record gets `position`."""
        self._disk = disk
        self._fds = [disk.open_file(directory / n, os.O_RDWR | os.O_CREAT, 0o600) for n in FILES]
        self._mark = disk.open_file(directory / MARK, os.O_RDWR | os.O_CREAT, 0o600)
        for fd in self._fds:
            disk.truncate(fd, 0)
        disk.sync_directory(directory)
        self.position = position
        self._synced = self._marked = position
        self._active = 0
        self._sizes = [0, 0]
        self._unsynced = [False, False]
        self._doubtful_until = 0
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
        # Before the position, from which `sync` takes what it has to wait for; after the bytes, or a
        # sync that runs now would take the file for synced with them.
        self._unsynced[self._active] = True
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

    @property
    def is_doubtful(self) -> bool:
        """Whether the disk failed to take some of it, so that only `mark_safe` can promise more."""
        return self._doubtful_until > 0

    def sync(self) -> None:
        """Return when all that was appended before the call is on the disk. Any thread.

        StorageError when the disk fails to take some of it, and from then on: to ask again would say
        nothing, for the kernel counts what it could not write as written.
        """
        reached = self.position
        with self._sync_lock:
            if self._doubtful_until:
                raise StorageError("syncing: the disk has lost a part of the staging journal")
            if self._synced >= reached:
                return
            try:
                for number, fd in enumerate(self._fds):
                    if self._unsynced[number]:
                        self._unsynced[number] = False
                        self._disk.sync(fd)
                self._note(reached)
                self._disk.sync(self._mark)
            except BaseException:
                self._doubtful_until = self.position
                raise
            self._synced = max(self._synced, reached)

    def mark_safe(self, position: int) -> None:
        """LMDB has, on the disk, all records before a position: they are needed here no more.

        The mark says so as well, so that LMDB's falling back to an older state is noticed. Any thread.
        """
        with self._sync_lock:
            with suppress(StorageError, StorageFullError):  # the rows are safe without it
                self._note(position)
            if position >= self._doubtful_until:
                self._doubtful_until = 0

    def _note(self, position: int) -> None:
        if position > self._marked:
            rest = _MARK.pack(MARK_VERSION, position)
            self._disk.write(self._mark, _CRC.pack(zlib.crc32(rest)) + rest, 0)
            self._marked = position

    def close(self) -> None:
        """Close the files; what they hold stays."""
        for fd in (*self._fds, self._mark):
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
    promised = max([_read_mark(directory / MARK), *(record.synced for record in found)])
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


def _read_mark(path: Path) -> int:
    """The position that the mark promises; 0 where it promises nothing."""
    with translated("reading the mark of the staging journal"):
        data = path.read_bytes() if path.exists() else b""
    if len(data) != _CRC.size + _MARK.size:
        return 0
    version, position = _MARK.unpack_from(data, _CRC.size)
    return (
        position
        if version == MARK_VERSION and zlib.crc32(data[_CRC.size :]) == _CRC.unpack_from(data)[0]
        else 0
    )


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
