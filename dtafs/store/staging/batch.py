"""Changed rows of staging in memory, by table and owner, each owner's in order where that is asked.

One thread at a time adds rows or takes a range; a single row may be looked up by any thread at any
time. The order of an owner's rows is kept once a range of many was taken, and brought up to date
when the next one is: so a range costs what it returns and what was added since, not what there is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from itertools import islice

Put = tuple[str, bytes, bytes, bytes | None]
"""Table, owner (what rows are listed by), rest of the key, value (None: delete)."""

Row = tuple[bytes, bytes | None]
"""The rest of a key, and a value."""

SORTED_EACH_TIME = 32
"""Owners with no more rows need no order that is kept: most inodes have one name."""
INSERTED_ONE_BY_ONE = 64
"""So many new keys are put into a kept order each by itself; more are sorted in with one pass."""


class Batch:
    """Rows that LMDB does not have yet."""

    __slots__ = ("_added", "_orders", "count", "rows")

    def __init__(self, tables: Iterable[str]) -> None:
        self.rows: dict[str, dict[bytes, dict[bytes, bytes | None]]] = {t: {} for t in tables}
        self.count = 0
        """How many rows were added, those that were added again counted again."""
        self._orders: dict[tuple[str, bytes], list[bytes]] = {}
        self._added: dict[tuple[str, bytes], list[bytes]] = {}
        """Keys that are not in the order of their owner yet."""

    def add(self, puts: Iterable[Put]) -> None:
        """Add rows, or put others in their place."""
        orders = self._orders
        for table, owner, rest, value in puts:
            rows = self.rows[table].get(owner)
            if rows is None:
                rows = self.rows[table][owner] = {}
            if orders and rest not in rows and (table, owner) in orders:
                self._added.setdefault((table, owner), []).append(rest)
            rows[rest] = value
            self.count += 1

    def of(self, table: str, owner: bytes) -> dict[bytes, bytes | None]:
        """The changed rows of an owner, to look single ones up in."""
        return self.rows[table].get(owner, {})

    def range(self, table: str, owner: bytes, start: bytes, limit: int) -> list[Row]:
        """The next changed rows of an owner in order: `limit` of them, fewer only at the end."""
        rows = self.rows[table].get(owner)
        if rows is None:
            return []
        few = len(rows) <= SORTED_EACH_TIME
        order = sorted(rows) if few else self._order(table, owner, rows)
        at = bisect_left(order, start)
        return [(rest, rows[rest]) for rest in order[at : at + limit]]

    def _order(self, table: str, owner: bytes, rows: dict[bytes, bytes | None]) -> list[bytes]:
        order = self._orders.get((table, owner))
        if order is None:
            order = self._orders[table, owner] = sorted(rows)
            return order
        added = self._added.pop((table, owner), [])
        if len(added) <= INSERTED_ONE_BY_ONE:
            for rest in added:
                insort(order, rest)
        else:
            order += sorted(added)
            order.sort()  # merges two runs
        return order

    def parts(self, size: int) -> Iterator[list[tuple[str, bytes, bytes | None]]]:
        """All rows as table, key and value, sorted, in lists of at most `size`; at least one."""
        rows = (
            (table, owner + rest, owners[owner][rest])
            for table, owners in self.rows.items()
            for owner in sorted(owners)
            for rest in sorted(owners[owner])
        )
        some = list(islice(rows, size))
        while True:
            following = list(islice(rows, size))
            yield some
            if not following:
                return
            some = following
