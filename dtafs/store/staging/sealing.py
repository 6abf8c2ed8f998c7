"""From staging to a version: the new tree, and going on from the version it became.

`build` walks down along dirty names and edits each directory it meets after those below it. It
reads rows only, and gives the same tree whenever it is called on the same rows: after a crash
between the commit point and `rebase`, building again says whether the newest version is this very
staging.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from dtafs.core.nodes import Fetch
from dtafs.core.tree import Built, Sink, directory_node
from dtafs.core.values import SEALABLE, Branch, Entry, Kind
from dtafs.errors import BusyError, RefusedError
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Overlay
from dtafs.store.staging.rows import (
    Dentry,
    InodeRow,
    decode_inode,
    encode,
    from_number,
)
from dtafs.store.staging.walk import DirtyName, dirty_names, entry_of, peek_dentry

Edit = Callable[[Fetch, bytes, Iterable[tuple[bytes, Entry | None]], Sink], Built]

Chain = tuple[Entry, ...]
"""A path of untouched entries, from a directory that has a row down to a file."""

Changed = tuple[bytes, Entry | None]
"""A name, and its entry in the version or None for a name that goes."""

ADOPTED_AT_ONCE = 64
CHANGES_HELD = 20_000
"""A directory with more changes is walked twice, so that not all its new entries are in memory."""


class Build(NamedTuple):
    """The tree that staging would become."""

    top: Entry
    nodes: dict[bytes, bytes]
    """The new nodes by id; empty when they went to a sink."""
    directories: dict[int, bytes]
    """The new root nodes of the directories that changed, by inode: what `rebase` needs."""


class _Frame:
    """A directory that is being walked."""

    def __init__(self, row: InodeRow, name: bytes, names: Iterator[DirtyName]) -> None:
        self.row, self.name, self.names = row, name, names
        self.changes: list[Changed] = []
        self.directories: dict[bytes, Entry] | None = None
        """Instead of `changes`, once there were too many: what came of the directories in it."""

    def add(self, name: bytes, entry: Entry | None) -> None:
        """Note what came of a name."""
        if self.directories is None:
            self.changes.append((name, entry))
            if len(self.changes) > CHANGES_HELD:
                self.directories = {n: e for n, e in self.changes if _is_directory(e) and e}
                self.changes = self.changes[:1]
        elif entry is not None and _is_directory(entry):
            self.directories[name] = entry

    def all_changes(self, overlay: Overlay) -> Iterable[Changed]:
        """All that came of its names, in order."""
        return self.changes if self.directories is None else self._again(overlay)

    def _again(self, overlay: Overlay) -> Iterator[Changed]:
        assert self.directories is not None
        for _, name, row in dirty_names(overlay, self.row.ino):
            if row is not None and row.kind == Kind.DIRECTORY:
                yield name, self.directories[name]
            else:
                yield name, None if row is None else _sealable(row, name)


def _is_directory(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == Kind.DIRECTORY


def build(overlay: Overlay, fetch: Fetch, edit: Edit, sink: Sink | None = None) -> Build:
    """The tree of staging as it is; nothing may change meanwhile. Blocks; any thread.

    Raises RefusedError for what cannot be sealed and BusyError for a file that no sealer has read.
    """
    nodes: dict[bytes, bytes] = {}
    keep = sink if sink is not None else nodes.__setitem__
    directories: dict[int, bytes] = {}
    row = overlay.peek_row(overlay.root_ino)
    assert row is not None, "staging always has a row for its root"
    stack = [_Frame(row, b"", dirty_names(overlay, row.ino))]
    while True:
        frame = stack[-1]
        dirty = next(frame.names, None)
        if dirty is not None:
            below = dirty.row
            if below is None:
                frame.add(dirty.name, None)
            elif below.kind == Kind.DIRECTORY:
                stack.append(_Frame(below, dirty.name, dirty_names(overlay, below.ino)))
            else:
                frame.add(dirty.name, _sealable(below, dirty.name))
            continue
        stack.pop()
        built = edit(fetch, frame.row.base_root, frame.all_changes(overlay), keep)
        if frame.changes or frame.row.epoch == overlay.epoch:
            directories[frame.row.ino] = built.root
        entry = entry_of(frame.row, frame.name, built.root, built.totals)
        if not stack:
            return Build(entry, nodes, directories)
        stack[-1].add(frame.name, entry)


def _sealable(row: InodeRow, name: bytes) -> Entry:
    if row.kind not in SEALABLE:
        kind = Kind(row.kind).name.lower().replace("_", " ")
        raise RefusedError(f"{os.fsdecode(name)!r} is a {kind}, which cannot be sealed")
    if row.kind == Kind.FILE and row.whole_content is None:
        raise BusyError(f"{os.fsdecode(name)!r} was changed while the commit was under way")
    return entry_of(row, name)


def rebase(overlay: Overlay, version: int, root: bytes, directories: Mapping[int, bytes]) -> None:
    """Go on from the version that a build became: from now on nothing is dirty.

    The numbers that the kernel knows, open files and open directories stay valid.
    """
    op = Operation(overlay)
    epoch = overlay.epoch + 1
    for ino, base_root in directories.items():
        row = op.row(ino)
        op.note(row, base_root=base_root, base_epoch=epoch, base_seq=row.next_seq)
    state = replace(overlay.row, version=version, root=root, epoch=epoch)
    op.put("dataset", b"", overlay.name.encode(), encode(state))
    op.commit()
    overlay.replace_state(state)


def find_group_names(overlay: Overlay, fetch: Fetch) -> Iterator[tuple[int, Chain]]:
    """Names of the base without a row that lead to an inode that changed.

    An inode with several names in the base may have been changed through one of them; a commit has
    to write the others too. Each result is a directory with a row and the untouched entries below
    it that lead to such a name. Blocks; any thread.
    """
    wanted = set(_incomplete_groups(overlay))
    if not wanted:
        return
    for _, data in overlay.tables.scan("inode", overlay.prefix):
        row = decode_inode(data)
        if row.kind != Kind.DIRECTORY or not row.nlink or not row.base_root:
            continue
        for chain in _linked_below(fetch, overlay, row):
            if chain[-1].link in wanted:
                yield row.ino, chain


def _incomplete_groups(overlay: Overlay) -> Iterator[int]:
    for rest, _ in overlay.tables.scan("group", overlay.prefix):
        row = overlay.peek_row(from_number(rest))
        if row is not None and row.epoch == overlay.epoch and row.nlink:
            known = sum(1 for _ in overlay.tables.scan("link", overlay.owner(row.ino)))
            if known < row.nlink:
                yield row.ino


def _linked_below(fetch: Fetch, overlay: Overlay, row: InodeRow) -> Iterator[Chain]:
    """Untouched names of hard-link groups below a directory; prunes what has none."""
    stack: list[tuple[Chain, bytes]] = [((), row.base_root)]
    while stack:
        chain, node = stack.pop()
        for item in directory_node(fetch, node).items:
            if not isinstance(item, Entry | Branch) or not item.totals.linked:
                continue
            if isinstance(item, Branch):
                stack.append((chain, item.node))
            elif not chain and peek_dentry(overlay, row.ino, item.name) is not None:
                continue
            elif item.kind == Kind.DIRECTORY:
                stack.append(((*chain, item), item.ref))
            else:
                yield (*chain, item)


def adopt_group_names(overlay: Overlay, found: list[tuple[int, Chain]]) -> None:
    """Give rows to names that `find_group_names` found, so that they are dirty with their inode."""
    op = Operation(overlay)
    for directory, chain in found:
        for entry in chain[:-1]:
            below = overlay.find(directory, entry.name)
            assert below is not None, "the base has this directory and nothing has changed it"
            directory = below.ino
        op.row(directory)
        name, ino = chain[-1].name, chain[-1].link
        dentry = encode(Dentry(ino, 0, overlay.epoch))
        op.put("dentry", overlay.owner(directory), name, dentry)
        op.put_link(ino, directory, name)
        op.mark(directory, name)
    op.commit()
