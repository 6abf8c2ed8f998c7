"""The values that the whole of dtafs speaks in.

Structs marked `array_like` are written to metadata nodes as MessagePack arrays in field order, so
their field order is part of the durable format (`dtafs.core.format` documents it); new fields may
only be added at the end, behind a feature flag.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

HASH_BYTES = 32
"""Length of a SHA-256, and so of a chunk, node, pack, manifest or entry hash, in bytes."""

NAME_MAX_BYTES = 255
"""The longest file name, in bytes: what Linux allows."""


class Kind(IntEnum):
    """What a directory entry is. Sockets and devices exist in staging only."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    FIFO = 4
    SOCKET = 5
    CHAR_DEVICE = 6
    BLOCK_DEVICE = 7


SEALABLE = frozenset({Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.FIFO})


class Totals(Struct, frozen=True, array_like=True, gc=False):
    """Sums over everything below a directory, at every depth, the directory itself not counted."""

    entries: int = 0
    files: int = 0
    size: int = 0
    linked: int = 0
    """How many of the entries belong to a hard-link group, so that a search for one can prune."""

    def plus(self, other: Totals) -> Totals:
        return Totals(
            self.entries + other.entries,
            self.files + other.files,
            self.size + other.size,
            self.linked + other.linked,
        )


NOTHING_BELOW = Totals()

Xattrs = tuple[tuple[bytes, bytes], ...]
"""Extended attributes as (name, value) pairs, sorted by name."""


class Content(Struct, frozen=True, gc=False):
    """The bytes of a regular file, by reference.

    `size` in bytes; `sha256` of all of them; `chunk_list` is the id of the root of the file's chunk
    list, or `b""` where the file is empty or is one chunk (whose id follows from `sha256`).
    """

    size: int
    sha256: bytes
    chunk_list: bytes = b""


class Entry(Struct, frozen=True, array_like=True, gc=False):
    """One name in a sealed directory, with everything that `stat` and `open` need.

    | field | file | directory | symlink | fifo |
    |---|---|---|---|---|
    | size | bytes | sum of the files below | bytes of the target | 0 |
    | sha256 | of the content | empty | empty | empty |
    | ref | chunk list id, or empty | id of its root node, if any | target | empty |
    """

    name: bytes
    kind: int
    mode: int
    """Permission bits with set-id and sticky bits, 0 to 0o7777."""
    uid: int
    gid: int
    mtime_ns: int
    size: int
    sha256: bytes = b""
    ref: bytes = b""
    xattrs: Xattrs = ()
    link: int = 0
    """Hard-link group, 0 for a file with one name; equal for all names of one file in a version."""
    nlink: int = 1
    """How many names of this version share the file; 1 for everything that is not in a group."""
    below: Totals = NOTHING_BELOW

    @property
    def content(self) -> Content:
        """The content of a regular file."""
        return Content(self.size, self.sha256, self.ref)

    @property
    def totals(self) -> Totals:
        """What this entry and all below it add to the totals of the directory that holds it."""
        own = Totals(
            1,
            1 if self.kind == Kind.FILE else 0,
            self.size if self.kind == Kind.FILE else 0,
            1 if self.link else 0,
        )
        return own.plus(self.below) if self.kind == Kind.DIRECTORY else own


class Branch(Struct, frozen=True, array_like=True, gc=False):
    """A child in an inner directory node: `first` is the smallest name below it."""

    first: bytes
    node: bytes
    names: int
    """Entries of this very directory below the child (not of its subdirectories)."""
    totals: Totals


class Span(Struct, frozen=True, array_like=True, gc=False):
    """In a leaf of a chunk list a chunk, with its `id`; in an inner node a child, with its `id`."""

    id: bytes
    size: int
    """Plain bytes below."""
    chunks: int = 1


class Actor(Struct, frozen=True):
    """Who did something: the user, the numeric id, the machine, the program with its version."""

    user: str
    uid: int
    host: str
    program: str


class Source(Struct, frozen=True):
    """A version that another one was made from; `manifest` is its hash in hex."""

    dataset: str
    version: int
    manifest: str


class Transform(Struct, frozen=True):
    """How a version was made from its sources."""

    name: str
    parameters: dict[str, str] = {}
    program_sha256: str = ""


class Manifest(Struct, frozen=True):
    """The sealed description of a version: the body of a `committed` entry.

    The hash of a version is the SHA-256 of the canonical JSON of this. Hashes are in hex.
    """

    dataset: str
    version: int
    root: str
    """Id of the root node, whose one entry (with the empty name) is the version's top directory."""
    parent: str | None
    """Hash of the manifest of the version before it."""
    files: int
    size_bytes: int
    message: str
    tags: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    transform: Transform | None = None
    packs: tuple[str, ...] = ()
    """New packs that this commit wrote: content first, then metadata."""
