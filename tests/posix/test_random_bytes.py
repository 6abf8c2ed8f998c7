"""Random reads, writes, truncations and mappings of one file against a copy in memory.

In the manner of fsx: every way to bytes is mixed with every other, over commits in between, so that
page cache, write-back, local bytes and sealed bytes have to agree. A failure prints its seed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import time
from collections.abc import Callable

import pytest

from tests.support.mounts import Mount

FILE_MAX = 300_000
RUN_S = 3.0
SOAK_S = 60.0
STEPS_SHOWN = 12
HOLE_FLAGS = 0x03  # FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


class Exerciser:
    """One file, open for reading and writing, and the bytes that it should hold."""

    def __init__(self, mount: Mount, dice: random.Random) -> None:
        self._mount, self._dice = mount, dice
        self._path = mount / "D/staging/dir/file"
        self._path.parent.mkdir()
        self._path.touch()
        self._bytes = bytearray()
        self._version = 0
        self.done: list[str] = []
        self._fd = os.open(self._path, os.O_RDWR)
        self._steps: list[tuple[int, Callable[[], str]]] = [
            (10, self.read),
            (10, self.write),
            (4, self.append),
            (4, self.truncate),
            (6, self.read_mapped),
            (6, self.write_mapped),
            (3, self.write_private),
            (3, self.copy_range),
            (3, self.write_direct),
            (3, self.read_direct),
            (2, self.allocate),
            (2, self.sync),
            (2, self.reopen),
            (1, self.replace),
            (1, self.rename),
            (1, self.commit),
        ]

    def step(self) -> None:
        """Do one thing and compare the size."""
        weights = [weight for weight, _ in self._steps]
        _, action = self._dice.choices(self._steps, weights)[0]
        self.done.append(action.__name__)
        self.done[-1] = f"{action.__name__} {action()}"
        assert os.fstat(self._fd).st_size == len(self._bytes)

    def _range(self, end: int) -> tuple[int, int]:
        """An offset and a size up to `end`, often at the border of a page."""
        dice = self._dice
        offset = dice.randrange(max(1, end))
        if dice.random() < 0.3:
            offset &= -mmap.PAGESIZE
        size = dice.choice((1, 7, 100, 4_096, 4_097, 40_000, 131_072))
        return offset, max(0, min(size, end - offset))

    def read(self) -> str:
        offset, size = self._range(len(self._bytes))
        assert os.pread(self._fd, size, offset) == self._bytes[offset : offset + size], offset
        return f"{offset}+{size}"

    def _put(self, offset: int, data: bytes) -> str:
        if offset > len(self._bytes):
            self._bytes.extend(bytes(offset - len(self._bytes)))
        self._bytes[offset : offset + len(data)] = data
        return f"{offset}+{len(data)}"

    def write(self) -> str:
        offset, size = self._range(FILE_MAX)
        data = self._dice.randbytes(size)
        assert os.pwrite(self._fd, data, offset) == size
        return self._put(offset, data) if size else "nothing"

    def append(self) -> str:
        data = self._dice.randbytes(self._dice.randrange(1, 9_000))
        if len(self._bytes) + len(data) > FILE_MAX:
            return "nothing"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        os.close(fd)
        return self._put(len(self._bytes), data)

    def truncate(self) -> str:
        size = self._dice.randrange(FILE_MAX)
        how = os.ftruncate if self._dice.random() < 0.5 else os.truncate
        how(self._fd if how is os.ftruncate else self._path, size)  # type: ignore[operator]
        del self._bytes[size:]
        self._bytes.extend(bytes(size - len(self._bytes)))
        return f"to {size}"

    def _map(self, kind: int) -> mmap.mmap:
        return mmap.mmap(self._fd, len(self._bytes), kind)

    def read_mapped(self) -> str:
        offset, size = self._range(len(self._bytes))
        if not size:
            return "nothing"
        with self._map(mmap.MAP_SHARED) as mapped:
            assert mapped[offset : offset + size] == self._bytes[offset : offset + size], offset
        return f"{offset}+{size}"

    def write_mapped(self) -> str:
        offset, size = self._range(len(self._bytes))
        if not size:
            return "nothing"
        data = self._dice.randbytes(size)
        with self._map(mmap.MAP_SHARED) as mapped:
            mapped[offset : offset + size] = data
            if self._dice.random() < 0.3:
                mapped.flush()
            elif self._dice.random() < 0.3:  # seen by read(2) while it is mapped
                assert os.pread(self._fd, size, offset) == data
        return self._put(offset, data)

    def write_private(self) -> str:
        offset, size = self._range(len(self._bytes))
        if not size:
            return "nothing"
        with self._map(mmap.MAP_PRIVATE) as mapped:
            mapped[offset : offset + size] = bytes(size)
        return self.read()

    def write_direct(self) -> str:
        offset, size = self._range(FILE_MAX)
        data = self._dice.randbytes(size)
        fd = os.open(self._path, os.O_WRONLY | os.O_DIRECT)
        try:
            assert os.pwrite(fd, data, offset) == size
        finally:
            os.close(fd)
        return self._put(offset, data) if size else "nothing"

    def read_direct(self) -> str:
        offset, size = self._range(len(self._bytes))
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.pread(fd, size, offset) == self._bytes[offset : offset + size], offset
        finally:
            os.close(fd)
        return f"{offset}+{size}"

    def copy_range(self) -> str:
        source, size = self._range(len(self._bytes))
        target = self._dice.randrange(FILE_MAX - size)
        if source < target + size and target < source + size:
            return "nothing"
        size = os.copy_file_range(self._fd, self._fd, size, source, target)
        data = bytes(self._bytes[source : source + size])
        return self._put(target, data) if size else "nothing"

    def allocate(self) -> str:
        offset, size = self._range(FILE_MAX)
        if not size:
            return "nothing"
        os.posix_fallocate(self._fd, offset, size)
        self._bytes.extend(bytes(max(0, offset + size - len(self._bytes))))
        return f"{offset}+{size}"

    def sync(self) -> str:
        os.fsync(self._fd)
        return ""

    def reopen(self) -> str:
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)
        if self._dice.random() < 0.5:  # forget the pages: what is read comes from the daemon
            os.fsync(self._fd)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return ""

    def replace(self) -> str:
        """Save as editors do: another file takes the name."""
        size = self._dice.randrange(FILE_MAX)
        self._bytes[:] = self._dice.randbytes(size)
        other = self._path.with_name("other")
        other.write_bytes(self._bytes)
        os.close(self._fd)
        os.rename(other, self._path)
        self._fd = os.open(self._path, os.O_RDWR)
        return f"by {size} bytes"

    def rename(self) -> str:
        name = self._dice.choice(("file", "fil", "f"))
        self._path = self._path.rename(self._path.with_name(name))
        return name

    def commit(self) -> str:
        os.close(self._fd)
        os.utime(self._path)  # a commit of nothing is refused
        self._version += 1
        sealed = self._mount / f"D/v{self._version}"
        os.rename(self._mount / "D/staging", sealed)
        assert (sealed / "dir" / self._path.name).read_bytes() == self._bytes
        self._fd = os.open(self._path, os.O_RDWR)
        return f"v{self._version}"

    def close(self) -> None:
        """Compare all of it, once more after it was closed."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        with open(self._fd, "rb") as stream:
            assert stream.read() == self._bytes
        assert self._path.read_bytes() == self._bytes


