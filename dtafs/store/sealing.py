"""Turning files into contents: chunk, hash, deduplicate, compress, pack; on all cores.

One thread a core, since hashlib, pyfastcdc and zstandard all release the GIL, and two kinds of tasks
for them: *scanning* reads a batch of files, cuts and hashes them, and gathers the chunks that the lake
lacks into frames; *compressing* encodes a frame and appends it to the open pack. A scanner compresses
a frame itself while all threads scan, and hands it over otherwise: so the cores are busy with one
large file as with many small ones, with no more threads than cores (twice as many took 15 % longer).

What a crash leaves: packs that were finished are durable and noted as pending; a pack that was not
is gone, and the files whose chunks it held are still unsealed. A content is handed out by `flush`
only when every chunk of it is durable. Deduplication trusts a chunk that the index or the pending
table places in a pack that is there, and within one `Sealer` a chunk that is under way to the open
pack; when writing that pack fails, everything since the last flush fails with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol

from dtafs.core.chunking import Chunker
from dtafs.core.chunklist import build_chunk_list
from dtafs.core.format import Chunk, Codec, PackKind
from dtafs.core.values import Content, Span
from dtafs.errors import DtafsError, StorageError, from_os_error
from dtafs.store.lake import Lake
from dtafs.store.packs import FrameEncoder, Pack, PackPresence, PackWriter
from dtafs.store.progress import Meter

FRAME_BYTES = 256 * 1024
"""A frame is closed when it has reached this size: neighbours compress and are read together."""

NODE_FRAME_BYTES = 64 * 1024
"""Frames of metadata are smaller: a lookup decodes one for one node of it."""

PACK_BYTES = 32 * 1024 * 1024
"""A pack is finished when it has reached this size, stored."""

BUFFER_BYTES = 4 * 1024 * 1024
BUFFER_MIN_BYTES, BUFFER_MAX_BYTES = 1024 * 1024, 64 * 1024 * 1024
"""What a scanner reads at once; while it hashes that, compressors work on what came before."""

BATCH_BYTES = 2 * 1024 * 1024
BATCH_FILES = 256
"""Small files are scanned together, so that one frame holds neighbours and a task is worth its hop."""

EMPTY_SHA256 = hashlib.sha256().digest()


class Source(Protocol):
    """An open file to be sealed."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the buffer from the start; 0 at the end."""

    def close(self) -> None:
        """Called once; raises a DtafsError when what was read is not to be trusted."""


class Sealed(NamedTuple):
    """The outcome for one submitted file: its content, or why there is none."""

    key: Any
    content: Content | None
    error: DtafsError | None


class _Job(NamedTuple):
    key: Any
    open_source: Callable[[], Source]
    size_hint: int


