"""What is to be done by the rules of retention, and why: of one version, or of the whole lake.

`dtafs.core.retention` decides; here it is given what the index knows. Nothing is changed: what changes
rules and holds is in `dtafs.store.retention_changes`, what carries out a plan in `dtafs.store.dispose`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.clock import ClockFacts, why_doubted
from dtafs.core.names import format_time
from dtafs.core.periods import DAY_NS
from dtafs.core.retention import (
    ActiveHold,
    Approval,
    Decision,
    VersionFacts,
    archiving,
    deeds,
)
from dtafs.core.retention_plan import Item, Lookups, Tally, plan_version
from dtafs.store.index import VersionRow
from dtafs.store.index_records import get_clock
from dtafs.store.retention_facts import (
    Standing,
    all_versions,
    approvals_of,
    facts_of,
    sent_to,
    superseded_ns,
)

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

FOR_EVER, NO_LONGER = "for ever", "no longer"
"""How a time without an end is shown, and the time until which a version is kept that is disposed of."""

Obstacle = Callable[[VersionFacts], str | None]


def nothing_in_the_way(_version: VersionFacts) -> str | None:
    """The obstacle of a host that knows of none."""
    return None


def plan_items(
    lake: Lake,
    now_ns: int,
    tally: Tally,
    *,
    standing: Standing | None = None,
    obstacle: Obstacle = nothing_in_the_way,
) -> Iterator[Item]:
    """What is to be done at a time, in the order of datasets and versions; `tally` counts and hashes it.

    Memory does not grow with the versions, but with those that a hold is on because of what they
    were made from. `obstacle` says what else keeps a version from being disposed of on this host.
    """
    index = lake.index
    standing = standing or Standing(index)
    inherited = standing.inherited()

    def holds(version: VersionFacts) -> list[ActiveHold]:
        own = [ActiveHold(limits.held) for limits in standing.holds_in(version)]
        names = {hold.held.name for hold in own}
        others = inherited.get((version.dataset, version.number), ())
        return own + [hold for hold in others if hold.held.name not in names]

    def approvals(version: VersionFacts) -> list[Approval]:
        return approvals_of(index, version.dataset, version.number)

    def sent(version: VersionFacts) -> str | None:
        return sent_to(index, version.dataset, version.number)

    ask = Lookups(holds, approvals, sent, obstacle)
    for dataset, versions in all_versions(index):
        rules, events = standing.rule_sets(dataset), standing.events_of(dataset)
        for version in versions:
            tally.versions += 1
            for item in plan_version(version, rules.of(version.tags), events, ask, now_ns):
                tally.add(item)
                yield item


def still_due(
    lake: Lake, standing: Standing, item: Item, now_ns: int, obstacle: Obstacle = nothing_in_the_way
) -> Item | None:
    """What the plan says now of the version of an item that disposes or archives; None for nothing.

    For who carries a plan out, with the lock of the log held: the same rules, holds, approvals and
    obstacles are asked as for the plan.
    """
    row = lake.index.version(item.dataset, item.version)
    if row is None:
        return None
    index = lake.index
    version = facts_of(row, superseded_ns(index, row))
    ask = Lookups(
        lambda _version: standing.holds_on(row),
        lambda _version: approvals_of(index, row.dataset, row.number),
        lambda _version: sent_to(index, row.dataset, row.number),
        obstacle,
    )
    rules, events = standing.rule_sets(row.dataset).of(row.tags), standing.events_of(row.dataset)
    items = plan_version(version, rules, events, ask, now_ns)
    return next((found for found in items if found.action == item.action), None)


def decision_facts(decision: Decision) -> dict[str, Any]:
    """A decision as a document shows it."""
    return {
        "fate": decision.fate,
        "keep_until": NO_LONGER
        if decision.fate == "disposed"
        else time_or_ever(decision.keep_until_ns),
        "rule": decision.rule.name if decision.rule else None,
        "holds": list(decision.holds),
        "approvals_needed": decision.approvals_needed,
        "approvers": [msgspec.to_builtins(actor) for actor in decision.approvers],
        "reasons": [
            {
                "kind": reason.kind,
                "name": reason.name,
                "until": time_or_ever(reason.until_ns),
                "text": reason.text,
            }
            for reason in decision.reasons
        ],
    }


def time_or_ever(time_ns: int | None) -> str:
    """A time as the log writes it; None is for ever."""
    return FOR_EVER if time_ns is None else format_time(time_ns)


def explain(
    lake: Lake, row: VersionRow, now_ns: int, standing: Standing | None = None
) -> dict[str, Any]:
    """Which rule or hold decides about a version, until when, and what else is to come."""
    standing = standing or Standing(lake.index)
    decision = standing.decide(row, now_ns)
    version = facts_of(row, superseded_ns(lake.index, row))
    rules, events = standing.rules_for(row.dataset), standing.events_of(row.dataset)
    sent = sent_to(lake.index, row.dataset, row.number)
    coming = [] if row.disposed else deeds(version, rules, events)
    due = [deed for deed in coming if deed.due_ns <= now_ns]
    next_tier = archiving(due, sent)
    return {
        "id": row.name,
        "sha256": row.manifest_sha256.hex(),
        "at": format_time(now_ns),
        **decision_facts(decision),
        "archived_to": sent,
        "to_archive": next_tier.active.rule.tier if next_tier else None,
        "deeds": [
            {
                "action": deed.active.rule.action,
                "rule": deed.active.name,
                "due": format_time(deed.due_ns),
                "tier": deed.active.rule.tier or None,
            }
            for deed in coming
        ],
    }


def clock_doubt(lake: Lake, now_ns: int) -> str | None:
    """Why the host's clock cannot be believed where it would destroy; None when it can."""
    with lake.index.database.read() as txn:
        clock = get_clock(txn)
    facts = ClockFacts(
        lake.index.newest_time_ns(),
        clock.gap_ns,
        clock.gap_at_ns,
        clock.confirmed_ns,
        clock.confirmed_at_ns,
    )
    return why_doubted(now_ns, facts, int(lake.config.retention.clock_span_days * DAY_NS))
