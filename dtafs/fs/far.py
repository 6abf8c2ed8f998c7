"""Reads that have to wait for another tier, and opens that wait for an archive.

FUSE delivers no interrupts here, so nobody may wait without bound; and the daemon takes only so many
requests at once, so those who wait must leave some to those who need not. Reads from tiers have
FAR_THREADS threads of their own, and their waits end when the tier's do. While a tier has kept one of
them waiting for STUCK_S, no more than FAR_MAX wait: the others are told to try again (EAGAIN).

Who opens what lies in an archive has it recalled, all packs of the file at once, and waits for that as
long as `tiering.recall_wait_s` says, then gets EAGAIN, while the recall goes on; at most OPENS_MAX
wait, and with O_NONBLOCK nobody. A read meets an archive only where the data left the hot disk after it
was opened; few of those wait, because the kernel lets only a few reads wait on one mount before it holds
up all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeVar

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


class FarReads:
    """The reads of one mount that wait for other tiers. All on the event loop."""

    def __init__(self, lake: Lake, nodes: NodeReader) -> None:
        self._lake, self._nodes = lake, nodes
        self._limiter = trio.CapacityLimiter(FAR_THREADS)
        self._began: dict[object, float] = {}
        self._opens = self._reads = 0

    @property
    def is_idle(self) -> bool:
        """Whether most threads are free: who might as well do without one does not wait then."""
        return len(self._began) < FAR_THREADS // 2

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
        if len(self._began) >= FAR_MAX:
            oldest_s = trio.current_time() - min(self._began.values())
            if oldest_s > STUCK_S:
                raise RecallError("a tier does not answer, and many wait for it; try again later")
        mine = object()
        self._began[mine] = trio.current_time()
        try:
            return await trio.to_thread.run_sync(read, limiter=self._limiter)
        finally:
            del self._began[mine]

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
