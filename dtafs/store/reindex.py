"""Rebuilding the index from the objects: the log, and the packs that it names.

The result is row for row what the index was, since the rows depend on the objects alone: entries of
all datasets are applied in the order of their times, as they were the first time.

`reindex` works on an open lake, in a mounted one too: the new index is made beside the old one,
which readers go on using until the two are exchanged. `reindex_at` is for a lake whose index cannot
even be opened; it looks into the old files only after another process has tried them out, since
LMDB may end a process over a garbled page.

A crash leaves the old index, or none, or one that has a part of the log: opening the lake for
writing does the rest. Staging is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dtafs.errors import DtafsError, IntegrityError
from dtafs.store.database import Database, try_out
from dtafs.store.durable import Disk
from dtafs.store.founding import read_superblock
from dtafs.store.index import TABLES, Index
from dtafs.store.lake import Lake
from dtafs.store.lock import WriterLock
from dtafs.store.log import Log
from dtafs.store.progress import Progress, Report
from dtafs.store.replay import replay

Row = tuple[str, bytes, bytes]
FRESH, RETIRED = "index.new", "index.old"


def reindex(lake: Lake, progress: Report | None = None) -> dict[str, Any]:
    """Rebuild the index of a lake that is open for writing.

    Returns the number of `entries` applied, of `rows` by table, and of rows that are `added`,
    `removed` and `changed` against the old index, or None where that could not be read to its end.
    Raises IntegrityError, and leaves the old index, when the log is damaged.
    """
    with lake.append_lock:
        facts = _build(lake.path, lake.disk, lake.log, lake.index, progress)
        _exchange(lake.path, lake.disk)
        lake.index, old = Index(lake.path / "index", write=True), lake.index
        old.close()
        lake.disk.remove_tree(lake.path / RETIRED)
    return facts


def reindex_at(path: Path, progress: Report | None = None) -> dict[str, Any]:
    """Rebuild the index of a lake that nobody has open, whatever is in `index/` now.

    Returns and raises what `reindex` does; BusyError while the lake is in use.
    """
    path = path.absolute()
    superblock, disk = read_superblock(path), Disk(path)
    disk.make_directory(path / "run", 0o700)
    lock = WriterLock(path / "run" / "lock")
    try:
        old = _usable(path / "index")
        try:
            facts = _build(path, disk, Log(disk, superblock, None), old, progress)
        finally:
            if old is not None:
                old.close()
        _exchange(path, disk)
        disk.remove_tree(path / RETIRED)
    finally:
        lock.release()
    return facts


def _usable(folder: Path) -> Index | None:
    """The old index, if all of it can be read."""
    if not (folder / "data.mdb").is_file():
        return None
    try:
        try_out(folder, TABLES)
        return Index(folder, write=False)
    except DtafsError:
        return None


def _build(
    path: Path, disk: Disk, log: Log, old: Index | None, progress: Report | None
) -> dict[str, Any]:
    """Make a whole new index beside the old one; what `reindex` returns."""
    _refuse_gaps(log, old.heads() if old else {})
    for leftover in (FRESH, RETIRED):
        disk.remove_tree(path / leftover)
    disk.make_directory(path / FRESH)
    built = Index(path / FRESH, write=True)
    try:
        entries = replay(path, log, built)
        rows = count_rows(built.database)
        differences = compare(old.database if old else None, built.database)
    except BaseException:
        built.close()
        disk.remove_tree(path / FRESH)
        raise
    built.close()
    if progress is not None:
        progress(Progress("reindex", entries, 0, entries))
    return {"entries": entries, "rows": rows, **differences}


def _refuse_gaps(log: Log, known: dict[str, tuple[int, bytes]]) -> None:
    """Raise where the log has lost entries: the old index may be the last that knows of them."""
    for name in sorted({*log.names(), *known}):
        there = set(log.sequences(name))
        missing = set(range(1, max([known.get(name, (0, b""))[0], *there]) + 1)) - there
        if missing:
            raise IntegrityError(
                f"entry {min(missing)} of {name!r} is missing from the log, so the index was left "
                "as it is: put the entry back, or remove the directory index/ to go on without it"
            )


def _exchange(path: Path, disk: Disk) -> None:
    """Put the new index in the place of the old one. A crash in between leaves none: as good."""
    if (path / "index").is_dir():
        disk.rename(path / "index", path / RETIRED)
    disk.rename(path / FRESH, path / "index")
    disk.sync_directory(path)


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


def compare(old: Database | None, new: Database) -> dict[str, int | None]:
    """How many rows were added, removed and changed; None for an old index that cannot be read."""
    counts = {"added": 0, "removed": 0, "changed": 0}
    if old is None:
        return dict.fromkeys(counts)
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
