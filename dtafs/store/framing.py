"""From new chunks to packs: frames that are being gathered, and the pack that takes them.

Nothing here decides what is new, nor in which thread a frame is compressed: `dtafs.store.sealing` does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol

from dtafs.core.format import Chunk, Codec, PackKind
from dtafs.store.durable import Disk
from dtafs.store.packs import Pack, PackWriter

FRAME_BYTES = 256 * 1024
"""A frame is closed when it has reached this size: neighbours compress and are read together."""

NODE_FRAME_BYTES = 64 * 1024
"""Frames of metadata are smaller: a lookup decodes one for one node of it."""

PACK_BYTES = 32 * 1024 * 1024
"""A pack is finished when it has reached this size, stored."""

FRAME_LIMITS = {PackKind.CONTENT: FRAME_BYTES, PackKind.METADATA: NODE_FRAME_BYTES}


class Store(Protocol):
    """What a `Gatherer` hands its frames to."""

    def claim(self, chunks: list[bytes]) -> set[bytes]:
        """Those chunks that the caller is the one to store."""

    def store_frame(self, kind: PackKind, plain: bytes, chunks: tuple[Chunk, ...]) -> None:
        """Compress a frame and append it to the open pack."""


class Gatherer:
    """Gathers new chunks into frames. Belongs to one thread."""

    def __init__(self, store: Store, kind: PackKind) -> None:
        self._store, self._kind, self._limit = store, kind, FRAME_LIMITS[kind]
        self._parts: list[bytes] = []
        self._chunks: list[Chunk] = []
        self._size = 0

    def add(self, ids: list[bytes], chunks: list[memoryview]) -> None:
        """Store chunks unless the lake has them; their bytes may change once this returns."""
        fresh = self._store.claim(ids)
        if not fresh:
            return
        for chunk, plain in zip(ids, chunks, strict=True):
            if chunk not in fresh:
                continue
            fresh.remove(chunk)
            if self._size and self._size + len(plain) > self._limit:
                self.close_frame()
            self._parts.append(bytes(plain))
            self._chunks.append(Chunk(chunk, len(plain)))
            self._size += len(plain)

    def close_frame(self) -> None:
        """Hand the open frame over."""
        if self._parts:
            plain = b"".join(self._parts)
            self._store.store_frame(self._kind, plain, tuple(self._chunks))
            self._parts, self._chunks, self._size = [], [], 0


class OpenPack:
    """The pack of one kind that is being filled, and the frames under way to it. Thread-safe."""

    def __init__(
        self,
        disk: Disk,
        kind: PackKind,
        claim: Callable[[bytes], object],
        publish: Callable[[Pack], None],
        parity: int,
    ) -> None:
        """`publish` is called with each pack that is finished, `claim` before (`PackWriter`)."""
        self._disk, self._kind, self._claim, self._publish = disk, kind, claim, publish
        self._parity = parity
        self._lock = threading.Lock()
        self._writer: PackWriter | None = None
        self._under_way: set[Future[None]] = set()

    def track(self, task: Future[None]) -> None:
        """Count a compression task until it is done."""
        with self._lock:
            self._under_way = {t for t in self._under_way if not t.done()} | {task}

    def append(self, stored: bytes, plain: int, codec: Codec, chunks: tuple[Chunk, ...]) -> None:
        """Add a frame; finishes the pack when it is full."""
        with self._lock:
            if self._writer is None:
                self._writer = PackWriter(self._disk, self._kind, self._parity)
            self._writer.add_frame(stored, plain, codec, chunks)
            full = self._writer.size >= PACK_BYTES
            if full:
                self._finish()

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._publish(writer.finish(self._claim))

    def drain(self) -> None:
        """Wait for the frames under way."""
        with self._lock:
            tasks = set(self._under_way)
        wait(tasks)

    def finish(self) -> None:
        """Make durable what has been appended."""
        with self._lock:
            self._finish()

    def discard(self) -> None:
        """Drop the open pack."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is not None:
                writer.discard()
