"""What a disposition would destroy and what survives it, measured before anything is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.placement import HOT
from dtafs.core.records import Amount, Survivor, VersionRef
from dtafs.errors import IntegrityError
from dtafs.store.placement.stubs import tiers_of
from dtafs.store.reference_walks import Held
from dtafs.store.references import References

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dtafs.store.index import VersionRow
    from dtafs.store.lake import Lake


class Measure(NamedTuple):
    """The parts of a `disposed` entry that are counted."""

    destroyed: dict[str, Amount]
    survives: tuple[Survivor, ...]
    before: Amount
    after: Amount


def measure(
    lake: Lake,
    references: References,
    rows: Sequence[VersionRow],
    is_staged: Callable[[bytes], bool],
) -> Measure:
    """Count what would go with some versions, by tier, and what stays because of which others.

    `is_staged` says of a chunk whether uncommitted work needs it, which keeps it too.
    A pack counts once it holds some of it, also where it holds other things: then these are written to
    another pack first. `before` and `after` are of all that the log names.
    """
    found = references.dying([(row.serial, row.root) for row in rows])
    ids = sorted({key[1:] for key in found.dead})
    dead = [c for c in references.unneeded(ids, found.dead) if not is_staged(c)]
    places = lake.index.places_of(dead)
    packs: dict[bytes, list[int]] = {}
    for chunk, place in places.items():
        for at in (place, *lake.index.copies(chunk)):
            packs.setdefault(at.pack, []).append(at.size)
    size = sum(place.size for place in places.values())
    by_tier: dict[str, Amount] = {HOT: Amount()}
    for pack, sizes in packs.items():
        for tier in _tiers_with(lake, pack):
            known_of = by_tier.get(tier, Amount())
            by_tier[tier] = Amount(
                known_of.packs + 1, known_of.chunks + len(sizes), known_of.size_bytes + sum(sizes)
            )
    known = dict(lake.index.packs())
    before = Amount(len(known), lake.index.chunk_count(), sum(row.plain for row in known.values()))
    whole = sum(
        1 for pack, own in packs.items() if pack in known and known[pack].chunks == len(own)
    )
    after = Amount(before.packs - whole, before.chunks - len(places), before.size_bytes - size)
    return Measure(by_tier, _survivors(lake, found.survivors), before, after)


def _tiers_with(lake: Lake, pack: bytes) -> Iterator[str]:
    """Where a pack lies."""
    if lake.placed.is_hot(pack):
        yield HOT
    yield from tiers_of(lake.path, pack)


def _survivors(lake: Lake, held: Iterable[Held]) -> tuple[Survivor, ...]:
    """What survives, by the version that needs it; a node counts as one, with all that is below it."""
    counts: dict[int, tuple[int, int]] = {}
    for one in held:
        chunks, size = counts.get(one.because_of, (0, 0))
        counts[one.because_of] = chunks + 1, size + one.size
    found = []
    for serial, (chunks, size) in sorted(counts.items()):
        row = lake.index.version_by_serial(serial)
        if row is None:
            raise IntegrityError("the references of the lake name a version that is not there")
        ref = VersionRef(row.dataset, row.number, row.manifest_sha256.hex())
        found.append(Survivor(ref, chunks, size))
    return tuple(found)
