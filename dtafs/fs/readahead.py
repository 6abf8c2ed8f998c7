"""Reading a sealed file, and what comes next while the reader is busy with what it got.

What is in memory is answered on the event loop: a hop to a thread costs more than a copy. The rest
is decoded in threads. A reader that goes straight on for two reads gets windows decoded ahead of
it, AHEAD_BYTES in all, on as many cores as there are; the answers are slices of them. Memory is
bounded over all open files.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import trio

from dtafs.core.values import Content
from dtafs.fs.area import OpenFile
from dtafs.fs.far import FarReads
from dtafs.fs.nodes import NodeReader
from dtafs.store.packfiles import FarFrame

WINDOW_BYTES = 2 << 20
"""Two of the largest requests that the kernel makes, eight frames: the hop to a thread is 3 % of
the work."""

AHEAD_BYTES = 3 * WINDOW_BYTES

SEQUENTIAL_READS = 2

WINDOWS_MAX = 16
"""Windows held at once over all open files: 32 MiB."""


class ReadAheadPool:
    """The tasks, threads and memory that reading ahead takes over all open files of one mount.

    Its threads are its own, one a core, so that whoever reads something else finds one free.
    """

    def __init__(self, reader: NodeReader, far: FarReads, nursery: trio.Nursery) -> None:
        self.reader = reader
        self.far = far
        self.nursery = nursery
        self.decoders = trio.CapacityLimiter(os.cpu_count() or 1)
        self.windows = 0


class SealedReader(OpenFile):
    """An open sealed file; the kernel may keep its pages from one open to the next."""

    keep_cache = True

    def __init__(
        self, content: Content, pool: ReadAheadPool, on_release: Callable[[], None] = lambda: None
    ) -> None:
        self._content = content
        self._pool = pool
        self._on_release = on_release
        self._expected = 0
        self._streak = 0
        self._windows: deque[_Window] = deque()
        self._released = self._is_far = False

    async def read(self, offset: int, size: int) -> bytes | memoryview:
        size = min(size, max(0, self._content.size - offset))
        if size == 0:
            return b""
        self._streak = self._streak + 1 if offset == self._expected else 0
        self._expected = offset + size
        windows = self._windows_of(offset)
        self._advance()
        if windows:
            return await self._from_windows(windows, offset, size)
        return await self._fetch(offset, size)

    async def release(self) -> None:
        self._released = True
        self._drop()
        self._on_release()

    async def _fetch(self, offset: int, size: int) -> bytes | memoryview:
        reader = self._pool.reader
        data = reader.objects.read_at_hand(self._content, offset, size)
        if data is not None:
            return data
        return await self._in_thread(offset, size, reader.limiter)

    async def _in_thread(
        self, offset: int, size: int, limiter: trio.CapacityLimiter, recall: bool = True
    ) -> bytes:
        """What must be read or decoded first. Who met something far last time does so again, and takes
        a thread for that at once, if one is free: to look for what is near first costs as much as
        reading it, but for its hash."""
        read = partial(self._pool.reader.objects.read, self._content, offset, size)
        if not (self._is_far and self._pool.far.is_idle):
            with suppress(FarFrame):
                return await trio.to_thread.run_sync(partial(read, near=True), limiter=limiter)
            self._is_far = True
        return await self._pool.far.read(read, recall)

    def _windows_of(self, offset: int) -> list[_Window]:
        """The windows from the one that holds `offset` on; those before it are given up."""
        if self._windows and not self._windows[0].offset <= offset < self._windows[-1].end:
            self._drop()
        while self._windows and self._windows[0].end <= offset:
            self._windows.popleft()
            self._pool.windows -= 1
        return list(self._windows)

    async def _from_windows(
        self, windows: list[_Window], offset: int, size: int
    ) -> bytes | memoryview:
        parts: list[bytes | memoryview] = []
        end = offset + size
        for window in windows:
            if offset == end:
                break
            if not window.ready.is_set():
                await window.ready.wait()
            if window.data is None:
                break
            upto = min(end, window.end)
            parts.append(memoryview(window.data)[offset - window.offset : upto - window.offset])
            offset = upto
        if offset < end:
            parts.append(await self._fetch(offset, end - offset))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _advance(self) -> None:
        """Start on the next windows, if the reader goes straight on and there is room for them."""
        pool, size = self._pool, self._content.size
        if self._streak < SEQUENTIAL_READS or self._released:
            return
        start = self._windows[-1].end if self._windows else self._expected
        end = min(size, self._expected + AHEAD_BYTES)
        while start < end and pool.windows < WINDOWS_MAX:
            pool.windows += 1
            window = _Window(start, min(WINDOW_BYTES, size - start))
            self._windows.append(window)
            pool.nursery.start_soon(self._fill, window)
            start = window.end

    async def _fill(self, window: _Window) -> None:
        try:
            size = window.end - window.offset
            window.data = await self._in_thread(window.offset, size, self._pool.decoders, False)
        except Exception:
            # The reader that gets this far meets the same error, and reports it to its caller.
            window.data = None
        finally:
            window.ready.set()

    def _drop(self) -> None:
        self._is_far = False
        self._pool.windows -= len(self._windows)
        self._windows.clear()


class _Window:
    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.end = offset + size
        self.data: bytes | None = None
        self.ready = trio.Event()
