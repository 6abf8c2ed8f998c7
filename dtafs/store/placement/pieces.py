"""What a process has of a pack that is in a tier: pieces in memory, and segments in a file of the cache."""

from __future__ import annotations

import threading

from dtafs.core.format import PACK_HEADER
from dtafs.errors import DtafsError
from dtafs.store.placement.cachefile import ALIGNED_BYTES, CacheFile

SEGMENT_BYTES = ALIGNED_BYTES
"""What is remembered as there or not there, and the least that is fetched."""

ABSENT, KEPT, HELD = 0, 1, 2
"""A segment is nowhere here; in the file; in a piece, or coming with one."""


def segments(start: int, end: int) -> tuple[int, int]:
    """The segments that a range of bytes touches: the first, and the one after the last."""
    return start // SEGMENT_BYTES, -(-end // SEGMENT_BYTES)


class Piece:
    """A range of a pack that somebody fetches, or that is in memory.

    It begins with a segment, and ends with one or with the pack.
    """

    __slots__ = ("ahead", "data", "done", "end", "failure", "kept", "settled", "start")

    def __init__(self, start: int, end: int, ahead: bool) -> None:
        self.start, self.end, self.ahead = start, end, ahead
        """`ahead`: nobody has asked for it yet."""
        self.done = threading.Event()
        """It is there, or `failure` says why not."""
        self.data = memoryview(b"")
        self.failure: DtafsError | None = None
        self.settled = self.kept = False
        """Nobody is going to write it into the cache any more; it is all there."""

    @property
    def is_there(self) -> bool:
        """Whether its bytes can be had at once."""
        return self.done.is_set() and self.failure is None

    def part(self, start: int, end: int) -> memoryview:
        """Its bytes of a range that begins within it: up to the end of the range, or its own."""
        return self.data[start - self.start : end - self.start]


class FarPack:
    """What this process has of one pack. All but the file is guarded by the lock of `Far`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.Lock()
        """Held while the file is read, written or closed."""
        self.file: CacheFile | None = None
        self.have = bytearray(-(-size // SEGMENT_BYTES))
        """ABSENT, KEPT or HELD, by segment."""
        self.kept = 0
        """Segments that are in the file."""
        self.pieces: list[Piece] = []
        self.next = PACK_HEADER.size
        """Where a reader that goes straight on reads next."""
        self.step = 0
        """How much was asked for the last time that one did."""
        self.quiet_until_s = 0.0
        """Until then nothing is fetched ahead."""

    def missing(self, start: int, end: int) -> tuple[int, int] | None:
        """The first run of segments of a range that are not here, in bytes; None if all are."""
        first, last = segments(start, end)
        run = self.have.find(ABSENT, first, last)
        if run < 0:
            return None
        there = [self.have.find(what, run, last) for what in (KEPT, HELD)]
        stop = min((at for at in there if at >= 0), default=last)
        return run * SEGMENT_BYTES, min(self.size, stop * SEGMENT_BYTES)

    def is_near(self, start: int, end: int) -> bool:
        """Whether all of a range can be had without waiting for a tier."""
        while start < end:
            piece = self.piece_at(start)
            if piece is not None and not piece.is_there:
                return False
            until = piece.end if piece is not None else self.kept_until(start, end)
            if until <= start:
                return False
            start = until
        return True

    def piece_at(self, offset: int) -> Piece | None:
        """The piece that has a byte, or will have it."""
        for piece in self.pieces:
            if piece.start <= offset < piece.end:
                return piece
        return None

    def kept_until(self, start: int, end: int) -> int:
        """Up to where a range is in the file without a gap: `start` if not even its beginning is."""
        first, last = segments(start, end)
        while first < last and self.have[first] == KEPT:
            first += 1
        return max(start, min(end, first * SEGMENT_BYTES))

    def begin(self, start: int, end: int, ahead: bool) -> Piece:
        """A piece for a range of which nothing is here."""
        piece = Piece(start, end, ahead)
        self.pieces.append(piece)
        first, last = segments(start, end)
        self.have[first:last] = bytes((HELD,)) * (last - first)
        return piece

    def drop(self, piece: Piece) -> None:
        """Have a piece no longer: what of it is in the file stays."""
        if piece in self.pieces:
            self.pieces.remove(piece)
            first, last = segments(piece.start, piece.end)
            run = self.have[first:last]
            self.have[first:last] = run.replace(bytes((HELD,)), bytes((ABSENT,)))

    def keep(self, start: int, end: int) -> int:
        """Note that a range is in the file; how many segments of it were not."""
        first, last = segments(start, end)
        fresh = last - first - self.have.count(KEPT, first, last)
        self.have[first:last] = bytes((KEPT,)) * (last - first)
        self.kept += fresh
        return fresh

    def close(self) -> None:
        """Give the room back. Called with `lock` held."""
        if self.file is not None:
            self.file.close()
            self.file = None
        self.have = bytearray(len(self.have))
        self.kept = 0
