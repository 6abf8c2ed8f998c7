"""Reading files, cutting and hashing them: what one thread does with one batch for a `Sealer`.

Files that fit are read one after the other into one buffer, and the lake is asked for the chunks of
all of them at once, since a lookup costs less than the txn for it and each gives the GIL away. A
file that does not fit streams through the buffer alone. How the files share the buffer has no
influence on what becomes of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dtafs.core.chunking import Chunker
from dtafs.core.chunklist import ChunkId, ChunkListBuilder, build_chunk_list
from dtafs.core.format import PackKind
from dtafs.core.values import Content, Span
from dtafs.errors import DtafsError, from_os_error
from dtafs.store.framing import Gatherer
from dtafs.store.progress import Meter
from dtafs.store.resealing import layers_of, reseal

if TYPE_CHECKING:
    from dtafs.store.sealing import Sealer


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


class Job(NamedTuple):
    """A file that is to be read; `size_hint` in bytes says about how long it is.

    `known` is a content that it may well have: where it turns out to have the chunks of that, it has
    its SHA-256 too, and is not hashed as a whole.
    """

    key: Any
    open_source: Callable[[], Source]
    size_hint: int
    known: Content | None = None


class Scanner(NamedTuple):
    """What one thread needs for one batch after the other."""

    buffer: memoryview
    chunker: Chunker
    chunk_id: ChunkId


class _Held(NamedTuple):
    """A file that lies in the buffer as a whole, its chunks with their ids, the nodes of its list."""

    key: Any
    content: Content
    ids: list[bytes]
    chunks: list[memoryview]
    nodes: dict[bytes, bytes]


class Scan:
    """One batch of files."""

    def __init__(self, sealer: Sealer, scanner: Scanner, meter: Meter | None) -> None:
        self._sealer, self._meter = sealer, meter
        self._buffer, self._chunker, self._chunk_id = scanner
        self._chunks = Gatherer(sealer, PackKind.CONTENT)
        self._nodes = Gatherer(sealer, PackKind.METADATA)
        self._held: list[_Held] = []
        self._at = 0
        """Where the next file goes in the buffer: what is before it is held."""

    def run(self, batch: Sequence[Job]) -> None:
        """Seal the files of a batch, each for itself: one that cannot be read fails alone."""
        for job in batch:
            if self._sealer.failed:
                return
            try:
                self._scan(job)
            except DtafsError as error:
                self._sealer.report([Sealed(job.key, None, error)])
            except OSError as error:
                self._sealer.report([Sealed(job.key, None, from_os_error(error, "reading"))])
            if self._meter is not None:
                self._meter(1, 0)
        self._settle()
        self._chunks.close_frame()
        self._nodes.close_frame()

    def _scan(self, job: Job) -> None:
        if job.size_hint >= len(self._buffer) - self._at:
            self._settle()
        at, end, content = self._at, self._at, None
        source = job.open_source()
        try:
            layers = layers_of(source)
            if layers is not None:
                content = reseal(self._sealer, self._chunker, layers, self._meter)
            else:
                end += _fill(source, self._buffer[at:])
                if end == len(self._buffer):
                    self._settle()
                    self._buffer[: end - at] = self._buffer[at:]
                    content = self._stream(source, end - at)
                elif self._meter is not None:
                    self._meter(0, end - at)
        finally:
            source.close()
        if content is not None:
            self._sealer.report([Sealed(job.key, content, None)])
        else:
            self._hold(job, self._buffer[at:end])
            self._at = end

    def _hold(self, job: Job, data: memoryview) -> None:
        size, known = len(data), job.known
        nodes: dict[bytes, bytes] = {}
        chunks = list(self._chunker.cuts(data, True))
        digests = [hashlib.sha256(chunk).digest() for chunk in chunks]
        ids = [self._chunk_id(digest) for digest in digests]
        if len(chunks) == 1:
            content = Content(size, digests[0])
        else:
            root, nodes = _list_of(map(Span, ids, map(len, chunks)))
            if known is not None and root and (known.chunk_list, known.size) == (root, size):
                content = known
            else:
                content = Content(size, hashlib.sha256(data).digest(), root)
        self._held.append(_Held(job.key, content, ids, chunks, nodes))

    def _settle(self) -> None:
        """Hand over the chunks of all files in the buffer, which is free then."""
        held, self._held, self._at = self._held, [], 0
        if not held:
            return
        ids = [chunk for file in held for chunk in file.ids]
        self._chunks.add(ids, [chunk for file in held for chunk in file.chunks])
        self._add_nodes({node: data for file in held for node, data in file.nodes.items()})
        self._sealer.report([Sealed(file.key, file.content, None) for file in held])

    def _stream(self, source: Source, end: int) -> Content:
        """Seal a file that fills the buffer, and perhaps goes on; the buffer is free afterwards."""
        buffer, whole = self._buffer, hashlib.sha256()
        nodes: dict[bytes, bytes] = {}
        listed = ChunkListBuilder(nodes.__setitem__)
        size = start = count = 0
        while True:
            end += _fill(source, buffer[end:])
            whole.update(buffer[start:end])
            size += end - start
            if self._meter is not None:
                self._meter(0, end - start)
            final = end < len(buffer)
            chunks = list(self._chunker.cuts(buffer[:end], final))
            ids = [self._chunk_id(hashlib.sha256(chunk).digest()) for chunk in chunks]
            self._chunks.add(ids, chunks)
            for chunk, plain in zip(ids, chunks, strict=True):
                listed.add(Span(chunk, len(plain)))
            count += len(ids)
            if final:
                break
            self._add_nodes(nodes)
            nodes.clear()
            done = sum(map(len, chunks))
            buffer[: end - done] = buffer[done:end]
            start = end = end - done
        root = listed.finish() if count > 1 else b""
        self._add_nodes(nodes)
        return Content(size, self._sealer.lake.hash_states.end(whole, size), root)

    def _add_nodes(self, nodes: dict[bytes, bytes]) -> None:
        if nodes:
            self._nodes.add(list(nodes), [memoryview(data) for data in nodes.values()])


def _list_of(spans: Iterable[Span]) -> tuple[bytes, dict[bytes, bytes]]:
    """The root and the nodes of the chunk list of a file, which one of fewer than two chunks lacks."""
    several = list(spans)
    return build_chunk_list(several) if len(several) > 1 else (b"", {})


def _fill(source: Source, buffer: memoryview) -> int:
    """Read until the buffer is full or the source ends; the number of bytes."""
    end = 0
    while end < len(buffer) and (got := source.readinto(buffer[end:])):
        end += got
    return end
