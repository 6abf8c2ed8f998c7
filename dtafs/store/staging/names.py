"""Changes of names: make, link, unlink, rmdir, rename. POSIX semantics, errors as OSError.

Permissions and the sticky bit are the kernel's business (`default_permissions`), as is the umask.
Each function is one `Operation`: it happens as a whole or not at all.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from dtafs.core import tree
from dtafs.core.values import Kind
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Node, Overlay, Virtual, check_name, failure
from dtafs.store.staging.rows import (
    LINK_MAX,
    SYMLINK_MAX,
    WHOLE,
    Dentry,
    InodeRow,
    encode,
    number,
)

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
SETGID = 0o2000


class Place(NamedTuple):
    """A name in a directory and what is known of it before an operation."""

    directory: int
    name: bytes
    dentry: Dentry | None
    node: Node | None
    in_base: bool

    @property
    def ino(self) -> int:
        return 0 if self.node is None else self.node.ino

    @property
    def is_directory(self) -> bool:
        """True when the name leads to a directory."""
        node = self.node
        kind = None if node is None else (node.entry if isinstance(node, Virtual) else node).kind
        return kind == Kind.DIRECTORY


def look(op: Operation, row: InodeRow, name: bytes) -> Place:
    """What is at a name of a directory that has a row."""
    overlay = op.overlay
    dentry = op.dentry(row.ino, name)
    if dentry is None:
        located = tree.find(overlay.fetch, row.base_root, name)
        if located is None:
            return Place(row.ino, name, None, None, False)
        return Place(row.ino, name, None, overlay.of_entry(row.ino, located.entry), True)
    fresh = dentry.since >= row.base_epoch
    in_base = dentry.seq == 0 if fresh else dentry.ino != 0
    if dentry.ino == 0:
        return Place(row.ino, name, dentry, None, in_base)
    found = op.inodes.get(dentry.ino) or overlay.node(dentry.ino)
    return Place(row.ino, name, dentry, found, in_base)


def put_name(op: Operation, place: Place, ino: int, now_ns: int, keeps_time: bool = False) -> None:
    """Let the name lead to an inode, whatever it led to before; its directory's times move, its
    mtime unless it `keeps_time`."""
    overlay = op.overlay
    row = op.row(place.directory)
    fields: dict[str, object] = {}
    seq, old = 0, place.dentry
    if not place.in_base:
        if old is not None and old.seq and old.since >= row.base_epoch:
            seq = old.seq
        else:
            seq = row.next_seq
            fields["next_seq"] = seq + 1
            op.put("order", overlay.owner(row.ino), number(seq), place.name)
    dentry = encode(Dentry(ino, seq, overlay.epoch))
    op.put("dentry", overlay.owner(row.ino), place.name, dentry)
    op.put_link(ino, row.ino, place.name)
    op.mark(row.ino, place.name)
    op.unnamed.append((row.ino, place.name))
    if place.node is None:
        fields["live"] = row.live + 1
    mtime_ns = row.mtime_ns if keeps_time else now_ns
    op.change(row, mtime_ns=mtime_ns, ctime_ns=now_ns, **fields)


def take_name(op: Operation, place: Place, now_ns: int) -> None:
    """Let the name lead nowhere; its directory's times move."""
    overlay = op.overlay
    row = op.row(place.directory)
    owner = overlay.owner(row.ino)
    if place.in_base:
        op.put("dentry", owner, place.name, encode(Dentry(0, 0, overlay.epoch)))
        op.mark(row.ino, place.name)
    else:
        op.put("dentry", owner, place.name, None)
        op.put("dirty", owner, place.name, None)
    if place.dentry is not None and place.dentry.seq:
        op.put("order", owner, number(place.dentry.seq), None)
    op.unnamed.append((row.ino, place.name))
    op.change(row, mtime_ns=now_ns, ctime_ns=now_ns, live=row.live - 1)


def settle_lost(op: Operation, place: Place) -> InodeRow | None:
    """The row of an inode that is about to lose this name, to be asked for before it does.

    None for an untouched inode that nobody holds: it needs no row to go.
    """
    node = place.node
    assert node is not None
    if isinstance(node, Virtual) and node.entry.nlink <= 1 and not op.overlay.known.get(node.ino):
        return None
    return op.row(node.ino)


