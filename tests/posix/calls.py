"""The steps of conformance tests: system calls, as functions of a side and plain arguments.

What they return is compared between the two sides, so it holds no inode numbers and no times of
the clock.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable

from tests.support.twins import Side, rename_with

NEVER_WAIT = os.O_NONBLOCK
"""Opened so that a fifo without a partner does not hold up the test."""

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def mkdir(side: Side, path: str, mode: int = 0o777) -> None:
    os.mkdir(path, mode)


def rmdir(side: Side, path: str) -> None:
    os.rmdir(path)


def unlink(side: Side, path: str) -> None:
    os.unlink(path)


def mkfifo(side: Side, path: str, mode: int = 0o644) -> None:
    os.mkfifo(path, mode)


def mknod(side: Side, path: str, mode: int, rdev: int = 0) -> None:
    os.mknod(path, mode, rdev)


def bind(side: Side, path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path)


def symlink(side: Side, target: str, path: str) -> None:
    os.symlink(target, path)


def readlink(side: Side, path: str) -> str:
    return os.readlink(path)


def link(side: Side, path: str, new_path: str) -> None:
    os.link(path, new_path)


def rename(side: Side, path: str, new_path: str) -> None:
    os.rename(path, new_path)


def rename_new(side: Side, path: str, new_path: str) -> None:
    rename_with(path, new_path, RENAME_NOREPLACE)


def exchange(side: Side, path: str, new_path: str) -> None:
    rename_with(path, new_path, RENAME_EXCHANGE)


def chmod(side: Side, path: str, mode: int) -> None:
    os.chmod(path, mode)


def chown(side: Side, path: str, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)


def lchown(side: Side, path: str, uid: int, gid: int) -> None:
    os.lchown(path, uid, gid)


def truncate(side: Side, path: str, size: int) -> None:
    os.truncate(path, size)


def utime(side: Side, path: str, atime_ns: int, mtime_ns: int) -> tuple[int, int]:
    os.utime(path, ns=(atime_ns, mtime_ns))
    found = os.stat(path)
    return found.st_atime_ns, found.st_mtime_ns


def lutime(side: Side, path: str, atime_ns: int, mtime_ns: int) -> tuple[int, int]:
    os.utime(path, ns=(atime_ns, mtime_ns), follow_symlinks=False)
    found = os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns


def touch(side: Side, path: str) -> None:
    os.utime(path)


def stat_of(side: Side, path: str) -> tuple[str, int, int]:
    found = os.stat(path)
    return stat.filemode(found.st_mode), found.st_uid, found.st_gid


def access(side: Side, path: str, wanted: int) -> bool:
    return os.access(path, wanted, effective_ids=True)


def listdir(side: Side, path: str) -> list[str]:
    return sorted(os.listdir(path))


def set_xattr(side: Side, path: str, name: str, value: bytes, flags: int = 0) -> None:
    os.setxattr(path, name, value, flags)


def get_xattr(side: Side, path: str, name: str) -> bytes:
    return os.getxattr(path, name)


def list_xattrs(side: Side, path: str) -> list[str]:
    return sorted(os.listxattr(path))


def remove_xattr(side: Side, path: str, name: str) -> None:
    os.removexattr(path, name)


def try_open(side: Side, path: str, flags: int, mode: int = 0o644) -> None:
    """Open and close."""
    os.close(os.open(path, flags | NEVER_WAIT, mode))


def open_as(side: Side, name: str, path: str, flags: int, mode: int = 0o644) -> None:
    """Open and keep open under a name."""
    side.fds[name] = os.open(path, flags | NEVER_WAIT, mode)


def close(side: Side, name: str) -> None:
    os.close(side.fds.pop(name))


def write(side: Side, name: str, data: bytes) -> int:
    return os.write(side.fds[name], data)


def pwrite(side: Side, name: str, data: bytes, offset: int) -> int:
    return os.pwrite(side.fds[name], data, offset)


def pread(side: Side, name: str, size: int, offset: int) -> bytes:
    return os.pread(side.fds[name], size, offset)


def ftruncate(side: Side, name: str, size: int) -> None:
    os.ftruncate(side.fds[name], size)


def fallocate(side: Side, name: str, offset: int, size: int) -> None:
    os.posix_fallocate(side.fds[name], offset, size)


def fchmod(side: Side, name: str, mode: int) -> None:
    os.fchmod(side.fds[name], mode)


def fchown(side: Side, name: str, uid: int, gid: int) -> None:
    os.fchown(side.fds[name], uid, gid)


def fsync(side: Side, name: str) -> None:
    os.fsync(side.fds[name])


def fstat(side: Side, name: str) -> tuple[str, int, int, int, int]:
    found = os.fstat(side.fds[name])
    mode = stat.filemode(found.st_mode)
    size = 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return mode, found.st_nlink, found.st_uid, found.st_gid, size


def put_file(side: Side, path: str, data: bytes) -> None:
    """Open with O_TRUNC, write, close."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NEVER_WAIT, 0o666)
    with open(fd, "wb") as stream:
        stream.write(data)


def content(side: Side, path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def with_umask(side: Side, umask: int, call: Callable[..., object], *arguments: object) -> object:
    """Another step, taken with this umask."""
    before = os.umask(umask)
    try:
        return call(side, *arguments)
    finally:
        os.umask(before)
