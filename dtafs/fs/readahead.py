"""Reading a sealed file, and the piece after it while the reader is busy with the one before.

A sequential reader leaves the daemon idle while it works on what it got. After two reads in a row
the next window is decoded in a thread meanwhile, at most one per open file, so that memory is
bounded by the number of open files that are being read. A read inside the window costs no thread.
"""

from __future__ import annotations

import trio

from dtafs.core.values import Content
from dtafs.fs.area import OpenFile
from dtafs.fs.nodes import NodeReader

WINDOW_BYTES = 1 << 20
"""One request of the kernel at its largest, four frames or more."""

SEQUENTIAL_READS = 2

WINDOWS_MAX = 32
"""Windows held at once over all open files: 32 MiB."""


class ReadAheadPool:
    """The task and memory budget that the open files of one mount share."""

    def __init__(self, reader: NodeReader, nursery: trio.Nursery) -> None:
        self.reader = reader
        self.nursery = nursery
        self.windows = 0


class SealedReader(OpenFile):
    """An open sealed file; the kernel may keep its pages from one open to the next."""

    keep_cache = True

    def __init__(self, content: Content, pool: ReadAheadPool) -> None:
        self._content = content
        self._pool = pool
        self._expected = 0
        self._streak = 0
        self._window: _Window | None = None
        self._released = False

    async def read(self, offset: int, size: int) -> bytes:
        size = min(size, max(0, self._content.size - offset))
        if size == 0:
            return b""
        self._streak = self._streak + 1 if offset == self._expected else 0
        self._expected = offset + size
        data = await self._from_window(offset, size)
        if data is None:
            data = await self._fetch(offset, size)
        self._advance()
        return data

    async def release(self) -> None:
        self._released = True
        self._drop()

    async def _fetch(self, offset: int, size: int) -> bytes:
        reader = self._pool.reader
        return await trio.to_thread.run_sync(
            reader.objects.read, self._content, offset, size, limiter=reader.limiter
        )

    async def _from_window(self, offset: int, size: int) -> bytes | None:
        window = self._window
        if window is None or not window.offset <= offset < window.end:
            return None
        await window.ready.wait()
        if window.data is None:
            return None
        start = offset - window.offset
        found = window.data[start : start + size]
        if offset + size >= window.end and self._window is window:
            self._drop()
        if len(found) < size:
            found += await self._fetch(offset + len(found), size - len(found))
        return found

    def _advance(self) -> None:
        """Start on the next window, if the reader goes straight on and there is room for one."""
        pool = self._pool
        if self._streak < SEQUENTIAL_READS or self._released:
            return
        if self._window is not None:
            if self._window.offset <= self._expected <= self._window.end:
                return
            self._drop()
        if self._expected >= self._content.size or pool.windows >= WINDOWS_MAX:
            return
        pool.windows += 1
        size = min(WINDOW_BYTES, self._content.size - self._expected)
        self._window = _Window(self._expected, size)
        pool.nursery.start_soon(self._fill, self._window)

    async def _fill(self, window: _Window) -> None:
        try:
            window.data = await self._fetch(window.offset, window.end - window.offset)
        except Exception:
            # The reader that gets this far meets the same error, and reports it to its caller.
            window.data = None
        finally:
            window.ready.set()

    def _drop(self) -> None:
        if self._window is not None:
            self._window = None
            self._pool.windows -= 1


class _Window:
    def __init__(self, offset: int, size: int) -> None:
        self.offset = offset
        self.end = offset + size
        self.data: bytes | None = None
        self.ready = trio.Event()
