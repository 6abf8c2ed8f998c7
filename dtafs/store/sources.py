"""What is to be staged, as it lies on this host: names, attributes, and files that hold still."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from msgspec import Struct

from dtafs.core.values import NAME_MAX_BYTES, Kind, Xattrs
from dtafs.errors import UsageError, from_os_error
from dtafs.store.progress import Progress

Path = tuple[bytes, ...]

KINDS = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFIFO: Kind.FIFO,
    stat.S_IFSOCK: Kind.SOCKET,
    stat.S_IFCHR: Kind.CHAR_DEVICE,
    stat.S_IFBLK: Kind.BLOCK_DEVICE,
}


class Source(Struct):
    """One name on this host that is to be staged at `target`."""

    path: bytes
    target: Path
    status: os.stat_result
    kind: Kind
    number: int
    """Its place in the order in which it was met: after the directory that it is in."""
    xattrs: Xattrs = ()
    link: bytes = b""
    """Where a symlink points."""
    reads: int = 0
    steady: bool = True
    """False when the file changed between the first and the last byte that was read of it."""

    @classmethod
    def at(cls, path: bytes, target: Path, number: int) -> Source:
        """What is at a path, with all that is staged of it but a file's bytes; OSError."""
        status = os.lstat(path)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        if kind == Kind.SYMLINK:
            return cls(path, target, status, kind, number, link=os.readlink(path))
        if kind in (Kind.FILE, Kind.DIRECTORY):
            return cls(path, target, status, kind, number, user_xattrs(path))
        return cls(path, target, status, kind, number)


def split_path(text: bytes) -> Path:
    """The components of a path inside a dataset; UsageError for one that leads elsewhere."""
    parts = tuple(part for part in text.split(b"/") if part not in (b"", b"."))
    for part in parts:
        if part == b".." or b"\0" in part or len(part) > NAME_MAX_BYTES:
            raise UsageError(f"{os.fsdecode(text)!r} is not a path inside a dataset")
    return parts


class SteadyFile:
    """A regular file for the sealer that notices whether it changed while it was read."""

    def __init__(self, source: Source) -> None:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._source = source
        self._fd = os.open(source.path, flags)
        self._done = 0
        source.reads += 1
        source.status = os.fstat(self._fd)
        source.steady = stat.S_ISREG(source.status.st_mode)

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill as much of `buffer` as there is; 0 at the end."""
        size = self._source.status.st_size
        # At the size that it had, a look for more is one call to spare: growing shows in `close`.
        # Of a size of 0 nothing follows: there are files that say so and hold something.
        if not self._source.steady or self._done == size > 0:
            return 0
        done = os.readv(self._fd, [buffer])
        self._done += done
        return done

    def close(self) -> None:
        """Close, and note in the source whether all that was read is of one state of the file."""
        before, after = self._source.status, os.fstat(self._fd)
        os.close(self._fd)
        same = (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
            after.st_size,
            after.st_mtime_ns,
            after.st_ctime_ns,
        )
        self._source.steady &= same and self._done == after.st_size


def targets_of(paths: Sequence[bytes], top: Path) -> list[tuple[bytes, Path]]:
    """Where each PATH goes; UsageError when two would land on each other."""
    found: list[tuple[bytes, Path]] = []
    taken: dict[bytes, bytes] = {}
    for path in paths:
        name = os.path.basename(path.rstrip(b"/"))
        if not path:
            raise UsageError("a path cannot be empty")
        if name in (b"", b".", b".."):
            found.append((path, top))
            continue
        if taken.setdefault(name, path) != path:
            raise UsageError(f"{quoted(taken[name])} and {quoted(path)} would get the same name")
        found.append((path.rstrip(b"/"), (*top, name)))
    for path, _ in found:
        try:
            os.lstat(path)
        except OSError as error:
            raise from_os_error(error, "reading") from error
    return found


def measure(paths: Sequence[bytes]) -> Progress:
    """How much there is to read; what cannot be seen is left out."""
    files = size = 0
    pending = list(paths)
    while pending:
        path = pending.pop()
        try:
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                pending.extend(os.path.join(path, name) for name in os.listdir(path))
            elif stat.S_ISREG(status.st_mode):
                files, size = files + 1, size + status.st_size
        except OSError:
            continue
    return Progress("put", files_total=files, size_total_bytes=size)


def user_xattrs(path: bytes) -> Xattrs:
    """The user's own attributes; a file system without any has none."""
    try:
        found = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return ()
        raise
    if not found:
        return ()
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(map(os.fsencode, found))
        if name.startswith(b"user.") and not name.startswith(b"user.dtafs.")
    )


def identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def quoted(path: bytes) -> str:
    return repr(os.fsdecode(path))
