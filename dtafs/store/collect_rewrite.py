"""Writing what is still needed of some packs into new ones.

A frame that is needed as a whole is copied as it is stored; what is left of others is gathered into
new frames. Every chunk is checked against its id before it is copied, and every new pack is read
back and hashed before it is handed out. Until an entry names a new pack it is a stray, which a
later collection removes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dtafs.core.format import Chunk, Codec, PackKind, pack_key
from dtafs.errors import IntegrityError
from dtafs.store.collect_reach import Spot, spot_of
from dtafs.store.durable import open_for_reading, read_at
from dtafs.store.framing import FRAME_LIMITS, PACK_BYTES
from dtafs.store.packs import FrameEncoder, Pack, PackWriter, Place, decode_frame, hash_pack
from dtafs.store.placement.stubs import is_away

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


ReadAt = Callable[[int, int], bytes]
"""Gives bytes of a pack: from an offset, so many."""


@contextmanager
def reading_pack(lake: Lake, pack: bytes) -> Iterator[ReadAt]:
    """Reads a pack, from another tier where it is away."""
    if is_away(lake.path, pack):
        yield lambda offset, size: bytes(lake.far.read(pack, offset, size))
        return
    fd = open_for_reading(lake.path / pack_key(pack))
    try:
        yield lambda offset, size: read_at(fd, size, offset)
    finally:
        os.close(fd)


def rewrite_packs(
    lake: Lake, kind: PackKind, packs: Iterable[tuple[Pack, set[Spot]]]
) -> list[Pack]:
    """New, durable packs with the chunks of `packs` that lie at the given spots.

    Raises IntegrityError, naming the pack, when one of those chunks is damaged, RecallError when it
    must be recalled first, StorageError when its tier does not answer.
    """
    out = Repacker(lake, kind)
    try:
        for pack, spots in packs:
            out.copy(pack, spots)
        return out.finish()
    finally:
        out.discard()


class Repacker:
    """Gathers chunks of other packs into new ones of one kind. Used by one thread."""

    def __init__(self, lake: Lake, kind: PackKind) -> None:
        self._lake, self._kind = lake, kind
        self._encoder = FrameEncoder(kind)
        self._writer: PackWriter | None = None
        self._done: list[Pack] = []
        self._chunks: list[Chunk] = []
        self._parts: list[bytes] = []
        self._size = 0

    def copy(self, pack: Pack, spots: set[Spot]) -> None:
        """Take over the chunks of a pack at these spots."""
        places = iter(pack.places())
        with reading_pack(self._lake, pack.id) as read:
            for frame in pack.frames:
                inside = [next(places) for _ in frame.chunks]
                wanted = [(chunk, place) for chunk, place in inside if spot_of(place) in spots]
                if wanted:
                    self._copy_frame(read, wanted, len(wanted) == len(inside))

    def _copy_frame(self, read: ReadAt, wanted: list[tuple[bytes, Place]], whole: bool) -> None:
        place = wanted[0][1]
        try:
            stored = read(place.offset, place.stored)
            plain = decode_frame(stored, place.plain, place.codec)
        except IntegrityError as error:
            where = f"pack {place.pack.hex()}, frame at {place.offset}"
            raise IntegrityError(f"{where}: {error}") from None
        parts = [plain[place.start : place.start + place.size] for _chunk, place in wanted]
        for (chunk, at), part in zip(wanted, parts, strict=True):
            if self._lake.objects.chunk_id(hashlib.sha256(part).digest()) != chunk:
                raise IntegrityError(
                    f"chunk {chunk.hex()} is damaged in pack {at.pack.hex()}, frame at {at.offset}"
                )
        if whole:
            chunks = tuple(Chunk(chunk, at.size) for chunk, at in wanted)
            self.add_frame(stored, len(plain), Codec(place.codec), chunks)
            return
        for (chunk, _at), part in zip(wanted, parts, strict=True):
            self.add_chunk(chunk, part)

    def add_chunk(self, chunk: bytes, plain: bytes) -> None:
        """Put a chunk, which was checked against its id, into a new frame."""
        if self._size and self._size + len(plain) > FRAME_LIMITS[self._kind]:
            self._close_frame()
        self._chunks.append(Chunk(chunk, len(plain)))
        self._parts.append(plain)
        self._size += len(plain)

    def _close_frame(self) -> None:
        if self._chunks:
            codec, stored = self._encoder.encode(b"".join(self._parts))
            self.add_frame(stored, self._size, codec, tuple(self._chunks))
            self._chunks, self._parts, self._size = [], [], 0

    def add_frame(self, stored: bytes, plain: int, codec: Codec, chunks: tuple[Chunk, ...]) -> None:
        """Take over a frame as it is stored; its chunks were checked against their ids."""
        if self._writer is None:
            self._writer = PackWriter(self._lake.disk, self._kind, self._lake.parity)
        self._writer.add_frame(stored, plain, codec, chunks)
        if self._writer.size >= PACK_BYTES:
            self._publish()

    def _publish(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        pack = writer.finish(lambda pack: self._lake.condemned.spare([pack]))
        if hash_pack(self._lake.path, pack.id) != pack.id:
            raise IntegrityError(f"pack {pack.id.hex()} does not read back as it was written")
        self._done.append(pack)

    def finish(self) -> list[Pack]:
        """All packs that were written."""
        self._close_frame()
        self._publish()
        return self._done

    def discard(self) -> None:
        """Drop what is not finished."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None
