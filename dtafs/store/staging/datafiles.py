"""The files that hold staged bytes: `data/<ino in hex>`, sparse, one per inode that has any.

What is in which range is said by the inode's row; a file that is missing reads as zeros.
Descriptors are shared by all who have an inode open and closed with the last of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from dtafs.store.durable import Disk, translated


class DataFiles:
    """All data files of a lake. Any thread may call `sync`, `sync_names` and `remove`."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk, self.directory = disk, directory
        disk.make_directory(directory, 0o700)
        self._fds: dict[int, int] = {}
        self._unsynced_names = False
        self._lock = threading.Lock()
        self._doomed: set[int] = set()

    def path(self, ino: int) -> Path:
        """Where the bytes of an inode lie."""
        return self.directory / f"{ino:x}"

    def open(self, ino: int, *, anew: bool = False) -> int:
        """The shared descriptor; the file is made if need be, and emptied with `anew`."""
        fd = self._fds.get(ino)
        if fd is None:
            fd = self.open_privately(ino)
            self._fds[ino] = fd
        if anew:
            self._disk.truncate(fd, 0)
        return fd

    def open_privately(self, ino: int) -> int:
        """A descriptor that the caller closes."""
        with self._lock:
            self._unsynced_names = True
            self._doomed.discard(ino)
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
        """The file is to go with the next `remove`, unless it is opened before."""
        with self._lock:
            self._doomed.add(ino)

    def remove(self, ino: int) -> None:
        """Remove a doomed file, not yet durably; one that a crash brings back is a stray."""
        with self._lock:
            if ino in self._doomed:
                self._doomed.discard(ino)
                self._disk.remove(self.path(ino))

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
