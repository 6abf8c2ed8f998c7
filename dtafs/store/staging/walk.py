"""Walking over what staging has changed, along dirty names only.

Nothing here changes anything, also not in memory, so a thread may walk while another one uses the
same staging. What changes meanwhile is seen as it was or as it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from dtafs.core.tree import Path
from dtafs.core.values import NOTHING_BELOW, SEALABLE, Entry, Kind, Totals
from dtafs.store.staging.overlay import Overlay, epoch_of
from dtafs.store.staging.rows import Dentry, InodeRow, decode_dentry, encode

LOOKED_UP_AT_ONCE = 256
"""Rows are looked up so many in one txn, which takes a third of the time; the rest is memory."""


class DirtyName(NamedTuple):
    """A name that a commit has to look at; `row` is None where nothing has this name any more."""

    directory: int
    name: bytes
    row: InodeRow | None


class Problem(NamedTuple):
    """Something in staging that a version cannot have; `str()` of it says so."""

    path: bytes
    kind: Kind

    def __str__(self) -> str:
        kind = self.kind.name.lower().replace("_", " ")
        return f"{os.fsdecode(self.path)!r} is a {kind}, which cannot be sealed"


def dirty_names(overlay: Overlay, directory: int) -> Iterator[DirtyName]:
    """The dirty names of one directory, in order."""
    epoch = overlay.epoch
    owner, now = overlay.owner(directory), encode(epoch)
    following: bytes | None = b""
    while following is not None:
        found: list[DirtyName] = []
        with overlay.tables.view() as view:
            rows, following = view.some("dirty", owner, following, LOOKED_UP_AT_ONCE)
            for name, value in rows:
                if value == now or epoch_of(value) == epoch:
                    data = view.get("dentry", owner, name)
                    ino = 0 if data is None else decode_dentry(data).ino
                    below = overlay.peek_in(view, ino) if ino else None
                    found.append(DirtyName(directory, name, below))
        yield from found


def peek_dentry(overlay: Overlay, directory: int, name: bytes) -> Dentry | None:
    """The dentry of a name, or None."""
    data = overlay.tables.get("dentry", overlay.owner(directory), name)
    return None if data is None else decode_dentry(data)


def walk_dirty(overlay: Overlay) -> Iterator[tuple[Path, InodeRow]]:
    """Everything that changed and is there, with its path; directories before what is in them.

    Of a directory that was renamed, only what changed in it.
    """
    stack: list[tuple[Path, Iterator[DirtyName]]] = [((), dirty_names(overlay, overlay.root_ino))]
    while stack:
        path, names = stack[-1]
        dirty = next(names, None)
        if dirty is None:
            stack.pop()
        elif dirty.row is not None:
            here = (*path, dirty.name)
            yield here, dirty.row
            if dirty.row.kind == Kind.DIRECTORY:
                stack.append((here, dirty_names(overlay, dirty.row.ino)))


def is_clean(overlay: Overlay) -> bool:
    """True when nothing was changed since the base."""
    root = overlay.peek_row(overlay.root_ino)
    if root is None or root.epoch == overlay.epoch:
        return False
    return next(dirty_names(overlay, overlay.root_ino), None) is None


def problems(overlay: Overlay) -> Iterator[Problem]:
    """What cannot be sealed: sockets and devices."""
    for path, row in walk_dirty(overlay):
        if row.kind not in SEALABLE:
            yield Problem(b"/".join(path), Kind(row.kind))


def unsealed(overlay: Overlay) -> Iterator[tuple[int, int, int]]:
    """The files whose bytes a sealer has to read: inode, generation, size; each once."""
    linked: set[int] = set()
    for _, row in walk_dirty(overlay):
        if row.kind != Kind.FILE or row.whole_content is not None or row.ino in linked:
            continue
        if row.nlink > 1:
            linked.add(row.ino)
        yield row.ino, row.generation, row.size


def entry_of(row: InodeRow, name: bytes, root: bytes = b"", below: Totals = NOTHING_BELOW) -> Entry:
    """The sealed form of an inode; a file that no sealer has read yet gets an empty hash."""
    size, sha256, ref, link, nlink = 0, b"", b"", 0, 1
    if row.kind == Kind.FILE:
        size, content = row.size, row.whole_content
        if content is not None:
            sha256, ref = content.sha256, content.chunk_list
    elif row.kind == Kind.DIRECTORY:
        size, ref = below.size, root
    elif row.kind == Kind.SYMLINK:
        size, ref = len(row.target), row.target
    if row.kind != Kind.DIRECTORY and row.nlink > 1:
        link, nlink = row.ino, row.nlink
    return Entry(
        name,
        int(row.kind),
        row.mode,
        row.uid,
        row.gid,
        row.mtime_ns,
        size,
        sha256,
        ref,
        row.xattrs,
        link,
        nlink,
        below,
    )
