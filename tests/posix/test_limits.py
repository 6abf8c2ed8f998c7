"""What the mount does not have, refused as Linux says, and what it does have by another way."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.posix import acts
from tests.posix.libc import check, fallocate
from tests.support.mounts import Mount
from tests.support.twins import AT_FDCWD, LIBC, rename_with

FICLONE, FS_IOC_GETFLAGS = 0x4004_9409, 0x8008_6601
O_TMPFILE = 0o20200000
RENAME_WHITEOUT = 4
ACL = b"\2\0\0\0"
"""An empty access control list."""
FALLOCATE_MODES = {
    "allocate": 0,
    "keep the size": 1,
    "punch a hole": 3,
    "collapse": 8,
    "zero": 16,
    "insert": 32,
}
GIB = 1 << 30
UNSUPPORTED = ("EOPNOTSUPP", "ENOTSUP")
"""Two names of one number."""


@pytest.fixture
def place(module_mount: Mount, tmp_path: Path) -> Iterator[Path]:
    """A directory in staging, with a file of 100,000 bytes."""
    made = module_mount / "D/staging" / tmp_path.name
    made.mkdir()
    (made / "file").write_bytes(bytes(range(250)) * 400)
    os.chdir(made)
    yield made
    os.chdir("/")


def refusal(call: Callable[..., object], *arguments: object) -> str:
    """The name of the errno with which a call fails."""
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return errno.errorcode[caught.value.errno or 0]


@pytest.mark.parametrize("mode", FALLOCATE_MODES)
def test_fallocate_is_refused_and_changes_nothing(place: Path, mode: str) -> None:
    before = (place / "file").read_bytes()
    with (place / "file").open("rb+") as stream:
        fd = stream.fileno()
        assert refusal(fallocate, fd, FALLOCATE_MODES[mode], 4_096, 8_192) in UNSUPPORTED
    assert (place / "file").read_bytes() == before


def test_other_things_that_are_refused(place: Path) -> None:
    assert refusal(os.open, ".", O_TMPFILE | os.O_RDWR) in UNSUPPORTED
    assert refusal(rename_with, "file", "other", RENAME_WHITEOUT) == "EINVAL"
    with (place / "file").open("rb+") as source, (place / "copy").open("wb+") as copy:
        clone = refusal(fcntl.ioctl, copy.fileno(), FICLONE, source.fileno())
        assert clone in (*UNSUPPORTED, "ENOTTY")
        assert refusal(fcntl.ioctl, source, FS_IOC_GETFLAGS, bytearray(8)) in ("ENOTTY", "ENOSYS")
    for name in ("trusted.a", "security.a", "system.posix_acl_access", "nonsense.a"):
        assert refusal(os.setxattr, "file", name, ACL) in UNSUPPORTED
        assert refusal(os.getxattr, "file", name) in ("ENODATA", "EOPNOTSUPP", "ENOTSUP")
    assert sorted(os.listdir()) == ["copy", "file"]


def test_seeking_data_and_holes_finds_one_piece_of_data(place: Path) -> None:
    with (place / "file").open("rb+") as stream:
        stream.truncate(300_000)
        fd = stream.fileno()
        assert os.lseek(fd, 1_000, os.SEEK_DATA) == 1_000
        assert os.lseek(fd, 1_000, os.SEEK_HOLE) == 300_000
        for how in (os.SEEK_DATA, os.SEEK_HOLE):
            assert refusal(os.lseek, fd, 300_000, how) == "ENXIO"


def test_copy_file_range(place: Path) -> None:
    expected = (place / "file").read_bytes()
    with (place / "file").open("rb") as source, (place / "copy").open("wb+") as copy:
        src, dst = source.fileno(), copy.fileno()
        assert os.copy_file_range(src, dst, 50_000, 10, 20) == 50_000
        assert os.pread(dst, 60_000, 0) == bytes(20) + expected[10:50_010]
        assert os.copy_file_range(src, dst, 1 << 20, 99_000, 0) == 1_000, "up to the end"
        assert os.copy_file_range(src, dst, 100, 200_000, 0) == 0
        assert refusal(os.copy_file_range, src, src, 100, 0, 0) == "EBADF"
    with (place / "file").open("rb+") as same:
        assert refusal(os.copy_file_range, same.fileno(), same.fileno(), 100, 10, 20) == "EINVAL"


def test_direct_io(place: Path) -> None:
    fd = os.open("direct", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    buffer = mmap.mmap(-1, 65_536)
    buffer[:] = os.urandom(65_536)
    assert os.pwrite(fd, buffer, 0) == 65_536
    assert (place / "direct").read_bytes() == buffer[:], "who reads through the cache sees it"
    with (place / "direct").open("rb+") as cached:
        cached.seek(8_192)
        cached.write(b"cached")
        cached.flush()
        back = mmap.mmap(-1, 4_096)
        assert os.preadv(fd, [back], 8_192) == 4_096
        assert back[:6] == b"cached", "and the other way about"
    assert os.preadv(fd, [back], 65_536 - 100) == 100
    os.close(fd)


@pytest.mark.parametrize("flag", ["O_SYNC", "O_DSYNC"])
def test_synchronous_writes(place: Path, flag: str) -> None:
    fd = os.open("sync", os.O_WRONLY | os.O_CREAT | getattr(os, flag))
    for number in range(20):
        os.write(fd, b"%02d" % number)
    os.close(fd)
    assert (place / "sync").read_bytes() == b"".join(b"%02d" % number for number in range(20))


def test_appending_ignores_the_offset(place: Path) -> None:
    fd = os.open("file", os.O_WRONLY | os.O_APPEND)
    os.pwrite(fd, b"end", 0)
    os.close(fd)
    fd = os.open("file", os.O_RDWR)
    os.pwritev(fd, [b"more"], 0, os.RWF_APPEND)
    os.pwritev(fd, [b"synced"], 5, os.RWF_DSYNC)
    os.close(fd)
    assert (place / "file").read_bytes()[100_000:] == b"endmore"


def test_handles_of_a_path(place: Path) -> None:
    os.symlink("file", "link")
    fd = os.open("link", os.O_PATH | os.O_NOFOLLOW)
    assert os.fstat(fd).st_size == len("file") and refusal(os.read, fd, 1) == "EBADF"
    os.close(fd)
    top = os.open(".", os.O_PATH)
    assert os.stat("file", dir_fd=top).st_size == 100_000
    os.close(top)


def test_fifos_and_sockets_carry_bytes(place: Path) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open("pipe", os.O_WRONLY)
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(writer)
    os.close(reader)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("socket")
        server.listen()
        client.connect("socket")
        accepted, _ = server.accept()
        client.send(b"there")
        assert accepted.recv(100) == b"there"
        accepted.close()
    assert refusal(os.open, "socket", os.O_RDWR) == "ENXIO"


def test_large_offsets(place: Path) -> None:
    offset = 100 * GIB + 5
    fd = os.open("large", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"far", offset)
    assert os.fstat(fd).st_size == offset + 3
    assert os.pread(fd, 10, offset - 2) == b"\0\0far"
    os.fsync(fd)
    os.close(fd)
    found = os.stat("large")
    assert found.st_size == offset + 3 and found.st_blocks * 512 < 1_000_000
    os.truncate("large", 0)


def test_blocks_and_numbers(place: Path) -> None:
    number = os.stat("file").st_ino
    assert 0 <= os.stat("file").st_blocks * 512 - 100_000 < 4_096
    os.rename("file", "moved")
    os.link("moved", "linked")
    os.chmod("linked", 0o600)
    (place / "moved").write_bytes(b"x" * 10_000)
    for name in ("moved", "linked"):
        found = os.stat(name)
        assert (found.st_ino, found.st_nlink, found.st_blocks) == (number, 2, 20)
    found = os.stat(".")
    assert (found.st_size, found.st_nlink) == (4096, 2)
    os.mkdir("sub")
    assert os.stat(".").st_nlink == 3
    assert os.stat(".").st_dev == os.stat("sub").st_dev == os.stat("moved").st_dev


def test_statfs_says_what_the_disk_has(place: Path, module_mount: Mount) -> None:
    here, below = os.statvfs("."), os.statvfs(module_mount.lake)
    assert (here.f_blocks, here.f_bsize, here.f_namemax) == (below.f_blocks, below.f_bsize, 255)
    assert 0 < here.f_bavail <= here.f_bfree <= here.f_blocks
    assert here.f_flag & os.ST_NOSUID and here.f_flag & os.ST_NODEV


def test_poll_and_readahead(place: Path) -> None:
    with (place / "file").open("rb") as stream:
        fd = stream.fileno()
        assert select.select([fd], [], [], 0) == ([fd], [], [])
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        check(LIBC.readahead(fd, ctypes.c_longlong(0), ctypes.c_size_t(100_000)))
        with open("sent", "wb") as sent:
            assert os.sendfile(sent.fileno(), fd, 0, 100_000) == 100_000
    assert (place / "sent").read_bytes() == (place / "file").read_bytes()
    assert refusal(os.ftruncate, AT_FDCWD, 1) == "EBADF"
    assert acts.access("sent", "r") == "True"
