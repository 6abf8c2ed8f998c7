"""The facts that the policy of tiers decides on, gathered from a lake; and its plan."""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

from dtafs.core.format import PackKind, pack_key
from dtafs.core.periods import DAY_NS
from dtafs.core.placement import Disk, PackFacts, Rules, Step, TierFacts, plan_placement
from dtafs.errors import DtafsError
from dtafs.store.durable import translated
from dtafs.store.index import VersionRow
from dtafs.store.index_packs import PackRow
from dtafs.store.placement.heat import Read
from dtafs.store.placement.needs import Needs, packs_of_versions
from dtafs.store.placement.pins import Pin, read_pins
from dtafs.store.placement.stubs import doomed_packs
from dtafs.store.placement.targets import packs_of_target, target_of_pin

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

UNREAD = Read(0, 0)
GIB = 1 << 30


class Planner:
    """Plans for one lake, remembering what versions need. Used by one thread at a time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._needs = Needs(lake)
        self._wanted: set[int] = set()

    def plan(self, now_ns: int | None = None) -> list[Step]:
        """What the policy of `config.toml` has to be done now; nothing without a tier.

        IntegrityError when the pins cannot be read.
        """
        lake = self._lake
        tiers = facts_of_tiers(lake)
        if not tiers:
            return []
        packs = self.facts()
        disk = disk_facts(lake, sum(pack.size for pack in packs if pack.hot))
        now_ns = time.time_ns() if now_ns is None else now_ns
        return plan_placement(packs, tiers, disk, rules_of(lake), now_ns)

    def facts(self) -> list[PackFacts]:
        """The content packs that the log names, but for those that are going to be deleted."""
        lake = self._lake
        condemned = lake.condemned.packs
        named = dict(lake.index.packs())
        rows = {
            dataset.name: [row for row in lake.index.versions(dataset.name) if not row.disposed]
            for dataset in lake.index.datasets()
        }
        newest = [found[-1] for found in rows.values() if found]
        current: set[bytes] = set()
        for row in newest:
            current |= self._needs.of(row, named)
        kept = self._kept(rows, named)
        archived = self._archived(rows, named)
        reads = lake.heat.reads()
        times = {
            (row.dataset, row.sequence): row.time_ns for found in rows.values() for row in found
        }
        found = []
        for pack, pack_row in named.items():
            if pack_row.kind != PackKind.CONTENT or pack in condemned:
                continue
            written_ns = times.get((pack_row.dataset, pack_row.sequence), 0)
            read_ns = reads.get(pack, UNREAD).time_ns
            one = self._pack(pack, pack_row, written_ns or self._made_ns(pack), read_ns)
            if one is not None:
                facts = one._replace(current=pack in current, kept=kept.get(pack, ""))
                found.append(facts._replace(archived_by=archived.get(pack, "")))
        self._needs.keep(self._wanted)
        return found

    def _made_ns(self, pack: bytes) -> int:
        """When a pack was made that no version brought: a collection rewrote others."""
        try:
            return (self._lake.path / pack_key(pack)).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _pack(self, pack: bytes, row: PackRow, written_ns: int, read_ns: int) -> PackFacts | None:
        placed = self._lake.placed
        try:
            stub = placed.stub(pack)
        except DtafsError:
            return None  # which the check says
        return PackFacts(
            id=pack,
            size=row.size,
            hot=placed.is_hot(pack),
            tiers=() if stub is None else tuple(n for n in stub.tiers if n in self._lake.tiers),
            written_ns=written_ns,
            read_ns=read_ns,
            current=False,
            hot_until_ns=0 if stub is None else stub.hot_until_ns,
        )

    def _kept(
        self, rows: dict[str, list[VersionRow]], named: dict[bytes, PackRow]
    ) -> dict[bytes, str]:
        """What keeps packs on the hot disk: pins, and tags."""
        lake = self._lake
        kept: dict[bytes, str] = {}
        self._wanted = {found[-1].serial for found in rows.values() if found}
        tags = set(lake.config.tiering.keep_tags)
        for found in rows.values():
            for row in found:
                for tag in sorted(tags & set(row.tags)):
                    self._wanted.add(row.serial)
                    for pack in self._needs.of(row, named):
                        kept.setdefault(pack, f"the tag {tag!r} of {row.name}")
        for pin in read_pins(lake.path):
            for pack in self._pinned(pin, rows, named):
                kept.setdefault(pack, f"the pin of {pin.name}")
        return kept

    def _pinned(
        self, pin: Pin, rows: dict[str, list[VersionRow]], named: dict[bytes, PackRow]
    ) -> set[bytes]:
        versions = [row for row in rows.get(pin.dataset, ()) if pin.version in (0, row.number)]
        if pin.path:
            try:
                return set(packs_of_target(self._lake, target_of_pin(pin)))
            except DtafsError:
                return set()  # the version is there no more
        found: set[bytes] = set()
        for row in versions:
            self._wanted.add(row.serial)
            found |= self._needs.of(row, named)
        return found

    def _archived(
        self, rows: dict[str, list[VersionRow]], named: dict[bytes, PackRow]
    ) -> dict[bytes, str]:
        """The packs that only versions need which carry a tag that sends them to the archive."""
        tags = set(self._lake.config.tiering.archive_tags)
        if not tags:
            return {}
        found: dict[bytes, str] = {}
        others = []
        for row in (row for some in rows.values() for row in some):
            carried = sorted(tags & set(row.tags))
            if not carried:
                others.append(row)
                continue
            self._wanted.add(row.serial)
            for pack in self._needs.of(row, named):
                found.setdefault(pack, carried[0])
        if not found:
            return {}
        needed = packs_of_versions(self._lake, others)
        return {pack: tag for pack, tag in found.items() if pack not in needed}


def facts_of_tiers(lake: Lake) -> list[TierFacts]:
    """The tiers of a lake, those that can be read first."""
    found = [TierFacts(name, lake.tiers.is_archive(name)) for name in lake.tiers]
    return sorted(found, key=lambda tier: tier.archive)


def rules_of(lake: Lake) -> Rules:
    """The rules of `config.toml`."""
    wanted = lake.config.tiering
    return Rules(
        after_ns=_ns(wanted.after_days),
        superseded_after_ns=_ns(wanted.superseded_after_days),
        aged_after_ns=_ns(wanted.aged_after_days),
        archive_after_ns=_ns(wanted.archive_after_days),
        settle_ns=int(wanted.settle_hours * 3600e9),
        size_min=int(wanted.size_min_kib * 1024),
    )


def _ns(days: float) -> int | None:
    return None if math.isinf(days) else int(days * DAY_NS)


def disk_facts(lake: Lake, packs_bytes: int) -> Disk:
    """The hot disk: the room that packs may take, if that is limited, else the file system."""
    wanted = lake.config.tiering
    if wanted.hot_gib:
        used, whole = packs_bytes, int(wanted.hot_gib * GIB)
    else:
        with translated("asking for the free space"):
            found = os.statvfs(lake.path)
        whole = found.f_blocks * found.f_frsize
        used = whole - found.f_bavail * found.f_frsize
    return Disk(used, int(whole * wanted.high_water), int(whole * wanted.low_water))


def plan_facts(lake: Lake, steps: list[Step]) -> dict[str, Any]:
    """A plan in plain values."""
    return {
        "steps": [
            {
                "pack": step.pack.hex(),
                "action": step.action,
                "tier": step.tier,
                "size_bytes": step.size_bytes,
                "reason": step.reason,
            }
            for step in steps
        ],
        "size_bytes": sum(step.size_bytes for step in steps if step.action != "drop"),
        "freed_bytes": sum(
            step.size_bytes
            for step in steps
            if step.action != "recall" and lake.placed.is_hot(step.pack)
        ),
    }


def placement_facts(lake: Lake) -> dict[str, Any]:
    """Where the content packs lie, for `stats`: packs and bytes on the hot disk and in each tier, and
    what this process has read from tiers. Asks no tier."""
    tiers: dict[str, dict[str, int]] = {}
    hot, away = {"packs": 0, "size_bytes": 0}, {"packs": 0, "size_bytes": 0}
    for pack, row in lake.index.packs():
        if row.kind != PackKind.CONTENT:
            continue
        where = lake.placed.where(pack)
        places = [tiers.setdefault(n, {"packs": 0, "size_bytes": 0}) for n in where.tiers]
        for place in (hot if where.hot else away, *places):
            place["packs"] += 1
            place["size_bytes"] += row.size
    far, recalls = lake.far, lake.recalls
    return {
        "hot": hot,
        "away": away,
        "tiers": tiers,
        "being_deleted": len(doomed_packs(lake.path)),
        "cache_bytes": far.cached_bytes,
        "fetched_bytes": far.fetched_bytes,
        "requests": far.requests,
        "cache_hits": far.hits,
        "recalls_waiting": len(recalls.facts()) if recalls is not None else 0,
    }
