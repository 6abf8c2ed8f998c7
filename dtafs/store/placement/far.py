"""Reading packs that are not on the hot disk, from the tiers that have them, through a cache.

A tier that can be read is asked for ranges: first for what is wanted; where a reader goes straight on
through a pack, for twice as much each time; and for the rest of a pack as soon as half of it was asked
for, or when it follows one that was read to its end. So a lookup costs one small request, and a whole
file about one request for each FETCH_BYTES. What was fetched stays in unnamed files below `cache/`, which
are gone when the process ends, for at most so many bytes as the configuration says; nothing in them is
trusted more than what comes from the tier, since every chunk is checked against its id.

A pack that is only in an archive raises ArchivedError at once: `dtafs.store.placement.recalls` brings it
back. Where several tiers have a pack, one that cannot be read, or that gave wrong bytes, is asked last.

Thread-safe. Blocks on the network, for as long as the tiers allow.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from dtafs.core.format import PACK_HEADER, pack_key
from dtafs.core.placed import Stub
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, RecallError, StorageError
from dtafs.store.durable import Disk, read_at
from dtafs.store.placement.stubs import Placed
from dtafs.store.tiers.base import Tier

SEGMENT_BYTES = 64 * 1024
"""What is remembered as there or not there, and the least that is fetched."""

FETCH_BYTES = 8 << 20
"""The most that one request asks for: what a thread holds in memory."""

NEARBY_BYTES = 4 << 20
"""A read that begins so near to the one before goes straight on: a reader's threads overtake each other,
and so did those of who wrote the pack."""

PACKS_MAX = 4_096
"""Packs that something is remembered of, whether or not anything of them is kept."""

FLOW_S = 10.0
"""Within this time of the end of one pack, the first read of another begins a whole pack."""

TierOf = Callable[[str], Tier]
"""Gives the tier of a name; NotFoundError when this host knows none."""


class ArchivedError(RecallError):
    """A pack lies only in an archive."""

    def __init__(self, pack: bytes, tier: str) -> None:
        super().__init__(
            f"pack {pack.hex()} lies in the archive tier {tier!r} and must be recalled first: "
            "dtafsctl tier recall DATASET:V PATH"
        )
        self.pack = pack


class FarPack:
    """What this process has of one pack."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.lock = threading.Lock()
        """Held while something is fetched: who wants the same waits for it."""
        self.fd = -1
        self.have = bytearray(-(-size // SEGMENT_BYTES))
        self.kept = 0
        """Segments that are there."""
        self.next = PACK_HEADER.size
        """Where a reader that goes straight on reads next."""
        self.step = 0
        """How much was asked for the last time that one did."""

    def missing(self, offset: int, end: int) -> tuple[int, int] | None:
        """The first run of segments of a range that are not there, in bytes; None if all are."""
        first, last = offset // SEGMENT_BYTES, -(-end // SEGMENT_BYTES)
        start = self.have.find(0, first, last)
        if start < 0:
            return None
        stop = self.have.find(1, start, last)
        return start * SEGMENT_BYTES, min(self.size, (last if stop < 0 else stop) * SEGMENT_BYTES)

    def close(self) -> None:
        """Give the room back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.have = bytearray(len(self.have))
        self.kept = 0


class Far:
    """Reads the packs of one lake that are in its tiers."""

    def __init__(
        self, root: Path, disk: Disk, placed: Placed, tier_of: TierOf, cache_bytes: int
    ) -> None:
        self._root, self._disk, self._placed, self._tier_of = root, disk, placed, tier_of
        self._limit = cache_bytes
        self._lock = threading.Lock()
        self._packs: OrderedDict[bytes, FarPack] = OrderedDict()
        self._bytes = 0
        self._doubted: dict[bytes, set[str]] = {}
        self._flow_until_s = 0.0
        self.fetched_bytes = self.requests = self.hits = 0
        """Counters, for `stats`."""

    @property
    def cached_bytes(self) -> int:
        """What the cache takes."""
        return self._bytes

    def holds(self, pack: bytes) -> bool:
        """Whether a tier has a verified copy; IntegrityError when the stub is damaged."""
        stub = self._placed.stub(pack)
        return stub is not None and bool(stub.tiers)

    def is_near(self, pack: bytes, offset: int, size: int) -> bool:
        """Whether those bytes of a pack are in the cache."""
        with self._lock:
            found = self._packs.get(pack)
        return found is not None and found.missing(offset, offset + size) is None

    def read(self, pack: bytes, offset: int, size: int) -> bytes:
        """Bytes of a pack.

        ArchivedError when it must be recalled, StorageError when no tier that has it answers,
        IntegrityError when it is in none.
        """
        end = offset + size
        while True:
            known = self._known(pack)
            if end > known.size:
                raise IntegrityError("a pack ends before the bytes that should be there")
            with known.lock:
                if self._packs.get(pack) is known:  # nobody has given its room back meanwhile
                    return self._read(pack, known, offset, size)

    def _read(self, pack: bytes, known: FarPack, offset: int, size: int) -> bytes:
        end = offset + size
        wanted = known.missing(offset, end)
        ahead = self._ahead(known, offset, end)
        known.next = max(known.next, end) if known.step else end
        if wanted is None:
            self.hits += 1
            return read_at(known.fd, size, offset)
        start, data = self._fetch(pack, known, wanted, ahead)
        if self._keep(pack, known, start, data):
            return read_at(known.fd, size, offset)
        if start <= offset and end <= start + len(data):
            return data[offset - start : end - start]
        return self._from_tiers(pack, offset, size)

    def _known(self, pack: bytes) -> FarPack:
        with self._lock:
            found = self._packs.get(pack)
            if found is not None:
                self._packs.move_to_end(pack)
                return found
        stub = self._stub(pack)
        with self._lock:
            if len(self._packs) >= PACKS_MAX:
                empty = next((known for known, kept in self._packs.items() if not kept.kept), None)
                if empty is not None:
                    del self._packs[empty]
            return self._packs.setdefault(pack, FarPack(stub.size))

    def _stub(self, pack: bytes) -> Stub:
        stub = self._placed.stub(pack)
        if stub is None or not stub.tiers:
            raise IntegrityError(f"pack {pack.hex()} is in no tier; run dtafsctl check")
        return stub

    def _ahead(self, known: FarPack, offset: int, end: int) -> int:
        """Up to where it is worth fetching for a reader of this range."""
        if known.kept * 2 >= len(known.have):
            return known.size
        first = offset == PACK_HEADER.size and known.kept == 0
        if first and time.monotonic() < self._flow_until_s:
            known.step = known.size
        elif first or abs(offset - known.next) > NEARBY_BYTES:
            known.step = 0
            return end
        else:
            known.step = max(2 * known.step, 4 * SEGMENT_BYTES, 2 * (end - offset))
        return min(known.size, offset + known.step)

    def _fetch(
        self, pack: bytes, known: FarPack, wanted: tuple[int, int], upto: int
    ) -> tuple[int, bytes]:
        """Fetch what is missing, on to `upto` or for FETCH_BYTES; where it begins, and the bytes."""
        start = wanted[0]
        end = max(wanted[1], min(upto, start + FETCH_BYTES))
        last = -(-end // SEGMENT_BYTES)
        there = known.have.find(1, start // SEGMENT_BYTES, last)
        end = min(known.size, (last if there < 0 else there) * SEGMENT_BYTES)
        data = self._from_tiers(pack, start, end - start)
        if end >= known.size:
            self._flow_until_s = time.monotonic() + FLOW_S
        return start, data

    def _keep(self, pack: bytes, known: FarPack, start: int, data: bytes) -> bool:
        """Put bytes into the cache; False when there is no room for them."""
        if len(data) > self._limit:
            return False
        self._make_room(len(data), pack)
        try:
            if known.fd < 0:
                known.fd = self._disk.unnamed(self._root / "cache")
            self._disk.check_room(known.fd, len(data))
            self._disk.write(known.fd, data, start)
        except DtafsError:
            return False
        first, last = start // SEGMENT_BYTES, -(-(start + len(data)) // SEGMENT_BYTES)
        with self._lock:
            fresh = known.have.count(0, first, last)
            known.have[first:last] = b"\1" * (last - first)
            known.kept += fresh
            if self._packs.get(pack) is known:
                self._bytes += fresh * SEGMENT_BYTES
        return True

    def _make_room(self, size: int, besides: bytes) -> None:
        """Give up packs that were not read for longest, but for those that somebody reads just now."""
        with self._lock:
            for pack, known in [*self._packs.items()]:
                if self._bytes + size <= self._limit:
                    return
                if pack == besides or not known.kept or not known.lock.acquire(blocking=False):
                    continue
                self._bytes -= known.kept * SEGMENT_BYTES
                del self._packs[pack]
                known.close()
                known.lock.release()

    def _from_tiers(self, pack: bytes, offset: int, size: int) -> bytes:
        """Bytes of a pack from the first tier that gives them."""
        stub = self._stub(pack)
        doubted = self._doubted.get(pack, ())
        archived: str | None = None
        failure: DtafsError | None = None
        for name in sorted(stub.tiers, key=lambda name: name in doubted):
            try:
                tier = self._tier_of(name)
                if tier.needs_recall:
                    archived = archived or name
                    continue
                data = tier.read(pack_key(pack), offset, size)
                self.requests += 1
                self.fetched_bytes += len(data)
                if len(data) == size:
                    return data
                problem = f"tier {name!r} has only a part of pack {pack.hex()}; run dtafsctl repair"
                failure = IntegrityError(problem)
            except NotFoundError as error:
                text = f"pack {pack.hex()} cannot be read from tier {name!r}: {error}"
                failure = failure or StorageError(text)
            except DtafsError as error:
                failure = failure or error
            self._doubt(pack, name)
        if archived is not None:
            raise ArchivedError(pack, archived)
        assert failure is not None
        raise failure

    def _doubt(self, pack: bytes, name: str) -> None:
        with self._lock:
            if len(self._doubted) > 4096:
                self._doubted.clear()
            self._doubted.setdefault(pack, set()).add(name)

    def forget(self, pack: bytes) -> None:
        """Drop what is kept of a pack: it was deleted, or what came of it was wrong. Then another tier,
        if there is one, is asked for it first from now on."""
        with self._lock:
            known = self._packs.pop(pack, None)
            if known is not None:
                self._bytes -= known.kept * SEGMENT_BYTES
        if known is None:
            return
        with known.lock:
            known.close()
        with contextlib.suppress(DtafsError):
            stub = self._placed.stub(pack)
            tiers = stub.tiers if stub is not None else ()
            asked = [name for name in tiers if name not in self._doubted.get(pack, ())]
            if len(asked) > 1:
                self._doubt(pack, asked[0])

    def close(self) -> None:
        """Give all room back."""
        with self._lock:
            packs = list(self._packs.values())
            self._packs.clear()
            self._bytes = 0
        for known in packs:
            with known.lock:
                known.close()
