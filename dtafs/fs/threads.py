"""A limit on threads that gives way when the threads are stuck.

Reads that decode are bounded by the cores, and more threads than a few only get into each other's
way. Reads that wait for a slow disk use no core at all, and if a few of those could take all
threads, everybody who wants something that lies in the page cache would wait for the slow disk, too.
"""

from __future__ import annotations

import contextlib
from math import inf

import trio

PATIENCE_S = 0.02
"""Longer than a thread takes for a window of 2 MiB while every core is busy."""


class PatientLimiter:
    """As `trio.CapacityLimiter`, for `trio.to_thread`: `usual` threads at once.

    Who has waited for PATIENCE_S while no thread came free gets one more, up to `most` in all; the
    number goes back as they finish. All on the event loop.
    """

    def __init__(self, usual: int, most: int) -> None:
        self._usual, self._most = usual, most
        self._limiter = trio.CapacityLimiter(usual)
        self._freed_at = -inf

    @property
    def threads(self) -> int:
        """How many there may be at present."""
        return int(self._limiter.total_tokens)

    async def acquire_on_behalf_of(self, borrower: object) -> None:
        """Wait for a thread, or have one at once: not even a turn of the event loop is waited for."""
        limiter = self._limiter
        with contextlib.suppress(trio.WouldBlock):
            limiter.acquire_on_behalf_of_nowait(borrower)
            return
        while True:
            with trio.move_on_after(PATIENCE_S) as waiting:
                await limiter.acquire_on_behalf_of(borrower)
            if not waiting.cancelled_caught:
                return
            stuck = trio.current_time() - self._freed_at >= PATIENCE_S
            if stuck and limiter.total_tokens < self._most:
                limiter.total_tokens += 1

    def release_on_behalf_of(self, borrower: object) -> None:
        """Give a thread back."""
        limiter = self._limiter
        self._freed_at = trio.current_time()
        if limiter.total_tokens > self._usual:
            limiter.total_tokens -= 1
        limiter.release_on_behalf_of(borrower)
