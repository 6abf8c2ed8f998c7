"""What `stat` says of a name, before FUSE has a word in it, and for how long it may be believed."""

from __future__ import annotations

import stat
from math import ceil

from msgspec import Struct

from dtafs.core.values import Entry, Kind
from dtafs.store.staging import Inode

SEALED_TIMEOUT_S = 86_400.0
"""Sealed names and attributes never change; to a cache a day is for ever, and yet a bound."""

STAGED_TIMEOUT_S = 300.0
"""This daemon is the only writer, and what a caller changes the kernel has changed in its own
cache. What changes behind its back (`put`, `discard`) is invalidated by name."""

NO_TIMEOUT_S = 0.0
"""For names that another command may move at any time: `latest`, tags, `staging`, the catalog. One
lookup more in each path is 70 us, and a stale answer after a commit would be wrong."""

KIND_BITS = {
    Kind.FILE.value: stat.S_IFREG,
    Kind.DIRECTORY.value: stat.S_IFDIR,
    Kind.SYMLINK.value: stat.S_IFLNK,
    Kind.FIFO.value: stat.S_IFIFO,
    Kind.SOCKET.value: stat.S_IFSOCK,
    Kind.CHAR_DEVICE.value: stat.S_IFCHR,
    Kind.BLOCK_DEVICE.value: stat.S_IFBLK,
}
"""By plain numbers, as entries have them: to hash a member of an enumeration costs 0.3 us."""

BLOCK_BYTES = 512
"""The unit of `st_blocks`."""


class Attributes(Struct, frozen=True, gc=False):
    """The attributes of one inode, and how long the kernel may keep them and the name."""

    ino: int
    kind: int
    mode: int
    """Permission bits, 0 to 0o7777."""
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    nlink: int = 1
    blocks: int = 0
    """Units of 512 bytes that are on this machine."""
    rdev: int = 0
    name_timeout_s: float = NO_TIMEOUT_S
    timeout_s: float = NO_TIMEOUT_S
    life: int = 0
    """The kernel takes a number with another life for another inode: FUSE's "generation"."""

    @property
    def st_mode(self) -> int:
        """Kind and permission bits, as `stat` gives them."""
        return KIND_BITS[self.kind] | self.mode


MOVING_TIMEOUT_S = 5.0
"""For sealed files of a lake with tiers: how many blocks are here changes behind the kernel's back."""


def sealed_attributes(
    entry: Entry, ino: int, sealed_ns: int, share: float = 1.0, timeout_s: float = SEALED_TIMEOUT_S
) -> Attributes:
    """The attributes of a sealed entry of a version that was sealed at `sealed_ns`, of which so large
    a share (0 to 1) is on this machine.

    A directory has one link, which tools take for "number of subdirectories unknown": counting
    them would read the whole directory.
    """
    size = 0 if entry.kind == Kind.DIRECTORY else entry.size
    return Attributes(
        ino=ino,
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=size,
        mtime_ns=entry.mtime_ns,
        ctime_ns=sealed_ns,
        atime_ns=entry.mtime_ns,
        nlink=entry.nlink,
        blocks=ceil(size * share / BLOCK_BYTES),
        name_timeout_s=SEALED_TIMEOUT_S,
        timeout_s=timeout_s,
    )


def staged_attributes(
    inode: Inode, life: int = 0, name_timeout_s: float = STAGED_TIMEOUT_S
) -> Attributes:
    """The attributes of a staged inode."""
    return Attributes(
        ino=inode.ino,
        kind=inode.kind,
        mode=inode.mode,
        uid=inode.uid,
        gid=inode.gid,
        size=inode.size,
        mtime_ns=inode.mtime_ns,
        ctime_ns=inode.ctime_ns,
        atime_ns=inode.atime_ns,
        nlink=inode.nlink,
        blocks=inode.blocks,
        rdev=inode.rdev,
        name_timeout_s=name_timeout_s,
        timeout_s=STAGED_TIMEOUT_S,
        life=life,
    )


DIRECTORY_TIMEOUT_S = 1.0
"""For the attributes of the directories that dtafs makes up: every path asks for them, and all that
a commit changes there is a time."""


class Owner(Struct, frozen=True):
    """Whom the directories that dtafs itself makes up belong to."""

    uid: int
    gid: int


def made_up_directory(ino: int, owner: Owner, time_ns: int, mode: int) -> Attributes:
    """The attributes of a directory that is in no version and in no staging; its name stays."""
    return Attributes(
        ino=ino,
        kind=Kind.DIRECTORY,
        mode=mode,
        uid=owner.uid,
        gid=owner.gid,
        size=0,
        mtime_ns=time_ns,
        ctime_ns=time_ns,
        atime_ns=time_ns,
        name_timeout_s=SEALED_TIMEOUT_S,
        timeout_s=DIRECTORY_TIMEOUT_S,
    )


def made_up(
    ino: int, kind: Kind, owner: Owner, time_ns: int, *, mode: int, size: int
) -> Attributes:
    """The attributes of a file or symlink that is in no version and in no staging; never cached."""
    return Attributes(
        ino=ino,
        kind=kind,
        mode=mode,
        uid=owner.uid,
        gid=owner.gid,
        size=size,
        mtime_ns=time_ns,
        ctime_ns=time_ns,
        atime_ns=time_ns,
        blocks=-(-size // BLOCK_BYTES),
    )
