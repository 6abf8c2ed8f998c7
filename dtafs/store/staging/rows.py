"""What staging keeps: the rows of its LMDB tables, their keys, and the numbers that bound them.

| table | key | value |
|---|---|---|
| `area` | a name | a number: `next_ino`, `next_tree`, `flushed` (a journal position); |
| | `machine` | which run of which machine had the lake open last: see `unsynced` |
| `dataset` | name of a dataset | `DatasetRow` |
| `inode` | tree, ino | `InodeRow` |
| `dentry` | tree, directory, name | `Dentry`: what the name leads to, or that it is taken away |
| `order` | tree, directory, sequence | the name that was added with this sequence number |
| `link` | tree, ino, directory, name | empty: the names of an inode, the reverse of `dentry` |
| `dirty` | tree, directory, name | the epoch in which a commit has to look at this name again |
| `extent` | tree, ino, start | end (MessagePack): a range of a file that is in its data file |
| `bytes` | tree, ino | bytes of a small file, from its beginning: see `InodeRow.is_held` |
| `group` | tree, ino | empty: an inode that has, or had, names in the base without a row |
| `orphan` | tree, ino | empty: an inode with no name left that somebody has open |
| `doomed` | tree, directory (0: all) | empty: rows to be removed, since nothing reaches them |

Numbers in keys are big-endian (tree 4 bytes, the others 8), so that LMDB sorts as we count.

A *tree* is one life of the staging of one dataset: discarding starts another one and leaves the old
rows to be removed in the background. An *epoch* begins with each commit: a row with an earlier one
says nothing that the base does not say too.
"""

from __future__ import annotations

import hashlib

from msgspec import Struct, msgpack

from dtafs.core.values import Content, Entry, Kind, Xattrs
from dtafs.store.database import row_decoder

TABLES = (
    "area",
    "dataset",
    "inode",
    "dentry",
    "order",
    "link",
    "dirty",
    "extent",
    "bytes",
    "group",
    "orphan",
    "doomed",
)

SYMLINK_MAX = 4095
LINK_MAX = 65_000
XATTR_NAME_MAX = 255
XATTRS_MAX_BYTES = 64 * 1024
"""Names and values of one inode together, so that an entry fits into a metadata node."""
FILE_MAX_BYTES = 2**44 - 4096
"""As on ext4, where a staged file's bytes may lie: what is allowed can also be written."""
BLOCK_BYTES = 512
DIRECTORY_BYTES = 4096
"""What `stat` shows as the size of a directory in staging."""

ADDED_COOKIE = 1 << 61
"""Directory cookies below are positions in the base, from here on sequence numbers of additions."""

EMPTY = Content(0, hashlib.sha256(b"").digest())
"""The content of every empty file."""

HELD_MAX_BYTES = 16 * 1024
"""So many bytes of a new file are put into `bytes`, and so into the journal. A file system needs 100 us
and more to make a file, and up to 500 where many were removed in the last minutes."""

NOWHERE, WHOLE, PATCHES = 0, 1, 2
"""Values of `InodeRow.local`: no data file; all is in it; the ranges of `extent` are."""


class Inode(Struct, frozen=True, gc=False):
    """What `stat` needs to know of something in staging. Times in ns, `blocks` of 512 bytes."""

    ino: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    nlink: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    blocks: int


class InodeRow(Struct, frozen=True, array_like=True, gc=False):
    """A row of `inode`. New fields go to the end, with a default."""

    ino: int
    kind: int
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    nlink: int
    """Of a directory: 2 and its subdirectories; 1 in the base, where nobody counted them."""
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    epoch: int
    """Of the last change. While it is the current one, all known names of the inode are `dirty`."""
    generation: int = 0
    """Files: goes up with every change of the bytes, so that a sealer can tell what it has read."""
    local: int = NOWHERE
    content: Content | None = None
    """Files: sealed bytes below what is local."""
    limit: int = 0
    """Files: how much of `content`, or of the row in `bytes`, still shows; what lies between it and
    `size` reads as zeros."""
    sealed: Content | None = None
    """Files: all the bytes as they are now, once a sealer has put them into packs."""
    target: bytes = b""
    xattrs: Xattrs = ()
    base_root: bytes = b""
    """Directories: root node of the sealed directory below."""
    base_epoch: int = 0
    """Directories: names whose `Dentry.since` is this or later relate to this very `base_root`."""
    base_seq: int = 1
    """Directories: names with an earlier sequence number are in `base_root`."""
    next_seq: int = 1
    live: int = 0
    """Directories: how many names they have."""

    @property
    def is_held(self) -> bool:
        """True for a file below whose local bytes lies, instead of a content, a row in `bytes`."""
        return self.content is None and self.limit > 0

    @property
    def whole_content(self) -> Content | None:
        """The content of a file as it is now, or None while a sealer has to read it first."""
        if self.size == 0:
            return EMPTY
        if self.sealed is not None:
            return self.sealed
        base = self.content
        if self.local == NOWHERE and base is not None and base.size == self.size == self.limit:
            return base
        return None


