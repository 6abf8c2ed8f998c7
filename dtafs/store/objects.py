"""Reading chunks, nodes and contents back, each checked against its id before anyone sees it.

Thread-safe. Decoded frames and nodes are kept in bounded caches; of several threads that miss the
same frame one decodes it and the others wait for it. A frame is trusted chunk by chunk: the SHA-256
of a chunk is compared once for as long as its frame stays in the cache.

What is at hand can be had without blocking (`cached_node`, `read_at_hand`): on an event loop, where
a thread would cost more than the work. What is *near*, on this machine, can be asked for by itself
(FarFrame says that it is not): by threads that must not wait for another tier.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence

from dtafs.core.chunklist import Piece, chunks_in
from dtafs.core.nodes import Node, decode_node
from dtafs.core.tree import open_root
from dtafs.core.values import Content, Entry
from dtafs.errors import DisposedError, IntegrityError
from dtafs.store.condemn import Users
from dtafs.store.config import Cache
from dtafs.store.index import VersionRow
from dtafs.store.packfiles import FarFrame, PackFiles
from dtafs.store.packs import Place

NODES_MIN = 16
"""Nodes that stay cached whatever their size: the path of one search must fit."""

INLINE_HASH_BYTES = 64 * 1024
"""What is checked for one read that must not block: 35 us, less than a hop to a thread and back."""

Locate = Callable[[bytes], Place | None]
LocateAll = Callable[[Sequence[bytes]], Mapping[bytes, Place]]


def disposed_error(version: VersionRow) -> DisposedError:
    """What to say to somebody who wants to open a version that was disposed of."""
    return DisposedError(
        f"{version.name} was disposed of by entry {version.disposed} of its log, so its bytes are gone; "
        f"see: dtafsctl retain certificate {version.name}"
    )


class ColdNode(Exception):
    """A node is not in memory; `id` names it."""

    def __init__(self, wanted: bytes) -> None:
        super().__init__(wanted.hex())
        self.id = wanted


class _Decoding:
    """Somebody decodes a frame, others wait for it."""

    __slots__ = ("done", "near")

    def __init__(self, near: bool) -> None:
        self.done, self.near = threading.Event(), near


class _CachedFrame:
    __slots__ = ("checked", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.checked: set[int] = set()


class Objects:
    """The chunks and nodes of a lake, through the places that `locate` gives."""

    def __init__(
        self,
        files: PackFiles,
        locate: Locate,
        cache: Cache | None = None,
        refresh: Callable[[], None] = lambda: None,
        users: Users | None = None,
        locate_all: LocateAll | None = None,
    ) -> None:
        """`refresh` lets `locate` see what has changed, before a chunk is looked for again. `users`
        are those whom a collection in this process has to wait for. `locate_all` is `locate` for
        many chunks, each of which it may leave out, at a third of the price."""
        cache = cache or Cache()
        self._files, self._locate, self._refresh = files, locate, refresh
        self._locate_all = locate_all or (lambda _chunks: {})
        self.users = users or Users()
        self._frames_limit = cache.frames_mib << 20
        self._nodes_limit = cache.nodes_mib << 20
        self._lock = threading.Lock()
        self._frames: OrderedDict[tuple[bytes, int], _CachedFrame] = OrderedDict()
        self._frames_bytes = 0
        self._decoding: dict[tuple[bytes, int], _Decoding] = {}
        self._nodes: OrderedDict[bytes, Node] = OrderedDict()
        self._nodes_bytes = 0

    def chunk_id(self, sha256: bytes) -> bytes:
        """The id of the chunk whose plain bytes have this SHA-256."""
        return sha256

    def known(self, chunk: bytes) -> bool:
        """Whether the lake holds a chunk or node."""
        return self._locate(chunk) is not None

    def chunk(self, wanted: bytes, near: bool = False) -> memoryview:
        """The plain bytes of a chunk; IntegrityError when they are gone or are not what they must be,
        RecallError when they must be recalled first. With `near`, FarFrame where another tier would
        have to be waited for."""
        place = self._locate(wanted)
        if place is None:
            raise IntegrityError(f"chunk {wanted.hex()} is in no pack that the index knows")
        try:
            return self._checked(wanted, place, near)
        except IntegrityError:
            # Another process may have moved the chunk to another pack since it was looked up, or
            # mended the pack: what is kept of a damaged one would hide that.
            self.forget(place)
            self._refresh()
            moved = self._locate(wanted)
            if moved is None:
                raise
        return self._checked(wanted, moved, near)

    def forget(self, place: Place) -> None:
        """Drop what is kept of a frame and of the pack that it lies in."""
        self._files.forget(place.pack)
        with self._lock:
            frame = self._frames.pop((place.pack, place.offset), None)
            if frame is not None:
                self._frames_bytes -= len(frame.data)

    def _checked(self, wanted: bytes, place: Place, near: bool) -> memoryview:
        return self._part_of(self._frame(place, near), wanted, place)

    def _part_of(self, frame: _CachedFrame, wanted: bytes, place: Place) -> memoryview:
        data = memoryview(frame.data)[place.start : place.start + place.size]
        if place.start not in frame.checked:
            if self.chunk_id(hashlib.sha256(data).digest()) != wanted:
                raise IntegrityError(
                    f"chunk {wanted.hex()} is damaged in pack {place.pack.hex()}, frame at {place.offset}"
                )
            frame.checked.add(place.start)
        return data

    def _frame(self, place: Place, near: bool) -> _CachedFrame:
        key = (place.pack, place.offset)
        while True:
            with self._lock:
                frame = self._frames.get(key)
                if frame is not None:
                    self._frames.move_to_end(key)
                    return frame
                decoding = self._decoding.get(key)
                if decoding is None:
                    self._decoding[key] = _Decoding(near=True)
                    break
            if near and not decoding.near:
                raise FarFrame
            decoding.done.wait()
        try:
            frame = _CachedFrame(self._read_frame(place, near))
            with self._lock:
                self._frames[key] = frame
                self._frames_bytes += len(frame.data)
                while self._frames_bytes > self._frames_limit:
                    _key, old = self._frames.popitem(last=False)
                    self._frames_bytes -= len(old.data)
        finally:
            with self._lock:
                decoding = self._decoding.pop(key)
            decoding.done.set()
        return frame

    def _read_frame(self, place: Place, near: bool) -> bytes:
        """A frame from the disk; who waits only for what is near is sent on before another tier is
        asked."""
        try:
            return self._files.read_frame(place, near=True)
        except FarFrame:
            if near:
                raise
        key = (place.pack, place.offset)
        with self._lock:
            waited_for, self._decoding[key] = self._decoding[key], _Decoding(near=False)
        waited_for.done.set()
        return self._files.read_frame(place)

    def _frame_at_hand(self, place: Place) -> _CachedFrame | None:
        key = (place.pack, place.offset)
        with self._lock:
            frame = self._frames.get(key)
            if frame is not None:
                self._frames.move_to_end(key)
        return frame

    def node(self, wanted: bytes) -> Node:
        """A metadata node; blocks where it must be read from the disk."""
        with self._lock:
            node = self._nodes.get(wanted)
            if node is not None:
                self._nodes.move_to_end(wanted)
                return node
        return self._decoded(wanted, self.chunk(wanted))

    def _decoded(self, wanted: bytes, data: memoryview) -> Node:
        try:
            node = decode_node(bytes(data))
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
        """A node that is in memory, or whose frame is; raises ColdNode when neither is.

        Never blocks on the disk.
        """
        with self._lock:
            node = self._nodes.get(wanted)
            if node is not None:
                self._nodes.move_to_end(wanted)
                return node
        data = self._at_hand(wanted, INLINE_HASH_BYTES)
        if data is None:
            raise ColdNode(wanted)
        return self._decoded(wanted, data)

    def _at_hand(self, wanted: bytes, hash_bytes: int) -> memoryview | None:
        """A chunk whose frame is in memory, unless more than `hash_bytes` are to be checked for it.

        None also where it is damaged: `chunk` looks again, and says so.
        """
        place = self._locate(wanted)
        frame = None if place is None else self._frame_at_hand(place)
        if place is None or frame is None:
            return None
        if place.size > hash_bytes and place.start not in frame.checked:
            return None
        try:
            return self._part_of(frame, wanted, place)
        except IntegrityError:
            return None

    def pieces(self, content: Content, offset: int = 0, size: int | None = None) -> Iterator[Piece]:
        """The pieces of chunks that make up a range of a content."""
        return chunks_in(self.node, self.chunk_id, content, offset, size)

    def read(self, content: Content, offset: int, size: int, near: bool = False) -> bytes:
        """`size` bytes from `offset`, fewer only at the end of the file; `near` as for `chunk`."""
        pieces = list(self.pieces(content, offset, size))
        if len(pieces) == 1:
            return bytes(self._part(pieces[0], near))
        return b"".join(self._parts(pieces, near))

    def _parts(self, pieces: Sequence[Piece], near: bool) -> Iterator[memoryview]:
        """The bytes of each piece; places are looked up together, a frame once for all neighbours in it.

        Where that meets anything odd, `chunk` looks again, piece by piece.
        """
        places = self._locate_all([piece.id for piece in pieces])
        frame: _CachedFrame | None = None
        key = (b"", 0)
        for piece in pieces:
            place = places.get(piece.id)
            if place is None or place.size != piece.chunk_size:
                yield self._part(piece, near)
                continue
            try:
                if frame is None or key != (place.pack, place.offset):
                    key = (place.pack, place.offset)
                    frame = self._frame(place, near)
                data = self._part_of(frame, piece.id, place)
            except IntegrityError:
                frame = None
                yield self._part(piece, near)
                continue
            yield data[piece.start : piece.start + piece.size]

    def read_at_hand(self, content: Content, offset: int, size: int) -> memoryview | None:
        """What `read` gives, if it lies within one chunk that is in memory; None when it does not.

        Never blocks on the disk.
        """
        if content.chunk_list:
            try:
                pieces = list(chunks_in(self.cached_node, self.chunk_id, content, offset, size))
            except ColdNode:
                return None
            if len(pieces) != 1:
                return None
            piece = pieces[0]
        else:
            length = min(size, content.size - offset)
            piece = Piece(self.chunk_id(content.sha256), offset, length, content.size)
        data = self._at_hand(piece.id, INLINE_HASH_BYTES)
        if data is None or len(data) != piece.chunk_size:
            return None
        return data[piece.start : piece.start + piece.size]

    def stream(self, content: Content) -> Iterator[bytes]:
        """All bytes of a content, chunk by chunk."""
        for piece in self.pieces(content):
            yield bytes(self._part(piece))

    def _part(self, piece: Piece, near: bool = False) -> memoryview:
        data = self.chunk(piece.id, near)
        if len(data) != piece.chunk_size:
            raise IntegrityError(
                f"chunk {piece.id.hex()} has another size than its file's list says"
            )
        return data[piece.start : piece.start + piece.size]

    def top(self, version: VersionRow) -> Entry:
        """The top directory of a version; DisposedError where that is gone, lawfully."""
        if version.disposed:
            raise disposed_error(version)
        return open_root(self.node, version.root)

    def clear(self) -> None:
        """Forget what is cached, so that the next read comes from the disk."""
        with self._lock:
            self._frames.clear()
            self._nodes.clear()
            self._frames_bytes = self._nodes_bytes = 0
