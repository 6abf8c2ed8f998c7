"""Listing a directory with cookies that stay valid while names come and go, also across a commit.

The names of the base come first, at their position in it, then those that staging added, by their
sequence numbers, which are never used twice. A handle keeps the base that it began with: after a
commit the names that were added are in the new base too, and the handle goes on finding them by
their numbers. So a name that is there all the time is listed once, whatever happens meanwhile. Names
that are added after a listing has begun are not in it: a program that renames each file which it is
told of, to another name and back, would never come to an end.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from dtafs.core import tree
from dtafs.store.staging.overlay import Node, Overlay, base_root_of
from dtafs.store.staging.rows import ADDED_COOKIE, InodeRow, from_number, number


class DirectoryHandle:
    """One open directory: the base that its cookies refer to."""

    __slots__ = ("ahead", "ahead_from", "base_epoch", "base_root", "base_seq", "end_seq", "ino")

    def __init__(self, ino: int, node: Node, epoch: int) -> None:
        self.ino = ino
        self.base_root = base_root_of(node)
        self.base_epoch = node.base_epoch if isinstance(node, InodeRow) else epoch
        self.base_seq = node.base_seq if isinstance(node, InodeRow) else 1
        self.end_seq = _end_of(node)
        """The first sequence number that was free when the listing began, or began again."""
        self.ahead: list[tuple[int, bytes]] = []
        """Sequence numbers and names that were read ahead."""
        self.ahead_from = 0
        """The first sequence number that `ahead` would have."""


def list_directory(
    overlay: Overlay, handle: DirectoryHandle, cookie: int
) -> Iterator[tuple[bytes, int, Node | None]]:
    """Names from a cookie on (0: from the beginning), each with the cookie of what follows it; None
    for a name that is not there any more, so that the caller sees how far it got."""
    node = overlay.directory(handle.ino)
    if isinstance(node, InodeRow) and node.nlink == 0:
        return
    if cookie == 0:
        handle.end_seq = _end_of(node)
    if cookie < ADDED_COOKIE:
        yield from _list_base(overlay, handle, cookie)
        cookie = ADDED_COOKIE
    yield from _list_added(overlay, handle, cookie - ADDED_COOKIE)


def _end_of(node: Node) -> int:
    return node.next_seq if isinstance(node, InodeRow) else 1


def _list_base(
    overlay: Overlay, handle: DirectoryHandle, position: int
) -> Iterator[tuple[bytes, int, Node | None]]:
    directory = handle.ino
    for entry, at, _ in tree.scan(overlay.fetch, handle.base_root, position):
        node: Node | None
        current = overlay.find_row(directory)
        if current is None:
            node = overlay.of_entry(directory, entry)
        elif current.base_root == handle.base_root:
            dentry = overlay.dentry(directory, entry.name)
            if dentry is None:
                node = overlay.of_entry(directory, entry)
            else:
                node = overlay.node(dentry.ino) if dentry.ino else None
        else:
            node = overlay.find(directory, entry.name)
        yield entry.name, at + 1, node


def _list_added(
    overlay: Overlay, handle: DirectoryHandle, seq: int
) -> Iterator[tuple[bytes, int, Node | None]]:
    for at, name in _added_names(overlay, handle, max(seq, handle.base_seq)):
        current = overlay.find_row(handle.ino)
        dentry = overlay.dentry(handle.ino, name)
        if current is None or at >= handle.end_seq:
            return
        stale = current.base_epoch != handle.base_epoch
        node: Node | None = None
        if dentry is not None and dentry.ino and (dentry.seq == at or (stale and not dentry.seq)):
            node = overlay.node(dentry.ino)
        if stale and node and tree.find(overlay.fetch, handle.base_root, name) is not None:
            node = None  # listed with the names of the base
        yield name, ADDED_COOKIE + at + 1, node


def _added_names(
    overlay: Overlay, handle: DirectoryHandle, seq: int
) -> Iterator[tuple[int, bytes]]:
    """Names by sequence number from `seq` on, read ahead so that a long listing is no square.

    What was read ahead stays right: a number never gets another name, and names are looked up anew.
    """
    while True:
        ahead = handle.ahead
        if not ahead or not handle.ahead_from <= seq <= ahead[-1][0]:
            rows = overlay.tables.some("order", overlay.owner(handle.ino), number(seq))
            ahead = handle.ahead = [(from_number(rest), name) for rest, name in rows]
            handle.ahead_from = seq
            if not ahead:
                return
        for i in range(bisect_left(ahead, (seq,)), len(ahead)):
            yield ahead[i]
        seq = ahead[-1][0] + 1
