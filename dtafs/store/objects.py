"""Reading chunks, nodes and contents back, each checked against its id before anyone sees it.

Thread-safe. Decoded frames and nodes are kept in bounded caches; two threads that miss at once
decode the same frame twice, which is harmless. A frame is trusted chunk by chunk: the SHA-256 of a
chunk is compared once for as long as its frame stays in the cache.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator

from dtafs.core.chunklist import Piece, chunks_in
from dtafs.core.nodes import Node, decode_node
from dtafs.core.tree import open_root
from dtafs.core.values import Content, Entry
from dtafs.errors import IntegrityError
from dtafs.store.config import Cache
from dtafs.store.index import VersionRow
from dtafs.store.packs import PackFiles, Place

NODES_MIN = 16
"""Nodes that stay cached whatever their size: the path of one search must fit."""

Locate = Callable[[bytes], Place | None]


class ColdNode(Exception):
    """A node is not in memory; `id` names it."""

    def __init__(self, wanted: bytes) -> None:
        super().__init__(wanted.hex())
        self.id = wanted


class _CachedFrame:
    __slots__ = ("checked", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.checked: set[int] = set()


class Objects:
    """The chunks and nodes of a lake, through the places that `locate` gives."""

    def __init__(self, files: PackFiles, locate: Locate, cache: Cache | None = None) -> None:
        cache = cache or Cache()
        self._files, self._locate = files, locate
        self._frames_limit = cache.frames_mib << 20
        self._nodes_limit = cache.nodes_mib << 20
        self._lock = threading.Lock()
        self._frames: OrderedDict[tuple[bytes, int], _CachedFrame] = OrderedDict()
        self._frames_bytes = 0
        self._nodes: OrderedDict[bytes, Node] = OrderedDict()
        self._nodes_bytes = 0

    def chunk_id(self, sha256: bytes) -> bytes:
        """The id of the chunk whose plain bytes have this SHA-256."""
        return sha256

    def known(self, chunk: bytes) -> bool:
        """Whether the lake holds a chunk or node."""
        return self._locate(chunk) is not None

    def chunk(self, wanted: bytes) -> memoryview:
        """The plain bytes of a chunk; IntegrityError when they are gone or are not what they must be."""
        place = self._locate(wanted)
        if place is None:
            raise IntegrityError(f"chunk {wanted.hex()} is in no pack that the index knows")
        frame = self._frame(place)
        data = memoryview(frame.data)[place.start : place.start + place.size]
        if place.start not in frame.checked:
            if self.chunk_id(hashlib.sha256(data).digest()) != wanted:
                raise IntegrityError(
                    f"chunk {wanted.hex()} is damaged in pack {place.pack.hex()}, frame at {place.offset}"
                )
            frame.checked.add(place.start)
        return data

    def _frame(self, place: Place) -> _CachedFrame:
        key = (place.pack, place.offset)
        with self._lock:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
                return frame
        frame = _CachedFrame(self._files.read_frame(place))
        with self._lock:
            if key not in self._frames:
                self._frames[key] = frame
                self._frames_bytes += len(frame.data)
                while self._frames_bytes > self._frames_limit:
                    _key, old = self._frames.popitem(last=False)
                    self._frames_bytes -= len(old.data)
        return frame

    def node(self, wanted: bytes) -> Node:
        """A metadata node; blocks where it must be read from the disk."""
        with self._lock:
            node = self._nodes.get(wanted)
            if node is not None:
                self._nodes.move_to_end(wanted)
                return node
        try:
            node = decode_node(bytes(self.chunk(wanted)))
        except IntegrityError as error:
            raise IntegrityError(f"metadata node {wanted.hex()}: {error}") from None
        with self._lock:
            if wanted not in self._nodes:
                self._nodes[wanted] = node
                self._nodes_bytes += node.weight
                while self._nodes_bytes > self._nodes_limit and len(self._nodes) > NODES_MIN:
                    _id, old = self._nodes.popitem(last=False)
                    self._nodes_bytes -= old.weight
        return node

    def cached_node(self, wanted: bytes) -> Node:
        """A node that is in memory; raises ColdNode when it is not. Never blocks on the disk."""
        with self._lock:
            node = self._nodes.get(wanted)
            if node is None:
                raise ColdNode(wanted)
            self._nodes.move_to_end(wanted)
            return node

    def pieces(self, content: Content, offset: int = 0, size: int | None = None) -> Iterator[Piece]:
        """The pieces of chunks that make up a range of a content."""
        return chunks_in(self.node, self.chunk_id, content, offset, size)

    def read(self, content: Content, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`, fewer only at the end of the file."""
        parts = [self._part(piece) for piece in self.pieces(content, offset, size)]
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def stream(self, content: Content) -> Iterator[bytes]:
        """All bytes of a content, chunk by chunk."""
        for piece in self.pieces(content):
            yield bytes(self._part(piece))

    def _part(self, piece: Piece) -> memoryview:
        data = self.chunk(piece.id)
        if len(data) != piece.chunk_size:
            raise IntegrityError(
                f"chunk {piece.id.hex()} has another size than its file's list says"
            )
        return data[piece.start : piece.start + piece.size]

    def top(self, version: VersionRow) -> Entry:
        """The top directory of a version."""
        return open_root(self.node, version.root)

    def clear(self) -> None:
        """Forget what is cached, so that the next read comes from the disk."""
        with self._lock:
            self._frames.clear()
            self._nodes.clear()
            self._frames_bytes = self._nodes_bytes = 0
