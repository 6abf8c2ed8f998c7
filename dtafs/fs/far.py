"""Reads that have to wait for another tier, and opens that wait for an archive.

FUSE delivers no interrupts here, so nobody may wait without bound; and the daemon takes only so many
requests at once, so those who wait must leave some to those who need not. Reads from tiers have
FAR_THREADS threads of their own, and their waits end when the tier's do. When none of them has ended for
STUCK_S, the FAR_MAX that came first go on waiting, and the others are told to try again (ETIMEDOUT: some
programs take a read(2) that fails with EAGAIN for the end of the file). A thread for which nobody waits
any more ends when its tier does.

Who opens what lies in an archive has it recalled, all packs of the file at once, and waits for that as
long as `tiering.recall_wait_s` says, then gets EAGAIN, while the recall goes on; at most OPENS_MAX
wait, and with O_NONBLOCK nobody. A read meets an archive only where the data left the hot disk after it
was opened; few of those wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Generic, TypeVar

import trio

from dtafs.core.values import Content
from dtafs.errors import RecallError
from dtafs.fs.nodes import NodeReader
from dtafs.store.lake import Lake
from dtafs.store.placement.contents import is_archived, packs_of_contents
from dtafs.store.placement.copies import ArchivedError
from dtafs.store.placement.stubs import ColdPlace

T = TypeVar("T")

FAR_THREADS = 16
"""Requests to tiers under way at once."""

FAR_MAX, STUCK_S = 24, 5.0
"""Of the kernel's BACKGROUND_MAX requests, those that may wait for a tier that does not answer."""

OPENS_MAX = 24
"""Opens that wait for archives at once, of the same."""

READS_MAX = 8
"""Reads that wait for archives at once, of BACKGROUND_MAX."""

LOOK_MIN_S, LOOK_MAX_S = 0.02, 0.5
"""How often is looked whether what was recalled has come."""


class _Job(Generic[T]):
    """One read from a tier."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self.began_s = trio.current_time()
        self.done = trio.Event()
        self.waits, self.works = trio.CancelScope(), trio.CancelScope()
        """Of who asked for it, and of the task that has the thread."""
        self._found: list[T] = []
        self._failure: BaseException | None = None

    def work(self) -> None:
        """Read, in a thread."""
        try:
            self._found.append(self._read())
        except BaseException as error:
            self._failure = error

    def result(self) -> T:
        """What was read; raises what kept it from that."""
        if self._failure is not None:
            raise self._failure
        return self._found[0]


class FarReads:
    """The reads of one mount that wait for other tiers. All on the event loop, in whose nursery their
    threads are waited for."""

    def __init__(self, lake: Lake, nodes: NodeReader, nursery: trio.Nursery) -> None:
        self._lake, self._nodes, self._nursery = lake, nodes, nursery
        self._limiter = trio.CapacityLimiter(FAR_THREADS)
        self._waiting: dict[_Job[Any], None] = {}
        self._ended_s = -inf
        # When a read from a tier last came to an end.
        self._opens = self._reads = 0

    @property
    def is_idle(self) -> bool:
        """Whether most threads are free: who might as well do without one does not wait then."""
        return len(self._waiting) < FAR_THREADS // 2

    async def read(self, read: Callable[[], T], recall: bool = True) -> T:
        """What `read` gives, which may wait for a tier; with `recall`, also for an archive."""
        try:
            return await self._from_tier(read)
        except ArchivedError as error:
            if not recall or self._reads >= READS_MAX:
                await self._ask([error.pack])
                raise
            archived = error
        self._reads += 1
        try:
            with trio.move_on_after(self._lake.config.tiering.recall_wait_s):
                while True:
                    await self._await_packs([archived.pack])
                    try:
                        return await self._from_tier(read)
                    except ArchivedError as error:  # the next pack of the range
                        archived = error
        finally:
            self._reads -= 1
        raise archived

    async def _from_tier(self, read: Callable[[], T]) -> T:
        job = _Job(read)
        self._waiting[job] = None
        self._bound()
        self._nursery.start_soon(self._work, job)
        try:
            with job.waits:
                await job.done.wait()
        finally:
            del self._waiting[job]
            self._bound()
            job.works.cancel()
        if not job.done.is_set():
            raise RecallError("a tier does not answer, and many wait for it; try again later")
        return job.result()

    async def _work(self, job: _Job[Any]) -> None:
        with job.works:  # which ends it only while it has no thread
            await trio.to_thread.run_sync(job.work, limiter=self._limiter)
        if not job.works.cancelled_caught:
            self._ended_s = trio.current_time()
            job.done.set()
            self._bound()

    def _bound(self) -> None:
        """Say until when each read may wait."""
        for number, job in enumerate(self._waiting):
            until_s = max(job.began_s, self._ended_s) + STUCK_S
            job.waits.deadline = inf if number < FAR_MAX else until_s

    async def opened(self, content: Content, may_wait: bool) -> None:
        """Return once nothing of a content lies only in an archive.

        RecallError when it still does after the configured time, or at once where the caller does
        not wait; the recall goes on in either case.
        """
        lake = self._lake
        if not content.size or not lake.placed.is_used():
            return
        archived = await self._archived(content)
        if not archived:
            return
        await self._ask(archived)
        if may_wait and self._opens < OPENS_MAX:
            self._opens += 1
            try:
                with trio.move_on_after(lake.config.tiering.recall_wait_s):
                    await self._await_packs(archived)
                    return
            finally:
                self._opens -= 1
        raise RecallError("it lies in an archive, and is being recalled")

    async def _archived(self, content: Content) -> list[bytes]:
        """The packs of a content that must be recalled first."""
        with suppress(ColdPlace):
            if not content.chunk_list:
                place = self._lake.locate(self._lake.objects.chunk_id(content.sha256))
                if place is None or not is_archived(
                    self._lake, self._lake.placed.known(place.pack)
                ):
                    return []
        find = partial(_archived_packs, self._lake, content)
        return await trio.to_thread.run_sync(find, limiter=self._nodes.limiter)

    async def _ask(self, packs: Iterable[bytes]) -> None:
        if self._lake.recalls is not None:
            ask = partial(self._lake.recalls.ask, list(packs))
            await trio.to_thread.run_sync(ask, limiter=self._nodes.limiter)

    async def _await_packs(self, packs: list[bytes]) -> None:
        recalls, wait_s = self._lake.recalls, LOOK_MIN_S
        if recalls is None:
            raise RecallError("it lies in an archive, and a mount that only reads recalls nothing")
        await self._ask(packs)
        while recalls.left(packs):
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, LOOK_MAX_S)


def _archived_packs(lake: Lake, content: Content) -> list[bytes]:
    packs = packs_of_contents(lake, [content])
    return [pack for pack in packs if is_archived(lake, lake.placed.where(pack))]
