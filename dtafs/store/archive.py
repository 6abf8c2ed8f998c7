"""Archiving by rules: what only old versions need goes to the tier that a rule names.

A pack moves when nothing in it is needed by a version that is not archived there too, nor by uncommitted
work. What newer versions share with old ones stays where it is, and so does a pack that also holds such;
it moves when those are archived. The packs move first, then the `archived` entry says so; a version of
which nothing can move by itself is archived as well, since what it needs goes with the others.

A crash leaves packs that have moved and no entry: the next run moves the rest and writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dtafs.core.format import PackKind
from dtafs.core.record_checks import encode_body
from dtafs.core.records import Archived, VersionRef
from dtafs.core.retention_plan import Item
from dtafs.core.values import Actor
from dtafs.errors import DtafsError
from dtafs.store.collect_reach import Reached
from dtafs.store.counting import counting
from dtafs.store.packs import read_footer
from dtafs.store.placement.moves import Moved, move_packs
from dtafs.store.placement.stubs import is_away, tiers_of
from dtafs.store.progress import Progress, Report

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

ENTRY_VERSIONS = 1_000
"""Versions that one entry archives."""


def archive(
    lake: Lake, actor: Actor, items: Sequence[Item], report: Report | None = None
) -> tuple[list[Item], dict[str, str]]:
    """Carry out the items of a plan that archive: those that are done, and what could not be moved and
    why. Nothing is said to be archived to a tier where something of it could not be moved there."""
    done: list[Item] = []
    left: dict[str, str] = {}
    for tier in sorted({item.tier for item in items}):
        mine = [item for item in items if item.tier == tier]
        try:
            lake.tier(tier)
        except DtafsError as error:
            left[f"tier {tier}"] = str(error)
            continue
        packs = _packs_for(lake, mine, tier, report)

        def tell(count: int, size: int, total: int = len(packs)) -> None:
            if report is not None:
                report(Progress("archive", count, size, total))

        moved = move_packs(lake, packs, tier, tell)
        if moved.left:
            left |= {f"packs/{pack.hex()}": why for pack, why in moved.left.items()}
            continue
        _record(lake, actor, mine, tier, moved)
        done += mine
    return done, left


def _packs_for(lake: Lake, items: Sequence[Item], tier: str, report: Report | None) -> list[bytes]:
    """The packs of content that only these versions need, and those that lie in the tier already."""
    found_rows = [lake.index.version(item.dataset, item.version) for item in items]
    rows = [row for row in found_rows if row is not None]
    with lake.condemned.collecting(), counting(lake, report) as counted:
        references, staged = counted.references, Reached(lake)
        try:
            staged.look_at_staging()
            before = {row.serial for row in lake.index.archived_to(tier)}
            chunks = references.alone([(row.serial, row.root) for row in rows], before)
            together = before | {row.serial for row in rows}
            found = []
            for pack in sorted({place.pack for place in lake.index.places_of(chunks).values()}):
                if tier in tiers_of(lake.path, pack) and is_away(lake.path, pack):
                    continue
                footer = read_footer(lake.path, pack)
                inside = [chunk.id for frame in footer.frames for chunk in frame.chunks]
                if footer.kind != PackKind.CONTENT or any(map(staged.needs_chunk, inside)):
                    continue
                if not references.needed_besides(inside, together):
                    found.append(pack)
            return found
        finally:
            staged.close()


def _record(lake: Lake, actor: Actor, items: Sequence[Item], tier: str, moved: Moved) -> None:
    """One entry for each dataset and rule, with what was moved for all of them in the first."""
    packs, size_bytes = moved.packs, moved.size_bytes
    for dataset, rule in sorted({(item.dataset, item.rule) for item in items}):
        some = [item for item in items if (item.dataset, item.rule) == (dataset, rule)]
        for start in range(0, len(some), ENTRY_VERSIONS):
            part = some[start : start + ENTRY_VERSIONS]
            refs = tuple(VersionRef(i.dataset, i.version, i.manifest) for i in part)
            body = Archived(refs, rule, part[0].authority, tier, packs, size_bytes)
            lake.record(dataset, "archived", encode_body(body), actor)
            packs = size_bytes = 0
