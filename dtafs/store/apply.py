"""Carrying out the plan of retention: archiving, and disposing of, what the rules say is due.

The plan is made anew from the log and executed only while it stands: right before each entry that disposes
of versions, with the log standing still, the rules, holds, approvals and obstacles are asked again. A clock
that cannot be believed stops everything. What was interrupted is finished first, and what cannot be done
now (a tier that does not answer, an archive that has to bring something back) is left to the next run.

Blocks; any thread; one at a time (`dtafs.store.dispose`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.names import format_time
from dtafs.core.retention_plan import Item, Tally, item_facts
from dtafs.core.values import Actor
from dtafs.errors import ConflictError, RefusedError
from dtafs.store.archive import archive
from dtafs.store.counting import counting
from dtafs.store.dispose import Done, Hooks, Order, dispose
from dtafs.store.index import VersionRow
from dtafs.store.locks import follow_lattice
from dtafs.store.progress import Report
from dtafs.store.retention import clock_doubt, plan_items, still_due
from dtafs.store.retention_facts import Standing

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

HoldStill = Callable[[str, Callable[[], None]], None]
Gone = Callable[[Sequence[VersionRow]], None]


def apply_plan(
    lake: Lake,
    actor: Actor,
    plan: str | None,
    hold_still: HoldStill,
    gone: Gone,
    report: Report | None = None,
) -> dict[str, Any]:
    """Carry out what is due now; what was done, in plain values.

    `plan` is the hash of the plan that is expected. ConflictError when it is another by now, RefusedError
    when the clock is in doubt, BusyError while another run or a collection is under way, IntegrityError
    where damage makes it unsafe to destroy anything.
    """
    host_ns = lake.clock()
    doubt = clock_doubt(lake, host_ns)
    if doubt is not None:
        raise RefusedError(
            f"nothing is archived or disposed of, for {doubt}; look at another clock, then run: "
            "dtafsctl retain apply --confirm-clock TIME"
        )
    lake.replay()
    tally = Tally()
    # Not the time of the log, which is later where the clock was set back: that would dispose early.
    now_ns = host_ns
    items = list(plan_items(lake, now_ns, tally))
    if plan is not None and plan != tally.digest:
        raise ConflictError(
            f"the plan has grown stale: it is {tally.digest} now; look at it again with: "
            "dtafsctl retain plan"
        )
    done = _dispose(lake, actor, items, tally.digest, hold_still, gone, report)
    archived, left = archive(lake, actor, [i for i in items if i.action == "archive"], report)
    unlocked = follow_lattice(lake, lake.now_ns())
    return {
        "at": format_time(now_ns),
        "plan": tally.digest,
        "archived": [item_facts(item) for item in archived],
        "not_archived": left,
        "not_locked": unlocked,
        "disposed": [f"{ref.dataset}:v{ref.version}" for ref in done.disposed],
        "destroyed_packs": len(done.destroyed),
        "destroyed_bytes": done.size_bytes,
        "written_bytes": done.written_bytes,
        "left": done.left,
        "recalled": done.recalled,
        "refused": done.refused,
        "blocked": [item_facts(item) for item in items if item.action == "blocked"],
        "notify": [item_facts(item) for item in items if item.action == "notify"],
    }


def freed(
    lake: Lake, versions: Sequence[tuple[str, int]], report: Report | None = None
) -> dict[str, int]:
    """What would be freed if these versions were disposed of together, by what they alone hold: chunks,
    their plain bytes, and about how many bytes those take in packs. Nothing but the references changes."""
    rows = [lake.index.version(dataset, number) for dataset, number in versions]
    kept = [row for row in rows if row is not None and not row.disposed]
    with lake.condemned.collecting(), counting(lake, report) as counted:
        found = counted.references.dying([(row.serial, row.root) for row in kept])
    chunks = stored = plain = 0
    for place in lake.index.places_of({key[1:] for key in found.dead}).values():
        chunks, plain = chunks + 1, plain + place.size
        stored += place.stored * place.size // place.plain
    return {"chunks": chunks, "size_bytes": plain, "stored_bytes": stored}


def _dispose(
    lake: Lake,
    actor: Actor,
    items: Sequence[Item],
    plan: str,
    hold_still: HoldStill,
    gone: Gone,
    report: Report | None,
) -> Done:
    due = {(i.dataset, i.version): i for i in items if i.action == "dispose"}
    standing = Standing(lake.index)

    def still(order: Order) -> list[int]:
        nonlocal standing
        standing = Standing.of(lake.index, standing)
        return [n for n in order.versions if _stands(due[order.dataset, n])]

    def _stands(item: Item) -> bool:
        found = still_due(lake, standing, item, lake.clock())
        return found is not None and _terms(found) == _terms(item)

    return dispose(
        lake, actor, plan, _orders(due.values()), Hooks(still, hold_still, gone), report=report
    )


def _terms(item: Item) -> tuple[str, str, tuple[Actor, ...]]:
    return item.rule, item.rule_sha256, item.approvers


def _orders(items: Iterable[Item]) -> list[Order]:
    """The dispositions of a plan, those together that one entry can say."""
    found: dict[tuple[Any, ...], Order] = {}
    for item in items:
        key = (item.dataset, *_terms(item))
        known = found.get(key)
        if known is None:
            found[key] = Order(
                item.dataset,
                (item.version,),
                item.rule,
                item.rule_sha256,
                item.authority,
                item.approvers,
            )
        else:
            found[key] = msgspec.structs.replace(known, versions=(*known.versions, item.version))
    return list(found.values())
