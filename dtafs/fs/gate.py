"""Holding the staging of one dataset still.

Calls that touch staging pass through its gate. A commit closes the gate: it waits until those
inside have left, and whoever comes then waits, without blocking the event loop, until it opens.
Sealed versions have no gate: their readers never wait for a commit.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

log = logging.getLogger(__name__)


class Gate:
    """One gate; all methods belong to the event loop."""

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._change = trio.Event()
        self._later: list[Callable[[], None]] = []

    @property
    def closed(self) -> bool:
        """Whether nobody may pass now."""
        return self._closed

    async def enter(self) -> None:
        """Wait until the gate is open and pass; `leave` must follow, whatever happens."""
        while self._closed:
            await self._change.wait()
        self._inside += 1

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
            later, self._later = self._later, []
            for call in later:
                try:
                    call()
                except Exception:
                    log.exception("a call that waited for a commit failed")
            self._signal()

    def soon(self, call: Callable[[], None]) -> None:
        """Make a call that must not wait: now, or as soon as the gate opens."""
        if self._closed:
            self._later.append(call)
        else:
            call()

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
