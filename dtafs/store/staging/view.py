"""Looking at several rows of staging in one read txn, which costs more than the rows do."""

from __future__ import annotations

import threading
from itertools import islice
from types import TracebackType

from dtafs.store.database import Database
from dtafs.store.staging.batch import Batch


class View:
    """All rows for the length of a `with` block, on one thread. Other threads may change rows: each
    is seen as it was or as it is.

    It asks the active batch, the frozen one and LMDB, in the order in which rows move, and takes the
    batches before its txn begins: so it misses none. The block is over in a moment, since the txn
    keeps the map from growing.
    """

    __slots__ = ("_active", "_frozen", "_reading", "_turn", "_txn")

    def __init__(
        self, active: Batch, frozen: Batch, turn: threading.Lock, database: Database
    ) -> None:
        """`turn` is the lock of those who add to the batches."""
        self._active, self._frozen, self._turn = active, frozen, turn
        self._reading = database.read()

    def __enter__(self) -> View:
        self._txn = self._reading.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reading.__exit__(kind, error, trace)

    def get(self, table: str, owner: bytes, rest: bytes) -> bytes | None:
        """The value of a row, or None."""
        rows = self._active.rows[table].get(owner)
        if rows is not None and rest in rows:
            return rows[rest]
        rows = self._frozen.rows[table].get(owner)
        if rows is not None and rest in rows:
            return rows[rest]
        return self._txn.get(table, owner + rest)

    def some(
        self, table: str, owner: bytes, start: bytes, limit: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """Some rows of an owner from `start` on, and where to go on, or None at the end.

        Each is the rest of the key and the value. From each of the three places up to `limit` rows
        are taken; what counts is what lies before the end of each place that has more.
        """
        with self._turn:
            frozen = self._frozen.range(table, owner, start, limit)
            active = self._active.range(table, owner, start, limit)
        size = len(owner)
        rows = islice(self._txn.scan(table, owner, owner + start), limit)
        stored = [(key[size:], value) for key, value in rows]
        last = [place[-1][0] for place in (stored, frozen, active) if len(place) == limit]
        if not frozen and not active:
            return stored, last[0] + b"\0" if last else None
        merged: dict[bytes, bytes | None] = dict(stored)
        merged.update(frozen)
        merged.update(active)
        end = min(last) if last else None
        found = [
            (rest, value)
            for rest, value in sorted(merged.items())
            if value is not None and (end is None or rest <= end)
        ]
        return found, None if end is None else end + b"\0"
