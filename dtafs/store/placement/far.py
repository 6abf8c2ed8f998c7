"""Reading packs that are not on the hot disk, from the tiers that have them, through a cache.

A tier that can be read is asked for ranges: first for what is wanted; where a reader goes straight on
through a pack, for twice as much each time; and for the rest of a pack as soon as half of it is there,
or when it follows one that was read to its end. So a lookup costs one small request, and a whole
file about one request for each FETCH_BYTES. What a reader that goes on needs next is fetched ahead of
it, by threads for that, and handed out from memory, of which there are HELD_BYTES; a failure of that is
nobody's: who needs the bytes asks again. What was fetched goes into unnamed files below `cache/` as well,
which are gone when the process ends, for at most so many bytes as the configuration says. Nothing in
either is trusted more than what comes from the tier, since every chunk is checked against its id.

A pack that is only in an archive raises ArchivedError at once: `dtafs.store.placement.recalls` brings it
back.

Thread-safe. Blocks on the network, for as long as the tiers allow.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dtafs.core.format import PACK_HEADER
from dtafs.errors import DtafsError, IntegrityError, StorageError
from dtafs.store.durable import Buffer, Disk
from dtafs.store.placement.cachefile import WRITE_BYTES, Buffers, CacheFile
from dtafs.store.placement.copies import Copies, TierOf
from dtafs.store.placement.pieces import SEGMENT_BYTES, FarPack, Piece
from dtafs.store.placement.stubs import Placed

FETCH_BYTES = 8 << 20
"""The most that one request asks for: what a thread holds in memory."""

FIRST_BYTES = 1 << 20
"""The most that a reader fetches itself beyond what it wants, before it goes on with that."""

AHEAD_BYTES = 3 * FETCH_BYTES
"""How far ahead of a reader that goes straight on its pack is fetched."""

AHEAD_THREADS = 2
"""Requests for what comes next that are under way at once; none waits for another."""

QUIET_S = 10.0
"""For so long after a failure nothing more of that pack is fetched ahead."""

HELD_BYTES = 32 << 20
"""What is held in memory over all packs: fetched ahead and not read yet."""

NEARBY_BYTES = 4 << 20
"""A read that begins so near to the one before goes straight on: a reader's threads overtake each other,
and so did those of who wrote the pack."""

PACKS_MAX = 4_096
"""Packs that something is remembered of, whether or not anything of them is kept."""

FLOW_S = 10.0
"""Within this time of the end of one pack, the first read of another begins a whole pack."""


class Far:
    """Reads the packs of one lake that are in its tiers."""

    def __init__(
        self, root: Path, disk: Disk, placed: Placed, tier_of: TierOf, cache_bytes: int
    ) -> None:
        self._root, self._disk, self._placed = root, disk, placed
        self._copies = Copies(placed, tier_of)
        self._limit = cache_bytes
        self._lock = threading.Lock()
        self._packs: OrderedDict[bytes, FarPack] = OrderedDict()
        self._bytes = 0
        self._flow_until_s = 0.0
        self._held: dict[Piece, FarPack] = {}
        self._held_bytes = self._reserved = self._at_work = 0
        self._threads: ThreadPoolExecutor | None = None
        self._buffers = Buffers()
        self.hits = 0
        """A counter, for `stats`."""

    @property
    def requests(self) -> int:
        """How many requests to tiers gave something."""
        return self._copies.requests

    @property
    def fetched_bytes(self) -> int:
        """How much they gave."""
        return self._copies.fetched_bytes

    @property
    def cached_bytes(self) -> int:
        """What the cache takes."""
        return self._bytes

    @property
    def held_bytes(self) -> int:
        """What is held in memory, or is being fetched ahead."""
        return self._held_bytes

    @property
    def at_work(self) -> int:
        """How many requests are made ahead."""
        return self._at_work

    def holds(self, pack: bytes) -> bool:
        """Whether a tier has a verified copy; IntegrityError when the stub is damaged."""
        stub = self._placed.stub(pack)
        return stub is not None and bool(stub.tiers)

    def is_near(self, pack: bytes, offset: int, size: int) -> bool:
        """Whether those bytes of a pack are on this machine."""
        with self._lock:
            found = self._packs.get(pack)
            return found is not None and found.is_near(offset, offset + size)

    def read(self, pack: bytes, offset: int, size: int) -> Buffer:
        """Bytes of a pack, which may be a view of more memory: to be dropped soon.

        ArchivedError when it must be recalled, StorageError when no tier that has it answers,
        IntegrityError when it is in none.
        """
        end = offset + size
        known = self._known(pack)
        if end > known.size:
            raise IntegrityError("a pack ends before the bytes that should be there")
        with self._lock:
            upto = self._ahead(known, offset, end)
            known.next = max(known.next, end) if known.step else end
            self.hits += known.is_near(offset, end)
        parts = []
        while offset < end:
            part = self._part(pack, known, offset, end, upto)
            offset += len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _part(self, pack: bytes, known: FarPack, at: int, end: int, upto: int) -> Buffer:
        """Bytes from `at` on, as many of them as come from one place."""
        while True:
            mine, until = False, at
            with self._lock:
                piece = known.piece_at(at)
                if piece is None:
                    until = known.kept_until(at, end)
                    if until == at:
                        mine, piece = True, self._begin(known, at, end, upto)
                self._begin_ahead(pack, known, end, upto)
            if piece is None:
                with known.lock:
                    if known.file is not None:  # nobody has given its room back meanwhile
                        return known.file.read(at, until - at)
                continue
            if mine:
                self._fetch(pack, known, piece)
            else:
                piece.done.wait()
            if piece.failure is None:
                self._let_go_behind(known, at)
                return piece.part(at, end)
            if mine or not piece.ahead:
                raise piece.failure
            # What was fetched ahead is nobody's failure: who needs it asks for that much, and no more.
            upto = end

    def _known(self, pack: bytes) -> FarPack:
        with self._lock:
            found = self._packs.get(pack)
            if found is not None:
                self._packs.move_to_end(pack)
                return found
        stub = self._copies.stub(pack)
        with self._lock:
            if len(self._packs) >= PACKS_MAX:
                empty = next((known for known, kept in self._packs.items() if not kept.kept), None)
                if empty is not None:
                    del self._packs[empty]
            return self._packs.setdefault(pack, FarPack(stub.size))

    def _ahead(self, known: FarPack, offset: int, end: int) -> int:
        """Up to where it is worth fetching for a reader of this range."""
        if known.kept * 2 >= len(known.have):
            return known.size
        first = offset - PACK_HEADER.size < NEARBY_BYTES and not known.kept and not known.pieces
        if first and time.monotonic() < self._flow_until_s:
            known.step = known.size
        elif first or abs(offset - known.next) > NEARBY_BYTES:
            known.step = 0
            return end
        else:
            known.step = max(2 * known.step, 4 * SEGMENT_BYTES, 2 * (end - offset))
        return min(known.size, offset + known.step)

    # Pieces: fetched by who needs them first, or ahead of a reader

    def _begin(self, known: FarPack, start: int, end: int, upto: int) -> Piece:
        """A piece that a reader fetches now: what it wants, and a little more if it goes on."""
        found = known.missing(start, max(end, min(upto, start + FIRST_BYTES)))
        assert found is not None
        return known.begin(found[0], min(found[1], _boundary(found[0])), ahead=False)

    def _begin_ahead(self, pack: bytes, known: FarPack, end: int, upto: int) -> None:
        """Begin what a reader that goes straight on needs next, as far as threads and memory are free."""
        horizon = min(known.size, upto, end + AHEAD_BYTES)
        if time.monotonic() < known.quiet_until_s:
            return
        while self._at_work < AHEAD_THREADS and self._packs.get(pack) is known:
            found = known.missing(end, horizon)
            if found is None:
                return
            start, stop = found[0], min(found[1], _boundary(found[0]))
            size = stop - start
            # Less than a whole request only where no more is missing.
            if stop % FETCH_BYTES and horizon <= stop < known.size:
                return
            if not self._free_memory(size):
                return
            piece = known.begin(start, stop, ahead=True)
            self._held[piece] = known
            self._held_bytes += size
            self._at_work += 1
            if self._threads is None:
                self._threads = ThreadPoolExecutor(AHEAD_THREADS, "dtafs-far-ahead")
            try:
                self._threads.submit(self._fetch_ahead, pack, known, piece)
            except RuntimeError:  # the process ends, or may have no more threads
                self._at_work -= 1
                piece.failure = StorageError("there is no thread to fetch it ahead")
                self._drop(known, piece)
                piece.done.set()
                return
            end = stop

    def _fetch_ahead(self, pack: bytes, known: FarPack, piece: Piece) -> None:
        try:
            self._fetch(pack, known, piece)
        finally:
            with self._lock:
                self._at_work -= 1

    def _fetch(self, pack: bytes, known: FarPack, piece: Piece) -> None:
        """Fetch a piece and tell who waits for it; then put it into the cache. Its failure, if any, is
        in the piece."""
        try:
            piece.data = self._copies.read(pack, piece.start, piece.end - piece.start)
        except DtafsError as error:
            piece.failure = error
        except BaseException:
            piece.failure = StorageError("what fetched it from a tier was interrupted")
            raise
        finally:
            if piece.failure is not None:
                known.step, known.quiet_until_s = 0, time.monotonic() + QUIET_S
                self._let_go(known, piece)
            piece.done.set()
        if piece.failure is not None:
            return
        if piece.end >= known.size:
            self._flow_until_s = time.monotonic() + FLOW_S
        piece.kept = self._keep(pack, known, piece)
        piece.settled = True
        wanted_soon = known.step > 0 or not piece.kept
        if not piece.ahead and not (wanted_soon and self._hold(pack, known, piece)):
            self._let_go(known, piece)

    def _hold(self, pack: bytes, known: FarPack, piece: Piece) -> bool:
        """Leave a piece in memory that is in no file, or that a reader goes on through, if there is room."""
        size = piece.end - piece.start
        with self._lock:
            if self._packs.get(pack) is not known or not self._free_memory(size):
                return False
            self._held[piece] = known
            self._held_bytes += size
            return True

    def _free_memory(self, size: int) -> bool:
        """Let go of the oldest pieces until so much more may be held; False when it may not."""
        for piece in [*self._held]:
            if self._held_bytes + size <= HELD_BYTES:
                break
            if piece.settled:
                self._drop(self._held[piece], piece)
        return self._held_bytes + size <= HELD_BYTES

    def _let_go(self, known: FarPack, piece: Piece) -> None:
        with self._lock:
            self._drop(known, piece)

    def _let_go_behind(self, known: FarPack, at: int) -> None:
        """Let go of what is in the file and no reader is likely to be at any more."""
        with self._lock:
            for piece in [*known.pieces]:
                if piece.kept and piece.end + NEARBY_BYTES <= at:
                    self._drop(known, piece)

    def _drop(self, known: FarPack, piece: Piece) -> None:
        known.drop(piece)
        if self._held.pop(piece, None) is not None:
            self._held_bytes -= piece.end - piece.start

    # The cache on the disk

    def _keep(self, pack: bytes, known: FarPack, piece: Piece) -> bool:
        """Put a piece into the cache; False when there is no room for it."""
        size = piece.end - piece.start
        if not self._make_room(size, pack):
            return False
        try:
            for start in range(piece.start, piece.end, WRITE_BYTES):
                if not self._write(pack, known, piece, start):
                    return False
            return True
        finally:
            with self._lock:
                self._reserved -= size

    def _write(self, pack: bytes, known: FarPack, piece: Piece, start: int) -> bool:
        part = piece.part(start, start + WRITE_BYTES)
        with known.lock:
            if self._packs.get(pack) is not known:
                return False
            try:
                if known.file is None:
                    known.file = CacheFile(self._disk, self._root / "cache", self._buffers)
                known.file.write(part, start)
            except DtafsError:
                return False
            with self._lock:
                if self._packs.get(pack) is known:
                    self._bytes += known.keep(start, start + len(part)) * SEGMENT_BYTES
        return True

    def _make_room(self, size: int, besides: bytes) -> bool:
        """Give up packs that were not read for longest, but for those that somebody reads just now;
        whether there is room now, which the caller has until it takes it from `_reserved`."""
        with self._lock:
            for pack, known in [*self._packs.items()]:
                if self._bytes + self._reserved + size <= self._limit:
                    break
                if pack == besides or not known.kept or not known.lock.acquire(blocking=False):
                    continue
                self._remove(pack, known)
                known.close()
                known.lock.release()
            if self._bytes + self._reserved + size > self._limit:
                return False
            self._reserved += size
            return True

    def _remove(self, pack: bytes, known: FarPack) -> None:
        """Take a pack out of the tables."""
        del self._packs[pack]
        self._bytes -= known.kept * SEGMENT_BYTES
        for piece in [*known.pieces]:
            self._drop(known, piece)

    def forget(self, pack: bytes) -> None:
        """Drop what is kept of a pack: it was deleted, or what came of it was wrong. Then another tier,
        if there is one, is asked for it first from now on."""
        with self._lock:
            known = self._packs.get(pack)
            if known is not None:
                self._remove(pack, known)
        if known is None:
            return
        with known.lock:
            known.close()
        self._copies.doubt_first(pack)

    def close(self) -> None:
        """Give all room back; returns when nothing is fetched ahead any more."""
        with self._lock:
            packs = list(self._packs.items())
            for pack, known in packs:
                self._remove(pack, known)
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()
        for _pack, known in packs:
            with known.lock:
                known.close()
        self._buffers.close()


def _boundary(offset: int) -> int:
    """Where a request that begins at an offset ends at the latest. Stores keep a large object in parts
    of some MiB, and read both where a range lies in two: so SeaweedFS took 0.9 s of a processor for a GiB
    instead of 0.7."""
    return (offset // FETCH_BYTES + 1) * FETCH_BYTES
