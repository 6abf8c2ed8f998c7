"""Until when versions are kept, and by which holds, for the mount's attributes.

What is in force is read in a thread, once for as long as no rule and no hold changes: with ten thousand
rules it takes 70 ms, which must not hold up the loop. Of the version that was asked about last the
answer is kept, since programs that copy ask it of each file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from dtafs.store.index import VersionRow
from dtafs.store.retention import time_or_ever
from dtafs.store.retention_facts import Standing

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

State = tuple[tuple[int, bytes] | None, tuple[int, bytes] | None]
"""The last entries of the lake's own log and of the dataset's: while they stay, so does the answer."""


class Retention(NamedTuple):
    """What the attributes say: a time of the log or `for ever`; names of holds, with commas."""

    keep_until: str
    holds: str


class Retained:
    """Answers for the event loop; asks in threads of `limiter`."""

    def __init__(self, lake: Lake, limiter: trio.CapacityLimiter) -> None:
        self._lake, self._limiter = lake, limiter
        self._standing: Standing | None = None
        self._known: tuple[int, State, Retention | None] | None = None

    async def of(self, row: VersionRow) -> Retention | None:
        """What is so now of a version; None of one that was disposed of."""
        known = self._known
        if known is not None and known[:2] == (row.serial, self._state(row)):
            return known[2]
        return await trio.to_thread.run_sync(self._find, row, limiter=self._limiter)

    def _state(self, row: VersionRow) -> State:
        own = self._lake.index.own()
        head = None if own is None else (own.sequence, own.head)
        return head, self._lake.index.head(row.dataset)

    def _find(self, row: VersionRow) -> Retention | None:
        index, state = self._lake.index, self._state(row)
        found = None
        now = index.version(row.dataset, row.number)  # its tags may have changed since
        if now is not None and not now.disposed:
            self._standing = standing = Standing.of(index, self._standing)
            decision = standing.decide(now, self._lake.clock())
            found = Retention(time_or_ever(decision.keep_until_ns), ",".join(decision.holds))
        self._known = row.serial, state, found
        return found