class Sealer:
    """Seals the files of one dataset's staging. `submit` and `flush` belong to one thread."""

    def __init__(
        self,
        lake: Lake,
        dataset: str,
        meter: Meter | None = None,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        threads = lake.config.ingest.threads or os.cpu_count() or 2
        self._lake, self._dataset, self._meter = lake, dataset, meter
        self._buffer_bytes = min(max(buffer_bytes, BUFFER_MIN_BYTES), BUFFER_MAX_BYTES)
        self._threads = threads
        self._workers = ThreadPoolExecutor(threads, "dtafs-seal")
        self._scanning = 0
        self._frames = threading.Semaphore(4 * threads)
        self._batches = threading.Semaphore(2 * threads)
        self._batch: list[_Job] = []
        self._batch_bytes = 0
        self._tasks: list[Future[None]] = []
        self._lock = threading.Lock()
        self._results: list[Sealed] = []
        self._claimed: set[bytes] = set()
        self._writers = {kind: _OpenPack(self, kind) for kind in PackKind}
        self._encoders = {kind: FrameEncoder(kind) for kind in PackKind}
        self._failure: DtafsError | None = None
        self._present = PackPresence(lake.path)
        self._local = threading.local()

    def __enter__(self) -> Sealer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def submit(self, key: Any, open_source: Callable[[], Source], size_hint: int = 0) -> None:
        """Seal a file; blocks while enough is under way. Its outcome comes from the next `flush`."""
        self._batch.append(_Job(key, open_source, size_hint))
        self._batch_bytes += size_hint
        if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_FILES:
            self._start_batch()

    def _start_batch(self) -> None:
        if self._batch:
            batch, self._batch, self._batch_bytes = self._batch, [], 0
            self._batches.acquire()
            self._tasks = [task for task in self._tasks if not task.done()]
            with self._lock:
                self._scanning += 1
            self._tasks.append(self._workers.submit(self._scan, batch))

    def flush(self) -> list[Sealed]:
        """Wait until all that was submitted is durable; the outcomes, in no particular order.

        Raises what kept a pack from being written; then every file since the last flush is still
        unsealed, and the Sealer is of no further use.
        """
        self._start_batch()
        wait(self._tasks)
        self._tasks.clear()
        for writer in self._writers.values():
            writer.drain()
        if self._failure is None:
            with self._caught():
                for writer in self._writers.values():
                    writer.finish()
        if self._failure is not None:
            raise self._failure
        self._claimed.clear()
        results, self._results = self._results, []
        return results

    def close(self) -> None:
        """Stop the threads; what was not flushed is dropped."""
        self._batch.clear()
        self._failure = self._failure or StorageError("sealing was interrupted")
        self._workers.shutdown(cancel_futures=True)
        for writer in self._writers.values():
            writer.discard()

    @contextlib.contextmanager
    def _caught(self) -> Iterator[None]:
        """Keep the first failure of a pack for `flush`."""
        try:
            yield
        except OSError as error:
            self._failure = self._failure or from_os_error(error, "writing a pack")
        except DtafsError as error:
            self._failure = self._failure or error

    # In worker threads

    def _scan(self, batch: list[_Job]) -> None:
        gather = _Gatherer(self, PackKind.CONTENT, FRAME_BYTES)
        try:
            for job in batch:
                if self._failure is not None:
                    return
                self._scan_file(job, gather)
            gather.close_frame()
        except BaseException as error:  # nothing may be handed out as sealed after this
            self._failure = self._failure or StorageError(f"sealing failed: {error!r}")
            raise
        finally:
            with self._lock:
                self._scanning -= 1
            self._batches.release()

    def _scan_file(self, job: _Job, gather: _Gatherer) -> None:
        content, problem = None, None
        try:
            source = job.open_source()
            try:
                content = self._read(source, gather)
            finally:
                source.close()
        except DtafsError as error:
            problem = error
        except OSError as error:
            problem = from_os_error(error, "reading")
        with self._lock:
            self._results.append(Sealed(job.key, None if problem else content, problem))
        if self._meter is not None:
            self._meter(1, 0)

    def _tools(self) -> tuple[Chunker, memoryview]:
        if not hasattr(self._local, "tools"):
            chunker = Chunker(self._lake.superblock.chunking)
            self._local.tools = (chunker, memoryview(bytearray(self._buffer_bytes)))
        tools: tuple[Chunker, memoryview] = self._local.tools
        return tools

    def _read(self, source: Source, gather: _Gatherer) -> Content:
        """Cut a file into chunks, hand over those that are new, and describe it."""
        chunker, buffer = self._tools()
        spans: list[Span] = []
        whole = None
        digest = EMPTY_SHA256
        size = kept = 0
        while True:
            end = kept + _fill(source, buffer[kept:])
            final = end < len(buffer)
            if whole is None and not final:
                whole = hashlib.sha256()
            if whole is not None:
                whole.update(buffer[kept:end])
            size += end - kept
            if self._meter is not None and end > kept:
                self._meter(0, end - kept)
            chunks = list(chunker.cuts(buffer[:end], final))
            digests = [hashlib.sha256(chunk).digest() for chunk in chunks]
            spans += gather.take(digests, chunks)
            if final:
                digest = digests[-1] if digests else digest
                break
            done = sum(map(len, chunks))
            kept = end - done
            buffer[:kept] = buffer[done:end]
        if whole is not None:
            digest = whole.digest()
        elif len(spans) > 1:
            digest = hashlib.sha256(buffer[:end]).digest()
        return self._describe(Content(size, digest), spans)

    def _describe(self, content: Content, spans: list[Span]) -> Content:
        if len(spans) < 2:
            return content
        root, nodes = build_chunk_list(spans)
        self.add_nodes(nodes)
        return Content(content.size, content.sha256, root)

    def add_nodes(self, nodes: dict[bytes, bytes]) -> None:
        """Pack metadata nodes that the lake lacks; durable at the next flush."""
        gather = _Gatherer(self, PackKind.METADATA, NODE_FRAME_BYTES)
        gather.add(list(nodes), [memoryview(data) for data in nodes.values()])
        gather.close_frame()

    def claim(self, chunks: list[bytes]) -> set[bytes]:
        """Those chunks that the caller is the one to store: nobody has them, or is storing them.

        Many at once, because a lookup costs less than the txn for it, and each gives the GIL away.
        """
        with self._lock:
            unclaimed = [chunk for chunk in chunks if chunk not in self._claimed]
        fresh = set(unclaimed) - self._known(unclaimed) if unclaimed else set()
        with self._lock:
            fresh -= self._claimed
            self._claimed |= fresh
        return fresh

    def _known(self, chunks: list[bytes]) -> set[bytes]:
        """The chunks that are safe to rely on: what another dataset only staged may be discarded."""
        assert self._lake.pending is not None
        places = self._lake.index.places_of(chunks)
        known = {chunk for chunk, place in places.items() if self._present(place.pack)}
        rest = [chunk for chunk in chunks if chunk not in known]
        if rest:
            places = self._lake.pending.places_of(rest, self._dataset)
            known |= {chunk for chunk, place in places.items() if self._present(place.pack)}
        return known

    def store_frame(self, kind: PackKind, plain: bytes, chunks: tuple[Chunk, ...]) -> None:
        """Compress a frame and append it to the open pack, here while nobody else has time."""
        if self._scanning >= self._threads or not self._frames.acquire(blocking=False):
            self._compress(kind, plain, chunks)
            return

        def compress() -> None:
            try:
                self._compress(kind, plain, chunks)
            finally:
                self._frames.release()

        self._writers[kind].track(self._workers.submit(compress))

    def _compress(self, kind: PackKind, plain: bytes, chunks: tuple[Chunk, ...]) -> None:
        with self._caught():
            if self._failure is None:
                codec, stored = self._encoders[kind].encode(plain)
                self._writers[kind].append(stored, len(plain), codec, chunks)

    @property
    def lake(self) -> Lake:
        return self._lake

    def publish(self, pack: Pack) -> None:
        """Note a finished pack as belonging to uncommitted work."""
        assert self._lake.pending is not None
        self._lake.pending.add(self._dataset, pack)


def _fill(source: Source, buffer: memoryview) -> int:
    """Read until the buffer is full or the source ends; the number of bytes."""
    end = 0
    while end < len(buffer) and (got := source.readinto(buffer[end:])):
        end += got
    return end


class _Gatherer:
    """Gathers new chunks into frames. Belongs to one scanner task."""

    def __init__(self, sealer: Sealer, kind: PackKind, limit: int) -> None:
        self._sealer, self._kind, self._limit = sealer, kind, limit
        self._parts: list[bytes] = []
        self._chunks: list[Chunk] = []
        self._size = 0

    def take(self, digests: list[bytes], chunks: list[memoryview]) -> list[Span]:
        """Store chunks unless the lake has them; their spans. `digests` are their SHA-256."""
        ids = [self._sealer.lake.objects.chunk_id(digest) for digest in digests]
        self.add(ids, chunks)
        return [Span(chunk, len(plain)) for chunk, plain in zip(ids, chunks, strict=True)]

    def add(self, ids: list[bytes], chunks: list[memoryview]) -> None:
        """Store chunks whose ids are known, unless the lake has them."""
        fresh = self._sealer.claim(ids)
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
            self._sealer.store_frame(self._kind, plain, tuple(self._chunks))
            self._parts, self._chunks, self._size = [], [], 0


class _OpenPack:
    """The pack of one kind that is being filled, and the frames under way to it."""

    def __init__(self, sealer: Sealer, kind: PackKind) -> None:
        self._sealer, self._kind = sealer, kind
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
                self._writer = PackWriter(self._sealer.lake.disk, self._kind)
            self._writer.add_frame(stored, plain, codec, chunks)
            full = self._writer.size >= PACK_BYTES
            if full:
                self._finish()

    def _finish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            self._sealer.publish(writer.finish())

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
            if self._writer is not None:
                self._writer.discard()
                self._writer = None
