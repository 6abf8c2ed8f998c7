"""Putting whole files into staging by path, as `put` does, and removing trees."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from dtafs.core import tree
from dtafs.core.values import Content, Entry, Kind
from dtafs.store.staging import names
from dtafs.store.staging.attributes import check_xattrs
from dtafs.store.staging.listing import DirectoryHandle, list_directory
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import (
    Node,
    Overlay,
    Virtual,
    base_root_of,
    check_name,
    failure,
    kind_of,
    names_in,
)
from dtafs.store.staging.rows import EMPTY, NOWHERE, SYMLINK_MAX, WHOLE, InodeRow, decode_dentry
from dtafs.store.staging.view import View
from dtafs.store.staging.walk import entry_of

Path = tuple[bytes, ...]

REMOVED_AT_ONCE = 256
"""Names that are removed in one step, in 10 ms."""

MADE_DIRECTORY_MODE = 0o755


class Placing(NamedTuple):
    """What is to be at a path: of `entry`, name, size, hash, link and totals do not count.

    A symlink's target is `entry.ref`; a file has `content`, which packs must have already, or is
    empty; it may stay one of several names if `entry.nlink` is more than 1. With `keeps_time`, the
    directory that it is in keeps its mtime, as one does that is placed with its contents.
    """

    path: Path
    entry: Entry
    content: Content | None = None
    keeps_time: bool = False


def place(overlay: Overlay, path: Path, entry: Entry, now_ns: int, content: Content | None) -> Node:
    """Put one thing at a path; what is there then."""
    place_all(overlay, [Placing(path, entry, content)], now_ns, True)
    node = find_path(overlay, path)
    assert node is not None, "it was just put there"
    return node


def place_all(
    overlay: Overlay, things: Sequence[Placing], now_ns: int, over_directories: bool
) -> list[Path]:
    """Put things at their paths; see `Staging.place_all`.

    One operation for all of them, as far as no tree has to be removed: what an operation costs by
    itself, above all the journal's write(2), is more than what one name costs.
    """
    refused: list[Path] = []
    inside: dict[Path, list[bytes]] = {}
    for thing in things:
        inside.setdefault(thing.path[:-1], []).append(thing.path[-1] if thing.path else b"")
    op = Operation(overlay)
    known: dict[Path, int] = {}
    for thing in things:
        path, entry = thing.path, thing.entry
        check_xattrs(entry.xattrs)
        if not path:
            if entry.kind != Kind.DIRECTORY:
                raise failure(errno.EISDIR)
            _set(op, overlay.node(overlay.root_ino), entry, now_ns)
            continue
        at = _look(op, _enter(op, known, inside, path[:-1], entry, now_ns), path[-1])
        if at.node is None or not at.is_directory:
            if at.node is None or not _is_as_wanted(at.node, entry, thing.content):
                _put(op, at, thing, now_ns)
        elif entry.kind == Kind.DIRECTORY:
            op.know_name(at.ino, at.directory, at.name)
            _set(op, at.node, entry, now_ns)
        elif over_directories:
            _make_real(op)
            _remove(overlay, at.directory, path[-1], overlay.node(at.ino), now_ns)
            op = Operation(overlay)
            _put(op, _look(op, at.directory, path[-1]), thing, now_ns)
        else:
            refused.append(path)
    _make_real(op)
    return refused


def _make_real(op: Operation) -> None:
    """Commit what the kernel has not asked for."""
    op.overlay.note_inodes(op.inodes)
    op.commit()


def _enter(
    op: Operation,
    known: dict[Path, int],
    inside: dict[Path, list[bytes]],
    path: Path,
    entry: Entry,
    now_ns: int,
) -> int:
    """The directory at a path, made where there is none (owned as what is being placed).

    `known` are those that were entered before; of another one, the names `inside` are looked up
    together, since a txn costs more than the rows that are read in it.
    """
    ino = known.get(path)
    if ino is None:
        if not path:
            ino = op.overlay.root_ino
        else:
            at = _look(op, _enter(op, known, inside, path[:-1], entry, now_ns), path[-1])
            if at.is_directory:
                ino = at.ino
                op.know_name(ino, at.directory, at.name)
            else:
                mode, uid, gid = MADE_DIRECTORY_MODE, entry.uid, entry.gid
                above = Entry(b"", Kind.DIRECTORY, mode, uid, gid, now_ns, 0)
                ino = _replace(op, at, Placing(path, above), now_ns).ino
        op.look_ahead(ino, inside.get(path, ()))
        known[path] = ino
    return ino


def _look(op: Operation, directory: int, name: bytes) -> names.Place:
    """What is at a name; an untouched directory stays so."""
    check_name(name)
    above = op.inodes.get(directory) or op.overlay.node(directory)
    if isinstance(above, InodeRow):
        return names.look(op, above, name)
    node = op.overlay.find(directory, name)
    return names.Place(directory, name, None, node, node is not None)


def _is_as_wanted(node: Node, entry: Entry, content: Content | None) -> bool:
    """True for what need not be touched; one of several names stays it where `entry` says so."""
    there = node.entry if isinstance(node, Virtual) else entry_of(node, b"")
    if not _same_attributes(there, entry):
        return False
    if there.kind == Kind.FILE and (content or EMPTY) != there.content:
        return False
    if there.kind == Kind.SYMLINK and there.ref != entry.ref:
        return False
    return there.nlink == 1 or entry.nlink > 1


def _same_attributes(one: Entry, other: Entry) -> bool:
    return (
        one.mtime_ns == other.mtime_ns
        and one.mode == other.mode
        and one.kind == other.kind
        and one.uid == other.uid
        and one.gid == other.gid
        and sorted(one.xattrs) == sorted(other.xattrs)
    )


def _set(op: Operation, node: Node, entry: Entry, now_ns: int) -> None:
    there = node.entry if isinstance(node, Virtual) else entry_of(node, b"")
    if not _same_attributes(there, entry):
        op.change(op.row(node.ino), **_given(entry, now_ns))


def _given(entry: Entry, now_ns: int) -> dict[str, Any]:
    """The fields of a row that are given to what is there already."""
    return {
        "mode": entry.mode,
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime_ns": entry.mtime_ns,
        "ctime_ns": now_ns,
        "xattrs": tuple(sorted(entry.xattrs)),
    }


def _put(op: Operation, at: names.Place, thing: Placing, now_ns: int) -> None:
    """Let the name be what it is to be: the file that has it where nobody can tell, else a new one."""
    node, content = at.node, thing.content
    if (
        content is None
        or not content.size
        or thing.entry.kind != Kind.FILE
        or not isinstance(node, InodeRow)
        or node.kind != Kind.FILE
        or node.nlink != 1
        or node.local != NOWHERE
        or op.overlay.known.get(node.ino)
    ):
        _replace(op, at, thing, now_ns)
        return
    op.mark(at.directory, at.name)
    op.note(
        node,
        epoch=op.overlay.epoch,
        generation=node.generation + 1,
        size=content.size,
        limit=content.size,
        content=content,
        sealed=None,
        **_given(thing.entry, now_ns),
    )


def _replace(op: Operation, at: names.Place, thing: Placing, now_ns: int) -> InodeRow:
    """Give the name a new inode, in one step where it had one that is no directory."""
    overlay, entry, content = op.overlay, thing.entry, thing.content
    if len(entry.ref) > SYMLINK_MAX and entry.kind == Kind.SYMLINK:
        raise failure(errno.ENAMETOOLONG)
    overlay.note_name(at.directory, at.name, at.ino)
    lost = None if at.node is None else names.settle_lost(op, at)
    ino, size = overlay.shared.next_number(), 0
    is_file, is_directory = entry.kind == Kind.FILE, entry.kind == Kind.DIRECTORY
    if is_file and content is not None:
        size = content.size
    row = InodeRow(
        ino,
        int(entry.kind),
        entry.mode,
        entry.uid,
        entry.gid,
        0,
        size if entry.kind != Kind.SYMLINK else len(entry.ref),
        2 if is_directory else 1,
        entry.mtime_ns,
        entry.mtime_ns,
        now_ns,
        overlay.epoch,
        local=WHOLE if is_file and not size else NOWHERE,
        content=content if size else None,
        limit=size,
        target=entry.ref if entry.kind == Kind.SYMLINK else b"",
        xattrs=tuple(sorted(entry.xattrs)),
        base_epoch=overlay.epoch,
    )
    op.new(row)
    names.put_name(op, at, ino, now_ns, thing.keeps_time)
    names.drop_link(op, at, lost, now_ns)
    if is_directory:
        names.count_subdirectory(op, at.directory, 1)
    return row


def find_path(overlay: Overlay, path: Path) -> Node | None:
    """What is at a path, or None; symlinks are not followed."""
    with overlay.tables.view() as view:
        node, rest = _through_rows(overlay, view, path)
    return _through_base(overlay, node, rest)


def _through_base(overlay: Overlay, node: Node | None, rest: Path) -> Node | None:
    """What is at the rest of a path below a node."""
    for name in rest:
        if node is None or kind_of(node) != Kind.DIRECTORY:
            return None
        node = overlay.find(node.ino, name)
    return node


def _through_rows(overlay: Overlay, view: View, path: Path) -> tuple[Node | None, Path]:
    """How far rows lead, looked up together, and the rest of the path; None where they say that there
    is nothing."""
    node: Node | None = overlay.node(overlay.root_ino)
    for at, name in enumerate(path):
        data = None
        if isinstance(node, InodeRow) and node.kind == Kind.DIRECTORY and node.nlink:
            data = view.get("dentry", overlay.owner(node.ino), name)
        if data is None:
            return node, path[at:]
        ino = decode_dentry(data).ino
        node = overlay.virtuals.get(ino) or overlay.load_row(view, ino)
        if node is None:
            break
    return node, ()


def names_at(overlay: Overlay, path: Path, most: int) -> Iterable[bytes] | None:
    """The names in the directory at a path, in no order: none where there is no directory. None for
    one that may have more than `most`, of which a call should not go through all."""
    with (
        overlay.tables.view() as view
    ):  # most directories that `put` asks for have rows all the way
        node, rest = _through_rows(overlay, view, path)
        rows, more = _dentries(overlay, view, node, most)
    if rest:
        node = _through_base(overlay, node, rest)
        with overlay.tables.view() as view:
            rows, more = _dentries(overlay, view, node, most)
    if node is None or kind_of(node) != Kind.DIRECTORY:
        return ()
    root = base_root_of(node)
    if more or names_in(overlay.fetch, root) > most:
        return None
    names = {found.entry.name for found in tree.scan(overlay.fetch, root)}
    for name, data in rows:
        (names.add if decode_dentry(data).ino else names.discard)(name)
    return names


def _dentries(
    overlay: Overlay, view: View, node: Node | None, most: int
) -> tuple[list[tuple[bytes, bytes]], bool]:
    """The rows of the names in a directory, `most` of them, and whether there are more."""
    if not isinstance(node, InodeRow) or node.kind != Kind.DIRECTORY:
        return [], False
    rows, following = view.some("dentry", overlay.owner(node.ino), b"", most)
    return rows, following is not None


def content_at(overlay: Overlay, path: Path) -> Content | None:
    """The sealed content of the file at a path, as it is there; None for anything else."""
    node = find_path(overlay, path)
    if node is None or kind_of(node) != Kind.FILE:
        return None
    return node.entry.content if isinstance(node, Virtual) else node.whole_content


def removal_of(overlay: Overlay, path: Path, now_ns: int) -> Removal | None:
    """The removal of what is at a path and all below it; None where there is nothing."""
    above, node = find_path(overlay, path[:-1]), find_path(overlay, path)
    if above is None or node is None:
        return None
    return Removal(overlay, above.ino, path[-1], node, now_ns)


def _remove(overlay: Overlay, directory: int, name: bytes, node: Node, now_ns: int) -> None:
    """Remove a tree, leaves first; called again after a fetch that failed, it goes on."""
    removal = Removal(overlay, directory, name, node, now_ns)
    while removal.step():
        pass


class Removal:
    """A tree that is being removed, leaves first, while others may change it. The caller of `step`
    holds the dataset's lock."""

    def __init__(
        self, overlay: Overlay, directory: int, name: bytes, node: Node, now_ns: int
    ) -> None:
        self._overlay, self._now_ns = overlay, now_ns
        self._stack = [_Doomed(overlay, directory, name, node, 0)]

    def step(self) -> bool:
        """Remove some of it; True while there is more. After a fetch that failed it goes on."""
        overlay, stack = self._overlay, self._stack
        for _ in range(REMOVED_AT_ONCE):
            if not stack:
                return False
            last = stack[-1]
            inside = last.next_inside(overlay)
            if inside is not None:
                stack.append(_Doomed(overlay, last.node.ino, *inside))
                continue
            overlay.note_name(last.directory, last.name, last.node.ino)
            overlay.note_inodes((last.directory,))
            remove = names.unlink if last.handle is None else names.rmdir
            with suppress(FileNotFoundError):  # somebody else was faster
                remove(overlay, last.directory, last.name, self._now_ns)
            stack.pop()
            if stack:
                stack[-1].cookie = last.after
        return bool(stack)


class _Doomed:
    """Something that is being removed and, of a directory, how far its names are gone."""

    def __init__(
        self, overlay: Overlay, directory: int, name: bytes, node: Node, after: int
    ) -> None:
        self.directory, self.name, self.node, self.after = directory, name, node, after
        self.handle, self.cookie = None, 0
        if kind_of(node) == Kind.DIRECTORY:
            self.handle = DirectoryHandle(node.ino, overlay.directory(node.ino), overlay.epoch)

    def next_inside(self, overlay: Overlay) -> tuple[bytes, Node, int] | None:
        """The next name in it; from where the last one was, or a large directory would take ages."""
        if self.handle is not None:
            for name, after, node in list_directory(overlay, self.handle, self.cookie):
                if node is not None:
                    return name, node, after
        return None
