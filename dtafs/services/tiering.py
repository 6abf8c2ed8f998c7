"""What the daemon does about tiers: bringing back what was asked for, and moving what the policy says.

Each task waits, and does one bounded piece of work in a thread of its own; cancelled, it ends when that
piece has, which `Stop` makes soon: nothing writes to the lake after it is closed.
"""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import trio

from dtafs.errors import BusyError, DtafsError
from dtafs.store.lake import Lake
from dtafs.store.placement.run import Tiering

log = logging.getLogger(__name__)

NICE = 10
"""The share of the machine that moving takes: that of work in the background."""

RECALLERS = 2
"""Packs that are fetched at once: while one is made durable, another comes."""

IDLE_S = 60.0
"""How often is looked, at least, whether there is something to do."""

PAUSE_S = 0.05
"""The least between two looks that found nothing to do."""


class Stop:
    """Ends work in threads at its next step: called with bytes that were moved, as a `Pace`."""

    def __init__(self) -> None:
        self.ended = False

    def __call__(self, size: int) -> None:
        """Raise BusyError once the daemon ends."""
        if self.ended:
            raise BusyError("the daemon is ending")

    async def watch(self) -> None:
        """End the work when this task is cancelled, which it waits for."""
        try:
            await trio.sleep_forever()
        finally:
            self.ended = True


class Recaller:
    """Works off the recalls of a lake, by several tasks."""

    def __init__(self, lake: Lake) -> None:
        assert lake.recalls is not None
        self._recalls = lake.recalls
        self._news = trio.Event()
        self._limiter = trio.CapacityLimiter(RECALLERS)
        token = trio.lowlevel.current_trio_token()

        def tell() -> None:
            try:
                token.run_sync_soon(self._wake)
            except trio.RunFinishedError:
                return  # what is asked for now is brought by the next daemon

        self._recalls.on_news = tell

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def run(self) -> None:
        """Bring back what is asked for, until cancelled."""
        stop = Stop()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop.watch)
            for _ in range(RECALLERS):
                nursery.start_soon(self._work, stop)

    async def _work(self, stop: Stop) -> None:
        step = partial(self._recalls.step, stop)
        while True:
            news = self._news
            try:
                if await trio.to_thread.run_sync(step, limiter=self._limiter):
                    continue
            except DtafsError as error:
                log.error("recalls wait, for their queue cannot be written: %s", error)
            wait_s = self._recalls.next_look_s()
            with trio.move_on_after(IDLE_S if wait_s is None else max(wait_s, PAUSE_S)):
                await news.wait()


class Mover:
    """Carries out the policy, in a thread of its own that runs at a low priority."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    async def run(self) -> None:
        """Plan and move, until cancelled."""
        stop = Stop()
        tiering = Tiering(self._lake, stop)
        with ThreadPoolExecutor(1, "dtafs-tiering", _lower_priority) as thread:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop.watch)
                while True:
                    await trio.sleep(self._lake.config.tiering.every_s)
                    while self._lake.tiers and await _in_thread(thread, tiering, stop):
                        await trio.sleep(PAUSE_S)


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


async def _in_thread(thread: ThreadPoolExecutor, tiering: Tiering, stop: Stop) -> bool:
    """One round of moving; whether there is more to do at once."""
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def tell(_future: Future[bool]) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    future = thread.submit(tiering.round)
    future.add_done_callback(tell)
    with trio.CancelScope(shield=True):  # `Stop` ends it soon
        await done.wait()
    try:
        return future.result()
    except DtafsError as error:
        if not stop.ended:
            log.error("nothing is moved between tiers for now: %s", error)
        return False
