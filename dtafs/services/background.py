"""What the daemon does when nobody asks: sealing files that were closed, flushing, tidying.

A file whose last writer has closed it is worth chunking at once, so that the commit finds it done.
Files are gathered until they fill a good part of a pack; what is left is sealed by the commit. A
file that is sealed and then written again costs the room of chunks that nothing will reach.
"""

from __future__ import annotations

import logging

import trio

from dtafs.errors import DtafsError
from dtafs.services.changes import Changes
from dtafs.store.commit import seal_files
from dtafs.store.lake import Lake

log = logging.getLogger(__name__)

BATCH_BYTES = 16 * 1024 * 1024
BATCH_FILES = 1_024
"""A batch ends in a synced pack: fewer or smaller files wait for others, or for the commit."""

QUIET_S = 0.5
"""Programs that copy open, close and set attributes in quick succession: a short wait lets that
be over before the file is read."""

FLUSH_S = 1.0
TIDY_ROWS = 256
TIDY_PAUSE_S = 0.02


class BackgroundSealer:
    """Seals staged files that nobody has open for writing any more."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._waiting: dict[str, dict[int, int]] = {}
        self._ready = trio.Event()

    def offer(self, dataset: str, ino: int) -> None:
        """The last writer of a file has closed it. On the event loop; quick."""
        staging = self._changes.lake.staging(dataset)
        state = staging.generation(ino)
        if state is None:
            return
        waiting = self._waiting.setdefault(dataset, {})
        waiting[ino] = state[1]
        if self._is_batch(waiting):
            self._ready.set()

    def _is_batch(self, waiting: dict[int, int]) -> bool:
        return len(waiting) >= BATCH_FILES or sum(waiting.values()) >= BATCH_BYTES

    async def run(self) -> None:
        """Seal batches until cancelled."""
        while True:
            await self._ready.wait()
            self._ready = trio.Event()
            await trio.sleep(QUIET_S)
            for dataset in [*self._waiting]:
                waiting = self._waiting.pop(dataset)
                try:
                    await self._seal(dataset, waiting)
                except DtafsError as error:
                    log.info("%s is sealed by its commit instead: %s", dataset, error)

    async def _seal(self, dataset: str, waiting: dict[int, int]) -> None:
        lake = self._changes.lake
        staging = lake.staging(dataset)
        async with self._changes.turn(dataset):
            todo = []
            for ino in waiting:
                state = staging.generation(ino)
                if state is not None:
                    todo.append((ino, *state))
            if todo:
                await trio.to_thread.run_sync(seal_files, lake, dataset, staging, todo)


async def flush_staging(lake: Lake) -> None:
    """Write staged rows to LMDB and remove those that say nothing any more, until cancelled."""
    failing = False
    while True:
        await trio.sleep(FLUSH_S)
        try:
            await trio.to_thread.run_sync(lake.area.flush)
            while lake.area.tidy(TIDY_ROWS):
                await trio.sleep(TIDY_PAUSE_S)
            failing = False
        except DtafsError as error:
            if not failing:
                log.error("staging is kept in its journal until it can be written: %s", error)
            failing = True
