"""Packs: writing them in one pass, reading frames and footers back.

A pack is published under the SHA-256 of its bytes only when it is whole and durable. A crash before
that leaves a file in `tmp/`, which the next exclusive open removes. Readers check all that they use:
the frame's decoded size here, the identity of a chunk in `dtafs.store.objects`.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import zstandard

from dtafs.core.format import (
    PACK_HEADER,
    PACK_TRAILER,
    Chunk,
    Codec,
    Frame,
    PackKind,
    decode_ends,
    decode_trailer,
    encode_pack_end,
    encode_pack_header,
    pack_key,
)
from dtafs.core.parity import parity_key
from dtafs.errors import (
    DtafsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    TooManyOpenError,
)
from dtafs.store.durable import Buffer, Disk, TempFile, open_for_reading, read_at, translated
from dtafs.store.parity import write_parity
from dtafs.store.placement.stubs import is_away, read_stub

FAST, THOROUGH, SLOW = 1, 3, 9
"""Levels of zstandard. FAST stores as little of tables as any up to 5; THOROUGH stores 5 % less of JSON
and 6 % more of tables; SLOW is for metadata, of which there is little."""

TRIAL_FRAMES = 16
"""Of so many frames one is compressed at both levels of content; the better serves the others."""

RAW_SAVING = 0.05
"""A frame that compression does not make smaller by this share is stored raw, to be read faster."""

_local = threading.local()


class Place(NamedTuple):
    """Where a chunk lies: its frame in a pack, and `size` bytes from `start` of the decoded frame."""

    pack: bytes
    offset: int
    stored: int
    plain: int
    codec: int
    start: int
    size: int


class Pack(NamedTuple):
    """A pack as its footer describes it; `size` in bytes."""

    id: bytes
    kind: PackKind
    size: int
    frames: tuple[Frame, ...]

    def places(self) -> list[tuple[bytes, Place]]:
        """Every chunk of the pack with its place."""
        found = []
        offset = PACK_HEADER.size
        for frame in self.frames:
            start = 0
            for chunk in frame.chunks:
                place = Place(
                    self.id, offset, frame.stored, frame.plain, frame.codec, start, chunk.size
                )
                found.append((chunk.id, place))
                start += chunk.size
            offset += frame.stored
        return found


def _compressed(plain: bytes, level: int) -> bytes:
    """`plain` as a Zstandard frame; any thread.

    The compressor's parameters are those of its level for an input of unknown size: what zstandard
    chooses for 256 KiB stores 1 to 2 % more.
    """
    compressors = getattr(_local, "compressors", None)
    if compressors is None:
        compressors = _local.compressors = {}
    if level not in compressors:
        parameters = zstandard.ZstdCompressionParameters.from_level(level)
        compressors[level] = zstandard.ZstdCompressor(compression_params=parameters)
    packed: bytes = compressors[level].compress(plain)
    return packed


class FrameEncoder:
    """Compresses the frames of one pack after the other, at the level that suits what comes.

    Any thread may call it: threads that count at once at worst try once more or less.
    """

    def __init__(self, kind: PackKind) -> None:
        self._level = SLOW if kind == PackKind.METADATA else FAST
        self._tries = kind == PackKind.CONTENT
        self._count = 0

    def encode(self, plain: bytes) -> tuple[Codec, bytes]:
        """A frame as it is stored: raw where compression saves too little."""
        count, self._count = self._count, self._count + 1
        if self._tries and count % TRIAL_FRAMES == 0:
            packed = _compressed(plain, FAST)
            other = _compressed(plain, THOROUGH)
            self._level = FAST if len(packed) <= len(other) else THOROUGH
            packed = min(packed, other, key=len)
        else:
            packed = _compressed(plain, self._level)
        if len(packed) > len(plain) * (1 - RAW_SAVING):
            return Codec.RAW, plain
        return Codec.ZSTD, packed


def encodings(plain: bytes, codec: int) -> Iterator[bytes]:
    """The ways in which this release may have stored a frame with that codec."""
    if codec == Codec.RAW:
        yield plain
        return
    for level in (FAST, THOROUGH, SLOW):
        yield _compressed(plain, level)


def decode_frame(stored: Buffer, plain: int, codec: int) -> bytes:
    """The plain bytes of a frame; IntegrityError unless there are exactly `plain` of them."""
    if codec == Codec.RAW:
        data = bytes(stored)
    else:
        decompressor = getattr(_local, "decompressor", None)
        if decompressor is None:
            decompressor = _local.decompressor = zstandard.ZstdDecompressor()
        try:
            # The size in the frame decides what is allocated, so it is checked first.
            if zstandard.frame_content_size(stored) != plain:
                raise IntegrityError("a frame says another size than the footer of its pack")
            data = decompressor.decompress(stored)
        except zstandard.ZstdError as error:
            raise IntegrityError(f"a frame does not decompress: {error}") from None
    if len(data) != plain:
        raise IntegrityError("a frame decodes to another size than its pack says")
    return data


class PackWriter:
    """Writes one pack. Used by one thread at a time."""

    def __init__(self, disk: Disk, kind: PackKind, parity: int = 0) -> None:
        """`parity`: how many percent of it a lake's packs have."""
        self._disk, self.kind, self._parity = disk, kind, parity
        self._temp: TempFile = disk.temp()
        self._hash = hashlib.sha256()
        self.frames: list[Frame] = []
        try:
            self._write(encode_pack_header(kind))
        except BaseException:
            self._temp.discard()
            raise

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._temp.size

    def _write(self, data: bytes) -> None:
        self._temp.write(data)
        self._hash.update(data)

    def add_frame(self, stored: bytes, plain: int, codec: Codec, chunks: tuple[Chunk, ...]) -> None:
        """Append a frame that a `FrameEncoder` made of these chunks."""
        assert sum(chunk.size for chunk in chunks) == plain
        self._write(stored)
        self.frames.append(Frame(len(stored), plain, codec, chunks))

    def finish(self, claim: Callable[[bytes], object]) -> Pack:
        """Make the pack durable, then its parity, and give its id. A pack that exists already is the
        same pack: so that nobody deletes it, `claim` is called with the id before that is looked at."""
        parity: TempFile | None = None
        try:
            self._write(encode_pack_end(self.frames))
            pack, size = self._hash.digest(), self._temp.size
            claim(pack)
            target = self._disk.root / pack_key(pack)
            self._disk.make_directory(target.parent)
            if self._parity:
                parity = write_parity(self._disk, self._temp.read, size, pack, self._parity)
                self._disk.make_directory((self._disk.root / parity_key(pack)).parent)
        except BaseException:
            self._temp.discard()
            if parity is not None:
                parity.discard()
            raise
        try:
            self._temp.publish(target)
            if parity is not None:
                parity.publish(self._disk.root / parity_key(pack))
        finally:
            if parity is not None:
                parity.discard()
        return Pack(pack, self.kind, size, tuple(self.frames))

    def discard(self) -> None:
        """Forget the pack."""
        self._temp.discard()


