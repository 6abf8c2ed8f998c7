"""What every part of the mount can be asked, and what it answers when nothing else is said.

An `Area` answers for the inodes of one part: the top, the views, sealed versions, staging. Its
methods are coroutines because a node may have to be read first; they raise `OSError` with the errno
that the caller is to see, or a `DtafsError`. The defaults are those of something sealed: every
change is refused with EROFS.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from dtafs.fs.attributes import Attributes


class Caller(NamedTuple):
    """Who asks."""

    uid: int
    gid: int
    pid: int
    umask: int


class Changes(NamedTuple):
    """What `setattr` asks for; None for what is to stay.

    `drop_set_id`: the set-id bits go, too. `touched_by`: the user who asks for nothing of all this:
    it is chown(2) of neither owner nor group, or the announcement of a write.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    drop_set_id: bool = False
    touched_by: int | None = None


WRITING = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
"""Flags of `open` that what is sealed refuses."""

DOTS = 2
"""Cookies 1 and 2 follow `.` and `..`; those of what a directory holds are moved by as many."""

Emit = Callable[[bytes, Attributes, int], bool]
"""Takes a name, its attributes and the cookie after it; False when there is no room for it."""


def refuse(number: int) -> NoReturn:
    """Raise the OSError of an errno."""
    raise OSError(number, os.strerror(number))


class OpenFile:
    """An open file. `keep_cache`: pages that the kernel holds of it are still good."""

    keep_cache = False
    direct = False
    """Bypass the page cache: for text whose length is known only once it is made."""

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes; fewer only at the end of the file."""
        refuse(errno.EBADF)

    async def write(self, offset: int, data: bytes) -> int:
        """Write all of `data`; returns its length."""
        refuse(errno.EROFS)

    async def fsync(self) -> None:
        """Return once what was written survives a power failure."""

    async def release(self) -> None:
        """The last reference is gone."""


class OpenDirectory:
    """An open directory."""

    async def read(self, start: int, emit: Emit) -> None:
        """Emit the names after the cookie `start` (0: all of them) until there is no room."""
        refuse(errno.ENOTDIR)

    async def fsync(self) -> None:
        """Return once the names survive a power failure."""

    async def release(self) -> None:
        """The last reference is gone."""


class Area:
    """The part of the mount that one kind of inode belongs to."""

    async def lookup(self, parent: int, name: bytes) -> Attributes | None:
        """The entry `name` of a directory; None when there is none and will be none.

        FileNotFoundError when there is none now.
        """
        refuse(errno.ENOTDIR)

    def remember(self, ino: int) -> None:
        """The kernel has been given one reference to `ino`."""

    def release(self, ino: int, count: int) -> None:
        """The kernel has given `count` references back."""

    async def attributes(self, ino: int) -> Attributes:
        """What `stat` says."""
        refuse(errno.ESTALE)

    async def open(self, ino: int, flags: int, caller: Caller) -> OpenFile:
        """Open a regular file."""
        refuse(errno.EISDIR)

    async def open_directory(self, ino: int) -> OpenDirectory:
        """Open a directory for listing."""
        refuse(errno.ENOTDIR)

    async def readlink(self, ino: int) -> bytes:
        """The target of a symlink."""
        refuse(errno.EINVAL)

    async def get_xattr(self, ino: int, name: bytes) -> bytes:
        """The value of an extended attribute; ENODATA when it has none of that name."""
        refuse(errno.ENODATA)

    async def list_xattrs(self, ino: int) -> list[bytes]:
        """The names of the extended attributes."""
        return []

    async def set_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        """Set an extended attribute."""
        refuse(errno.EROFS)

    async def remove_xattr(self, ino: int, name: bytes) -> None:
        """Remove an extended attribute."""
        refuse(errno.EROFS)

    async def set_attributes(self, ino: int, changes: Changes) -> Attributes:
        """Change mode, owner, size or times."""
        refuse(errno.EROFS)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Attributes]:
        """Create a regular file and open it."""
        refuse(errno.EROFS)

    async def make(
        self, parent: int, name: bytes, st_mode: int, caller: Caller, rdev: int = 0
    ) -> Attributes:
        """Make a file, directory, fifo, socket or device; `st_mode` holds its kind."""
        refuse(errno.EROFS)

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        """Make a symlink."""
        refuse(errno.EROFS)

    async def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        """Give a file another name."""
        refuse(errno.EROFS)

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        """Remove a name that is not a directory."""
        refuse(errno.EROFS)

    async def rmdir(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        refuse(errno.EROFS)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        """Rename within this area."""
        refuse(errno.EROFS)
