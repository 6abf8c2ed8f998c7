"""Which packs the versions need that count for the policy: the newest, pinned and tagged ones.

A version never changes, so what it needs is found by one walk over its metadata and remembered for as
long as those packs are there: a collection that rewrites one makes another walk. Used by one thread at
a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from dtafs.store.collect_reach import Reached
from dtafs.store.index import VersionRow

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


class _Walk(Reached):
    """Gathers the packs that versions need, and nothing else of them."""

    def __init__(self, lake: Lake) -> None:
        super().__init__(lake)
        self.found: set[bytes] = set()

    def _mark(self, chunk: bytes, *, staged: bool) -> None:
        place = self._lake.locate(chunk)
        if place is not None:  # what is missing is for the check to say
            self.found.add(place.pack)


def packs_of_versions(lake: Lake, versions: Iterable[VersionRow]) -> set[bytes]:
    """The packs that versions need, each node walked once. Blocks."""
    walk = _Walk(lake)
    try:
        for row in versions:
            walk.look_at(row)
        return walk.found
    finally:
        walk.close()


class Needs:
    """What versions need, remembered."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._known: dict[int, frozenset[bytes]] = {}

    def of(self, row: VersionRow, named: Collection[bytes]) -> frozenset[bytes]:
        """The packs that a version needs; `named` are all packs that there are."""
        known = self._known.get(row.serial)
        if known is None or not all(pack in named for pack in known):
            known = frozenset(packs_of_versions(self._lake, [row]))
            self._known[row.serial] = known
        return known

    def keep(self, serials: Collection[int]) -> None:
        """Forget all versions but these."""
        self._known = {serial: known for serial, known in self._known.items() if serial in serials}
