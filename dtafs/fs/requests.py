"""How pyfuse3's tasks wait for the kernel's next request, without a turn of the event loop for each.

A task of pyfuse3 takes a lock, waits until the descriptor is readable, gives the lock back, reads
the request, and answers it. With trio's lock and trio's wait that is two switches between tasks, an
`epoll_ctl` and two `epoll_wait`, 12 of the 18 us that an empty request costs. Most handlers answer
from memory and never wait, so the same task can go straight on to the next request:

- the lock is not handed over: whoever asks first has it, and one that waits is woken to look;
- the task first asks the kernel whether a request is there, and gives a client that has just been
  answered time to send its next one, as long as no other handler is under way: SPIN_S in which it
  keeps asking, and LINGER_S in which it sleeps, but wakes sooner than the loop would;
- after STRAIGHT_MAX requests it waits as trio would, so that every other task gets its turn.

Before the first request but one, the wait is also where `Agreement` comes between (`connection.py`).

pyfuse3 takes these names from its global `trio`, which its own asyncio mode replaces as well.
"""

from __future__ import annotations

import select
import time
from typing import Any

import pyfuse3
import trio

from dtafs.fs.connection import Agreement

SPIN_S = 0.00005
"""A processor that goes to sleep between two requests takes as long to wake, most of all a virtual
one, and twice for each request: the client's, too."""

LINGER_S = 0.0002
"""Longer than a program needs between two calls, and what a handler's thread may have to wait at
the most until the loop sees that it has finished."""

STRAIGHT_MAX = 16
"""Requests answered in a row by one task: below a millisecond."""

SELECT_LIMIT = 1024
"""`select(2)` takes no descriptor from here on; it is the one wait with a timeout in microseconds."""


class UnderWay:
    """How many handlers have begun and not ended; all on the event loop."""

    def __init__(self) -> None:
        self.count = 0


under_way = UnderWay()
"""The handlers of this process, which has one session, as pyfuse3 has."""


class _Turn:
    """Stands in for `trio.Lock`: who reads the next request. All on the event loop."""

    def __init__(self) -> None:
        self._taken = False
        self._waiting: list[trio.lowlevel.Task] = []
        self._woken = False
        # Whether a task was woken that has not looked yet; waking a second would be for nothing.

    async def __aenter__(self) -> None:
        while self._taken:
            task = trio.lowlevel.current_task()
            self._waiting.append(task)

            def give_up(_raise: object, task: trio.lowlevel.Task = task) -> trio.lowlevel.Abort:
                self._waiting.remove(task)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(give_up)
            self._woken = False
        self._taken = True

    async def __aexit__(self, *_error: object) -> None:
        self._taken = False
        if self._waiting and not self._woken:
            self._woken = True
            # The last one that came: its request buffer is the warmest.
            trio.lowlevel.reschedule(self._waiting.pop())


class _LowLevel:
    """Stands in for `trio.lowlevel`; with an `agreement` for a connection that is to begin."""

    def __init__(self, agreement: Agreement | None = None) -> None:
        self._agreement = agreement
        self._straight = 0

    async def wait_readable(self, fd: int) -> None:
        """Return when there is a request."""
        if self._agreement is not None:
            await self._agreement.advance(fd)
            if not self._agreement.is_made:
                return
            self._agreement = None
        self._straight += 1
        if self._straight < STRAIGHT_MAX and fd < SELECT_LIMIT and self._is_readable_soon(fd):
            return
        self._straight = 0
        await trio.lowlevel.wait_readable(fd)

    def _is_readable_soon(self, fd: int) -> bool:
        if under_way.count:
            return bool(select.select((fd,), (), (), 0.0)[0])
        until_s = time.perf_counter() + SPIN_S
        while time.perf_counter() < until_s:
            if select.select((fd,), (), (), 0.0)[0]:
                return True
        return bool(select.select((fd,), (), (), LINGER_S)[0])

    def __getattr__(self, name: str) -> Any:
        return getattr(trio.lowlevel, name)


class _Trio:
    """Stands in for the module `trio` inside pyfuse3; what is not here is trio's own."""

    Lock = _Turn

    def __init__(self, agreement: Agreement | None = None) -> None:
        self.lowlevel = _LowLevel(agreement)

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


async def serve(min_tasks: int, max_tasks: int) -> None:
    """Answer requests until the mount ends; `pyfuse3.init` comes before it.

    Once in the life of a process, as `pyfuse3.init` is.
    """
    agreement = Agreement()
    pyfuse3.trio = _Trio(agreement)  # type: ignore[attr-defined]
    try:
        await pyfuse3.main(min_tasks=min_tasks, max_tasks=max_tasks)
    finally:
        agreement.close()
        pyfuse3.trio = trio  # type: ignore[attr-defined]
