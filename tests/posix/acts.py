"""System calls of the scenarios: made in any process, with plain arguments and plain results.

All paths are relative to the directory that `enter` chose.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import stat
import struct

from tests.support.twins import rename_with

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KINDS = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "dir",
    stat.S_IFIFO: "fifo",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "char",
    stat.S_IFSOCK: "socket",
    stat.S_IFLNK: "symlink",
}


def number(word: str) -> int:
    """A number as scenarios write it: octal with a leading 0."""
    return int(word, 8) if word.startswith("0") and len(word) > 1 else int(word)


def enter(path: str, above: str) -> None:
    """Work in a directory from now on; `above` is what may be searched on the way."""
    os.chdir(above)
    os.chdir(path)


def make(kind: str, path: str, mode: str = "", uid: str = "", gid: str = "") -> None:
    """Something of a kind, of which the mode (unless it is a symlink) and the owner may be given."""
    wanted = number(mode or ("0755" if kind == "dir" else "0644"))
    if kind == "regular":
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, wanted))
    elif kind == "dir":
        os.mkdir(path, wanted)
    elif kind == "fifo":
        os.mkfifo(path, wanted)
    elif kind in ("block", "char"):
        bits = stat.S_IFBLK if kind == "block" else stat.S_IFCHR
        os.mknod(path, bits | wanted, os.makedev(1, 2))
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path)
    else:
        os.symlink("test", path)
    if uid:
        os.lchown(path, int(uid), int(gid))
    if mode and kind != "symlink":
        os.chmod(path, wanted)


def mkdir(path: str, mode: str) -> None:
    os.mkdir(path, number(mode))


def mkfifo(path: str, mode: str) -> None:
    os.mkfifo(path, number(mode))


def mknod(path: str, kind: str, mode: str) -> None:
    bits = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO, "none": 0}[kind]
    os.mknod(path, bits | number(mode), os.makedev(1, 2))


def masked(mask: str, call: str, *arguments: str) -> object:
    """Another call under a umask."""
    before = os.umask(number(mask))
    try:
        return globals()[call](*arguments)
    finally:
        os.umask(before)


def remove(path: str) -> None:
    """rmdir(2) or unlink(2), by what it is."""
    (os.rmdir if stat.S_ISDIR(os.lstat(path).st_mode) else os.unlink)(path)


def rmdir(path: str) -> None:
    os.rmdir(path)


def unlink(path: str) -> None:
    os.unlink(path)


def link(path: str, new_path: str) -> None:
    os.link(path, new_path, follow_symlinks=False)


def symlink(target: str, path: str) -> None:
    os.symlink(target, path)


def readlink(path: str) -> str:
    return os.readlink(path)


def rename(path: str, new_path: str) -> None:
    os.rename(path, new_path)


def rename_new(path: str, new_path: str) -> None:
    rename_with(path, new_path, RENAME_NOREPLACE)


def exchange(path: str, new_path: str) -> None:
    rename_with(path, new_path, RENAME_EXCHANGE)


def chmod(path: str, mode: str) -> None:
    os.chmod(path, number(mode))


def chown(path: str, uid: str, gid: str) -> None:
    os.chown(path, int(uid), int(gid))


def lchown(path: str, uid: str, gid: str) -> None:
    os.lchown(path, int(uid), int(gid))


def truncate(path: str, size: str) -> None:
    os.truncate(path, int(size))


def ftruncate(path: str, flags: str, size: str) -> None:
    fd = os.open(path, _flags(flags))
    try:
        os.ftruncate(fd, int(size))
    finally:
        os.close(fd)


def allocate(path: str, flags: str, offset: str, size: str) -> None:
    fd = os.open(path, _flags(flags), 0)
    try:
        os.posix_fallocate(fd, int(offset), int(size))
    finally:
        os.close(fd)


def _flags(words: str) -> int:
    flags = 0
    for word in words.split(","):
        flags |= int(getattr(os, f"O_{word.upper()}"))
    return flags


def open(path: str, flags: str, mode: str = "0644") -> None:
    os.close(os.open(path, _flags(flags), number(mode)))


def put(path: str, text: str, flags: str = "creat,trunc,wronly") -> None:
    """Open, write, close."""
    fd = os.open(path, _flags(flags), 0o644)
    os.write(fd, text.encode())
    os.close(fd)


def patch(path: str, flags: str, offset: str, text: str) -> str:
    """Open, write at an offset, and say the mode that the open file has then."""
    fd = os.open(path, _flags(flags))
    os.pwrite(fd, text.encode(), int(offset))
    found = stat.S_IMODE(os.fstat(fd).st_mode)
    os.close(fd)
    return f"0{found:o}"


def get(path: str, offset: str = "0", size: str = "100") -> str:
    """Some bytes of a file."""
    fd = os.open(path, os.O_RDONLY)
    found = os.pread(fd, int(size), int(offset))
    os.close(fd)
    return found.decode()


def unlink_open(path: str, text: str) -> str:
    """Write to a file that has lost its name, and say its links and what it holds."""
    fd = os.open(path, os.O_RDWR)
    os.unlink(path)
    os.write(fd, text.encode())
    found = f"{os.fstat(fd).st_nlink},{os.pread(fd, 100, 0).decode()}"
    os.close(fd)
    return found


def utime(path: str, atime: str, mtime: str) -> None:
    _utime(path, atime, mtime, True)


def lutime(path: str, atime: str, mtime: str) -> None:
    _utime(path, atime, mtime, False)


def _utime(path: str, atime: str, mtime: str, follow: bool) -> None:
    """utimensat(2); a time is in ns, `now` or `omit`."""
    from tests.posix.libc import utimensat

    utimensat(path, atime, mtime, follow)


def list_names(path: str) -> set[str]:
    """The names in a directory, with what the kernel learns of them by the way."""
    with os.scandir(path) as found:
        return {entry.name for entry in found}


_kept: list[int] = []


def keep_open(path: str) -> None:
    """Open a file that `read_kept` reads."""
    _kept.append(os.open(path, os.O_RDONLY))


def read_kept() -> bytes:
    """The beginning of the file that was opened last."""
    return os.pread(_kept[-1], 100, 0)


def keep_writing(path: str) -> None:
    """Open a file to which `write_kept` writes."""
    _kept.append(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND))


def write_kept(data: bytes, times: int) -> None:
    """So many calls of write(2)."""
    for _ in range(times):
        assert os.write(_kept[-1], data) == len(data)


def open_to_lock(path: str, writing: bool = True) -> None:
    """Open the file that `lock` and `who_locks` are about."""
    _kept.append(os.open(path, os.O_RDWR if writing else os.O_RDONLY))


def lock(how: str, kind: int, *where: int) -> None:
    """flock(2) or fcntl(2) with a lock of records (`where`: length and start)."""
    getattr(fcntl, how)(_kept[-1], kind, *where)


def who_locks() -> bytes:
    """F_GETLK for a lock of the whole file."""
    asked = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return fcntl.fcntl(_kept[-1], fcntl.F_GETLK, asked)


_maps: list[mmap.mmap] = []


def map_shared(path: str, size: int) -> None:
    """Map the file that `read_mapped` and `write_mapped` are about."""
    fd = os.open(path, os.O_RDWR)
    _maps.append(mmap.mmap(fd, size))
    os.close(fd)


def read_mapped(offset: int, size: int) -> bytes:
    return _maps[-1][offset : offset + size]


def write_mapped(offset: int, data: bytes) -> None:
    _maps[-1][offset : offset + len(data)] = data


def sync_mapped() -> None:
    """msync(2)."""
    _maps[-1].flush()


def access(path: str, wanted: str) -> str:
    how = {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}
    return str(os.access(path, sum(how[letter] for letter in wanted)))


def stat_of(path: str, fields: str) -> str:
    return described(os.stat(path), fields)


def lstat_of(path: str, fields: str) -> str:
    return described(os.lstat(path), fields)


def described(found: os.stat_result, fields: str) -> str:
    """Fields of an inode, joined by commas."""
    values = {
        "kind": KINDS[stat.S_IFMT(found.st_mode)],
        "mode": f"0{stat.S_IMODE(found.st_mode):o}",
        "nlink": str(found.st_nlink),
        "uid": str(found.st_uid),
        "gid": str(found.st_gid),
        "size": str(found.st_size),
        "ino": str(found.st_ino),
        "rdev": f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}",
        "atime": str(found.st_atime_ns),
        "mtime": str(found.st_mtime_ns),
    }
    return ",".join(values[field] for field in fields.split(","))


def times(path: str) -> tuple[int, int, int]:
    """When an inode was read, changed and modified, in ns."""
    found = os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns


def set_xattr(path: str, name: str, value: str) -> None:
    os.setxattr(path, name, value.encode(), follow_symlinks=False)


def remove_xattr(path: str, name: str) -> None:
    os.removexattr(path, name, follow_symlinks=False)
