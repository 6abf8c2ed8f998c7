"""Asking the tiers that have a pack, one after the other, for bytes of it.

One that cannot be read, or that gave wrong bytes, is asked last. Thread-safe. Blocks on the network,
for as long as the tiers allow.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from dtafs.core.format import pack_key
from dtafs.core.placed import Stub
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, RecallError, StorageError
from dtafs.store.placement.stubs import Placed
from dtafs.store.tiers.base import Tier

TierOf = Callable[[str], Tier]
"""Gives the tier of a name; NotFoundError when this host knows none."""


class ArchivedError(RecallError):
    """A pack lies only in an archive."""

    def __init__(self, pack: bytes, tier: str) -> None:
        super().__init__(
            f"pack {pack.hex()} lies in the archive tier {tier!r} and must be recalled first: "
            "dtafsctl tier recall DATASET:V/PATH"
        )
        self.pack = pack


class Copies:
    """The copies of one lake's packs in its tiers."""

    def __init__(self, placed: Placed, tier_of: TierOf) -> None:
        self._placed, self._tier_of = placed, tier_of
        self._lock = threading.Lock()
        self._doubted: dict[bytes, set[str]] = {}
        self.fetched_bytes = self.requests = 0
        """What tiers gave so far."""

    def stub(self, pack: bytes) -> Stub:
        """Where a pack lies; IntegrityError when it is in no tier."""
        stub = self._placed.stub(pack)
        if stub is None or not stub.tiers:
            raise IntegrityError(f"pack {pack.hex()} is in no tier; run dtafsctl check")
        return stub

    def read(self, pack: bytes, offset: int, size: int) -> memoryview:
        """Bytes of a pack from the first tier that gives them; ArchivedError, StorageError,
        IntegrityError as `Far.read` says."""
        stub = self.stub(pack)
        while True:
            try:
                return self._read_from(stub, pack, offset, size)
            except DtafsError:
                before, stub = stub, self.stub(pack)
                if set(stub.tiers) <= set(before.tiers):
                    raise
                # It was moved on meanwhile, and is gone from where it was.

    def _read_from(self, stub: Stub, pack: bytes, offset: int, size: int) -> memoryview:
        doubted = self._doubted.get(pack, ())
        archived: str | None = None
        failure: DtafsError | None = None
        for name in sorted(stub.tiers, key=lambda name: name in doubted):
            try:
                tier = self._tier_of(name)
                if tier.needs_recall:
                    archived = archived or name
                    continue
                data = tier.view(pack_key(pack), offset, size)
                with self._lock:
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

    def doubt_first(self, pack: bytes) -> None:
        """Ask another tier first from now on, if there is one: what came of the pack was wrong."""
        with contextlib.suppress(DtafsError):
            stub = self._placed.stub(pack)
            tiers = stub.tiers if stub is not None else ()
            asked = [name for name in tiers if name not in self._doubted.get(pack, ())]
            if len(asked) > 1:
                self._doubt(pack, asked[0])
