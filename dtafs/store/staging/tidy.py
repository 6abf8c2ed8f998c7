"""Removing rows that say nothing any more: clean ones that nobody knows, those of dropped trees.

A commit rewrites no rows; here they go afterwards, a bounded number per call. A row may go when its
epoch is over, so that the base says the same, and nobody holds its number: the name then leads to
the base again, under another number. Removing rows changes nothing that anybody can see.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from dtafs.core.values import Kind
from dtafs.store.staging.batch import Put
from dtafs.store.staging.data import FileData
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
from dtafs.store.staging.tables import Tables

KEYED_BY_TREE = ("inode", "bytes", "group", "orphan")
KEYED_BY_INODE = ("dentry", "order", "link", "dirty", "extent")
OF_DIRECTORY = ("dentry", "order", "dirty")
ROWS_AT_ONCE = 1024
"""Rows of one directory that are looked at without a pause, about 5 ms: as many as one scan reads."""
assert set(KEYED_BY_TREE + KEYED_BY_INODE) == set(TABLES) - {"area", "dataset", "doomed"}


class Tidier:
    """Where the tidying of one dataset has got to. The caller holds its lock."""

    def __init__(self, overlay: Overlay, files: FileData, listings: set[DirectoryHandle]) -> None:
        self._overlay, self._files, self._listings = overlay, files, listings
        self._epoch = 0
        self._work: Iterator[int] = iter(())
        self._op = Operation(overlay)
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

    def step(self, lock: threading.RLock, limit: int) -> bool:
        """Look at some more than `limit` rows; True while there is more to do in this epoch.

        It never waits for the staging's lock: while somebody else works on the rows, it does nothing.
        """
        if not lock.acquire(blocking=False):
            return True
        try:
            return self._step(limit)
        finally:
            lock.release()

    def _step(self, limit: int) -> bool:
        overlay = self._overlay
        if self._epoch != overlay.epoch:
            self._epoch, self._work = overlay.epoch, self._tidy()
        self._op = Operation(overlay)
        try:
            for looked_at in self._work:
                limit -= looked_at
                if limit <= 0:
                    break
            self._op.commit()
        except BaseException:
            self._epoch = 0  # what was not removed comes again
            raise
        return limit <= 0

    # The work is one generator: between a `yield` (of how many rows it looked at) and the next
    # nothing else happens, but across one anything may, so that rows are read after it.

    def _tidy(self) -> Iterator[int]:
        overlay = self._overlay
        self._removed = True
        while self._removed:  # a directory can go when what it held has gone, so go round again
            self._removed, following = False, 0
            while some := overlay.tables.some("inode", overlay.prefix, number(following)):
                for ino in [from_number(rest) for rest, _ in some[:ROWS_AT_ONCE]]:
                    row = overlay.peek_row(ino)
                    if row is not None and row.kind == Kind.DIRECTORY:
                        yield from self._tidy_directory(ino)
                    elif row is not None and row.epoch != overlay.epoch:
                        self._tidy_file(row)
                    following = ino + 1
                    yield 1

    def _is_listed(self, directory: int) -> bool:
        return any(handle.ino == directory for handle in self._listings)

    def _tidy_file(self, row: InodeRow) -> None:
        overlay, ino = self._overlay, row.ino
        if row.nlink == 0:
            return
        if (row.local != NOWHERE or row.is_held) and not self._files.is_open(ino):
            if row.local != NOWHERE:
                self._op.doom(ino)
            row = self._files.drop_local(self._op, row)
        names = list(overlay.names(ino))
        if not overlay.is_needed(ino) and not any(self._is_listed(d) for d, _ in names):
            self._drop_names(row, names)

    def _drop_names(self, row: InodeRow, names: list[tuple[int, bytes]]) -> None:
        overlay, op = self._overlay, self._op
        self._removed = True
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

    def _tidy_directory(self, ino: int) -> Iterator[int]:
        """Remove what the base says too; the directory itself once it has nothing left."""
        overlay, tables = self._overlay, self._overlay.tables
        owner, empty = overlay.owner(ino), True
        for table in OF_DIRECTORY:
            start = b""
            while not self._is_listed(ino) and (some := tables.some(table, owner, start)):
                for rest, value in some[:ROWS_AT_ONCE]:
                    if self._is_said_below(ino, table, rest, value):
                        self._op.put(table, owner, rest, None)
                    else:
                        empty = False
                    start = rest + b"\0"
                yield ROWS_AT_ONCE
        row = overlay.peek_row(ino)
        if row is None or ino == overlay.root_ino or row.epoch == overlay.epoch or not row.nlink:
            return
        needed = self._is_listed(ino) or overlay.is_needed(ino)
        if empty and not needed and tables.first("dentry", owner) is None:
            self._drop_names(row, list(overlay.names(ino)))

    def _is_said_below(self, ino: int, table: str, rest: bytes, value: bytes) -> bool:
        """True for a row of a directory that says nothing any more."""
        overlay = self._overlay
        if table == "dentry":
            dentry, row = decode_dentry(value), overlay.peek_row(ino)
            return row is not None and dentry.ino == 0 and dentry.since < row.base_epoch
        if table == "order":
            found = self._op.dentry(ino, value)
            return found is None or found.seq != from_number(rest)
        return epoch_of(value) != overlay.epoch


def remove_doomed(tables: Tables, limit: int, remove_data: Callable[[int], None]) -> bool:
    """Remove rows of directories and trees that are gone; True while there are more. Blocks.

    `remove_data` removes the data file of a number unless a tree that lives on has it.
    """
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
    if not _erase(tables, prefix, limit, remove_data):
        tables.flush()  # some rows may have been on their way to LMDB when the tree was given up
        if not _erase(tables, prefix, limit, remove_data):
            tables.apply([("doomed", b"", found[0], None)])
    return True


def _erase(tables: Tables, prefix: bytes, limit: int, remove_data: Callable[[int], None]) -> int:
    erased = 0
    for table in (*KEYED_BY_INODE, *KEYED_BY_TREE):
        rows = tables.erase(table, prefix, limit)
        erased += len(rows)
        for row in rows if table == "inode" else ():
            remove_data(decode_inode(row).ino)
    return erased