def exercise(mount: Mount, seed: int, seconds: float) -> None:
    """Take random steps for a while."""
    exerciser = Exerciser(mount, random.Random(seed))
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            exerciser.step()
        exerciser.close()
    except BaseException:
        last = "\n  ".join(exerciser.done[-STEPS_SHOWN:])
        print(f"seed {seed}, step {len(exerciser.done)}, the last ones:\n  {last}")
        raise


@pytest.mark.parametrize("seed", [1, 2])
def test_random_bytes(mounted_lake: Mount, seed: int) -> None:
    (mounted_lake / "D").mkdir()
    exercise(mounted_lake, seed, RUN_S)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3, 10))
def test_random_bytes_for_long(mounted_lake: Mount, seed: int) -> None:
    (mounted_lake / "D").mkdir()
    exercise(mounted_lake, seed, SOAK_S)


def test_holes_cannot_be_punched(mounted_lake: Mount) -> None:
    """The binding has no fallocate: a clean refusal, after which programs write zeros."""
    (mounted_lake / "D").mkdir()
    path = mounted_lake / "D/staging/f"
    path.write_bytes(b"x" * 10_000)
    with path.open("rb+") as stream:
        libc = ctypes.CDLL(None, use_errno=True)
        offset, size = ctypes.c_longlong(0), ctypes.c_longlong(4_096)
        assert libc.fallocate(stream.fileno(), HOLE_FLAGS, offset, size) == -1
        assert ctypes.get_errno() == errno.EOPNOTSUPP
    assert path.read_bytes() == b"x" * 10_000