class AbsentError(IntegrityError):
    """A pack is not on the hot disk."""


def read_footer(root: Path, pack: bytes) -> Pack:
    """What a pack holds, from its footer, or from its stub where it is away; IntegrityError, naming
    the pack, when it is damaged."""
    try:
        return read_footer_of(root / pack_key(pack), pack)
    except AbsentError:
        stub = read_stub(root, pack)
        if stub is None or not stub.tiers:
            raise
        try:
            kind, frames = decode_ends(stub.ends, stub.size)
        except IntegrityError as error:
            raise IntegrityError(f"the stub of pack {pack.hex()}: {error}") from None
        return Pack(pack, kind, stub.size, tuple(frames))


def read_footer_of(path: Path, pack: bytes) -> Pack:
    """As `read_footer`, of a file wherever it is; `pack` is the id that it goes by."""
    try:
        fd = open_for_reading(path)
    except (RefusedError, TooManyOpenError):
        raise  # nothing is wrong with the pack
    except NotFoundError as error:
        raise AbsentError(f"pack {pack.hex()} cannot be read: {error}") from None
    except DtafsError as error:
        raise IntegrityError(f"pack {pack.hex()} cannot be read: {error}") from None
    try:
        size = os.fstat(fd).st_size
        kind, frames = decode_ends(read_ends(partial(_read_at, fd), size), size)
    except IntegrityError as error:
        raise IntegrityError(f"pack {pack.hex()}: {error}") from None
    finally:
        os.close(fd)
    return Pack(pack, kind, size, tuple(frames))


def _read_at(fd: int, offset: int, size: int) -> bytes:
    return read_at(fd, size, offset)


def read_ends(read: Callable[[int, int], bytes], size: int) -> bytes:
    """Header, footer and trailer of a pack of `size` bytes, of which `read(offset, size)` gives a
    part; IntegrityError where it does not end as a pack."""
    if size < PACK_HEADER.size + PACK_TRAILER.size:
        raise IntegrityError("the pack is too short")
    trailer = read(size - PACK_TRAILER.size, PACK_TRAILER.size)
    footer_size, _count, _digest = decode_trailer(trailer, size)
    footer = read(size - PACK_TRAILER.size - footer_size, footer_size)
    return read(0, PACK_HEADER.size) + footer + trailer


class PackPresence:
    """Remembers which packs are there, for the length of one operation: one `stat` for each."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[bytes, bool] = {}

    def __call__(self, pack: bytes) -> bool:
        """Whether a pack is there, on the hot disk or in another tier, damaged or not."""
        found = self._known.get(pack)
        if found is None:
            found = (self._root / pack_key(pack)).exists() or is_away(self._root, pack)
            self._known[pack] = found
        return found


def hash_pack(root: Path, pack: bytes) -> bytes:
    """The SHA-256 of all bytes of a pack on the hot disk, which should be its id. NotFoundError when it is
    not there, StorageError when it cannot be read."""
    fd = open_for_reading(root / pack_key(pack))
    with open(fd, "rb", buffering=0) as file, translated("reading a pack"):
        return hashlib.file_digest(file, "sha256").digest()
