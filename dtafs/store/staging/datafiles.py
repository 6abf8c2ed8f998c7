"""The files that hold staged bytes: `data/<ino in hex>`, sparse, one per inode that has any.

What is in which range is said by the inode's row; a file that is missing reads as zeros.
Descriptors are shared by all who have an inode open and closed with the last of them. ext4 and XFS
write a file that was emptied when it is closed, so that its close(2) may wait for the disk: it is
left to `close_left`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dtafs.core.rechunking import Where
from dtafs.errors import NotFoundError
from dtafs.store.durable import Disk, translated
from dtafs.store.staging.extents import Extent
from dtafs.store.staging.plans import data_and_holes

HELD_BETWEEN_FLUSHES_BYTES = 16 * 1024 * 1024
"""So many bytes of small files are in memory, and as many while a flush is under way."""

PROBE_BYTES = 1024 * 1024
"""At least a block of any file system."""


class DataFiles:
    """All data files of a lake. Any thread may call `sync`, `sync_names`, `cut` and `remove`."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk, self.directory = disk, directory
        disk.make_directory(directory, 0o700)
        self._fds: dict[int, int] = {}
        self._unsynced_names = False
        self._syncing_names = threading.Lock()
        self._lock = threading.Lock()
        self._doomed: set[int] = set()
        self._held_bytes = 0
        self._emptied: set[int] = set()
        self._left: list[int] = []

    def may_hold(self, size: int) -> bool:
        """Whether so many more bytes may go into rows instead of files before the next flush."""
        if self._held_bytes + size > HELD_BETWEEN_FLUSHES_BYTES:
            return False
        self._held_bytes += size
        return True

    def before_flush(self) -> None:
        """Called when a flush of rows begins: they must find the names of all files on the disk."""
        self._held_bytes = 0
        self.close_left()
        self.sync_names()

    def path(self, ino: int) -> Path:
        """Where the bytes of an inode lie."""
        return self.directory / f"{ino:x}"

    def open(self, ino: int, *, anew: bool = False) -> int:
        """The shared descriptor; the file is made if need be, and emptied with `anew`."""
        with self._lock:
            self._doomed.discard(ino)
            fd = self._fds.get(ino)
            if fd is None:
                fd = self._fds[ino] = self._open_file(ino)
        if anew and os.fstat(fd).st_size:
            self._truncate(ino, fd, 0)
        return fd

    def _truncate(self, ino: int, fd: int, size: int) -> None:
        if not size:
            self._emptied.add(ino)
        self._disk.truncate(fd, size)

    def open_privately(self, ino: int) -> int:
        """A descriptor that the caller closes."""
        with self._lock:
            self._doomed.discard(ino)
            return self._open_file(ino)

    def _open_file(self, ino: int) -> int:
        fd = self._disk.open_file(self.path(ino), os.O_RDWR | os.O_CREAT, 0o600)
        self._unsynced_names = True  # not before there is a name, for a sync may be under way
        return fd

    def close(self, ino: int) -> None:
        """Close the shared descriptor if it is open, unless that may block: then `has_left` is true."""
        fd = self._fds.pop(ino, None)
        if fd is not None and ino in self._emptied:
            self._left.append(fd)
        elif fd is not None:
            os.close(fd)
        self._emptied.discard(ino)

    @property
    def has_left(self) -> bool:
        """Whether there is something for `close_left` to do."""
        return bool(self._left)

    def close_left(self) -> None:
        """Close what `close` has not closed. Blocks; any thread."""
        with suppress(IndexError):
            while True:
                os.close(self._left.pop())

    def check_room(self) -> None:
        """Raise StorageFullError when the disk has but its reserve left."""
        self._disk.check_room(self.directory)

    def blocks(self, ino: int) -> int:
        """How much room a file takes, in units of 512 bytes."""
        fd = self._fds.get(ino)
        try:
            return (os.stat(self.path(ino)) if fd is None else os.fstat(fd)).st_blocks
        except FileNotFoundError:
            return 0

    def truncate(self, ino: int, size: int) -> None:
        """Cut a file that is longer than `size`; one that is shorter stays so."""
        shared = self._fds.get(ino)
        fd = self.open_privately(ino) if shared is None else shared
        try:
            if os.fstat(fd).st_size > size:
                self._truncate(ino, fd, size)
        finally:
            if shared is None:
                os.close(fd)

    def is_longer(self, ino: int, size: int) -> bool:
        """Whether there is something to cut off."""
        fd = self._fds.get(ino)
        try:
            return (os.stat(self.path(ino)) if fd is None else os.fstat(fd)).st_size > size
        except FileNotFoundError:
            return False

    def cut(self, ino: int, size: int) -> None:
        """As `truncate`, in any thread. Blocks."""
        with suppress(NotFoundError):
            fd = self._disk.open_file(self.path(ino), os.O_RDWR)
            try:
                if os.fstat(fd).st_size > size:
                    self._truncate(ino, fd, size)
            finally:
                os.close(fd)

    def sync(self, ino: int) -> None:
        """Return when the bytes and the name of a file are on the disk. Blocks; any thread."""
        fd = self.open_privately(ino)
        try:
            self._disk.sync(fd)
        finally:
            os.close(fd)
        self.sync_names()

    def sync_names(self) -> None:
        """Return when the names of all files made so far are on the disk. Blocks; any thread."""
        with self._syncing_names:  # who finds nothing to do must not be earlier than who does it
            if self._unsynced_names:
                self._unsynced_names = False
                try:
                    self._disk.sync_directory(self.directory)
                except BaseException:
                    self._unsynced_names = True
                    raise

    def doom(self, ino: int) -> None:
        """The file is to go with the next `remove`, unless it is opened before, or open still."""
        with self._lock:
            self._doomed.add(ino)

    def spare(self, ino: int) -> None:
        """The inverse of `doom`."""
        with self._lock:
            self._doomed.discard(ino)

    def remove(self, ino: int) -> None:
        """Remove a doomed file, not yet durably; one that a crash brings back is a stray.

        Blocks while the disk takes back the room of a large file, but nobody waits for that: its
        name goes under the lock, its bytes with the descriptor, outside of it.
        """
        fd = -1
        with self._lock:
            if ino in self._doomed and ino not in self._fds:
                self._doomed.discard(ino)
                with suppress(NotFoundError):
                    fd = self._disk.open_file(self.path(ino), os.O_RDONLY)
                    self._disk.remove(self.path(ino))
        if fd >= 0:
            os.close(fd)

    def stored(self, ino: int, ranges: list[Extent]) -> list[Extent]:
        """The parts of some ranges that are not holes of the data file. Blocks."""
        try:
            fd = self._disk.open_file(self.path(ino), os.O_RDONLY)
        except NotFoundError:
            return []
        try:
            with translated("looking for holes"):
                parts = [part for start, end in ranges for part in data_and_holes(fd, start, end)]
        finally:
            os.close(fd)
        return [(part.start, part.end) for part in parts if part.where == Where.NEW]

    def keeps_zeros(self) -> bool:
        """Whether the file system makes no holes of zeros that were written. Blocks."""
        path = self.directory / "zeros"
        fd = self._disk.open_file(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._disk.write(fd, bytes(PROBE_BYTES), 0)
            self._disk.sync(fd)
            return next(data_and_holes(fd, 0, PROBE_BYTES)).where == Where.NEW
        finally:
            os.close(fd)
            self._disk.remove(path)

    def numbers(self) -> Iterator[int]:
        """The inodes that have a file."""
        with translated("listing staged data"), os.scandir(self.directory) as found:
            for file in found:
                try:
                    yield int(file.name, 16)
                except ValueError:
                    continue

    def close_all(self) -> None:
        """Close every shared descriptor."""
        for ino in list(self._fds):
            self.close(ino)
        self.close_left()
