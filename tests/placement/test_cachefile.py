"""Files of the cache: written past the page cache where that can be, and as usual where it cannot."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from pathlib import Path

import pytest

from dtafs.errors import NotFoundError, StorageError, StorageFullError
from dtafs.store.durable import Buffer, Disk
from dtafs.store.placement.cachefile import ALIGNED_BYTES, WRITE_BYTES, Buffers, CacheFile


class OldDisk(Disk):
    """Its file system has no O_DIRECT: it refuses the flag, or takes it and refuses to write so."""

    def __init__(self, root: Path, refuses_flag: bool) -> None:
        super().__init__(root)
        self.refuses_flag = refuses_flag
        self.direct_writes = 0

    def open_file(self, path: Path, flags: int, mode: int = 0o644) -> int:
        if self.refuses_flag and flags & os.O_DIRECT:
            raise StorageError("opening: Invalid argument")
        return super().open_file(path, flags, mode)

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            self.direct_writes += 1
            cause = OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            raise StorageError("writing: Invalid argument") from cause
        super().write(fd, data, offset)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def check_round_trip(disk: Disk, folder: Path) -> None:
    """Write parts of a pack out of order, its odd end among them, and read across them."""
    buffers, dice = Buffers(), random.Random(5)
    whole = dice.randbytes(2 * WRITE_BYTES + 3 * ALIGNED_BYTES + 777)
    before = descriptors()
    file = CacheFile(disk, folder, buffers)
    for start in (WRITE_BYTES, 2 * WRITE_BYTES, 0):
        file.write(memoryview(whole)[start : start + WRITE_BYTES], start)
    for _ in range(50):
        start = dice.randrange(len(whole))
        size = dice.randrange(len(whole) - start)
        assert file.read(start, size) == whole[start : start + size]
    file.close()
    buffers.close()
    assert descriptors() == before and not os.listdir(folder)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    check_round_trip(Disk(tmp_path), tmp_path)


@pytest.mark.parametrize("refuses_flag", [True, False])
def test_a_file_system_without_direct_writes_is_written_to_as_usual(
    tmp_path: Path, refuses_flag: bool
) -> None:
    disk = OldDisk(tmp_path, refuses_flag)
    check_round_trip(disk, tmp_path)
    assert disk.direct_writes == (0 if refuses_flag else 1), "it is not tried again and again"


def test_without_proc_it_is_written_as_usual_and_read_by_the_same_file(tmp_path: Path) -> None:
    class DiskWithoutProc(Disk):
        def open_file(self, path: Path, flags: int, mode: int = 0o644) -> int:
            if path.is_relative_to("/proc"):
                raise NotFoundError("opening: No such file or directory")
            return super().open_file(path, flags, mode)

        def write(self, fd: int, data: Buffer, offset: int) -> None:
            assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
            super().write(fd, data, offset)

    check_round_trip(DiskWithoutProc(tmp_path), tmp_path)


def test_a_page_that_was_read_before_it_was_written_is_read_again(tmp_path: Path) -> None:
    buffers = Buffers()
    file = CacheFile(Disk(tmp_path), tmp_path, buffers)
    first, second = os.urandom(ALIGNED_BYTES), os.urandom(ALIGNED_BYTES)
    file.write(memoryview(second), 3 * ALIGNED_BYTES)
    assert file.read(0, ALIGNED_BYTES) == bytes(ALIGNED_BYTES), "a hole, in the page cache now"
    file.write(memoryview(first), 0)
    assert file.read(0, ALIGNED_BYTES) == first
    file.close()
    buffers.close()


def test_a_full_disk_is_said_and_leaves_no_descriptor(tmp_path: Path) -> None:
    class FullDisk(Disk):
        def check_room(self, where: int | Path, size: int = 0) -> None:
            raise StorageFullError("writing: No space left on device")

    buffers, before = Buffers(), descriptors()
    file = CacheFile(FullDisk(tmp_path), tmp_path, buffers)
    with pytest.raises(StorageFullError):
        file.write(memoryview(b"x"), 0)
    file.close()
    assert descriptors() == before
