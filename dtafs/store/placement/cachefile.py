"""A file of the cache: what is kept of one pack that lies in a tier.

It has no name, so it is gone when it is closed, or the process ends. It is written past the page cache
(`O_DIRECT`), where its file system can: the kernel took 0.9 to 1.8 s of processor time for a GiB of pages
of which most are not read again, since what was read on a mount is in its page cache already, and takes
0.1 s so. A file system that cannot is written to as usual. It is read through the page cache, by another
descriptor: who reads here and there reads some things twice.

A file belongs to its caller's lock; buffers may be taken by many threads.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable
from pathlib import Path

from dtafs.errors import DtafsError, NotFoundError
from dtafs.store.durable import Disk, read_at, translated

ALIGNED_BYTES = 64 * 1024
"""Offsets and sizes of writes are multiples of it: of any block that a disk may have."""

WRITE_BYTES = 1 << 20
"""The most that is written at once."""


class Buffers:
    """Memory that begins with a page, as `O_DIRECT` needs it: a piece for each thread that writes."""

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def use(self, work: Callable[[memoryview], None]) -> None:
        """Lend a buffer of WRITE_BYTES."""
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = mmap.mmap(-1, WRITE_BYTES)
        try:
            with memoryview(buffer) as view:
                work(view)
        finally:
            self._free.append(buffer)

    def close(self) -> None:
        """Give the memory back."""
        while self._free:
            self._free.pop().close()


class CacheFile:
    """An unnamed file below `folder`. Errors of the disk are raised as those of `dtafs.errors`."""

    def __init__(self, disk: Disk, folder: Path, buffers: Buffers) -> None:
        self._disk, self._buffers = disk, buffers
        self._fd = self._reading_fd = -1
        try:
            self._fd = disk.unnamed(folder, os.O_DIRECT)
        except DtafsError:  # its file system knows no such flag, or the disk says below what it is
            self._fd = disk.unnamed(folder)
        try:
            self._reading_fd = self._opened_again(disk)
        except BaseException:
            self.close()
            raise

    def _opened_again(self, disk: Disk) -> int:
        try:
            return disk.open_file(Path(f"/proc/self/fd/{self._fd}"), os.O_RDONLY)
        except NotFoundError:  # no /proc where this process lives
            self._write_as_usual()
            with translated("opening a file of the cache again"):
                return os.dup(self._fd)

    def _write_as_usual(self) -> None:
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)

    def write(self, data: memoryview, offset: int) -> None:
        """Write at most WRITE_BYTES at a multiple of ALIGNED_BYTES. Behind data whose size is none,
        anything may follow, up to the next one."""
        size = -(-len(data) // ALIGNED_BYTES) * ALIGNED_BYTES
        self._disk.check_room(self._fd, size)

        def work(buffer: memoryview) -> None:
            buffer[: len(data)] = data
            self._write(buffer[:size], offset)

        self._buffers.use(work)

    def _write(self, data: memoryview, offset: int) -> None:
        try:
            self._disk.write(self._fd, data, offset)
        except DtafsError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EINVAL:
                raise
            self._write_as_usual()  # it took the flag, and wants larger blocks than any disk has
            self._disk.write(self._fd, data, offset)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that were written before."""
        return read_at(self._reading_fd, size, offset)

    def close(self) -> None:
        """Give the room back."""
        for fd in (self._fd, self._reading_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._reading_fd = -1
