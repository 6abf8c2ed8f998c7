"""Collect: deleting what nothing reaches, in two phases with a grace period between them.

1. *Condemn.* A pack that no version and no uncommitted work needs gets a mark; deduplication no
   longer trusts it. Nothing else happens to it until the grace period is over.
2. *Remove.* A later collection waits for whoever was at work when the mark was made, looks at
   staging and versions once more, and deletes what is still marked and still not needed: log entry
   (for a pack that the log names), index row, bytes.

A pack that the log names and of which much is garbage is *rewritten*: under a mark, and after the
same wait and second look, what is needed of it goes into a new pack; one `collected` entry names
the new pack and removes the old, whose bytes then wait for the grace period as well, so that whoever
looked a chunk up before finds it. A copy of a needed chunk is given up only after the place that
the index names was read and found sound.

What other tiers have of a removed pack goes after that, without any lock
(`dtafs.store.placement.moves`); a tier that does not answer is told of, and left to the next collection.

What a crash leaves at any point: marks that the next collection judges anew; new packs that nothing
names, which it removes; packs that the log names no longer, whose bytes it deletes. It refuses to
begin where the log has gaps, a pack is missing, or a node cannot be read: what is damaged may be
needed in ways that nobody can see.

Left to their owners: files in `tmp/` belong to the process that writes them, and the next one that
opens the lake for writing removes those of a killed one; data files of staging belong to staging,
which is asked to tidy first.

Blocks; any thread; one collection at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.entries import Collection
from dtafs.core.format import PackKind, pack_key
from dtafs.core.names import format_time
from dtafs.core.values import Actor
from dtafs.errors import IntegrityError, RecallError, StorageError
from dtafs.store.collect_facts import gather_facts, refuse_damage
from dtafs.store.collect_plan import (
    REWRITTEN,
    UNREACHED,
    Decision,
    Rule,
    plan_collection,
)
from dtafs.store.collect_reach import Reached, spot_of
from dtafs.store.collect_rewrite import rewrite_packs
from dtafs.store.objects import Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import Pack, read_footer
from dtafs.store.placement.removal import Removal, doom, finish_removals
from dtafs.store.placement.stubs import is_away
from dtafs.store.progress import Progress, Report

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

SETTLE_S = 10.0
"""How long a collection waits for a `put` or commit that began before a mark, before it leaves the
pack to the next one."""

GROUP_PACKS = 64
"""Packs that one log entry removes: bounds what a crash repeats, and how long commits wait."""


class Outcome:
    """What a collection has done, and what it left and why."""

    def __init__(self) -> None:
        self.removed: list[Decision] = []
        self.rewritten: list[Decision] = []
        self.written: list[Pack] = []
        self.left: dict[bytes, str] = {}
        """Packs that were due and stay, with the reason."""
        self.removal = Removal({}, {})
        """What was deleted from other tiers, also of earlier collections that could not."""


def collect(
    lake: Lake,
    actor: Actor,
    rule: Rule,
    *,
    dry_run: bool = False,
    settle_s: float = SETTLE_S,
    report: Report | None = None,
) -> dict[str, Any]:
    """Collect once; what was found and done, in plain values.

    With `dry_run` nothing is changed, and what would be done is told. Raises BusyError while
    another collection runs, IntegrityError where damage makes it unsafe to delete anything.
    """
    with lake.condemned.collecting():
        lake.replay()
        refuse_damage(lake)
        reached = Reached(lake)
        try:
            _tell(report, "find what is needed", 0, 0)
            reached.look()
            marks = lake.condemned.marks()
            plan = plan_collection(gather_facts(lake, reached), marks, time.time_ns(), rule)
            outcome = Outcome()
            if not dry_run:
                _Collection(lake, actor, rule, reached, outcome, report).run(plan, settle_s)
                outcome.removal = finish_removals(lake)
        finally:
            reached.close()
    return _facts(plan, outcome, rule, dry_run)


def _tell(report: Report | None, stage: str, done: int, total: int) -> None:
    if report is not None:
        report(Progress(stage, done, 0, total))


class _Collection:
    """Carrying out a plan."""

    def __init__(
        self,
        lake: Lake,
        actor: Actor,
        rule: Rule,
        reached: Reached,
        outcome: Outcome,
        report: Report | None,
    ) -> None:
        self._lake, self._actor, self._rule = lake, actor, rule
        self._reached, self._outcome, self._report = reached, outcome, report
        self._marks = lake.condemned
        self._metadata: list[bytes] = []
        """The metadata packs that are due."""

    def run(self, plan: Sequence[Decision], settle_s: float) -> None:
        """Mark, wait, look again, act; packs that were marked only to be rewritten are let go."""
        by_action: dict[str, list[Decision]] = {}
        for decision in plan:
            by_action.setdefault(decision.action, []).append(decision)
        self._drop_idle_marks(plan)
        self._marks.spare(d.pack for d in by_action.get("spare", ()))
        rewrites = by_action.get("rewrite", [])
        due = [*by_action.get("remove", ()), *rewrites]
        self._marks.condemn({d.pack: UNREACHED for d in (*by_action.get("condemn", ()), *due)})
        try:
            self._act(due, settle_s)
        finally:
            done = {decision.pack for decision in self._outcome.rewritten}
            self._marks.spare(d.pack for d in rewrites if d.pack not in done)

    def _drop_idle_marks(self, plan: Sequence[Decision]) -> None:
        """Drop marks of packs that are not there any more."""
        there = {decision.pack for decision in plan}
        marked = self._marks.packs
        root = self._lake.path
        gone = [
            pack
            for pack in marked - there
            if not (root / pack_key(pack)).exists() and not is_away(root, pack)
        ]
        self._marks.forget(gone)

    def _act(self, due: list[Decision], settle_s: float) -> None:
        self._metadata = [d.pack for d in due if d.kind == PackKind.METADATA]
        settled = self._marks.settled([decision.pack for decision in due], settle_s)
        for decision in due:
            if decision.pack not in settled:
                self._outcome.left[decision.pack] = "a put or commit that may need it is running"
        due = [decision for decision in due if decision.pack in settled]
        if not due:
            return
        self._lake.replay()  # of a commit that has ended, the index may lack what the log has
        self._reached.look()
        due = [decision for decision in due if self._is_still_due(decision)]
        # Metadata first: a node that is known must not lead to what is gone.
        done = 0
        for kind in (PackKind.METADATA, PackKind.CONTENT, None):
            if kind != PackKind.METADATA and self._is_metadata_left():
                waiting = [d for d in due if d.kind == kind and d.origin == "logged"]
                self._leave(waiting, "metadata that may lead to it has to go first")
                due = [decision for decision in due if decision not in waiting]
            for dataset in sorted({d.dataset for d in due if d.kind == kind}):
                some = [d for d in due if d.kind == kind and d.dataset == dataset]
                for start in range(0, len(some), GROUP_PACKS):
                    _tell(self._report, "collect", done, len(due))
                    group = some[start : start + GROUP_PACKS]
                    done += len(group)
                    self._group(kind, dataset, group)
        _tell(self._report, "collect", len(due), len(due))

    def _is_metadata_left(self) -> bool:
        return any(pack in self._outcome.left for pack in self._metadata)

    def _is_still_due(self, decision: Decision) -> bool:
        """Whether the second look agrees with the first, and nothing needed is lost with a pack."""
        pack, reached = decision.pack, self._reached
        if decision.action == "remove" and reached.needs(pack):
            self._marks.spare([pack])
            self._metadata = [known for known in self._metadata if known != pack]
            self._leave([decision], "something needs it again")
            return False
        try:
            self._require_copies(read_footer(self._lake.path, pack))
        except IntegrityError as error:
            self._outcome.left[pack] = f"it may hold the only sound copy of something: {error}"
            return False
        except (RecallError, StorageError) as error:
            self._outcome.left[pack] = (
                f"another copy of something in it cannot be read now: {error}"
            )
            return False
        return True

    def _require_copies(self, pack: Pack) -> None:
        """Raise unless each needed chunk that lies elsewhere too can be read from there."""
        lake, own = self._lake, self._reached.spots(pack.id)
        files = PackFiles(lake.path, lake.far)
        objects = Objects(files, lake.index.place)
        spots: dict[bytes, set[int]] = {}
        try:
            for chunk, place in pack.places():
                if spot_of(place) in own:
                    continue
                other = lake.index.place(chunk)
                if other is None or other.pack == pack.id:
                    continue
                if other.pack not in spots:
                    spots[other.pack] = self._reached.spots(other.pack)
                if spot_of(other) in spots[other.pack]:
                    objects.chunk(chunk)
        finally:
            files.close()

    # One group

    def _group(self, kind: PackKind | None, dataset: str, group: list[Decision]) -> None:
        rewrites = [decision for decision in group if decision.action == "rewrite"]
        added: list[Pack] = []
        if rewrites and kind is not None:
            try:
                packs = [read_footer(self._lake.path, decision.pack) for decision in rewrites]
                spots = [self._reached.spots(pack.id) for pack in packs]
                added = rewrite_packs(self._lake, kind, zip(packs, spots, strict=True))
            except (IntegrityError, RecallError, StorageError) as error:  # repair, or recall, first
                self._leave(rewrites, str(error))
                rewrites = []
        self._remove(dataset, group, rewrites, added)

    def _leave(self, decisions: Iterable[Decision], why: str) -> None:
        for decision in decisions:
            self._outcome.left[decision.pack] = why

    def _remove(
        self, dataset: str, group: list[Decision], rewrites: list[Decision], added: list[Pack]
    ) -> None:
        """Log entry, index rows, bytes; under the lock under which whoever needs a pack spares it."""
        lake, marks = self._lake, self._marks
        with lake.append_lock, marks.lock:
            if not all(self._is_free(decision) for decision in rewrites):
                self._leave(rewrites, "something needs it again")
                rewrites, added = [], []
            removed = [d for d in group if d.action == "remove" and d.pack in marks.packs]
            spared = [d for d in group if d.action == "remove" and d not in removed]
            self._leave(spared, "something needs it again")
            logged = [d for d in removed if lake.index.pack(d.pack) is not None]
            if logged or rewrites:
                lake.record(dataset, "collected", _body(logged, rewrites, added), self._actor)
            self._delete(removed)
            marks.condemn({d.pack: REWRITTEN for d in rewrites}, time.time_ns())
            if self._rule.grace_ns == 0:
                self._delete(rewrites)
        self._outcome.removed += removed
        self._outcome.rewritten += rewrites
        self._outcome.written += added

    def _is_free(self, decision: Decision) -> bool:
        """Whether a pack is still marked, and no part of uncommitted work."""
        owners = _owners(self._lake, decision.pack)
        return decision.pack in self._marks.packs and not owners

    def _delete(self, decisions: Iterable[Decision]) -> None:
        lake = self._lake
        assert lake.pending is not None
        gone = []
        for decision in decisions:
            for dataset in _owners(lake, decision.pack):
                lake.pending.drop(dataset, [read_footer(lake.path, decision.pack)])
            doom(lake, decision.pack)
            gone.append(decision.pack)
        self._marks.forget(gone)


def _owners(lake: Lake, pack: bytes) -> list[str]:
    assert lake.pending is not None
    return lake.pending.owners(pack)


def _body(
    removed: Sequence[Decision], rewrites: Sequence[Decision], added: Sequence[Pack]
) -> dict[str, Any]:
    """The body of a `collected` entry."""
    reasons = {d.pack.hex(): UNREACHED for d in removed}
    reasons |= {d.pack.hex(): REWRITTEN for d in rewrites}
    collection = Collection(
        removed=reasons,
        added=tuple(sorted(pack.id.hex() for pack in added)),
        removed_bytes=sum(d.size_bytes for d in (*removed, *rewrites)),
        added_bytes=sum(pack.size for pack in added),
    )
    body: dict[str, Any] = msgspec.to_builtins(collection)
    return body


def _facts(plan: Sequence[Decision], outcome: Outcome, rule: Rule, dry_run: bool) -> dict[str, Any]:
    planned = {name: [d for d in plan if d.action == name] for name in ("remove", "rewrite")}
    removed = planned["remove"] if dry_run else outcome.removed
    rewritten = planned["rewrite"] if dry_run else outcome.rewritten
    shown = [d for d in plan if d.action != "keep"]
    counted: dict[str, Callable[[Decision], bool]] = {
        "condemned": lambda d: d.action == "condemn",
        "waiting": lambda d: d.action == "wait",
        "spared": lambda d: d.action == "spare",
        "kept": lambda d: d.action == "keep",
    }
    facts: dict[str, Any] = {
        "dry_run": dry_run,
        "grace_s": rule.grace_ns / 1e9,
        "removed": _sum(removed),
        "rewritten": _sum(rewritten) | {"garbage_bytes": sum(d.garbage_bytes for d in rewritten)},
        "written": _sum_packs(outcome.written),
    }
    facts |= {name: _sum(d for d in plan if wanted(d)) for name, wanted in counted.items()}
    facts["tiers"] = {
        "deleted": {name: len(packs) for name, packs in outcome.removal.gone.items()},
        "left": {pack.hex(): why for pack, why in outcome.removal.left.items()},
    }
    facts["packs"] = [_pack_facts(d, outcome.left.get(d.pack), rule) for d in shown]
    return facts


def _sum(decisions: Iterable[Decision]) -> dict[str, int]:
    sizes = [decision.size_bytes for decision in decisions]
    return {"packs": len(sizes), "size_bytes": sum(sizes)}


def _sum_packs(packs: Iterable[Pack]) -> dict[str, int]:
    sizes = [pack.size for pack in packs]
    return {"packs": len(sizes), "size_bytes": sum(sizes)}


def _pack_facts(decision: Decision, left: str | None, rule: Rule) -> dict[str, Any]:
    since_ns, action = decision.since_ns, decision.action
    return {
        "pack": decision.pack.hex(),
        "action": action if left is None else "wait",
        "reason": decision.reason if left is None else f"{decision.reason}, but {left}",
        "origin": decision.origin,
        "dataset": decision.dataset,
        "kind": decision.kind.name.lower() if decision.kind is not None else None,
        "size_bytes": decision.size_bytes,
        "garbage_bytes": decision.garbage_bytes,
        "condemned": format_time(since_ns) if since_ns is not None else None,
        "due": format_time(since_ns + rule.grace_ns) if since_ns is not None else None,
    }
