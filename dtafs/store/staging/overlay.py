"""One dataset's inodes: rows over the sealed tree below, and numbers for what has no row.

What is untouched has no row. A lookup gives it a number and remembers it as a `Virtual`, as long as
the kernel does; all names of one hard-link group of the base share one number, which is the number
of the group. The first change *settles* it: it gets a row, under the number that it has, and so do
the directories above it, since rows name their directory by number.

Every change is an `Operation`. It reads through its own pending rows, and nothing happens before
`commit`, so that a fetch may raise in the middle and the whole call can be made again.

Dirt: `dirty` holds each name that a commit has to look at, and with it the names of all
directories above, so that a commit walks down from the root along dirty names only. An `InodeRow`
whose epoch is the current one has all its known names in there.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from dtafs.core import tree
from dtafs.core.nodes import Fetch
from dtafs.core.values import NAME_MAX_BYTES, Entry, Kind
from dtafs.store.staging.counts import Counts
from dtafs.store.staging.datafiles import DataFiles
from dtafs.store.staging.rows import (
    DatasetRow,
    Dentry,
    InodeRow,
    decode_dentry,
    decode_inode,
    decode_number,
    from_number,
    number,
)
from dtafs.store.staging.tables import Tables
from dtafs.store.staging.view import View

if TYPE_CHECKING:
    from dtafs.store.staging.operation import Operation

IDLE_MAX = 20_000
"""How many numbers that nobody asked to remember are kept: those of a directory listing."""
ROWS_CACHED = 20_000


def failure(code: int) -> OSError:
    """An OSError with this errno."""
    return OSError(code, os.strerror(code))


class Lakewide(Protocol):
    """What the stagings of one lake share."""

    tables: Tables
    data: DataFiles
    fetch: Fetch

    def next_number(self) -> int:
        """An inode number that was never given before."""


class Virtual:
    """A name of the base that staging has not changed, with the number that it has for now."""

    __slots__ = ("entry", "ino", "names")

    def __init__(self, ino: int, entry: Entry) -> None:
        self.ino, self.entry = ino, entry
        self.names: list[tuple[int, bytes]] = []


Node = InodeRow | Virtual


class Overlay:
    """The state that all parts of one `Staging` work on. The caller holds the dataset's lock."""

    def __init__(self, name: str, row: DatasetRow, shared: Lakewide) -> None:
        self.name, self.shared, self.tables = name, shared, shared.tables
        self.row = row
        self.prefix = row.tree_prefix
        self.known = Counts()
        """How often the kernel was told of an inode, and how often it is open, together."""
        self.outdated_names: set[tuple[int, bytes]] = set()
        self.outdated_inodes: set[int] = set()
        """What `outdated.take` hands out."""
        self.base_names: dict[int, set[tuple[int, bytes]]] = {}
        """Of linked files with a row: names of the base without one that were looked up."""
        self.virtuals: dict[int, Virtual] = {}
        self._virtual_names: dict[tuple[int, bytes], int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._rows: dict[int, InodeRow] = {}
        self._dirty_directories: set[int] = set()
        self._children: dict[int, int] = {}
        """How many virtual inodes have their name in a directory, and so need it."""
        self._other_fetch: Fetch | None = None

    @property
    def fetch(self) -> Fetch:
        """Gives nodes of the base; may raise when one is not in memory."""
        return self._other_fetch or self.shared.fetch

    @contextlib.contextmanager
    def fetching(self, fetch: Fetch) -> Iterator[None]:
        """Use another `fetch` inside the block (one that may block)."""
        self._other_fetch = fetch
        try:
            yield
        finally:
            self._other_fetch = None

    @property
    def epoch(self) -> int:
        return self.row.epoch

    @property
    def root_ino(self) -> int:
        return self.row.root_ino

    def life(self, ino: int) -> int:
        """Differs when the number of a linked file of the base comes again, after a `discard`: for who
        still holds it, it must not be the file that it was. The root stays what it is."""
        return 0 if ino == self.root_ino else self.row.tree

    # Reading.

    def owner(self, ino: int) -> bytes:
        """The owner, in the sense of `Tables`, of rows that belong to an inode."""
        return self.prefix + number(ino)

    def find_row(self, ino: int) -> InodeRow | None:
        """The row of an inode, or None while it has none."""
        row = self._rows.get(ino)
        if row is None:
            data = self.tables.get("inode", self.prefix, number(ino))
            if data is None:
                return None
            row = decode_inode(data)
            self._keep_row(row)
        return row

    def load_rows(self, view: View, inos: list[int]) -> None:
        """Look up together the rows that `find_row` will be asked for."""
        for ino in inos:
            self.load_row(view, ino)

    def load_row(self, view: View, ino: int) -> InodeRow | None:
        """`find_row` in a view."""
        row = self._rows.get(ino)
        if row is None:
            row = self.peek_in(view, ino)
            if row is not None:
                self._keep_row(row)
        return row

    def _keep_row(self, row: InodeRow) -> None:
        if len(self._rows) >= ROWS_CACHED:
            self._rows.clear()
        self._rows[row.ino] = row

    def peek_row(self, ino: int) -> InodeRow | None:
        """As `find_row`, for threads that do not hold the lock: nothing in memory changes."""
        row = self._rows.get(ino)
        if row is not None:
            return row
        data = self.tables.get("inode", self.prefix, number(ino))
        return None if data is None else decode_inode(data)

    def peek_in(self, view: View, ino: int) -> InodeRow | None:
        """`peek_row` in a view."""
        row = self._rows.get(ino)
        if row is not None:
            return row
        data = view.get("inode", self.prefix, number(ino))
        return None if data is None else decode_inode(data)

    def node(self, ino: int) -> Node:
        """The inode with a number; ESTALE for a number that means nothing any more."""
        found = self.virtuals.get(ino) or self.find_row(ino)
        if found is None:
            raise failure(errno.ESTALE)
        return found

    def dentry(self, directory: int, name: bytes) -> Dentry | None:
        """The dentry of a name, or None where there is none."""
        data = self.tables.get("dentry", self.owner(directory), name)
        return None if data is None else decode_dentry(data)

    def names(self, ino: int) -> Iterator[tuple[int, bytes]]:
        """The known names of an inode with a row, each with its directory."""
        for rest, _ in self.tables.scan("link", self.owner(ino)):
            yield from_number(rest[:8]), rest[8:]

    def a_name(self, ino: int) -> tuple[int, bytes] | None:
        """One name of an inode; None for the root and for what has lost its last name."""
        virtual = self.virtuals.get(ino)
        return virtual.names[0] if virtual is not None else next(self.names(ino), None)

    def path_of(self, ino: int) -> bytes:
        """One path of an inode below the root; b"" for the root and what has lost its names."""
        parts: list[bytes] = []
        while (named := self.a_name(ino)) is not None:
            ino, name = named
            parts.append(name)
        return b"/".join(reversed(parts))

    def directory(self, ino: int) -> Node:
        """A directory that names can be looked up in; ENOTDIR for anything else."""
        node = self.node(ino)
        if kind_of(node) != Kind.DIRECTORY:
            raise failure(errno.ENOTDIR)
        return node

    def find(self, directory: int, name: bytes) -> Node | None:
        """What a name leads to, or None."""
        node = self.directory(directory)
        check_name(name)
        if isinstance(node, InodeRow):
            if node.nlink == 0:
                return None
            dentry = self.dentry(directory, name)
            if dentry is not None:
                return self.node(dentry.ino) if dentry.ino else None
        root = base_root_of(node)
        if not root:
            return None
        known = self._virtual_names.get((directory, name))
        if known is not None:
            return self.virtuals[known]
        located = tree.find(self.fetch, root, name)
        return None if located is None else self.of_entry(directory, located.entry)

    def of_entry(self, directory: int, entry: Entry) -> Node:
        """The inode of a name of the base which has no dentry."""
        known = self._virtual_names.get((directory, entry.name))
        if known is not None:
            return self.virtuals[known]
        if entry.link:
            row = self.find_row(entry.link)
            if row is not None:
                self.base_names.setdefault(entry.link, set()).add((directory, entry.name))
                return row
        ino = entry.link or self.shared.next_number()
        virtual = self.virtuals.get(ino)
        if virtual is None:
            virtual = self.virtuals[ino] = Virtual(ino, entry)
            if ino not in self.known:
                self._idle[ino] = None
        virtual.names.append((directory, entry.name))
        self._virtual_names[directory, entry.name] = ino
        self._children[directory] = self._children.get(directory, 0) + 1
        self._shed()
        return virtual

    # What the kernel knows.

    def remember(self, ino: int, count: int = 1) -> None:
        """Somebody holds the number from now on."""
        self.known.set(ino, self.known.get(ino) + count)
        self._idle.pop(ino, None)

    def release(self, ino: int, count: int = 1) -> bool:
        """The inverse of `remember`; True when nobody holds the number any more."""
        left = max(0, self.known.get(ino) - count)
        self.known.set(ino, left)
        if left:
            return False
        self.base_names.pop(ino, None)
        if ino in self.virtuals:
            self._idle[ino] = None
            self._shed()
        return True

    def note_name(self, directory: int, name: bytes, ino: int) -> None:
        """The name leads to `ino` no longer: see `outdated`."""
        if ino in self.known:
            self.outdated_names.add((directory, name))
            self.outdated_inodes.add(ino)

    def note_inodes(self, changed: Iterable[int]) -> None:
        """The attributes of these inodes have changed: see `outdated`."""
        self.outdated_inodes.update(ino for ino in changed if ino in self.known)

    def _shed(self) -> None:
        while len(self._idle) > IDLE_MAX:
            ino, _ = self._idle.popitem(last=False)
            virtual = self.virtuals.get(ino)
            if virtual is not None and not self.is_needed(ino):
                self.drop_virtual(virtual)

    def drop_virtual(self, virtual: Virtual) -> None:
        """Stop remembering an untouched inode."""
        del self.virtuals[virtual.ino]
        self._idle.pop(virtual.ino, None)
        for name in virtual.names:
            del self._virtual_names[name]
            directory = name[0]
            self._children[directory] -= 1
            if not self._children[directory]:
                del self._children[directory]
                if directory in self.virtuals and directory not in self.known:
                    self._idle[directory] = None

    def is_needed(self, ino: int) -> bool:
        """True while somebody may use the number, be it as the directory of something untouched."""
        return ino in self.known or ino in self._children

    def unname_virtual(self, directory: int, name: bytes) -> None:
        """A name of the base was taken away or leads elsewhere now."""
        ino = self._virtual_names.get((directory, name))
        if ino is not None:
            self.drop_virtual(self.virtuals[ino])

    def replace_state(self, row: DatasetRow) -> None:
        """Go on with another tree, epoch or base."""
        if row.tree != self.row.tree:
            self.virtuals.clear()
            self._virtual_names.clear()
            self._idle.clear()
            self._children.clear()
            self._rows.clear()
            self.base_names.clear()
        self._dirty_directories.clear()
        self.row = row
        self.prefix = row.tree_prefix

    def applied(self, operation: Operation) -> None:
        """Bring what is in memory up to date with an operation that has become real."""
        for ino, row in operation.inodes.items():
            if row is None:
                self._rows.pop(ino, None)
            else:
                self._keep_row(row)
            virtual = self.virtuals.get(ino)
            if virtual is not None:
                self.drop_virtual(virtual)
        for directory, name in operation.unnamed:
            self.unname_virtual(directory, name)
        if len(self._dirty_directories) > ROWS_CACHED:
            self._dirty_directories.clear()
        self._dirty_directories |= operation.dirty_directories

    def is_marked(self, directory: int) -> bool:
        """True when the directory's own name is known to be dirty, and all above it."""
        return directory in self._dirty_directories


def kind_of(node: Node) -> int:
    """The kind of an inode, with a row or without."""
    return node.kind if isinstance(node, InodeRow) else node.entry.kind


def base_root_of(node: Node) -> bytes:
    """The root node of the sealed directory below a directory."""
    return node.base_root if isinstance(node, InodeRow) else node.entry.ref


def check_name(name: bytes) -> None:
    """Raise for what cannot be a file name."""
    if len(name) > NAME_MAX_BYTES:
        raise failure(errno.ENAMETOOLONG)
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise failure(errno.EINVAL)


def names_in(fetch: Fetch, root: bytes) -> int:
    """How many names a sealed directory has itself."""
    return tree.directory_node(fetch, root).positions[-1] if root else 0


def epoch_of(value: bytes) -> int:
    """The epoch that a row of `dirty` says."""
    return decode_number(value)
