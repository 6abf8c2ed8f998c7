"""Rebuilding the index from the objects: the log, and the packs that it names.

The result is row for row what the index was, since the rows depend on the objects alone: entries of
all datasets are applied in the order of their times, as they were the first time.

`reindex` works on an open lake, in a mounted one too: the new index is made beside the old one,
which readers go on using until the two are exchanged. `reindex_at` is for a lake whose index cannot
even be opened; it never looks into the old files, since LMDB may end the process over a garbled
page.

A crash leaves the old index, or none, or one that has a part of the log: opening the lake for
writing does the rest. Staging is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dtafs.errors import DtafsError
from dtafs.store.database import Database
from dtafs.store.durable import Disk
from dtafs.store.founding import read_superblock
from dtafs.store.index import TABLES, Index
from dtafs.store.lake import Lake
from dtafs.store.lock import WriterLock
from dtafs.store.progress import Progress, Report

Row = tuple[str, bytes, bytes]


def reindex(lake: Lake, progress: Report | None = None) -> dict[str, Any]:
    """Rebuild the index of a lake that is open for writing.

    Returns the number of `entries` applied, of `rows` by table, and of rows that are `added`,
    `removed` and `changed` against the old index, or None where that could not be read to its end.
    Raises IntegrityError, and leaves the old index, when the log or a pack it names is damaged.
    """
    fresh, retired = lake.path / "index.new", lake.path / "index.old"
    with lake.append_lock:
        for leftover in (fresh, retired):
            lake.disk.remove_tree(leftover)
        lake.disk.make_directory(fresh)
        built = Index(fresh, write=True)
        try:
            entries = lake.replay(built)
            rows = count_rows(built.database)
            differences = _compare(lake.index.database, built.database)
        except BaseException:
            built.close()
            lake.disk.remove_tree(fresh)
            raise
        built.close()
        lake.disk.rename(lake.path / "index", retired)
        lake.disk.rename(fresh, lake.path / "index")
        lake.disk.sync_directory(lake.path)
        lake.index, old = Index(lake.path / "index", write=True), lake.index
        old.close()
        lake.disk.remove_tree(retired)
    if progress is not None:
        progress(Progress("reindex", entries, 0, entries))
    return {"entries": entries, "rows": rows, **differences}


def reindex_at(path: Path, progress: Report | None = None) -> dict[str, Any]:
    """Rebuild the index of a lake that nobody has open, whatever is in `index/` now.

    Returns what `reindex` does, without a comparison. Raises BusyError while the lake is in use.
    """
    path = path.absolute()
    read_superblock(path)
    disk = Disk(path)
    lock = WriterLock(path / "run" / "lock")
    try:
        for name in ("index", "index.new", "index.old"):
            disk.remove_tree(path / name)
    finally:
        lock.release()
    with Lake.open(path) as lake:  # an index that is missing is made anew by opening
        entries = sum(row.sequence for row in lake.datasets())
        rows = count_rows(lake.index.database)
    if progress is not None:
        progress(Progress("reindex", entries, 0, entries))
    return {"entries": entries, "rows": rows, "added": None, "removed": None, "changed": None}


def dump(database: Database) -> Iterator[Row]:
    """Every row of an index: table, key, value; in order. For comparing two of them."""
    for table in TABLES:
        with database.read() as txn:
            for key, value in txn.scan(table):
                yield table, key, value


def count_rows(database: Database) -> dict[str, int]:
    """How many rows each table has."""
    with database.read() as txn:
        return {table: txn.count(table) for table in TABLES}


def _compare(old: Database, new: Database) -> dict[str, int | None]:
    counts = {"added": 0, "removed": 0, "changed": 0}
    try:
        before, after = dump(old), dump(new)
        a, b = next(before, None), next(after, None)
        while a is not None or b is not None:
            left = None if a is None else (TABLES.index(a[0]), a[1])
            right = None if b is None else (TABLES.index(b[0]), b[1])
            if right is None or (left is not None and left < right):
                counts["removed"] += 1
                a = next(before, None)
            elif left is None or right < left:
                counts["added"] += 1
                b = next(after, None)
            else:
                counts["changed"] += a != b
                a, b = next(before, None), next(after, None)
    except DtafsError:
        return dict.fromkeys(counts)
    return dict(counts)
