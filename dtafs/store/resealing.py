"""Sealing a file of which much is sealed already, or much is holes.

A file that was appended to or patched keeps the chunks that nothing touched: they are neither read
for cutting, nor compressed, nor stored (`dtafs.core.rechunking` says which). Holes are not read
either. What remains is the SHA-256 of the whole file, which covers every byte of it:

- Kept chunks are decoded, and checked against their ids before they count, by other threads ahead
  of the one that hashes; who would have to wait decodes too. So two cores share what is 1.8 s of
  work a GiB: decoding, checking, and hashing the file.
- Zeros are hashed from memory, at the speed of the hash: a hole of 100 GiB takes a minute.
- A file that only grew is not hashed again from its start when this process still has the state in
  which the hash of the shorter one ended (`dtafs.store.hashstates`).
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.chunking import Chunker
from dtafs.core.chunklist import ChunkListBuilder
from dtafs.core.format import PackKind
from dtafs.core.rechunking import Kept, Read, Rechunking, Stretch, Where, zero_chunk
from dtafs.core.values import Content, Span
from dtafs.errors import IntegrityError, StorageError
from dtafs.store.framing import Gatherer
from dtafs.store.progress import Meter

if TYPE_CHECKING:
    from dtafs.store.lake import Lake
    from dtafs.store.packs import Place
    from dtafs.store.sealing import Sealer

LAYERED_FROM_BYTES = 1024 * 1024
"""Shorter files are sealed as a whole: that takes less than to find out what could be spared."""

LOOKED_UP_AT_ONCE = 64
RUN_BYTES = 512 * 1024
"""About how much one decoding task does: little, so that no thread waits long for another."""

AHEAD_BYTES = 16 * 1024 * 1024
"""How much of a file may lie decoded, or read, before the thread that hashes it."""

ZEROS = memoryview(bytes(1024 * 1024))


class Layers(NamedTuple):
    """What a file is made of."""

    base: Content
    """What stretches of `OLD` bytes refer to."""
    layout: Sequence[Stretch]
    read: Read


def layers_of(source: object) -> Layers | None:
    """What a file is made of, where its source has `layers` to say so and sealing by that is worth it."""
    # Not `isinstance`: of a protocol it takes 10 us, which is as long as a small file does.
    ask: Callable[[], Layers | None] | None = getattr(source, "layers", None)
    layers = None if ask is None else ask()
    if layers is None or not layers.layout or layers.layout[-1].end < LAYERED_FROM_BYTES:
        return None
    return layers


def reseal(sealer: Sealer, chunker: Chunker, layers: Layers, meter: Meter | None = None) -> Content:
    """Seal a file by its layers; its nodes and new chunks are durable at the sealer's next flush."""
    lake = sealer.lake
    chunks = Gatherer(sealer, PackKind.CONTENT)
    nodes = Gatherer(sealer, PackKind.METADATA)
    zeros = memoryview(zero_chunk(chunker))
    chunk_id = lake.objects.chunk_id
    zero = Span(chunk_id(hashlib.sha256(zeros).digest()), len(zeros))
    old = (Span(piece.id, piece.size) for piece in lake.objects.pieces(layers.base))
    spans = ChunkListBuilder(lambda node, data: nodes.add([node], [memoryview(data)]))
    count, size = 0, layers.layout[-1].end
    hashing = _Hashing(sealer, layers, meter)
    try:
        for step in Rechunking(chunker, zero, old, layers.layout, layers.read):
            if isinstance(step, Kept):
                count += step.times
                spans.add(step.span, step.times)
                if step.zeros:
                    chunks.add([zero.id], [zeros])
                    hashing.add_zeros(step.times * zero.size)
                else:
                    hashing.add_kept(step.span)
                continue
            ids = [chunk_id(hashlib.sha256(chunk).digest()) for chunk in step]
            chunks.add(ids, step)
            for chunk, plain in zip(ids, step, strict=True):
                spans.add(Span(chunk, len(plain)))
                hashing.add_fresh(plain)
            count += len(ids)
        digest = hashing.finish(size)
    finally:
        hashing.stop()
    root = spans.finish() if count > 1 else b""
    chunks.close_frame()
    nodes.close_frame()
    return Content(size, digest, root)


