"""`StagingArea`: the staging of all datasets of a lake, and what they share.

One LMDB environment, one journal, one directory of data files, one counter of inode numbers. It
belongs to the one process that has the lake open for writing. Other parts of the store keep tables
of their own in the same environment (`extra_tables`, `database`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dtafs.core.nodes import Fetch
from dtafs.core.tree import open_root
from dtafs.core.values import Content, Kind
from dtafs.errors import IntegrityError, StorageError, StorageFullError
from dtafs.store.database import Database
from dtafs.store.durable import Disk
from dtafs.store.staging.datafiles import DataFiles
from dtafs.store.staging.journal import FILES as JOURNAL_FILES
from dtafs.store.staging.opens import Base
from dtafs.store.staging.overlay import Overlay, names_in
from dtafs.store.staging.rows import (
    NOWHERE,
    TABLES,
    DatasetRow,
    InodeRow,
    decode_dataset,
    decode_inode,
    encode,
    number,
    row_of_entry,
)
from dtafs.store.staging.staging import Staging
from dtafs.store.staging.tables import FLUSH_ROWS, FULL_ROWS, Tables
from dtafs.store.staging.tidy import remove_doomed
from dtafs.store.staging.unsynced import drop_lost_writes

if TYPE_CHECKING:
    from dtafs.store.objects import Objects

NUMBERS_RESERVED = 1 << 32
"""How many inode numbers one opening of the lake may give; what it does not give is lost."""
FIRST_MIN, FIRST_MAX = 1 << 32, 1 << 60
ROOT_MODE = 0o755


NO_BASE = Base(0, b"")


class Creator:
    """Who owns the root of a new dataset's staging."""

    def __init__(self, uid: int, gid: int, now_ns: int, mode: int = ROOT_MODE) -> None:
        self.uid, self.gid, self.now_ns, self.mode = uid, gid, now_ns, mode


def _refuse_lost_rows(directory: Path) -> None:
    """Raise IntegrityError when the LMDB file is gone: it was there before any journal was made."""
    file = directory / "data.mdb"
    used = any((directory / name).exists() for name in JOURNAL_FILES)
    if used and (not file.exists() or not file.stat().st_size):
        raise IntegrityError(f"{file} is missing or empty")


def _any_first_ino() -> int:
    """Where the numbers of a lake's inodes begin: two lakes hardly ever give the same ones."""
    import secrets  # once in the life of a lake

    return FIRST_MIN + secrets.randbelow(FIRST_MAX - FIRST_MIN)


