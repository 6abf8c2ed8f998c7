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
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from dtafs.core.chunking import Chunker
from dtafs.core.format import Chunk, PackKind
from dtafs.core.values import Content
from dtafs.errors import DtafsError, StorageError, from_os_error
from dtafs.store.framing import Gatherer, OpenPack
from dtafs.store.lake import Lake
from dtafs.store.packs import FrameEncoder, Pack, PackPresence
from dtafs.store.progress import Meter
from dtafs.store.scanning import Job, Scan, Scanner, Sealed, Source

BUFFER_BYTES = 4 * 1024 * 1024
BUFFER_MIN_BYTES, BUFFER_MAX_BYTES = 1024 * 1024, 64 * 1024 * 1024
"""What a scanner reads at once; while it hashes that, compressors work on what came before."""

BATCH_BYTES = 2 * 1024 * 1024
BATCH_FILES = 256
"""Small files are scanned together, so that one frame holds neighbours and a task is worth its hop."""

NODES_AT_ONCE = 1_024
"""Nodes that are looked up, and held, together: some 9 MiB."""


class Sealer:
    """Seals the files of one dataset's staging. `submit` and `flush` belong to one thread.

    What it hands out may rely on packs that nothing else needs: those are safe from a collection
    until it is closed. By then the contents must be in staging's rows, or in the log.
    """

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
        self._batch: list[Job] = []
        self._batch_bytes = 0
        self._tasks: list[Future[None]] = []
        self._lock = threading.Lock()
        self._results: list[Sealed] = []
        self._claimed: set[bytes] = set()
        self._writers = {
            kind: OpenPack(lake.disk, kind, self.claim_pack, self.publish, lake.parity)
            for kind in PackKind
        }
        self._encoders = {kind: FrameEncoder(kind) for kind in PackKind}
        self._failure: DtafsError | None = None
        self._present = PackPresence(lake.path)
        self._at_work = lake.condemned.users.enter()
        self._local = threading.local()

    def __enter__(self) -> Sealer:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def submit(
        self,
        key: Any,
        open_source: Callable[[], Source],
        size_hint: int = 0,
        known: Content | None = None,
    ) -> None:
        """Seal a file; blocks while enough is under way. Its outcome comes from the next `flush`.

        `known` is a content of the lake that the file may well have: see `Job`.
        """
        self._batch.append(Job(key, open_source, size_hint, known))
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
        with contextlib.ExitStack() as last_first:
            last_first.callback(self._lake.condemned.users.leave, self._at_work)
            for writer in self._writers.values():
                last_first.callback(writer.discard)
            self._workers.shutdown(cancel_futures=True)

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

    def _scan(self, batch: list[Job]) -> None:
        try:
            Scan(self, self._scanner(), self._meter).run(batch)
        except BaseException as error:  # nothing may be handed out as sealed after this
            self._failure = self._failure or StorageError(f"sealing failed: {error!r}")
            raise
        finally:
            with self._lock:
                self._scanning -= 1
            self._batches.release()

    def _scanner(self) -> Scanner:
        if not hasattr(self._local, "scanner"):
            buffer = memoryview(bytearray(self._buffer_bytes))
            chunker = Chunker(self._lake.superblock.chunking)
            self._local.scanner = Scanner(buffer, chunker, self._lake.objects.chunk_id)
        scanner: Scanner = self._local.scanner
        return scanner

    @property
    def lake(self) -> Lake:
        return self._lake

    @property
    def failed(self) -> bool:
        """Whether a pack could not be written, so that going on is of no use."""
        return self._failure is not None

    def report(self, outcomes: list[Sealed]) -> None:
        """Keep outcomes for `flush`."""
        with self._lock:
            self._results += outcomes

    def help(self, work: Callable[[], object]) -> None:
        """Have a worker do this when one is free; the caller may have done it by then."""
        self._workers.submit(work)

    def add_nodes(self, nodes: Iterable[tuple[bytes, bytes]]) -> None:
        """Pack metadata nodes, by id, that the lake lacks; durable at the next flush."""
        gather = Gatherer(self, PackKind.METADATA)
        rest = iter(nodes)
        while some := list(islice(rest, NODES_AT_ONCE)):
            gather.add([node for node, _ in some], [memoryview(data) for _, data in some])
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
        lake = self._lake
        assert lake.pending is not None
        condemned = lake.condemned.packs  # before the tables are asked
        packs = lake.index.packs_of(chunks)
        known = {c for c, pack in packs.items() if pack not in condemned and self._present(pack)}
        rest = [chunk for chunk in chunks if chunk not in known]
        if rest:
            packs = lake.pending.packs_of(rest, self._dataset)
            known |= {
                c for c, pack in packs.items() if pack not in condemned and self._present(pack)
            }
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

    def claim_pack(self, pack: bytes) -> None:
        """The very pack that is about to be written may be there, and condemned."""
        self._lake.condemned.spare([pack])

    def publish(self, pack: Pack) -> None:
        """Note a finished pack as belonging to uncommitted work."""
        assert self._lake.pending is not None
        self._lake.pending.add(self._dataset, pack)