class _Run:
    """Neighbouring chunks that are decoded together, by whichever thread comes first."""

    def __init__(self, lake: Lake, chunks: list[tuple[Span, Place | None]]) -> None:
        self._lake, self._chunks = lake, chunks
        self._begun = threading.Lock()
        self._done = threading.Event()
        self._parts: list[memoryview] = []
        self._error: BaseException | None = None
        self.size = sum(span.size for span, _place in chunks)

    def work(self) -> bool:
        """Decode and check, unless that was begun already; whether it was done here."""
        if not self._begun.acquire(blocking=False):
            return False
        try:
            self._parts = list(_decode(self._lake, self._chunks))
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()
        return True

    def cancel(self) -> None:
        """Nobody needs it any more."""
        self._begun.acquire(blocking=False)

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def parts(self) -> list[memoryview]:
        """The bytes, chunk by chunk, once another thread is done; raises what stopped it."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._parts


class _Hashing:
    """The SHA-256 of a file whose parts are named in order; belongs to one thread."""

    def __init__(self, sealer: Sealer, layers: Layers, meter: Meter | None) -> None:
        self._lake, self._sealer, self._meter = sealer.lake, sealer, meter
        first = layers.layout[0]
        state = None
        if first.where == Where.OLD and first.end == layers.base.size:
            state = self._lake.hash_states.resume(layers.base)
        self._skip = layers.base.size if state is not None else 0
        """How many bytes that are still to be named are in the hash already."""
        self._whole = state if state is not None else hashlib.sha256()
        self._wanted: list[Span] = []
        self._queue: deque[_Run | memoryview] = deque()
        self._queued = 0

    def add_kept(self, span: Span) -> None:
        """The next bytes are those of a chunk of the old file."""
        if span.size <= self._skip:
            self._skip -= span.size
            self._count(span.size)
            return
        self._wanted.append(span)
        if len(self._wanted) >= LOOKED_UP_AT_ONCE:
            self._start()

    def add_fresh(self, plain: memoryview) -> None:
        """The next bytes are these; they must not change."""
        self._start()
        skipped = min(self._skip, len(plain))
        self._skip -= skipped
        self._count(skipped)
        self._push(plain[skipped:], len(plain) - skipped)

    def add_zeros(self, size: int) -> None:
        """The next bytes are zeros."""
        self._start()
        skipped = min(self._skip, size)
        self._skip -= skipped
        self._count(skipped)
        size -= skipped
        while self._queue and size:
            self._pop()
        while size:
            part = ZEROS[: min(size, len(ZEROS))]
            self._update(part)
            size -= len(part)

    def finish(self, size: int) -> bytes:
        """The SHA-256 of all that was named, which is `size` bytes."""
        self._start()
        while self._queue:
            self._pop()
        return self._lake.hash_states.end(self._whole, size)

    def stop(self) -> None:
        """Let go of what was begun and is not needed."""
        for item in self._queue:
            if isinstance(item, _Run):
                item.cancel()

    def _start(self) -> None:
        """Have the chunks that are wanted decoded, a few frames at a time."""
        wanted, self._wanted = self._wanted, []
        if not wanted:
            return
        places = self._lake.index.places_of([span.id for span in wanted])
        group: list[tuple[Span, Place | None]] = []
        size = 0
        for span in wanted:
            place = places.get(span.id)
            if size >= RUN_BYTES and _frame_of(place) != _frame_of(group[-1][1]):
                self._launch(group)
                group, size = [], 0
            group.append((span, place))
            size += span.size
        self._launch(group)

    def _launch(self, group: list[tuple[Span, Place | None]]) -> None:
        run = _Run(self._lake, group)
        self._sealer.help(run.work)
        self._push(run, run.size)

    def _push(self, item: _Run | memoryview, size: int) -> None:
        self._queue.append(item)
        self._queued += size
        while self._queued > AHEAD_BYTES:
            self._pop()

    def _pop(self) -> None:
        """Hash what comes first; where another thread is at it still, decode what comes later."""
        item = self._queue.popleft()
        if not isinstance(item, _Run):
            self._queued -= len(item)
            self._update(item)
            return
        while not item.done and (item.work() or self._work_ahead()):
            pass
        self._queued -= item.size
        for part in item.parts():
            self._update(part)

    def _work_ahead(self) -> bool:
        return any(item.work() for item in self._queue if isinstance(item, _Run))

    def _update(self, part: memoryview) -> None:
        if self._sealer.failed:
            raise StorageError("sealing was stopped")
        self._whole.update(part)
        self._count(len(part))

    def _count(self, size: int) -> None:
        if self._meter is not None and size:
            self._meter(0, size)


def _frame_of(place: Place | None) -> tuple[bytes, int] | None:
    return None if place is None else (place.pack, place.offset)


def _decode(lake: Lake, chunks: list[tuple[Span, Place | None]]) -> list[memoryview]:
    """The bytes of chunks, each checked against its id; past the cache, for nobody reads them again.

    What is not as it should be is asked of `Objects`, which looks again and says what is wrong: the
    chunk may not be committed yet, or be in another pack by now.
    """
    found: list[memoryview] = []
    frame, at = memoryview(b""), None
    for span, place in chunks:
        data = None
        if place is not None:
            if _frame_of(place) != at:
                frame, at = _frame(lake, place), _frame_of(place)
            data = frame[place.start : place.start + place.size]
        if data is None or lake.objects.chunk_id(hashlib.sha256(data).digest()) != span.id:
            data = lake.objects.chunk(span.id)
        if len(data) != span.size:
            raise IntegrityError(
                f"chunk {span.id.hex()} has another size than its file's list says"
            )
        found.append(data)
    return found


def _frame(lake: Lake, place: Place) -> memoryview:
    """A decoded frame, empty where there is none."""
    try:
        return memoryview(lake.files.read_frame(place))
    except IntegrityError:
        return memoryview(b"")
