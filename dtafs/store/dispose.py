"""Disposing of versions: the reference goes first, then what nothing else needs, in every tier.

1. What would die is measured; under the lock of the log it is asked once more whether the version is to
   go; then the signed `disposed` entry says which versions go, by which rule, on whose authority and
   approval, what is destroyed with them and what survives because another version needs it.
2. The index marks the versions. From here on they open nowhere.
3. `dtafs.store.references` drops them; what died is noted as dead.
4. `dtafs.store.destroy` writes the packs that hold it anew, without it, and deletes the old ones.
5. A `destroyed` entry confirms it, tier by tier.

A crash before 1 has changed nothing; after 1, the next run goes on from where it was: entries without a
confirmation, and what is noted as dead, are finished first. What is left (a tier that does not answer,
a pack that is damaged, a `put` that would not end) is said, and tried again by the next run; nothing is
confirmed before it is so.

The manifest, its hash and the history stay in the log, and verify as before. Of a dataset whose newest
version goes, staging starts empty; with uncommitted changes over it the version stays.

Blocks; any thread; one at a time, and not beside a collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec import Struct

from dtafs.core.record_checks import decode_disposed, encode_body
from dtafs.core.records import Destroyed, Disposed, VersionRef
from dtafs.core.values import Actor
from dtafs.errors import BusyError
from dtafs.store.collect_facts import refuse_damage
from dtafs.store.collect_reach import Reached
from dtafs.store.counting import Counting, counting
from dtafs.store.destroy import SETTLE_S, destroy
from dtafs.store.disposal_amounts import Measure, measure
from dtafs.store.index import VersionRow
from dtafs.store.leaving import leaving
from dtafs.store.placement.moves import move_packs
from dtafs.store.progress import Report

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

ENTRY_VERSIONS = 64
"""Versions that one entry disposes of: what is done between two looks at whether it still is to be."""

BATCH_ENTRIES = 16
"""Entries after which the bytes go: packs that several versions share are written anew once."""

ATTEMPTS = 5
"""How often what dies is measured again because somebody committed meanwhile."""


class Order(Struct, frozen=True):
    """Versions of one dataset that a plan disposes of by one rule, and what their entry says of that."""

    dataset: str
    versions: tuple[int, ...]
    rule: str
    rule_sha256: str
    authority: str
    approvers: tuple[Actor, ...] = ()
    reason: str = ""


class Done(Struct):
    """What a run has done."""

    disposed: list[VersionRef]
    destroyed: list[bytes]
    """Packs that are gone."""
    size_bytes: int
    """Of those packs."""
    written_bytes: int
    """Of the packs that took over what must live."""
    left: dict[str, str]
    """What may still hold some of what was disposed of, by its key, and why."""
    refused: dict[str, str]
    """Versions that stay although they were ordered, and why."""
    recalled: bool = False
    """Whether an archive has to bring something back first; the next run goes on then."""


class Hooks(NamedTuple):
    """What a disposition asks of, and tells, whoever has it made."""

    still: Callable[[Order], Sequence[int]]
    """Those versions of an order that still are to be disposed of. Asked while the log stands still."""
    hold_still: Callable[[str, Callable[[], None]], None]
    """Run a call while nobody can change the staging of a dataset."""
    gone: Callable[[Sequence[VersionRow]], None]
    """Told of versions that were just disposed of, before their bytes go."""


def dispose(
    lake: Lake,
    actor: Actor,
    plan: str,
    orders: Sequence[Order],
    hooks: Hooks,
    *,
    settle_s: float = SETTLE_S,
    report: Report | None = None,
) -> Done:
    """Dispose of versions, after finishing what an earlier run has left. `plan` is the hash of the plan
    that the orders are from.

    Raises BusyError while another run or a collection is under way, IntegrityError where damage makes it
    unsafe to destroy anything.
    """
    with lake.condemned.collecting():
        lake.replay()
        refuse_damage(lake)
        with counting(lake, report) as references:
            work = _Disposal(lake, actor, plan, references, hooks)
            try:
                done = work.run(orders, settle_s, report)
            finally:
                work.close()
    for tier, packs in work.back.items():
        # What cannot be moved now stays on the hot disk, until it goes cold again.
        move_packs(lake, [pack for pack in packs if lake.index.pack(pack) is not None], tier)
    return done


def _pieces(orders: Sequence[Order]) -> Iterator[Order]:
    for order in orders:
        for start in range(0, len(order.versions), ENTRY_VERSIONS):
            some = order.versions[start : start + ENTRY_VERSIONS]
            yield msgspec.structs.replace(order, versions=some)


class _Disposal:
    def __init__(
        self,
        lake: Lake,
        actor: Actor,
        plan: str,
        counted: Counting,
        hooks: Hooks,
    ) -> None:
        self._lake, self._actor, self._plan = lake, actor, plan
        self._counted, self._hooks = counted, hooks
        self.done = Done([], [], 0, 0, {}, {})
        self.back: dict[str, list[bytes]] = {}
        """Packs that are to lie in a tier again, as what they replace did."""
        self._open = _unconfirmed(lake)
        """Entries that are not confirmed yet."""
        self._staged = Reached(lake)

    def close(self) -> None:
        """Close what was read."""
        self._staged.close()

    def run(self, orders: Sequence[Order], settle_s: float, report: Report | None) -> Done:
        """All orders, in batches."""
        self.finish(settle_s, report)
        self._staged.look_at_staging()
        pieces = _pieces(orders)
        while batch := list(islice(pieces, BATCH_ENTRIES)):
            for order in batch:
                self.record(order)
            self.finish(settle_s, report)
        return self.done

    # The reference

    def record(self, order: Order) -> None:
        """Write the entry of an order, for those of its versions that still are to go."""
        if not self._lies_on(order):
            self._record(order, self._staged)
            return
        # What lies on a version that goes, with no changes, needs nothing: it is going to start empty.
        others = Reached(self._lake)
        try:
            others.look_at_staging(but_for=order.dataset)
            self._hooks.hold_still(order.dataset, partial(self._record, order, others))
        except BusyError as error:  # somebody has a staged file open
            names = (f"{order.dataset}:v{number}" for number in order.versions)
            self.done.refused |= dict.fromkeys(names, str(error))
        finally:
            others.close()

    def _lies_on(self, order: Order) -> bool:
        """Whether the staging of the dataset lies on one of the versions, or is going to."""
        lake = self._lake
        base = lake.area.base_of(order.dataset)
        below = {lake.dataset(order.dataset).newest, base.version if base is not None else 0}
        return not below.isdisjoint(order.versions)

    def _record(self, order: Order, staged: Reached) -> None:
        lake = self._lake
        for attempt in range(ATTEMPTS):
            self._counted.catch_up()
            rows = _rows(lake, order)
            if not rows:
                return
            found = measure(lake, self._counted.references, rows, staged.needs_chunk)
            with lake.append_lock:
                counted = self._counted.references.counted[0]
                if counted != lake.index.newest_serial() and attempt < ATTEMPTS - 1:
                    continue
                wanted = [row.number for row in rows]
                stands = [
                    n for n in self._hooks.still(order) if n in wanted and self._is_free(order, n)
                ]
                if stands == wanted:
                    self._write(order, rows, found)
                    break
            for number in set(wanted).difference(stands):
                name = f"{order.dataset}:v{number}"
                self.done.refused.setdefault(name, "it is not to be disposed of any more")
            order = msgspec.structs.replace(order, versions=tuple(stands))
            staged = staged if self._lies_on(order) else self._staged
        else:
            for number in order.versions:
                name = f"{order.dataset}:v{number}"
                self.done.refused.setdefault(name, "what is to be done with it kept changing")
            return
        self._hooks.gone(rows)
        for row in rows:
            self._counted.references.drop(row.serial, row.root)

    def _is_free(self, order: Order, number: int) -> bool:
        """Whether no uncommitted work lies on a version."""
        base = self._lake.area.base_of(order.dataset)
        if base is None or base.version != number or not base.root:
            return True
        if self._lake.staging(order.dataset).is_clean():
            return True
        name = f"{order.dataset}:v{number}"
        self.done.refused[name] = "staging has uncommitted changes over it: commit or discard them"
        return False

    def _write(self, order: Order, rows: list[VersionRow], found: Measure) -> None:
        """The commit point of a disposition, and staging that lies on nothing destroyed."""
        refs = tuple(VersionRef(r.dataset, r.number, r.manifest_sha256.hex()) for r in rows)
        body = Disposed(
            versions=refs,
            rule=order.rule,
            rule_sha256=order.rule_sha256,
            authority=order.authority,
            plan=self._plan,
            approvers=order.approvers,
            destroyed=found.destroyed,
            survives=found.survives,
            before=found.before,
            after=found.after,
            reason=order.reason,
        )
        lake = self._lake
        with leaving(lake, order.dataset) if self._lies_on(order) else contextlib.nullcontext():
            appended = lake.record(order.dataset, "disposed", encode_body(body), self._actor)
        self._open.append((order.dataset, appended.entry.sequence))
        self.done.disposed += refs

    # The bytes

    def finish(self, settle_s: float, report: Report | None) -> None:
        """Destroy what is dead, and confirm it."""
        lake, references = self._lake, self._counted.references
        if not self._open and not references.dead():
            return
        found = destroy(lake, self._actor, self._counted, settle_s=settle_s, report=report)
        self.done.destroyed += found.packs
        self.done.size_bytes += found.size_bytes
        self.done.written_bytes += sum(pack.size for pack in found.written)
        self.done.left = found.left
        self.done.recalled = found.recalled
        for tier, packs in found.back.items():
            self.back.setdefault(tier, []).extend(packs)
        if found.left:
            return
        for dataset, sequence in self._open:
            disposed = decode_disposed(lake.log.read(dataset, sequence).entry.body)
            body = Destroyed(sequence, disposed.versions, disposed.destroyed)
            lake.record(dataset, "destroyed", encode_body(body), self._actor)
        self._open.clear()


def _rows(lake: Lake, order: Order) -> list[VersionRow]:
    """The versions of an order that there are and that were not disposed of yet."""
    rows = (lake.index.version(order.dataset, number) for number in order.versions)
    return [row for row in rows if row is not None and not row.disposed]


def _unconfirmed(lake: Lake) -> list[tuple[str, int]]:
    """The `disposed` entries whose bytes are not known to be gone, oldest first."""
    found: dict[tuple[str, int], int] = {}
    for version, gone in lake.index.dispositions():
        if not gone.confirmed:
            found[(version.dataset, gone.sequence)] = gone.time_ns
    return sorted(found, key=found.__getitem__)
