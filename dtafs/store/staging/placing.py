"""Putting whole files into staging by path, as `put` does, and removing trees."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import NamedTuple

from dtafs.core.values import Content, Entry, Kind
from dtafs.store.staging import names
from dtafs.store.staging.attributes import check_xattrs
from dtafs.store.staging.listing import DirectoryHandle, list_directory
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Node, Overlay, Virtual, check_name, failure, kind_of
from dtafs.store.staging.rows import EMPTY, SYMLINK_MAX, WHOLE, InodeRow
from dtafs.store.staging.walk import entry_of

Path = tuple[bytes, ...]

MADE_DIRECTORY_MODE = 0o755


class Placing(NamedTuple):
    """What is to be at a path: of `entry`, name, size, hash, link and totals do not count.

    A symlink's target is `entry.ref`; a file has `content`, which packs must have already, or is
    empty; it may stay one of several names if `entry.nlink` is more than 1.
    """

    path: Path
    entry: Entry
    content: Content | None = None


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
    op = Operation(overlay)
    known: dict[Path, int] = {(): overlay.root_ino}
    for thing in things:
        path, entry, content = thing
        check_xattrs(entry.xattrs)
        if not path:
            if entry.kind != Kind.DIRECTORY:
                raise failure(errno.EISDIR)
            _set(op, overlay.node(overlay.root_ino), entry, now_ns)
            continue
        at = _look(op, _enter(op, known, path[:-1], entry, now_ns), path[-1])
        if at.node is None or not at.is_directory:
            if at.node is None or not _is_as_wanted(at.node, entry, content):
                _replace(op, at, entry, now_ns, content)
        elif entry.kind == Kind.DIRECTORY:
            _set(op, at.node, entry, now_ns)
        elif over_directories:
            op.commit()
            _remove(overlay, at.directory, path[-1], overlay.node(at.ino), now_ns)
            op = Operation(overlay)
            _replace(op, _look(op, at.directory, path[-1]), entry, now_ns, content)
        else:
            refused.append(path)
    op.commit()
    return refused


def _enter(op: Operation, known: dict[Path, int], path: Path, entry: Entry, now_ns: int) -> int:
    """The directory at a path, made where there is none (owned as what is being placed)."""
    ino = known.get(path)
    if ino is None:
        at = _look(op, _enter(op, known, path[:-1], entry, now_ns), path[-1])
        if at.is_directory:
            ino = at.ino
        else:
            mode, uid, gid = MADE_DIRECTORY_MODE, entry.uid, entry.gid
            above = Entry(b"", Kind.DIRECTORY, mode, uid, gid, now_ns, 0)
            ino = _replace(op, at, above, now_ns, None).ino
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
    bytes_there = there.content if there.kind == Kind.FILE else None
    if there.kind == Kind.FILE and (content or EMPTY) != bytes_there:
        return False
    if there.kind == Kind.SYMLINK and there.ref != entry.ref:
        return False
    return _attributes(there) == _attributes(entry) and (there.nlink == 1 or entry.nlink > 1)


def _attributes(entry: Entry) -> tuple[object, ...]:
    return entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, sorted(entry.xattrs)


def _set(op: Operation, node: Node, entry: Entry, now_ns: int) -> None:
    there = node.entry if isinstance(node, Virtual) else entry_of(node, b"")
    if _attributes(there) == _attributes(entry):
        return
    op.change(
        op.row(node.ino),
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        ctime_ns=now_ns,
        xattrs=tuple(sorted(entry.xattrs)),
    )


def _replace(
    op: Operation, at: names.Place, entry: Entry, now_ns: int, content: Content | None
) -> InodeRow:
    """Give the name a new inode, in one step where it had one that is no directory."""
    overlay = op.overlay
    if len(entry.ref) > SYMLINK_MAX and entry.kind == Kind.SYMLINK:
        raise failure(errno.ENAMETOOLONG)
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
        local=WHOLE if is_file and not size else 0,
        content=content if size else None,
        limit=size,
        target=entry.ref if entry.kind == Kind.SYMLINK else b"",
        xattrs=tuple(sorted(entry.xattrs)),
        base_epoch=overlay.epoch,
    )
    op.new(row)
    names.put_name(op, at, ino, now_ns)
    names.drop_link(op, at, lost, now_ns)
    if is_directory:
        names.count_subdirectory(op, at.directory, 1)
    return row


def find_path(overlay: Overlay, path: Path) -> Node | None:
    """What is at a path, or None; symlinks are not followed."""
    node: Node | None = overlay.node(overlay.root_ino)
    for name in path:
        if node is None or kind_of(node) != Kind.DIRECTORY:
            return None
        node = overlay.find(node.ino, name)
    return node


def remove_path(overlay: Overlay, path: Path, now_ns: int) -> bool:
    """Remove what is at a path and all below it; see `Staging.remove_path`."""
    above, node = find_path(overlay, path[:-1]), find_path(overlay, path)
    if above is None or node is None:
        return False
    _remove(overlay, above.ino, path[-1], node, now_ns)
    return True


def _remove(overlay: Overlay, directory: int, name: bytes, node: Node, now_ns: int) -> None:
    """Remove a tree, leaves first; called again after a fetch that failed, it goes on."""
    stack = [(directory, name, node)]
    while stack:
        above, name, node = stack[-1]
        if kind_of(node) != Kind.DIRECTORY:
            names.unlink(overlay, above, name, now_ns)
            stack.pop()
            continue
        handle = DirectoryHandle(node.ino, overlay.directory(node.ino), overlay.epoch)
        inside = next(list_directory(overlay, handle, 0), None)
        if inside is None:
            names.rmdir(overlay, above, name, now_ns)
            stack.pop()
        else:
            stack.append((node.ino, inside[0], inside[2]))
