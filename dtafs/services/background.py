"""What the daemon does when nobody asks: sealing files that were closed, flushing, tidying.

A file whose last writer has closed it is worth chunking at once, so that the commit finds it done.
Files are gathered until they fill a good part of a pack; what is left is sealed by the commit. A
file that is sealed and then written again costs the room of chunks that nothing will reach.

Large files are sealed while others are still written: that is work on bytes, without Python's lock.
Of small files it is mostly Python, and would take from whoever creates them as much as it gives to
the commit after that; so they wait until nobody has closed one for a moment.
"""

from __future__ import annotations

import logging
from itertools import islice

import trio

from dtafs.errors import DtafsError
from dtafs.services.changes import Changes
from dtafs.store.commit import seal_files
from dtafs.store.lake import Lake
from dtafs.store.staging.staging import Staging

log = logging.getLogger(__name__)

BATCH_BYTES = 16 * 1024 * 1024
BATCH_FILES = 1_024
"""A batch ends in a synced pack: fewer or smaller files wait for others, or for the commit."""

SMALL_BYTES = 64 * 1024
"""Files that are smaller than this on average are sealed in a lull."""

ROUND_FILES = 8_192
"""So many small files take a second or two, after which it is looked whether the lull goes on."""

WAITING_MAX = 65_536
"""So many files are not left waiting for a lull: knowing them takes some megabytes."""

QUIET_S = 0.5
"""Programs that copy open, close and set attributes in quick succession: a short wait lets that
be over before the file is read. Without a file closed for so long there is a lull."""

FLUSH_S = 1.0
LOOKS = 4
"""How often it is looked, in that time, whether there is so much to flush that it should not wait."""
TIDY_ROWS = 256
TIDY_PAUSE_S = 0.02


class _Waiting:
    """Closed files of one dataset that are to be sealed. All on the event loop."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._latest_s = 0.0

    def add(self, ino: int, size: int, now_s: float) -> None:
        """A file was closed, maybe not for the first time."""
        self._bytes += size - self._sizes.get(ino, 0)
        self._sizes[ino] = size
        self._latest_s = now_s

    def is_batch(self) -> bool:
        """True for enough to be worth a pack."""
        return len(self._sizes) >= BATCH_FILES or self._bytes >= BATCH_BYTES

    def is_due(self, now_s: float) -> bool:
        """True for a batch that need not wait for a lull, or has it."""
        if not self.is_batch():
            return False
        count = len(self._sizes)
        large = self._bytes >= count * SMALL_BYTES
        return large or count >= WAITING_MAX or now_s - self._latest_s >= QUIET_S

    def take(self, limit: int) -> list[int]:
        """The files that wait longest, which wait no more."""
        taken = list(islice(self._sizes, limit))
        for ino in taken:
            self._bytes -= self._sizes.pop(ino)
        return taken


class BackgroundSealer:
    """Seals staged files that nobody has open for writing any more."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._waiting: dict[str, _Waiting] = {}
        self._ready = trio.Event()

    def offer(self, staging: Staging, ino: int) -> None:
        """The last writer of a file has closed it. On the event loop; quick."""
        state = staging.generation(ino)
        if state is None:
            return
        dataset = staging.dataset
        waiting = self._waiting.get(dataset)
        if waiting is None:
            waiting = self._waiting[dataset] = _Waiting()
        waiting.add(ino, state[1], trio.current_time())
        if waiting.is_batch():
            self._ready.set()

    async def run(self) -> None:
        """Seal batches until cancelled."""
        while True:
            await self._ready.wait()
            self._ready = trio.Event()
            await trio.sleep(QUIET_S)
            for dataset, waiting in [*self._waiting.items()]:
                while waiting.is_due(trio.current_time()):
                    try:
                        await self._seal(dataset, waiting.take(ROUND_FILES))
                    except DtafsError as error:
                        log.info("%s is sealed by its commit instead: %s", dataset, error)
                if waiting.is_batch():
                    self._ready.set()

    async def _seal(self, dataset: str, files: list[int]) -> None:
        async with self._changes.turn(dataset):
            await trio.to_thread.run_sync(_seal, self._changes.lake, dataset, files)


def _seal(lake: Lake, dataset: str, files: list[int]) -> None:
    """Seal those of some staged files that still need it. Blocks; any thread."""
    staging = lake.staging(dataset)
    todo = []
    for ino in files:
        state = staging.generation(ino)
        if state is not None:
            todo.append((ino, *state))
    if todo:
        seal_files(lake, dataset, staging, todo)


async def flush_staging(lake: Lake) -> None:
    """Write staged rows to LMDB and remove those that say nothing any more, until cancelled."""
    failing = False
    while True:
        for _ in range(LOOKS):
            if not lake.area.wants_flush:
                await trio.sleep(FLUSH_S / LOOKS)
        try:
            await trio.to_thread.run_sync(lake.area.flush)
            while await trio.to_thread.run_sync(lake.area.remove_leftovers, TIDY_ROWS):
                await trio.sleep(TIDY_PAUSE_S)
            while lake.area.tidy_rows(TIDY_ROWS):
                await trio.sleep(TIDY_PAUSE_S)
                if lake.area.wants_flush:
                    await trio.to_thread.run_sync(lake.area.flush)
            failing = False
        except DtafsError as error:
            if not failing:
                log.error("staging is kept in its journal until it can be written: %s", error)
            failing = True
