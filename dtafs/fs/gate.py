"""Holding the staging of one dataset still.

Calls that touch staging pass through its gate. A commit closes the gate: it waits until those
inside have left, and whoever comes then waits, without blocking the event loop, until it opens.
Before that it may keep new writers out (`no_new_writers`), where one always follows the other.
Sealed versions have no gate: their readers never wait for a commit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

log = logging.getLogger(__name__)

LATER_AT_ONCE = 256
"""Calls that waited, made in one step of the loop: after a long commit the kernel may have forgotten
100,000 inodes, which takes half a second."""


class Gate:
    """One gate; all methods belong to the event loop."""

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._refusing = 0
        self._change = trio.Event()
        self._later: deque[Callable[[], None]] = deque()

    @property
    def closed(self) -> bool:
        """Whether nobody may pass now."""
        return self._closed

    async def enter(self) -> None:
        """Wait until the gate is open and pass; `leave` must follow, whatever happens."""
        while self._closed:
            await self._change.wait()
        self._inside += 1

    async def enter_to_write(self) -> None:
        """As `enter`, for who is going to open a file for writing."""
        while self._closed or self._refusing:
            await self._change.wait()
        self._inside += 1

    @contextmanager
    def no_new_writers(self) -> Iterator[None]:
        """Let those wait who `enter_to_write`, while the writers there are come to an end."""
        self._refusing += 1
        try:
            yield
        finally:
            self._refusing -= 1
            self._signal()

    def leave(self) -> None:
        """The inverse of `enter`."""
        self._inside -= 1
        if self._closed and not self._inside:
            self._signal()

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """`enter` and `leave` around a block."""
        await self.enter()
        try:
            yield
        finally:
            self.leave()

    @asynccontextmanager
    async def closing(self) -> AsyncIterator[None]:
        """Close the gate and wait until nobody is inside; open it after the block.

        Two closers take turns.
        """
        while self._closed:
            await self._change.wait()
        self._closed = True
        try:
            while self._inside:
                await self._change.wait()
            yield
        finally:
            self._closed = False
            self._signal()
            with trio.CancelScope(shield=True):
                await self._make_up()

    def soon(self, call: Callable[[], None]) -> None:
        """Make a call that must not wait: now, or soon after the gate has opened, in order."""
        if self._closed or self._later:
            self._later.append(call)
        else:
            call()

    async def _make_up(self) -> None:
        """Make the calls that waited, unless the gate closes again: then its next opening does."""
        while self._later and not self._closed:
            for _ in range(min(LATER_AT_ONCE, len(self._later))):
                try:
                    self._later.popleft()()
                except Exception:
                    log.exception("a call that waited for a commit failed")
            await trio.lowlevel.checkpoint()

    def _signal(self) -> None:
        self._change.set()
        self._change = trio.Event()


class Gates:
    """The gates of all datasets, each made when it is first asked for."""

    def __init__(self) -> None:
        self._gates: dict[str, Gate] = {}

    def of(self, dataset: str) -> Gate:
        """The gate of a dataset."""
        return self._gates.setdefault(dataset, Gate())