def drop_link(op: Operation, place: Place, row: InodeRow | None, now_ns: int) -> None:
    """The inode has lost this name (which leads elsewhere already); without any, it goes too.

    `row` is what `settle_lost` said.
    """
    if row is None:
        return
    overlay, ino = op.overlay, row.ino
    held = bool(overlay.known.get(ino))
    op.put("link", overlay.owner(ino), number(place.directory) + place.name, None)
    left = 0 if row.kind == Kind.DIRECTORY else row.nlink - 1
    if left or held:
        op.change(row, nlink=left, ctime_ns=now_ns)
    if not left and held:
        op.put("orphan", overlay.prefix, number(ino), b"")
    elif not left:
        remove_inode(op, row)


def remove_inode(op: Operation, row: InodeRow) -> None:
    """Remove the rows of an inode that has no name, and its data after the next flush."""
    overlay, ino = op.overlay, row.ino
    op.inodes[ino] = None
    op.put("orphan", overlay.prefix, number(ino), None)
    op.put("group", overlay.prefix, number(ino), None)
    if row.kind == Kind.DIRECTORY and (row.base_root or _has_dentries(overlay, ino)):
        op.put("doomed", b"", overlay.owner(ino), b"")
    if row.is_held:
        op.put("bytes", overlay.prefix, number(ino), None)
    if row.kind == Kind.FILE and row.local:
        for rest, _ in overlay.tables.scan("extent", overlay.owner(ino)):
            op.put("extent", overlay.owner(ino), rest, None)
        op.doom(ino)


def _has_dentries(overlay: Overlay, directory: int) -> bool:
    """True for an empty directory that a commit has left without a base, but not without rows for
    the names of the base before."""
    return overlay.tables.first("dentry", overlay.owner(directory)) is not None


def make(
    overlay: Overlay,
    directory: int,
    name: bytes,
    kind: Kind,
    mode: int,
    uid: int,
    gid: int,
    now_ns: int,
    rdev: int = 0,
    target: bytes = b"",
) -> InodeRow:
    """Create a file, directory, symlink, fifo, socket or device; EEXIST when the name is taken."""
    check_name(name)
    if kind == Kind.SYMLINK and not 0 < len(target) <= SYMLINK_MAX:
        raise failure(errno.ENAMETOOLONG if target else errno.ENOENT)
    overlay.shared.data.check_room()
    op = Operation(overlay)
    parent = op.directory(directory)
    place = look(op, parent, name)
    if place.node is not None:
        raise failure(errno.EEXIST)
    if parent.mode & SETGID:
        gid = parent.gid
        if kind == Kind.DIRECTORY:
            mode |= SETGID
    ino = overlay.shared.next_number()
    row = InodeRow(
        ino,
        kind,
        mode & 0o7777,
        uid,
        gid,
        rdev,
        len(target),
        2 if kind == Kind.DIRECTORY else 1,
        now_ns,
        now_ns,
        now_ns,
        overlay.epoch,
        local=WHOLE if kind == Kind.FILE else 0,
        target=target,
        base_epoch=overlay.epoch,
    )
    op.new(row)
    put_name(op, place, ino, now_ns)
    if kind == Kind.DIRECTORY:
        count_subdirectory(op, directory, 1)
    op.commit()
    return row


def count_subdirectory(op: Operation, directory: int, change: int) -> None:
    """A subdirectory came or went."""
    row = op.row(directory)
    if row.nlink >= 2:
        op.change(row, nlink=row.nlink + change)


def link(overlay: Overlay, ino: int, directory: int, name: bytes, now_ns: int) -> InodeRow:
    """Give a file another name."""
    check_name(name)
    overlay.shared.data.check_room()
    op = Operation(overlay)
    place = look(op, op.directory(directory), name)
    row = op.row(ino)
    if row.kind == Kind.DIRECTORY:
        raise failure(errno.EPERM)
    if row.nlink == 0:
        raise failure(errno.ENOENT)
    if row.nlink >= LINK_MAX:
        raise failure(errno.EMLINK)
    if place.node is not None:
        raise failure(errno.EEXIST)
    row = op.change(row, nlink=row.nlink + 1, ctime_ns=now_ns)
    put_name(op, place, ino, now_ns)
    op.commit()
    return row