class Dentry(Struct, frozen=True, array_like=True, gc=False):
    """A row of `dentry`. A name of the base that was never touched has none."""

    ino: int
    """0: the base has this name and staging has taken it away."""
    seq: int
    """0: the base has this name. Otherwise its place among the names that staging added."""
    since: int
    """The epoch in which this row was written, to which `seq` refers."""


class DatasetRow(Struct, frozen=True, array_like=True):
    """A row of `dataset`."""

    tree: int
    root_ino: int
    version: int
    """The version that staging lies on; 0 before the first."""
    root: bytes
    """Root node of that version."""
    epoch: int

    @property
    def tree_prefix(self) -> bytes:
        """With what the keys of the rows of this tree begin."""
        return self.tree.to_bytes(4, "big")


encode = msgpack.Encoder().encode
decode_inode = row_decoder(InodeRow)
decode_dentry = row_decoder(Dentry)
decode_dataset = row_decoder(DatasetRow)
decode_number = row_decoder(int)


def number(value: int) -> bytes:
    """A number as it lies in a key."""
    return value.to_bytes(8, "big")


def from_number(data: bytes) -> int:
    """The inverse of `number`."""
    return int.from_bytes(data, "big")


def inode_of_row(row: InodeRow) -> Inode:
    """What `stat` shows of a row.

    `blocks` counts what holds data as far as the row knows: a hole inside a fresh file counts too.
    """
    size, blocks = row.size, 0
    if row.kind == Kind.FILE:
        blocks = -(-size // BLOCK_BYTES) if row.local else -(-row.limit // BLOCK_BYTES)
    elif row.kind == Kind.DIRECTORY:
        size, blocks = DIRECTORY_BYTES, DIRECTORY_BYTES // BLOCK_BYTES
    return Inode(
        row.ino,
        Kind(row.kind),
        row.mode,
        row.uid,
        row.gid,
        row.rdev,
        size,
        row.nlink,
        row.atime_ns,
        row.mtime_ns,
        row.ctime_ns,
        blocks,
    )


def inode_of_entry(ino: int, entry: Entry) -> Inode:
    """What `stat` shows of a name of the base that staging has not touched."""
    time_ns, size, blocks = entry.mtime_ns, entry.size, 0
    if entry.kind == Kind.FILE:
        blocks = -(-size // BLOCK_BYTES)
    elif entry.kind == Kind.DIRECTORY:
        size, blocks = DIRECTORY_BYTES, DIRECTORY_BYTES // BLOCK_BYTES
    return Inode(
        ino,
        Kind(entry.kind),
        entry.mode,
        entry.uid,
        entry.gid,
        0,
        size,
        entry.nlink,
        time_ns,
        time_ns,
        time_ns,
        blocks,
    )


def row_of_entry(ino: int, entry: Entry, epoch: int, names: int) -> InodeRow:
    """The row that a name of the base gets when it is first changed.

    `names` is how many entries the directory holds itself (0 for everything else).
    """
    time_ns = entry.mtime_ns
    is_file, is_directory = entry.kind == Kind.FILE, entry.kind == Kind.DIRECTORY
    return InodeRow(
        ino,
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        0,
        0 if is_directory else entry.size,
        entry.nlink,
        time_ns,
        time_ns,
        time_ns,
        epoch,
        content=entry.content if is_file and entry.size else None,
        limit=entry.size if is_file else 0,
        target=entry.ref if entry.kind == Kind.SYMLINK else b"",
        xattrs=entry.xattrs,
        base_root=entry.ref if is_directory else b"",
        base_epoch=epoch if is_directory else 0,
        live=names,
    )
