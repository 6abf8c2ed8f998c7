"""The files that hold staged bytes: `data/<ino in hex>`, sparse, one per inode that has any.

What is in which range is said by the inode's row; a file that is missing reads as zeros.
Descriptors are shared by all who have an inode open and closed with the last of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dtafs.errors import NotFoundError
from dtafs.store.durable import Disk, translated

HELD_BETWEEN_FLUSHES_BYTES = 16 * 1024 * 1024
"""So many bytes of small files are in memory, and as many while a flush is under way."""


class DataFiles:
    """All data files of a lake. Any thread may call `sync`, `sync_names`, `cut` and `remove`."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk, self.directory = disk, directory
        disk.make_directory(directory, 0o700)
        self._fds: dict[int, int] = {}
        self._unsynced_names = False
        self._lock = threading.Lock()
        self._doomed: set[int] = set()
        self._held_bytes = 0

    def may_hold(self, size: int) -> bool:
        """Whether so many more bytes may go into rows instead of files before the next flush."""
        if self._held_bytes + size > HELD_BETWEEN_FLUSHES_BYTES:
            return False
        self._held_bytes += size
        return True

    def before_flush(self) -> None:
        """Called when a flush of rows begins: they must find the names of all files on the disk."""
        self._held_bytes = 0
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
            self._disk.truncate(fd, 0)
        return fd

    def open_privately(self, ino: int) -> int:
        """A descriptor that the caller closes."""
        with self._lock:
            self._doomed.discard(ino)
            return self._open_file(ino)

    def _open_file(self, ino: int) -> int:
        self._unsynced_names = True
        return self._disk.open_file(self.path(ino), os.O_RDWR | os.O_CREAT, 0o600)

    def close(self, ino: int) -> None:
        """Close the shared descriptor if it is open."""
        fd = self._fds.pop(ino, None)
        if fd is not None:
            os.close(fd)

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
                self._disk.truncate(fd, size)
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
                    self._disk.truncate(fd, size)
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
        """Return when the names of all files made so far are on the disk."""
        if self._unsynced_names:
            self._unsynced_names = False
            self._disk.sync_directory(self.directory)

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
