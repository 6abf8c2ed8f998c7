"""Mending one pack: making its very bytes again, or saving what can be read of it.

The ways to the very bytes, in this order: its parity; another lake that has the pack; writing it
again, with the frames that are sound as they are, and the others encoded again from chunks that are
found elsewhere; and the parity over the result of that. Whatever comes out must have the SHA-256
that names the pack. Frames are known from the footer or, where that is damaged, from the rows that
the index has of the pack.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.format import (
    PACK_HEADER,
    Chunk,
    Codec,
    Frame,
    PackKind,
    decode_pack_header,
    encode_pack_end,
    encode_pack_header,
    pack_key,
)
from dtafs.core.values import HASH_BYTES
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, StorageError
from dtafs.store.collect_rewrite import Repacker
from dtafs.store.durable import TempFile, open_for_reading
from dtafs.store.index_packs import decode_place
from dtafs.store.packs import Pack, Place, decode_frame, encodings, read_footer
from dtafs.store.parity import ParityFile, Read, reader_of
from dtafs.store.repair_sources import Sources, kind_of_chunk

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

FrameOf = list[tuple[bytes, Place]]
"""The chunks of a frame in order."""


class Mended(NamedTuple):
    """A pack's very bytes, in a temporary file, and how they came about."""

    temp: TempFile
    how: str


class Saved(NamedTuple):
    """What could be had of a pack: new packs with it, and the chunks that could not."""

    added: list[Pack]
    lost: list[bytes]
    chunks: int
    """How many are in `added`."""
    sources: list[str]
    """Where the chunks were found that the pack itself did not give."""