class StagingArea:
    """The staging of a lake. One process uses it; closing it leaves everything in LMDB."""

    def __init__(
        self,
        directory: Path,
        disk: Disk,
        objects: Objects,
        *,
        fetch: Fetch | None = None,
        extra_tables: tuple[str, ...] = (),
        first_ino: Callable[[], int] = _any_first_ino,
    ) -> None:
        """Open the staging in `directory` (made if need be).

        `fetch` gives nodes of the base to calls that must not block, and may raise; without it they
        are read. Raises IntegrityError for a damaged journal or LMDB file.
        """
        disk.make_directory(directory, 0o700)
        _refuse_lost_rows(directory)
        self.objects = objects
        self.fetch: Fetch = fetch if fetch is not None else objects.node
        self.data = DataFiles(disk, directory / "data")
        self.database = Database(directory, (*TABLES, *extra_tables), mode=0o700)
        disk.sync_directory(directory)
        self.tables = Tables(disk, directory, self.database)
        self.tables.before_flush = self.data.before_flush
        self._stagings: dict[str, Staging] = {}
        self._beginning = threading.Lock()
        """Two objects over one staging would each go by what the other has changed since."""
        self._numbering = threading.Lock()
        """Two datasets over one tree of rows would lose what is staged when one is tidied away."""
        self._session_start = self._next = self.tables.number("next_ino") or first_ino()
        self._reserve(self._next + NUMBERS_RESERVED)
        self._strays: list[int] | None = None
        drop_lost_writes(self, self.database)

    def _reserve(self, until: int) -> None:
        self._until = until
        self.tables.apply([("area", b"", b"next_ino", encode(until))])
        self.tables.flush()

    def next_number(self) -> int:
        """An inode number that was never given before. Any thread."""
        with self._numbering:
            if self._next == self._until:
                self._reserve(self._until + NUMBERS_RESERVED)
            self._next += 1
            return self._next

    def next_tree(self) -> int:
        """A number for a tree that was never given before. Any thread."""
        with self._numbering:
            tree = self.tables.number("next_tree") + 1
            self.tables.apply([("area", b"", b"next_tree", encode(tree))])
            return tree

    def dataset(self, name: str, base: Base = NO_BASE, creator: Creator | None = None) -> Staging:
        """The staging of a dataset, the same object each time.

        `base` and `creator` count where the dataset has no staging yet: that begins as the version
        `base`, or empty with a root that belongs to `creator`. Any thread. Blocks at its first use,
        when it has to read the base.
        """
        known = self._stagings.get(name)
        if known is not None:
            return known
        with self._beginning:
            known = self._stagings.get(name)
            if known is None:
                row = self._find(name)
                if row is None:
                    creator = creator or Creator(os.getuid(), os.getgid(), time.time_ns())
                    row = self._begin(name, base, creator)
                known = self._stagings[name] = Staging(self, Overlay(name, row, self))
            return known

    def base_of(self, name: str) -> Base | None:
        """The version that the staging of a dataset lies on; None where it has none yet. Any thread."""
        row = self._find(name)
        return None if row is None else Base(row.version, row.root)

    def has(self, name: str) -> bool:
        """True when the dataset has staging already."""
        return self._find(name) is not None

    def _find(self, name: str) -> DatasetRow | None:
        data = self.tables.get("dataset", b"", name.encode())
        return None if data is None else decode_dataset(data)

    def _begin(self, name: str, base: Base, creator: Creator) -> DatasetRow:
        tree, ino = self.next_tree(), self.next_number()
        if base.root:
            top = open_root(self.objects.node, base.root)
            row = row_of_entry(ino, top, 0, names_in(self.objects.node, top.ref))
            row = replace(row, base_epoch=1)
        else:
            now_ns = creator.now_ns
            row = InodeRow(
                ino,
                Kind.DIRECTORY,
                creator.mode,
                creator.uid,
                creator.gid,
                0,
                0,
                2,
                now_ns,
                now_ns,
                now_ns,
                0,
                base_epoch=1,
            )
        state = DatasetRow(tree, ino, base.version, base.root, 1)
        self.tables.apply(
            [
                ("inode", tree.to_bytes(4, "big"), number(ino), encode(row)),
                ("dataset", b"", name.encode(), encode(state)),
            ]
        )
        return state

    def drop(self, name: str) -> None:
        """Remove the staging of a dataset; its `Staging` must not be used afterwards."""
        row = self._find(name)
        if row is None:
            return
        known = self._stagings.pop(name, None)
        if known is not None:
            known.shut()
        doomed = row.tree.to_bytes(4, "big") + number(0)
        self.tables.apply([("dataset", b"", name.encode(), None), ("doomed", b"", doomed, b"")])
        self.tables.flush()

    @property
    def wants_flush(self) -> bool:
        """True when so many rows have changed that a flush should not wait for its time."""
        return self.tables.changed_rows >= FLUSH_ROWS

    def flush(self) -> None:
        """Write changed rows to LMDB, durably. Blocks; any thread; about once a second is right."""
        self.tables.flush()

    @property
    def is_full(self) -> bool:
        """True when so many rows have changed that who can wait calls `drain` before the next one."""
        return self.tables.changed_rows >= FULL_ROWS

    def drain(self) -> None:
        """Let no more rows wait than may; when that fails, the rows stay. Blocks; any thread."""
        if self.is_full:
            with suppress(StorageError, StorageFullError):
                self.tables.flush(FULL_ROWS)

    def sync(self) -> None:
        """Return when every change so far survives a crash of the machine. Blocks; any thread."""
        self.tables.sync()

    def remembered(self, but_for: str = "") -> list[Content]:
        """Sealed contents that no row speaks of and that sealing may still fall back on, but for those
        of one dataset."""
        return [
            content
            for name, staging in list(self._stagings.items())
            for content in (staging.remembered() if name != but_for else ())
        ]

    def unopened(self) -> list[str]:
        """The datasets that nobody has used since the area was opened and that have rows to tidy."""
        found = []
        for key, value in self.tables.scan("dataset", b""):
            name, prefix = key.decode(), decode_dataset(value).tree_prefix
            if name not in self._stagings and len(self.tables.some("inode", prefix, number(0))) > 1:
                found.append(name)
        return found

    def tidy(self, limit: int = 256) -> bool:
        """Remove some of what nothing needs any more; True while there is more. Blocks."""
        return self.remove_leftovers(limit) or self.tidy_rows(limit)

    def remove_leftovers(self, limit: int = 256) -> bool:
        """The part of `tidy` that concerns what nobody can see; one thread at a time. Blocks."""
        return remove_doomed(self.tables, limit, self._remove_data) or self._remove_strays(limit)

    def tidy_rows(self, limit: int = 256) -> bool:
        """The part of `tidy` that concerns rows in use: it holds their lock for milliseconds."""
        return any(staging.tidy(limit) for staging in list(self._stagings.values()))

    def _remove_strays(self, limit: int) -> bool:
        """Remove data files of earlier processes that no row speaks of."""
        if self._strays is None:
            self._strays = [ino for ino in self.data.numbers() if ino <= self._session_start]
        some, self._strays = self._strays[:limit], self._strays[limit:]
        for ino in some:
            self._remove_data(ino)
        return bool(some)

    def _remove_data(self, ino: int) -> None:
        """Remove the data file of a number, unless it belongs to a row of a tree that lives on.

        A file with several names in the base has its number in every tree over that base. Whoever
        opens the data file meanwhile keeps it, since it is doomed before the rows are asked.
        """
        self.data.doom(ino)
        trees = [decode_dataset(row).tree_prefix for _, row in self.tables.scan("dataset", b"")]
        rows = (self.tables.get("inode", tree, number(ino)) for tree in trees)
        if any(row is not None and decode_inode(row).local != NOWHERE for row in rows):
            self.data.spare(ino)
        else:
            self.data.remove(ino)

    def close(self) -> None:
        """Write everything to LMDB and close; what could not be written waits in the journal."""
        for staging in self._stagings.values():
            staging.shut()
        self.data.close_all()
        try:
            self.tables.close()
        finally:
            self.database.close()