def unlink(overlay: Overlay, directory: int, name: bytes, now_ns: int) -> None:
    """Take a name away that is not a directory's."""
    check_name(name)
    op = Operation(overlay)
    place = look(op, op.directory(directory), name)
    if place.node is None:
        raise failure(errno.ENOENT)
    if place.is_directory:
        raise failure(errno.EISDIR)
    lost = settle_lost(op, place)
    take_name(op, place, now_ns)
    drop_link(op, place, lost, now_ns)
    op.commit()


def rmdir(overlay: Overlay, directory: int, name: bytes, now_ns: int) -> None:
    """Take an empty directory away."""
    check_name(name)
    op = Operation(overlay)
    place = look(op, op.directory(directory), name)
    if place.node is None:
        raise failure(errno.ENOENT)
    if not place.is_directory:
        raise failure(errno.ENOTDIR)
    _check_empty(place.node)
    lost = settle_lost(op, place)
    take_name(op, place, now_ns)
    count_subdirectory(op, directory, -1)
    drop_link(op, place, lost, now_ns)
    op.commit()


def _check_empty(node: Node) -> None:
    live = node.live if isinstance(node, InodeRow) else node.entry.below.entries
    if live:
        raise failure(errno.ENOTEMPTY)


def rename(
    overlay: Overlay,
    directory: int,
    name: bytes,
    new_directory: int,
    new_name: bytes,
    flags: int,
    now_ns: int,
) -> None:
    """Move a name, over what is there unless `flags` (as renameat2(2)) say otherwise."""
    check_name(name)
    check_name(new_name)
    if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
        raise failure(errno.EINVAL)
    op = Operation(overlay)
    source = look(op, op.directory(directory), name)
    target = look(op, op.directory(new_directory), new_name)
    if source.node is None:
        raise failure(errno.ENOENT)
    if flags == RENAME_NOREPLACE and target.node is not None:
        raise failure(errno.EEXIST)
    if flags == RENAME_EXCHANGE and target.node is None:
        raise failure(errno.ENOENT)
    if source.is_directory and _is_below(op, new_directory, source.ino):
        raise failure(errno.EINVAL)
    if target.is_directory and _is_below(op, directory, target.ino):
        raise failure(errno.EINVAL if flags == RENAME_EXCHANGE else errno.ENOTEMPTY)
    if source.ino == target.ino:
        return
    if flags == RENAME_EXCHANGE:
        _exchange(op, source, target, now_ns)
    else:
        _move(op, source, target, now_ns)
    op.commit()


def _is_below(op: Operation, ino: int, above: int) -> bool:
    """True when `ino` is `above` or lies below it."""
    while ino != above:
        parent = op.overlay.a_name(ino)
        if parent is None:
            return False
        ino = parent[0]
    return True


def _move(op: Operation, source: Place, target: Place, now_ns: int) -> None:
    if target.node is not None:
        if source.is_directory and not target.is_directory:
            raise failure(errno.ENOTDIR)
        if target.is_directory and not source.is_directory:
            raise failure(errno.EISDIR)
        if target.is_directory:
            _check_empty(target.node)
    moved = op.row(source.ino)
    lost = None if target.node is None else settle_lost(op, target)
    take_name(op, source, now_ns)
    op.put("link", op.overlay.owner(moved.ino), number(source.directory) + source.name, None)
    put_name(op, target, moved.ino, now_ns)
    drop_link(op, target, lost, now_ns)
    if target.is_directory:
        count_subdirectory(op, target.directory, -1)
    if source.is_directory and source.directory != target.directory:
        count_subdirectory(op, source.directory, -1)
        count_subdirectory(op, target.directory, 1)
    op.change(op.row(moved.ino), ctime_ns=now_ns)


def _exchange(op: Operation, source: Place, target: Place, now_ns: int) -> None:
    first, second = op.row(source.ino), op.row(target.ino)
    overlay = op.overlay
    op.put("link", overlay.owner(first.ino), number(source.directory) + source.name, None)
    op.put("link", overlay.owner(second.ino), number(target.directory) + target.name, None)
    put_name(op, source, second.ino, now_ns)
    put_name(op, target, first.ino, now_ns)
    if source.directory != target.directory and source.is_directory != target.is_directory:
        gain = 1 if target.is_directory else -1
        count_subdirectory(op, source.directory, gain)
        count_subdirectory(op, target.directory, -gain)
    op.change(op.row(first.ino), ctime_ns=now_ns)
    op.change(op.row(second.ino), ctime_ns=now_ns)