class PackMender:
    """Works on one pack; `close` it. Reads only, but for temporary files and what `save` writes."""

    def __init__(self, lake: Lake, pack: bytes, sources: Sources) -> None:
        self._lake, self.pack, self._sources = lake, pack, sources
        self._fd = -1
        with contextlib.suppress(DtafsError):
            self._fd = open_for_reading(lake.path / pack_key(pack))
        self._read: Read = reader_of(self._fd) if self._fd >= 0 else _nothing
        self._frames: list[FrameOf] | None = None

    def close(self) -> None:
        """Close the pack."""
        if self._fd >= 0:
            os.close(self._fd)

    def mend(self) -> Mended | None:
        """The pack as it was, or None."""
        temp = self._by_parity(self._read)
        if temp is not None:
            return Mended(temp, "parity")
        found = self._sources.pack(self._lake.disk, self.pack)
        if found is not None:
            return Mended(*found)
        return self._written_again()

    def _by_parity(self, read: Read) -> TempFile | None:
        try:
            with ParityFile(self._lake.path, self.pack) as parity:
                return parity.mend(self._lake.disk, read)
        except (IntegrityError, NotFoundError, StorageError):
            return None

    # Writing the pack again

    def frames(self) -> list[FrameOf]:
        """The frames in order, each with its chunks, as far as anything says."""
        if self._frames is None:
            rows, listed = self._rows(), []
            with contextlib.suppress(DtafsError):
                listed = read_footer(self._lake.path, self.pack).places()
            # The footer may be that of another pack, which was put here.
            if not {chunk for chunk, _place in rows} <= {chunk for chunk, _place in listed}:
                listed = rows
            self._frames = list(_by_frame(listed))
        return self._frames

    def _rows(self) -> FrameOf:
        """The rows of the index, and of uncommitted work, that lead into the pack."""
        lake, found = self._lake, set()
        with lake.index.database.read() as txn:
            for key, value in txn.scan("chunk"):
                if value.startswith(self.pack):
                    found.add((key, decode_place(value)))
            for key, value in txn.scan("copy"):
                if value.startswith(self.pack):
                    found.add((key[:HASH_BYTES], decode_place(value)))
        assert lake.pending is not None
        found.update(lake.pending.places_in(self.pack))
        return sorted(found, key=lambda pair: (pair[1].offset, pair[1].start))

    def _written_again(self) -> Mended | None:
        frames, temp = self.frames(), self._lake.disk.temp()
        found: set[str] = set()
        kind = self.kind()
        try:
            if not frames or kind is None or not self._write(temp, kind, frames, found):
                temp.discard()
                return None
            digest = hashlib.sha256()
            for start in range(0, temp.size, 1 << 20):
                digest.update(temp.read(start, min(1 << 20, temp.size - start)))
            if digest.digest() == self.pack:
                return Mended(temp, ", ".join(sorted(found)) or "what the index says of it")
            again = self._by_parity(lambda at, n: temp.read(at, max(0, min(n, temp.size - at))))
        except BaseException:
            temp.discard()
            raise
        temp.discard()
        how = ", ".join(["parity", *sorted(found)])
        return None if again is None else Mended(again, how)

    def _write(
        self, temp: TempFile, kind: PackKind, frames: list[FrameOf], found: set[str]
    ) -> bool:
        """Write the pack with every frame that can be had; False where frames are not known."""
        temp.write(encode_pack_header(kind))
        for frame in frames:
            first = frame[0][1]
            if first.offset != temp.size:
                return False
            stored = self._stored(frame)
            if self._plain(frame, stored) is None:
                stored = self._encoded(frame, stored, found) or stored
            temp.write(stored.ljust(first.stored, b"\0"))
        listed = []
        for frame in frames:
            at = frame[0][1]
            chunks = tuple(Chunk(chunk, place.size) for chunk, place in frame)
            listed.append(Frame(at.stored, at.plain, at.codec, chunks))
        temp.write(encode_pack_end(listed))
        return True

    def kind(self) -> PackKind | None:
        """The kind of the pack, by the index, its header or what is in it; None if nothing says."""
        row = self._lake.index.pack(self.pack)
        if row is not None:
            return PackKind(row.kind)
        with contextlib.suppress(IntegrityError):
            return decode_pack_header(self._read(0, PACK_HEADER.size))
        for frame in self.frames():
            plain = self._plain(frame, self._stored(frame))
            if plain is not None:
                place = frame[0][1]
                return kind_of_chunk(plain[place.start : place.start + place.size])
            found = self._sources.chunk(frame[0][0], self.pack)
            if found is not None:
                return found.kind
        return None

    def _stored(self, frame: FrameOf) -> bytes:
        place = frame[0][1]
        return self._read(place.offset, place.stored)

    def _plain(self, frame: FrameOf, stored: bytes) -> bytes | None:
        """The decoded frame, if it is sound and its chunks are what they must be."""
        place = frame[0][1]
        try:
            plain = decode_frame(stored, place.plain, place.codec)
        except IntegrityError:
            return None
        sound = all(_is(chunk, plain[at.start : at.start + at.size]) for chunk, at in frame)
        return plain if sound else None

    def _is_whole(self, frame: FrameOf, stored: bytes) -> bool:
        """Whether a frame is sound and all chunks in it are known, which rows need not say."""
        size = sum(place.size for _chunk, place in frame)
        return size == frame[0][1].plain and self._plain(frame, stored) is not None

    def _encoded(self, frame: FrameOf, stored: bytes, found: set[str]) -> bytes | None:
        """The frame as it was stored, from chunks that are found elsewhere."""
        parts, place = [], frame[0][1]
        for _chunk, data, where in self._chunks(frame, stored):
            if data is None:
                return None
            found |= {where} if where else set()
            parts.append(data)
        plain = b"".join(parts)
        ways = encodings(plain, place.codec) if len(plain) == place.plain else iter(())
        return next((stored for stored in ways if len(stored) == place.stored), None)

    # Saving what there is

    def save(self, dry_run: bool) -> Saved:
        """Write what can be had of the pack to new packs, or only count it."""
        lost: list[bytes] = []
        sources: set[str] = set()
        count, kind = 0, self.kind()
        out = Repacker(self._lake, kind) if kind is not None and not dry_run else None
        try:
            for frame in self.frames():
                stored = self._stored(frame)
                if self._is_whole(frame, stored):
                    count += len(frame)
                    if out is not None:
                        chunks = tuple(Chunk(chunk, at.size) for chunk, at in frame)
                        place = frame[0][1]
                        out.add_frame(stored, place.plain, Codec(place.codec), chunks)
                    continue
                for chunk, data, where in self._chunks(frame, stored):
                    if data is None:
                        lost.append(chunk)
                        continue
                    count += 1
                    sources |= {where} if where else set()
                    if out is not None:
                        out.add_chunk(chunk, data)
            added = out.finish() if out is not None else []
        finally:
            if out is not None:
                out.discard()
        return Saved(added, lost, count, sorted(sources))

    def _chunks(self, frame: FrameOf, stored: bytes) -> Iterator[tuple[bytes, bytes | None, str]]:
        """Each chunk of a frame: its bytes, or None, and where they were if not in the pack."""
        place, plain = frame[0][1], b""
        with contextlib.suppress(IntegrityError):
            plain = decode_frame(stored, place.plain, place.codec)
        for chunk, at in frame:
            data = plain[at.start : at.start + at.size]
            if _is(chunk, data):
                yield chunk, data, ""
                continue
            found = self._sources.chunk(chunk, self.pack)
            yield (chunk, None, "") if found is None else (chunk, found.data, found.where)


def _nothing(_offset: int, _size: int) -> bytes:
    return b""


def _is(chunk: bytes, data: bytes) -> bool:
    return hashlib.sha256(data).digest() == chunk


def _by_frame(places: FrameOf) -> Iterator[FrameOf]:
    frame: FrameOf = []
    for chunk, place in places:
        if frame and place.offset != frame[0][1].offset:
            yield frame
            frame = []
        frame.append((chunk, place))
    if frame:
        yield frame


def hash_file(path: Path) -> bytes:
    """The SHA-256 of all bytes of a file; empty where it cannot be read to its end."""
    try:
        with open(path, "rb", buffering=0) as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return b""
