"""Repair, as far as other tiers go: stubs that are lost, copies that are wrong, packs that lie in a tier.

1. `mend_stubs`: a content pack that the log names, that is not on the hot disk and has no sound stub, is
   looked for in the tiers, and gets its stub again: of a tier that can be read, the footer is read there;
   of an archive, it is the one that the mirror has.
2. A pack that is damaged or missing is taken from a tier before it is made again by any other means
   (`from_tiers`, a source of `dtafs.store.repair_sources`).
3. `mend_copies`: every copy that can be read is read and hashed. One that is wrong or gone is put again
   where the pack lies elsewhere too; objects of which no stub tells are taken in, or deleted where the
   log, which must be whole, names no such pack.
4. `mend_mirror`: what the mirror has lost of log, metadata and footers is put there again.

Blocks; asks tiers, and reads all that can be read without a recall.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from dtafs.core.format import PackKind, decode_ends, pack_key
from dtafs.core.placed import Stub, decode_stub
from dtafs.errors import DtafsError, IntegrityError, RecallError
from dtafs.store.durable import TempFile
from dtafs.store.packs import read_ends
from dtafs.store.placement.moves import copy_pack, fetch_from
from dtafs.store.placement.removal import MIRROR, footer_key
from dtafs.store.placement.stubs import pack_of_name, read_stub, stubbed_packs
from dtafs.store.tiers.base import Tier, has_hash
from dtafs.store.tiers.mirror import lacking, mirror

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


def from_tiers(lake: Lake, pack: bytes) -> tuple[TempFile, str] | None:
    """A pack that a tier has, in a temporary file, and where it was; None where none gives its bytes."""
    for name in lake.tiers:
        with contextlib.suppress(DtafsError):  # absent, archived, or not to be had: the next one
            return fetch_from(lake, lake.tier(name), pack), f"tier {name}"
    return None


class TierRepair:
    """One repair of what tiers have."""

    def __init__(self, lake: Lake, dry_run: bool) -> None:
        self._lake, self._dry_run = lake, dry_run
        self.facts: dict[str, int] = {"stubs": 0, "copies": 0, "deleted": 0, "mirrored": 0}
        self.lost: dict[bytes, str] = {}
        """Packs whose only copy is wrong, and what is wrong."""
        self._listed: dict[str, dict[bytes, int]] = {}
        for name in lake.tiers:
            try:
                found = lake.tier(name).keys("packs/")
                named = ((pack_of_name(key.rpartition("/")[2]), size) for key, size in found)
                self._listed[name] = {pack: size for pack, size in named if pack is not None}
            except DtafsError:
                continue  # the check says so; what it has is left alone

    # Stubs

    def mend_stubs(self, wanted: Iterable[bytes]) -> None:
        """Give content packs that only tiers have their stubs again."""
        lake = self._lake
        bare = []
        for pack in wanted:
            row = lake.index.pack(pack)
            if row is not None and row.kind != PackKind.CONTENT:
                continue
            stub = self._stub(pack)
            if not lake.placed.is_hot(pack) and (stub is None or not stub.tiers):
                bare.append(pack)
        for pack in bare:
            for name in self._having(pack):
                if self._stub_by_reading(name, pack) or self._stub_from_mirror(name, pack):
                    break

    def _having(self, pack: bytes) -> list[str]:
        return [name for name, listed in self._listed.items() if pack in listed]

    def _stub(self, pack: bytes) -> Stub | None:
        """The stub of a pack; a damaged one counts as none, and goes where the pack is hot."""
        lake = self._lake
        try:
            return read_stub(lake.path, pack)
        except IntegrityError:
            if lake.placed.is_hot(pack) and not self._dry_run:
                with lake.placed.lock:
                    lake.placed.remove(pack)
            return None

    def _stub_by_reading(self, name: str, pack: bytes) -> bool:
        tier, size = self._lake.tier(name), self._listed[name][pack]
        try:
            ends = read_ends(partial(tier.read, pack_key(pack)), size)
            decode_ends(ends, size)
        except DtafsError:
            return False
        self._save(Stub(pack, size, ends, {}), name)
        return True

    def _stub_from_mirror(self, name: str, pack: bytes) -> bool:
        """Of a pack in an archive, from the footer that the mirror has."""
        lake = self._lake
        if MIRROR not in lake.tiers:
            return False
        try:
            stub = decode_stub(lake.tier(MIRROR).read(footer_key(pack)), pack)
            decode_ends(stub.ends, stub.size)
        except DtafsError:
            return False
        if stub.size != self._listed[name][pack]:
            return False
        self._save(stub, name)
        return True

    def _save(self, stub: Stub, name: str) -> None:
        self.facts["stubs"] += 1
        if not self._dry_run:
            now_ns = self._lake.now_ns()
            with self._lake.placed.lock:
                self._lake.placed.save(stub._replace(copies={name: now_ns}))

    # Copies

    def mend_copies(self, wanted: Iterable[bytes], whole: bool) -> None:
        """Put right the copies in tiers; with `whole` also what no stub and no log entry tells of."""
        lake, needed = self._lake, set(wanted)
        for pack in stubbed_packs(lake.path):
            stub = self._stub(pack)
            for name in stub.copies if stub is not None else ():
                if name in self._listed and not self._is_sound(lake.tier(name), pack):
                    self._put_again(pack, name)
        for name, listed in self._listed.items():
            for pack in listed:
                if self._is_told_of(pack, name):
                    continue
                if pack in needed and lake.placed.is_hot(pack):
                    self._put_again(pack, name)
                elif pack not in needed and whole:
                    self.facts["deleted"] += 1
                    if not self._dry_run:
                        lake.tier(name).delete(pack_key(pack))

    def mend_mirror(self) -> None:
        """Put again what the mirror has lost; one that cannot be used, or does not answer, is left alone."""
        if MIRROR not in self._listed:
            return
        with contextlib.suppress(DtafsError):  # which `tier list` says
            gone = lacking(self._lake)
            if gone and not self._dry_run:
                mirror(self._lake, anew=True)
            self.facts["mirrored"] += len(gone)

    def _is_told_of(self, pack: bytes, name: str) -> bool:
        lake = self._lake
        row = lake.index.pack(pack)
        if lake.placed.is_doomed(pack) or (row is not None and row.kind != PackKind.CONTENT):
            return True
        stub = self._stub(pack)
        return stub is not None and name in stub.copies

    def _is_sound(self, tier: Tier, pack: bytes) -> bool:
        size = self._listed[tier.name].get(pack)
        stub = self._stub(pack)
        if stub is None or size != stub.size or not stub.copies.get(tier.name):
            return False
        try:
            return has_hash(tier, pack_key(pack), pack)
        except RecallError:
            return True  # it is there, of the right size

    def _put_again(self, pack: bytes, name: str) -> None:
        lake = self._lake
        with lake.placed.lock:
            stub = self._stub(pack)
            others = [n for n in stub.tiers if n != name] if stub is not None else []
            if not lake.placed.is_hot(pack) and not others:
                problem = f"tier {name!r} has the only copy of pack {pack.hex()}, which is gone or altered"
                self.lost[pack] = problem
                return
            self.facts["copies"] += 1
            if self._dry_run:
                return
            if stub is not None:
                lake.placed.save(stub._replace(copies={**stub.copies, name: 0}))
        lake.far.forget(pack)
        copy_pack(lake, pack, name)
