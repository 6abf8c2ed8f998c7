"""Putting whole files into staging by path, as `put` does, and removing trees."""

from __future__ import annotations

import errno

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


def place(overlay: Overlay, path: Path, entry: Entry, now_ns: int, content: Content | None) -> Node:
    """Put something at a path; see `Staging.place`."""
    check_xattrs(entry.xattrs)
    if not path:
        if entry.kind != Kind.DIRECTORY:
            raise failure(errno.EISDIR)
        return _set(overlay, overlay.node(overlay.root_ino), entry, now_ns)
    directory = overlay.root_ino
    for name in path[:-1]:
        directory = _enter(overlay, directory, name, entry, now_ns)
    name = path[-1]
    node = overlay.find(directory, name)
    if node is not None and Kind.DIRECTORY == kind_of(node) == entry.kind:
        return _set(overlay, node, entry, now_ns)
    if node is not None and _is_as_wanted(node, entry, content):
        return node
    if node is not None and kind_of(node) == Kind.DIRECTORY:
        _remove(overlay, directory, name, node, now_ns)
    return _replace(overlay, directory, name, entry, now_ns, content)


def _enter(overlay: Overlay, directory: int, name: bytes, entry: Entry, now_ns: int) -> int:
    """The directory with this name, made where there is none (owned as what is being placed)."""
    node = overlay.find(directory, name)
    if node is not None and kind_of(node) == Kind.DIRECTORY:
        return node.ino
    if node is not None:
        names.unlink(overlay, directory, name, now_ns)
    made = names.make(
        overlay, directory, name, Kind.DIRECTORY, MADE_DIRECTORY_MODE, entry.uid, entry.gid, now_ns
    )
    return made.ino


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


def _set(overlay: Overlay, node: Node, entry: Entry, now_ns: int) -> Node:
    there = node.entry if isinstance(node, Virtual) else entry_of(node, b"")
    if _attributes(there) == _attributes(entry):
        return node
    op = Operation(overlay)
    row = op.change(
        op.row(node.ino),
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime_ns=entry.mtime_ns,
        ctime_ns=now_ns,
        xattrs=tuple(sorted(entry.xattrs)),
    )
    op.commit()
    return row


def _replace(
    overlay: Overlay,
    directory: int,
    name: bytes,
    entry: Entry,
    now_ns: int,
    content: Content | None,
) -> InodeRow:
    """Give the name a new inode, in one step where it had one that is no directory."""
    check_name(name)
    if len(entry.ref) > SYMLINK_MAX and entry.kind == Kind.SYMLINK:
        raise failure(errno.ENAMETOOLONG)
    op = Operation(overlay)
    at = names.look(op, op.directory(directory), name)
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
        names.count_subdirectory(op, directory, 1)
    op.commit()
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
