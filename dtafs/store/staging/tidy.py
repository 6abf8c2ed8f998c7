"""Removing rows that say nothing any more: clean ones that nobody knows, those of dropped trees.

A commit rewrites no rows; here they go afterwards, a bounded number per call. A row may go when its
epoch is over, so that the base says the same, and nobody holds its number: the name then leads to
the base again, under another number. Removing rows changes nothing that anybody can see.
"""

from __future__ import annotations

from itertools import islice

from dtafs.core.values import Kind
from dtafs.store.staging.data import FileData
from dtafs.store.staging.datafiles import DataFiles
from dtafs.store.staging.listing import DirectoryHandle
from dtafs.store.staging.names import remove_inode
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Overlay, epoch_of
from dtafs.store.staging.rows import (
    NOWHERE,
    TABLES,
    InodeRow,
    decode_dentry,
    decode_inode,
    from_number,
    number,
)
from dtafs.store.staging.tables import Put, Tables

KEYED_BY_TREE = ("inode", "group", "orphan")
KEYED_BY_INODE = ("dentry", "order", "link", "dirty", "extent")
OF_DIRECTORY = ("dentry", "order", "dirty")
DIRECTORY_ROWS = 20_000
"""So many rows of one directory are looked at in one step; what a larger one has beyond stays."""
assert set(KEYED_BY_TREE + KEYED_BY_INODE) == set(TABLES) - {"area", "dataset", "doomed"}


class Tidier:
    """Where the tidying of one dataset has got to. The caller holds its lock."""

    def __init__(self, overlay: Overlay, files: FileData, listings: set[DirectoryHandle]) -> None:
        self._overlay, self._files, self._listings = overlay, files, listings
        self._epoch = 0
        self._next: int | None = 0
        self._removed = False

    def drop_orphans(self) -> None:
        """Remove what an earlier process had open without a name."""
        overlay = self._overlay
        op = Operation(overlay)
        for rest, _ in overlay.tables.scan("orphan", overlay.prefix):
            row = overlay.find_row(from_number(rest))
            if row is not None:
                remove_inode(op, row)
            else:
                op.put("orphan", overlay.prefix, rest, None)
        op.commit()

    def step(self, limit: int) -> bool:
        """Look at about `limit` rows; True while there is more to do in this epoch."""
        overlay = self._overlay
        if self._epoch != overlay.epoch:
            self._epoch, self._next = overlay.epoch, 0
        if self._next is None:
            return False
        open_directories = {handle.ino for handle in self._listings}
        op = Operation(overlay)
        at: int | None = None
        for rest, data in overlay.tables.some("inode", overlay.prefix, number(self._next))[:limit]:
            at = from_number(rest)
            row = decode_inode(data)
            if row.epoch != overlay.epoch or row.kind == Kind.DIRECTORY:
                self._tidy_row(op, row, open_directories)
        self._removed |= None in op.inodes.values()
        op.commit()
        if at is not None:
            self._next = at + 1
        else:  # a directory can go when what it held has gone, so go round again
            self._next, self._removed = (0 if self._removed else None), False
        return True

    def _tidy_row(self, op: Operation, row: InodeRow, open_directories: set[int]) -> None:
        overlay, ino = self._overlay, row.ino
        if ino == overlay.root_ino or row.kind == Kind.DIRECTORY:
            if ino not in open_directories:
                self._tidy_directory(op, row)
            return
        if row.nlink == 0:
            return
        if row.kind == Kind.FILE and row.local != NOWHERE and not self._files.is_open(ino):
            row = self._files.drop_local(op, row)
            op.doom(ino)
        names = list(overlay.names(ino))
        if overlay.is_needed(ino) or any(d in open_directories for d, _ in names):
            return
        self._drop_names(op, row, names)

    def _drop_names(self, op: Operation, row: InodeRow, names: list[tuple[int, bytes]]) -> None:
        overlay = self._overlay
        op.inodes[row.ino] = None
        op.put("group", overlay.prefix, number(row.ino), None)
        for directory, name in names:
            owner = overlay.owner(directory)
            data = overlay.tables.get("dentry", owner, name)
            if data is not None:
                dentry = decode_dentry(data)
                op.put("dentry", owner, name, None)
                if dentry.seq:
                    op.put("order", owner, number(dentry.seq), None)
            op.put("link", overlay.owner(row.ino), number(directory) + name, None)

    def _tidy_directory(self, op: Operation, row: InodeRow) -> None:
        """Remove what the base says too; the directory itself once it has nothing left."""
        overlay, tables, ino = self._overlay, self._overlay.tables, row.ino
        owner = overlay.owner(ino)
        left = ino == overlay.root_ino or row.epoch == overlay.epoch or not row.nlink
        for name, data in islice(tables.scan("dentry", owner), DIRECTORY_ROWS):
            dentry = decode_dentry(data)
            if dentry.ino == 0 and dentry.since < row.base_epoch:
                op.put("dentry", owner, name, None)
            elif op.puts.get(("dentry", owner, name), b"") is not None:
                left = True
        for seq, name in islice(tables.scan("order", owner), DIRECTORY_ROWS):
            found = op.dentry(ino, name)
            if found is None or found.seq != from_number(seq):
                op.put("order", owner, seq, None)
            else:
                left = True
        for name, value in islice(tables.scan("dirty", owner), DIRECTORY_ROWS):
            if epoch_of(value) == overlay.epoch:
                left = True
            else:
                op.put("dirty", owner, name, None)
        if not left and not overlay.is_needed(ino) and tables.first("dentry", owner) is None:
            self._drop_names(op, row, list(overlay.names(ino)))


def remove_doomed(tables: Tables, data: DataFiles, limit: int) -> bool:
    """Remove rows of directories and trees that are gone; True while there are more. Blocks."""
    found = tables.first("doomed", b"")
    if found is None:
        return False
    prefix, directory = found[0][:4], from_number(found[0][4:])
    if directory:
        owner, puts = found[0], list[Put]()
        for table in OF_DIRECTORY:
            puts += [(table, owner, row, None) for row, _ in tables.some(table, owner)[:limit]]
        tables.apply(puts or [("doomed", b"", owner, None)])
        return True
    erased = 0
    for table in (*KEYED_BY_INODE, *KEYED_BY_TREE):
        rows = tables.erase(table, prefix, limit)
        erased += len(rows)
        for row in rows if table == "inode" else ():
            data.doom(decode_inode(row).ino)
            data.remove(decode_inode(row).ino)
    if not erased:
        tables.apply([("doomed", b"", found[0], None)])
    return True
