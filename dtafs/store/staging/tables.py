"""Rows of staging: read from memory or LMDB, written to a journal first and to LMDB in batches.

A change is an `Operation`: it collects rows and becomes real in `Tables.apply`, as one record of
the journal, whole or not at all. Changed rows live in the *active* batch; `flush` freezes that,
writes it to LMDB in synced txns and drops its journal, while a new active batch takes what
comes. A read asks the active batch, the frozen one and LMDB, in this order, in which rows also
move: so no reader, in whatever thread, misses a row.

A batch that is too large for one txn goes in several; the journal is synced before the first, so
that a crash between two finds all of it there and writes it once more, from the beginning. Where
the journal cannot be synced, all goes in one txn.

Threads: everything here may be called from any thread. That changes make sense together is up to
the caller (`dtafs.store.staging.staging` has one lock per dataset).

A crash leaves LMDB as of the last flush, and the journal; `Tables` puts the second into the first
when it opens. Data files that a change made superfluous are removed after the flush that has it, so
that no row that a crash brings back lacks its file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec
from msgspec import msgpack

from dtafs.errors import IntegrityError, StorageError, StorageFullError
from dtafs.store.database import Database, Txn
from dtafs.store.durable import Disk
from dtafs.store.staging.batch import Batch, Put
from dtafs.store.staging.journal import Journal, read_journal, sync_journal
from dtafs.store.staging.rows import TABLES, decode_number, encode
from dtafs.store.staging.view import View

FLUSH_ROWS = 25_000
"""So many changed rows are worth a flush before its time (about 0.1 s of work)."""
FULL_ROWS = 80_000
"""From here on, who is about to change something and can wait in a thread has a flush done first."""
LIMIT_ROWS = 100_000
"""So many are as much memory as they may take, about 25 MB: the change that reaches it flushes by
itself, wherever it is made."""
TXN_ROWS = 8_192
"""How many rows go to LMDB in one txn. It keeps each page that a txn changes in memory, and never
gives that back: with one row to a page, 32 MB."""
SCAN_FIRST_ROWS, SCAN_ROWS = 32, 1024
"""How many rows a scan takes from each place at first, and then, in one read txn, which must not
stay open for long."""

_decode_puts = msgpack.Decoder(list[tuple[str, bytes, bytes, bytes | None]]).decode


class Tables:
    """All rows of the staging of a lake."""

    def __init__(self, disk: Disk, directory: Path, database: Database) -> None:
        """Open the tables; what an earlier process left in the journal is applied."""
        self._database = database
        self._turn = threading.Lock()
        self._flushing = threading.Lock()
        self._active = Batch(TABLES)
        self._frozen = Batch(TABLES)
        self._frozen_until: int | None = None
        self._after: list[Callable[[], None]] = []
        self._after_frozen: list[Callable[[], None]] = []
        self.before_flush: Callable[[], None] = lambda: None
        flushed = self.number("flushed")
        records = read_journal(directory, flushed)
        if records:
            for record in records:
                self._active.add(_puts(record.payload))
            flushed = records[-1].end
            self._write(self._active, flushed, lambda: sync_journal(disk, directory))
            self._active = Batch(TABLES)
        self._journal = Journal(disk, directory, flushed)

    def number(self, name: str) -> int:
        """A number of the table `area`; 0 when it was never set."""
        value = self.get("area", b"", name.encode())
        return 0 if value is None else int(decode_number(value))

    def get(self, table: str, owner: bytes, rest: bytes) -> bytes | None:
        """The value of a row, or None."""
        for batch in (self._active, self._frozen):
            rows = batch.rows[table].get(owner)
            if rows is not None and rest in rows:
                return rows[rest]
        with self._database.read() as txn:
            return txn.get(table, owner + rest)

    def view(self) -> View:
        """All rows, for several looks in one `with` block that is over in a moment."""
        return View(self._active, self._frozen, self._turn, self._database)

    def scan(self, table: str, owner: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows of one owner in order: the rest of the key, from `start` on, and the value.

        A row that is changed while the scan runs may appear as it was or as it is.
        """
        following: bytes | None = start
        limit = SCAN_FIRST_ROWS
        while following is not None:
            rows, following = self._some(table, owner, following, limit)
            yield from rows
            limit = SCAN_ROWS

    def some(self, table: str, owner: bytes, start: bytes = b"") -> list[tuple[bytes, bytes]]:
        """The next rows of an owner, as many as are cheap; empty only at the end."""
        following: bytes | None = start
        while following is not None:
            rows, following = self._some(table, owner, following, SCAN_ROWS)
            if rows:
                return rows
        return []

    def first(self, table: str, owner: bytes, start: bytes = b"") -> tuple[bytes, bytes] | None:
        """The first row of an owner from `start` on, or None."""
        return next(self.scan(table, owner, start), None)

    def _some(
        self, table: str, owner: bytes, start: bytes, limit: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        with self.view() as view:
            return view.some(table, owner, start, limit)

    def erase(self, table: str, prefix: bytes, limit: int) -> list[bytes]:
        """Delete rows that nothing refers to any more straight from LMDB; returns their values."""

        def erase(txn: Txn) -> list[bytes]:
            rows = list(islice(txn.scan(table, prefix), limit))
            for key, _ in rows:
                txn.delete(table, key)
            return [value for _, value in rows]

        return self._database.write(erase)

    def apply(self, puts: Iterable[Put], after_flush: Callable[[], None] | None = None) -> None:
        """Make some rows real together. `after_flush` is called once LMDB has them, in any thread.

        When it raises (no room for the journal), nothing has changed.
        """
        some = list(puts)
        payload = encode(some)
        with self._turn:
            self._journal.append(payload)
            self._active.add(some)
            if after_flush is not None:
                self._after.append(after_flush)
        if self._active.count >= LIMIT_ROWS:
            # The change is real by now, whatever becomes of the flush; the next one tries again.
            with suppress(StorageError, StorageFullError):
                self.flush()

    @property
    def changed_rows(self) -> int:
        """How many rows wait for a flush."""
        return self._active.count

    def flush(self, from_rows: int = 0) -> None:
        """Write what is in memory to LMDB, durably, if it is at least `from_rows` rows. Blocks; any
        thread."""
        with self._flushing:
            if self._frozen_until is not None:
                self._finish_flush()
            with self._turn:
                if self._active.count < from_rows:
                    return
                if not self._active.count and not self._after:
                    return
                self._frozen_until = self._journal.switch()
                self._frozen, self._active = self._active, Batch(TABLES)
                self._after_frozen, self._after = self._after, []
            self._finish_flush()

    def _finish_flush(self) -> None:
        """Write the frozen batch; when that fails it stays, and the next flush begins with it."""
        assert self._frozen_until is not None
        self.before_flush()
        rows = self._frozen.count if self._journal.is_doubtful else TXN_ROWS
        self._write(self._frozen, self._frozen_until, self._journal.sync, rows)
        self._journal.mark_safe(self._frozen_until)
        self._journal.drop()  # the disk may take its time, and changes go to the other file
        with self._turn:
            self._frozen, self._frozen_until = Batch(TABLES), None
        after, self._after_frozen = self._after_frozen, []
        for call in after:
            call()

    def _write(
        self, batch: Batch, flushed: int, sync_journal: Callable[[], None], rows: int = TXN_ROWS
    ) -> None:
        """Write a batch to LMDB, so many rows at a time; the last txn says that all of it is there."""
        parts = batch.parts(rows)
        part = next(parts)
        for following in parts:
            sync_journal()
            self._database.write(partial(_put_all, part))
            part = following
        self._database.write(partial(_put_all, [*part, ("area", b"flushed", encode(flushed))]))

    def sync(self) -> None:
        """Return when all changes so far survive a crash of the machine. Blocks; any thread.

        StorageError when the journal could not be synced; the next call has LMDB take its rows.
        """
        if self._journal.is_doubtful:
            self.flush()
        self._journal.sync()

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            self._journal.close()


def _put_all(rows: list[tuple[str, bytes, bytes | None]], txn: Txn) -> None:
    for table, key, value in rows:
        if value is None:
            txn.delete(table, key)
        else:
            txn.put(table, key, value)


def _puts(payload: bytes) -> list[Put]:
    try:
        return _decode_puts(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"a record of the staging journal is malformed: {error}") from None
