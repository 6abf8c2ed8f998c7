"""Rows of staging: read from memory or LMDB, written to a journal first and to LMDB in batches.

A change is an `Operation`: it collects rows and becomes real in `Tables.apply`, as one record of
the journal, whole or not at all. Changed rows live in the *active* batch; `flush` freezes that,
writes it to LMDB in one synced txn and drops its journal, while a new active batch takes what
comes. A read asks the active batch, the frozen one and LMDB, in this order, in which rows also
move: so no reader, in whatever thread, misses a row.

Threads: everything here may be called from any thread. That changes make sense together is up to
the caller (`dtafs.store.staging.staging` has one lock per dataset).

A crash leaves LMDB as of the last flush, and the journal; `Tables` puts the second into the first
when it opens. Data files that a change made superfluous are removed after the flush that has it, so
that no row that a crash brings back lacks its file.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from msgspec import msgpack

from dtafs.errors import IntegrityError, StorageError, StorageFullError
from dtafs.store.database import Database, Txn
from dtafs.store.durable import Disk
from dtafs.store.staging.journal import Journal, read_journal
from dtafs.store.staging.rows import TABLES, decode_number, encode

Put = tuple[str, bytes, bytes, bytes | None]
"""Table, owner (what rows are listed by), rest of the key, value (None: delete)."""

Batch = dict[str, dict[bytes, dict[bytes, bytes | None]]]

FLUSH_ROWS = 50_000
"""So many changed rows are worth a flush before its time (about 0.2 s of work)."""
LIMIT_ROWS = 400_000
"""So many are as much memory as they may take: the change that reaches it flushes by itself."""
SCAN_ROWS = 1024
"""How many rows a scan takes from LMDB in one read txn, which must not stay open for long."""

_decode_puts = msgpack.Decoder(list[tuple[str, bytes, bytes, bytes | None]]).decode


class Tables:
    """All rows of the staging of a lake."""

    def __init__(self, disk: Disk, directory: Path, database: Database) -> None:
        """Open the tables; what an earlier process left in the journal is applied."""
        self._database = database
        self._turn = threading.Lock()
        self._flushing = threading.Lock()
        self._active: Batch = _new_batch()
        self._frozen: Batch = _new_batch()
        self._frozen_until: int | None = None
        self._rows = 0
        self._after: list[Callable[[], None]] = []
        self._after_frozen: list[Callable[[], None]] = []
        self.before_flush: Callable[[], None] = lambda: None
        flushed = self.number("flushed")
        records = read_journal(directory, flushed)
        if records:
            for record in records:
                _add(self._active, _puts(record.payload))
            flushed = records[-1].end
            self._write(self._active, flushed)
            self._active = _new_batch()
        self._journal = Journal(disk, directory, flushed)

    def number(self, name: str) -> int:
        """A number of the table `area`; 0 when it was never set."""
        value = self.get("area", b"", name.encode())
        return 0 if value is None else int(decode_number(value))

    def get(self, table: str, owner: bytes, rest: bytes) -> bytes | None:
        """The value of a row, or None."""
        for batch in (self._active, self._frozen):
            rows = batch[table].get(owner)
            if rows is not None and rest in rows:
                return rows[rest]
        with self._database.read() as txn:
            return txn.get(table, owner + rest)

    def get_all(self, table: str, owner: bytes, rests: Sequence[bytes]) -> list[bytes | None]:
        """The values of several rows of one owner: in one txn, which costs more than a row does."""
        found: list[bytes | None] = []
        active, frozen = self._active[table].get(owner, {}), self._frozen[table].get(owner, {})
        with self._database.read() as txn:
            for rest in rests:
                if rest in active:
                    found.append(active[rest])
                elif rest in frozen:
                    found.append(frozen[rest])
                else:
                    found.append(txn.get(table, owner + rest))
        return found

    def scan(self, table: str, owner: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The rows of one owner in order: the rest of the key, from `start` on, and the value.

        A row that is changed while the scan runs may appear as it was or as it is.
        """
        following: bytes | None = start
        while following is not None:
            rows, following = self._some(table, owner, following)
            yield from rows

    def some(self, table: str, owner: bytes, start: bytes = b"") -> list[tuple[bytes, bytes]]:
        """The next rows of an owner, as many as are cheap; empty only at the end."""
        following: bytes | None = start
        while following is not None:
            rows, following = self._some(table, owner, following)
            if rows:
                return rows
        return []

    def first(self, table: str, owner: bytes, start: bytes = b"") -> tuple[bytes, bytes] | None:
        """The first row of an owner from `start` on, or None."""
        return next(self.scan(table, owner, start), None)

    def _some(
        self, table: str, owner: bytes, start: bytes
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Some rows from `start` on, and where to go on, or None at the end."""
        with self._turn:
            recent = dict(self._frozen[table].get(owner, ()))
            recent.update(self._active[table].get(owner, ()))
        merged = {rest: value for rest, value in recent.items() if rest >= start}
        size, last = len(owner), b""
        limit = SCAN_ROWS + len(merged)
        taken, more = 0, False
        with self._database.read() as txn:
            for key, value in txn.scan(table, owner, owner + start):
                if taken == limit:
                    more = True
                    break
                last = key[size:]
                merged.setdefault(last, value)
                taken += 1
        found = [
            (rest, value)
            for rest, value in sorted(merged.items())
            if value is not None and not (more and rest > last)
        ]
        return found, last + b"\0" if more else None

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
            self._rows += _add(self._active, some)
            if after_flush is not None:
                self._after.append(after_flush)
        if self._rows >= LIMIT_ROWS:
            # The change is real by now, whatever becomes of the flush; the next one tries again.
            with suppress(StorageError, StorageFullError):
                self.flush()

    @property
    def changed_rows(self) -> int:
        """How many rows wait for a flush."""
        return self._rows

    def flush(self) -> None:
        """Write what is in memory to LMDB, durably. Blocks; any thread."""
        with self._flushing:
            if self._frozen_until is not None:
                self._finish_flush()
            with self._turn:
                if not self._rows and not self._after:
                    return
                self._frozen_until = self._journal.switch()
                self._frozen, self._active = self._active, _new_batch()
                self._after_frozen, self._after = self._after, []
                self._rows = 0
            self._finish_flush()

    def _finish_flush(self) -> None:
        """Write the frozen batch; when that fails it stays, and the next flush begins with it."""
        assert self._frozen_until is not None
        self.before_flush()
        self._write(self._frozen, self._frozen_until)
        with self._turn:
            self._journal.drop()
            self._frozen, self._frozen_until = _new_batch(), None
        after, self._after_frozen = self._after_frozen, []
        for call in after:
            call()

    def _write(self, batch: Batch, flushed: int) -> None:
        def write(txn: Txn) -> None:
            for table, owners in batch.items():
                for owner in sorted(owners):
                    rows = owners[owner]
                    for rest in sorted(rows):
                        value = rows[rest]
                        if value is None:
                            txn.delete(table, owner + rest)
                        else:
                            txn.put(table, owner + rest, value)
            txn.put("area", b"flushed", encode(flushed))

        self._database.write(write)

    def sync(self) -> None:
        """Return when all changes so far survive a crash of the machine. Blocks; any thread."""
        self._journal.sync()

    def close(self) -> None:
        """Flush and close."""
        try:
            self.flush()
        finally:
            self._journal.close()


def _new_batch() -> Batch:
    return {table: {} for table in TABLES}


def _add(batch: Batch, puts: Iterable[Put]) -> int:
    count = 0
    for table, owner, rest, value in puts:
        rows = batch[table].get(owner)
        if rows is None:
            rows = batch[table][owner] = {}
        rows[rest] = value
        count += 1
    return count


def _puts(payload: bytes) -> list[Put]:
    try:
        return _decode_puts(payload)
    except Exception as error:
        raise IntegrityError(f"a record of the staging journal is malformed: {error}") from None
