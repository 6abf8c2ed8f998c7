"""Repair: putting right what is damaged, wherever another copy of the bytes exists.

1. *Log*: damaged and missing entries come from another lake's copy of it.
2. *Packs*: every pack is hashed. A damaged or missing one is mended in place, in one step, when its
   very bytes can be made again (`dtafs.store.repair_packs`). Where they cannot, what can still be had
   of it, sound frames and chunks that are found elsewhere, goes into a new pack; a `collected` entry
   names that one and removes the damaged one, which then moves to quarantine. So whatever was readable
   stays so at every instant, and no row leads to damage on which deduplication would rely.
3. *Chunks* that versions need and no pack has are looked for and put into a new pack.
4. *Tiers*: stubs that are lost are made again, copies that are wrong or gone are put again
   (`dtafs.store.repair_tiers`). What is only in a tier counts as there.
5. *Parity* that is damaged or missing is made again.
6. What is still lost is told, and written to quarantine: dataset, versions, paths, ranges of bytes.

A pack of which nothing can be saved stays named by the log, so that it is whole again once somebody
puts the file back; a damaged file moves away, so that the data is stored anew where it is put again.

What a crash leaves at any point: temporary files; a new pack that nothing names, from which the next
repair takes what it needs; a damaged pack that nothing names, which the next repair moves to
quarantine. Blocks; any thread; excludes collections. Whatever is not mended stays as it was.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dtafs.core.format import pack_key
from dtafs.core.values import Actor
from dtafs.store.checks_packs import list_packs
from dtafs.store.checks_tree import Reach
from dtafs.store.lake import Lake
from dtafs.store.parity_upkeep import renew_parity
from dtafs.store.placement.stubs import is_away
from dtafs.store.progress import Progress, Report
from dtafs.store.quarantine import quarantine_pack, quarantined_packs, write_report
from dtafs.store.reindex import reindex
from dtafs.store.repair_log import Bad, find_bad_entries, mend_superblock, put_back
from dtafs.store.repair_losses import losses
from dtafs.store.repair_packs import PackMender, hash_file
from dtafs.store.repair_record import Record, rows_agree
from dtafs.store.repair_sources import Found, OtherLake, Sources, other_lakes
from dtafs.store.repair_staged import StagedOriginals
from dtafs.store.repair_tiers import TierRepair
from dtafs.store.survey import Survey

MISSING_CHUNKS = "chunks that no pack has"
"""The object to which a chunk belongs that is in no pack the index knows."""


def repair(
    lake: Lake,
    actor: Actor,
    paths: Sequence[str] = (),
    *,
    dry_run: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """Repair a lake that is open for writing, with what the lakes at `paths` have; what was done.

    With `dry_run` nothing is changed, and what would be done is told. Raises BusyError while a
    collection or another repair runs.
    """
    with other_lakes(lake.path, paths) as others:
        return repair_from(lake, actor, others, dry_run, report)


def repair_from(
    lake: Lake, actor: Actor, others: Sequence[OtherLake], dry_run: bool, report: Report | None
) -> dict[str, Any]:
    """As `repair`, with lakes that are open."""
    with lake.condemned.collecting():
        return _Repair(lake, actor, others, dry_run, report).run()


def no_facts(dry_run: bool) -> dict[str, Any]:
    """What a repair tells that has found nothing."""
    facts: dict[str, Any] = {"dry_run": dry_run, "mended": [], "replaced": [], "quarantined": []}
    facts |= {"parity": {"written": 0, "removed": 0, "size_bytes": 0}, "reindexed": False}
    facts["tiers"] = {"stubs": 0, "copies": 0, "deleted": 0, "mirrored": 0}
    return {**facts, "lost": []}


class _Repair:
    """One repair."""

    def __init__(
        self,
        lake: Lake,
        actor: Actor,
        others: Sequence[OtherLake],
        dry_run: bool,
        report: Report | None,
    ) -> None:
        self._lake, self._others, self._dry_run, self._report = lake, others, dry_run, report
        self._record = Record(lake, actor)
        self._facts = no_facts(dry_run)
        self._bad_entries: list[Bad] = []
        self._lost: dict[bytes, str] = {}
        """Chunks that cannot be had, with the object that they were in."""
        self._gone: dict[bytes, str] = {}
        """Packs that stay missing or damaged, and what is wrong."""
        self._would: set[bytes] = set()
        """Packs that a dry run has found could be mended."""
        self._holders: dict[bytes, tuple[str | None, list[str]]] = {}
        """Whose log names a pack, and of whose uncommitted work it is a part."""
        self._sound: list[bytes] = []
        self._reindex = False

    def run(self) -> dict[str, Any]:
        """All steps; the facts."""
        self._log()
        survey = Survey(self._lake, read_data=False, report=None)
        try:
            survey.read_log()
            self._packs(survey)
            self._chunks()
        finally:
            survey.close()
        if self._reindex and not self._dry_run:
            reindex(self._lake)
            self._facts["reindexed"] = True
        self._parity()
        self._tell_losses()
        if not self._dry_run:
            self._lake.objects.clear()
        return self._facts

    def _tell(self, stage: str, done: int, total: int) -> None:
        if self._report is not None:
            self._report(Progress(stage, done, 0, total))

    # The log

    def _log(self) -> None:
        lake = self._lake
        with lake.append_lock:
            where = mend_superblock(
                lake.path, lake.disk, self._others, lake.superblock, self._dry_run
            )
            if where is not None:
                self._facts["mended"].append({"object": "lake.json", "how": where})
            for bad in find_bad_entries(
                lake.log, lake.superblock, lake.index.heads(), self._others
            ):
                if bad.data is None:
                    self._bad_entries.append(bad)
                    continue
                self._facts["mended"].append({"object": bad.key, "how": bad.where})
                if not self._dry_run:
                    put_back(lake.disk, lake.log, bad)
            if not self._dry_run and not self._bad_entries:
                lake.replay()

    # Packs

    def _packs(self, survey: Survey) -> None:
        lake = self._lake
        assert lake.pending is not None
        holders, pending = self._holders, lake.pending.all_packs()
        # The index after the table of uncommitted work: a commit moves packs from this to that.
        for pack, row in lake.index.packs():
            holders[pack] = (row.dataset, [])
        for pack, bringer in survey.named.items():
            holders[pack] = (bringer.dataset, [])
        for pack, dataset in pending:
            holders.setdefault(pack, (None, []))[1].append(dataset)
        wanted = holders.keys()
        present, _strays = list_packs(survey)
        hashes: dict[bytes, bytes] = {}
        for done, pack in enumerate(present):
            self._tell("read the packs", done, len(present))
            hashes[pack] = hash_file(lake.path / pack_key(pack))
        self._sound = [p for p in present if hashes[p] == p and p in wanted]
        tiers = TierRepair(lake, self._dry_run)
        tiers.mend_stubs(p for p in sorted(wanted) if p not in hashes)
        far = {p for p in wanted if p not in hashes and is_away(lake.path, p)}
        bad = [p for p in sorted(wanted) if hashes.get(p) != p and p not in far]
        exchanged = {
            found: lake.path / pack_key(pack)
            for pack, found in hashes.items()
            if found != pack and found in bad
        }
        away = quarantined_packs(lake.path)
        exchanged |= {found: path for path in away if (found := hash_file(path)) in bad}
        strays = [lake.path / pack_key(p) for p in present if p not in wanted]
        staged = StagedOriginals(lake)
        self._sources = Sources(lake, self._others, staged, [*strays, *away], exchanged)
        keep = {path for path in exchanged.values() if path not in away}
        for done, pack in enumerate(bad):
            self._tell("mend the packs", done, len(bad))
            self._pack(pack, keep)
        tiers.mend_copies(wanted, not self._bad_entries)
        tiers.mend_mirror()
        self._facts["tiers"] = tiers.facts
        self._gone |= tiers.lost
        for pack in present:
            # With a gap in the log it is not known what is named.
            if pack not in wanted and hashes[pack] != pack and not self._bad_entries:
                self._quarantine(pack)

    def _pack(self, pack: bytes, keep: set[Path]) -> None:
        lake, key = self._lake, pack_key(pack)
        path = lake.path / key
        mender = PackMender(lake, pack, self._sources)
        try:
            mended = mender.mend()
            if mended is not None:
                self._facts["mended"].append({"object": key, "how": mended.how})
                if self._dry_run:
                    mended.temp.discard()
                    self._would.add(pack)
                    return
                if path in keep:  # these are the bytes of another pack: they move, and wait for it
                    keep.remove(path)
                    self._sources.moved(
                        path,
                        lake.path / quarantine_pack(lake.disk, lake.path, pack, parity_too=False),
                    )
                lake.disk.make_directory(path.parent)
                mended.temp.supersede(path)
                lake.files.forget(pack)
                self._sound.append(pack)
                named = self._holders[pack][0] is not None
                self._reindex |= named and not rows_agree(lake, pack)
                return
            self._save(mender, pack)
        finally:
            mender.close()

    def _save(self, mender: PackMender, pack: bytes) -> None:
        lake, key = self._lake, pack_key(pack)
        dataset, owners = self._holders[pack]
        there = (lake.path / key).exists()
        if any(bad.dataset == dataset for bad in self._bad_entries):
            self._gone[pack] = f"pack {pack.hex()} is damaged, and nothing can be added to the log"
            return
        saved = mender.save(self._dry_run)
        complete = not saved.lost and saved.chunks > 0
        self._lost |= dict.fromkeys(saved.lost, key)
        if not complete:
            state = "damaged" if there else "missing"
            self._gone[pack] = f"pack {pack.hex()} is {state}"
        if saved.chunks == 0:
            if there:
                self._quarantine(pack)
            return
        fact = {
            "object": key,
            "by": [one.id.hex() for one in saved.added],
            "chunks_saved": saved.chunks,
            "chunks_lost": len(saved.lost),
            "sources": saved.sources,
        }
        if self._dry_run:
            self._facts["replaced"].append(fact)
            self._would.add(pack)
            return
        # A pack that is missing and not complete stays named: its file may be put back.
        if not self._record.replaced(pack, dataset, owners, saved.added, there or complete):
            self._gone[pack] = f"pack {pack.hex()} is needed by a commit that is running"
            return
        self._facts["replaced"].append(fact)
        self._sound += [one.id for one in saved.added]
        if there:
            self._quarantine(pack)
        if there or complete:
            self._gone.pop(pack, None)

    def _quarantine(self, pack: bytes) -> None:
        lake = self._lake
        name = f"quarantine/packs/{pack.hex()}"
        if not self._dry_run:
            name = quarantine_pack(lake.disk, lake.path, pack)
            lake.files.forget(pack)
        self._facts["quarantined"].append({"object": pack_key(pack), "to": name})

    # Chunks without a pack

    def _chunks(self) -> None:
        """Find chunks that versions need and no pack has; a node that is found leads to others."""
        while missing := self._missing():
            found: dict[bytes, Found] = {}
            for chunk in sorted(missing - self._lost.keys()):
                have = self._sources.chunk(chunk)
                if have is None:
                    self._lost[chunk] = MISSING_CHUNKS
                else:
                    found[chunk] = have
            if not found or not self._dataset():
                return
            where = sorted({have.where for have in found.values()})
            fact = {"object": MISSING_CHUNKS, "chunks_saved": len(found), "sources": where}
            self._facts["replaced"].append({**fact, "by": [], "chunks_lost": 0})
            if self._dry_run:
                return
            added = self._record.found(found, self._dataset())
            self._facts["replaced"][-1]["by"] = [one.id.hex() for one in added]
            self._sound += [one.id for one in added]

    def _dataset(self) -> str:
        """A dataset to whose log something can be added; empty if there is none."""
        broken = {bad.dataset for bad in self._bad_entries}
        names = [row.name for row in self._lake.datasets() if row.name not in broken]
        return names[0] if names else ""

    def _missing(self) -> set[bytes]:
        survey = Survey(self._lake, read_data=False, report=self._report)
        try:
            survey.read_log()
            survey.bad_packs.update((p, t) for p, t in self._gone.items() if p not in self._would)
            survey.bad_chunks.update(self._lost)
            reach = Reach(survey)
            reach.walk()
            missing = reach.without_row | reach.unreadable.keys()
            places = self._lake.index.places_of(missing)
            return {c for c in missing if c not in places or places[c].pack not in self._would}
        finally:
            survey.close()

    # Parity, and what is lost

    def _parity(self) -> None:
        lake = self._lake
        if lake.parity:
            whole = not self._bad_entries and not self._gone and not self._would
            self._facts["parity"] = renew_parity(
                lake, self._sound, whole, self._dry_run, self._tell
            )

    def _let_go(self) -> None:
        """Everything that versions and staging need can be read: what is gone is named no longer."""
        for pack in list(self._gone):
            dataset, owners = self._holders[pack]
            if not (self._lake.path / pack_key(pack)).exists() and self._record.replaced(
                pack, dataset, owners, [], True
            ):
                del self._gone[pack]

    def _tell_losses(self) -> None:
        survey = Survey(self._lake, read_data=False, report=None)
        try:
            survey.read_log()
            affected = losses(survey, StagedOriginals(self._lake), self._lost) if self._lost else {}
        finally:
            survey.close()
        if not affected and not self._bad_entries and not self._dry_run:
            self._let_go()
        problems = {pack_key(pack): text for pack, text in self._gone.items()}
        for name in sorted({*affected, *problems}):
            fact = {
                "object": name,
                "problem": problems.get(name, "chunks of it are nowhere else"),
                "affects": affected.get(name, []),
            }
            self._facts["lost"].append(fact)
            if not self._dry_run:
                short = name.rpartition("/")[2].replace(" ", "-")
                stamp = {"time_ns": time.time_ns()}
                fact["report"] = write_report(
                    self._lake.disk, self._lake.path, short, {**fact, **stamp}
                )
        for bad in self._bad_entries:
            self._facts["lost"].append(
                {
                    "object": bad.key,
                    "problem": bad.problem,
                    "affects": [{"dataset": bad.dataset, "versions": [], "paths": [], "more": 0}],
                }
            )
