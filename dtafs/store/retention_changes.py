"""Changing rules and holds, recording events, approving dispositions, confirming the clock.

Each function checks, with the lock of the log held, and appends to the lake's own log, or raises and
changes nothing: UsageError for what cannot be, NotFoundError, ConflictError, and RefusedError where a
rule or a hold forbids it. Results are facts that fit in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.clock import why_not_confirmed
from dtafs.core.names import LAKE_LOG, format_time, parse_time, suggest
from dtafs.core.patterns import parse_pattern
from dtafs.core.record_checks import check_event, check_hold, check_rule, check_text, encode_body
from dtafs.core.records import (
    ARCHIVE,
    COMPLIANCE,
    DISPOSE,
    Approved,
    Body,
    Clocked,
    Event,
    Held,
    Released,
    Rule,
    Ruled,
    Scheduled,
    VersionRef,
)
from dtafs.core.retention import Decision, activate, same_person
from dtafs.core.retention_plan import Tally
from dtafs.core.rule_changes import why_not_changed, why_not_released, why_shorter
from dtafs.core.values import Actor
from dtafs.errors import ConflictError, NotFoundError, RefusedError, UsageError
from dtafs.store.index import VersionRow
from dtafs.store.retention import clock_doubt, plan_items
from dtafs.store.retention_facts import Standing, facts_of, versions_of
from dtafs.store.rule_overlaps import overlaps

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


def _append(lake: Lake, body: Body, actor: Actor) -> dict[str, Any]:
    kind = type(body).__name__.lower()
    appended = lake.record(LAKE_LOG, kind, encode_body(body), actor)
    return {"sequence": appended.entry.sequence, "time": appended.entry.time}


# Rules


def set_rules(
    lake: Lake,
    actor: Actor,
    rules: Mapping[str, Rule],
    reason: str = "",
    everything: Sequence[str] = (),
) -> dict[str, Any]:
    """Make rules, or change those of the same names, by one entry: all of them, or none where one is
    refused, and none after an interruption.

    A change needs a reason. One that makes a version go earlier is refused in compliance mode, and
    while a hold is on such a version. A rule that disposes of all datasets must be among `everything`.
    """
    check_text("a reason", reason, needed=False)
    for name, rule in rules.items():
        check_rule(name, rule)
    with lake.append_lock:
        standing = Standing(lake.index)
        _refuse_everything(rules, everything)
        known = {row.name: row.rule for row in standing.rules}
        done = {
            name: _may_set(lake, standing, known.get(name), name, rule, reason)
            for name, rule in rules.items()
        }
        said = {name: rule for name, rule in rules.items() if done[name] != "unchanged"}
        if len(said) == 1:
            _append(lake, Ruled(*said.popitem(), reason), actor)
        elif said:
            _append(lake, Scheduled(said, reason), actor)
        after = Standing(lake.index)
        names = [row.name for row in lake.datasets()]
        remarks = overlaps(after, rules, names) + _for_all(rules, names) + _tierless(lake, rules)
        return {"rules": done, "remarks": remarks}


def _tierless(lake: Lake, rules: Mapping[str, Rule]) -> list[str]:
    """What there is to say of rules that archive to a tier which this host does not know."""
    return [
        f"rule {name!r} archives to the tier {rule.tier!r}, which this host does not have"
        f"{suggest(rule.tier, lake.tiers)}: until it is attached nothing is archived"
        for name, rule in rules.items()
        if rule.action == ARCHIVE and rule.tier not in lake.tiers
    ]


def _for_all(rules: Mapping[str, Rule], datasets: Sequence[str]) -> list[str]:
    """What there is to say of rules that dispose of every dataset that there is."""
    return [
        f"rule {name!r} disposes of every dataset that there is now"
        for name, rule in rules.items()
        if rule.action == DISPOSE
        and not rule.tags
        and len(datasets) > 1
        and all(map(parse_pattern(rule.datasets).matches, datasets))
    ]


def _refuse_everything(rules: Mapping[str, Rule], everything: Sequence[str]) -> None:
    for name, rule in rules.items():
        if rule.action != DISPOSE or rule.tags or name in everything:
            continue
        if parse_pattern(rule.datasets).is_vague:
            raise RefusedError(
                f"rule {name!r} would dispose of everything in this lake, {rule.cutoff.period} after it "
                f"was {rule.cutoff.start}: name the datasets or tags that it is for, or say --everything"
            )


def _may_set(
    lake: Lake, standing: Standing, old: Rule | None, name: str, rule: Rule, reason: str
) -> str:
    """`new`, `changed` or `unchanged`; raises where the change is refused."""
    if old is None:
        return "new"
    if old == rule:
        return "unchanged"
    _may_change(lake, standing, name, old, rule, reason)
    return "changed"


def _may_change(
    lake: Lake, standing: Standing, name: str, old: Rule, new: Rule | None, reason: str
) -> None:
    refused = why_not_changed(old, new)
    if refused is not None:
        raise RefusedError(f"rule {name!r} {refused}")
    if not reason:
        raise UsageError(f"rule {name!r} exists: to change or remove it, give a reason (--reason)")
    shorter = why_shorter(old, new)
    if shorter is not None and old.action == DISPOSE:
        _refuse_held(lake, standing, name, old, shorter)


def _refuse_held(lake: Lake, standing: Standing, name: str, old: Rule, shorter: str) -> None:
    """Under a hold nothing is shortened, by anyone."""
    if not standing.holds:
        return
    inherited = standing.inherited()
    pattern, active = parse_pattern(old.datasets), activate(name, old, Actor("", 0, "", ""))
    for row in lake.datasets():
        if not pattern.matches(row.name):
            continue
        for version in versions_of(lake.index, row.name):
            if version.disposed or not active.concerns(version.tags):
                continue
            holds = [limits.held for limits in standing.holds_in(version)]
            others = inherited.get((version.dataset, version.number), ())
            for held in (*holds, *(hold.held for hold in others)):
                raise RefusedError(
                    f"rule {name!r} cannot be shortened while hold {held.name!r} is on "
                    f"{version.name}: {shorter}"
                )


def remove_rule(lake: Lake, actor: Actor, name: str, reason: str) -> dict[str, Any]:
    """Take a rule out of force; its entries stay in the log."""
    check_text("a reason", reason, needed=False)
    with lake.append_lock:
        standing = Standing(lake.index)
        old = standing.rule(name)
        if old is None:
            near = suggest(name, (row.name for row in standing.rules))
            raise NotFoundError(f"there is no rule {name!r}{near}")
        _may_change(lake, standing, name, old.rule, None, reason)
        return {"rule": name, **_append(lake, Ruled(name, None, reason), actor)}


# Holds


def place_hold(lake: Lake, actor: Actor, held: Held) -> dict[str, Any]:
    """Place a hold; it ends when its custodian releases it, and not before."""
    check_hold(held)
    with lake.append_lock:
        if Standing(lake.index).hold(held.name) is not None:
            raise ConflictError(
                f"there is a hold {held.name!r} already: choose another name, or release it first"
            )
        name = parse_pattern(held.scope.datasets).name
        if name is not None:
            lake.dataset(name)
            for number in held.scope.versions:
                lake.resolve(f"{name}:v{number}")
        facts = _append(lake, held, actor)
        standing = Standing(lake.index)
        reached = [
            version.disposed > 0
            for row in lake.datasets()
            if parse_pattern(held.scope.datasets).matches(row.name)
            for version in versions_of(lake.index, row.name)
            if any(limits.held.name == held.name for limits in standing.holds_in(version))
        ]
        gone, kept = sum(reached), len(reached) - sum(reached)
        followed = sum(
            any(hold.held.name == held.name for hold in holds)
            for holds in standing.inherited().values()
        )
        counts = {"versions": kept, "disposed": gone, "descendants": followed}
        return {"hold": held.name, **counts, **facts}


def release_hold(
    lake: Lake, actor: Actor, name: str, reason: str, custodian: str | None = None
) -> dict[str, Any]:
    """End a hold on behalf of its custodian (by default, of the one who asks): by themselves, or by who
    placed it for them."""
    check_text("a reason", reason)
    custodian = actor.user if custodian is None else custodian
    with lake.append_lock:
        standing = Standing(lake.index)
        row = standing.hold(name)
        if row is None:
            near = suggest(name, (hold.name for hold in standing.holds))
            raise NotFoundError(f"there is no hold {name!r}{near}")
        refused = why_not_released(row.held, row.actor, custodian, actor)
        if refused is not None:
            raise RefusedError(refused)
        return {"hold": name, **_append(lake, Released(name, custodian, reason), actor)}


# Events, approvals, the clock


def record_event(lake: Lake, actor: Actor, event: Event) -> dict[str, Any]:
    """Record when something happened. Of several times the latest counts."""
    check_event(event)
    event = msgspec.structs.replace(event, time=format_time(parse_time(event.time)))
    with lake.append_lock:
        lake.dataset(event.dataset)
        if event.version is not None:
            lake.resolve(f"{event.dataset}:v{event.version}")
        standing = Standing(lake.index)
        known = {row.rule.cutoff.event for row in standing.rules} - {None}
        unused = None
        if event.name not in known:
            near = suggest(event.name, [name for name in known if name])
            unused = f"no rule begins with the event {event.name!r}{near}"
        facts = _append(lake, event, actor)
        return {"event": event.name, "dataset": event.dataset, "unused": unused, **facts}


def approve(
    lake: Lake, actor: Actor, versions: Sequence[tuple[str, int]], reason: str = ""
) -> dict[str, Any]:
    """Agree that versions are disposed of that wait for it, under the rule that decides on each now."""
    check_text("a reason", reason, needed=False)
    if not versions:
        raise UsageError("name the versions whose disposition is approved")
    with lake.append_lock:
        standing, now_ns = Standing(lake.index), lake.clock()
        doubt = clock_doubt(lake, lake.clock())
        if doubt is not None:
            raise RefusedError(f"nothing can be approved now: {doubt}")
        by_rule: dict[tuple[str, str], list[VersionRef]] = {}
        for dataset, number in dict.fromkeys(versions):
            row = lake.resolve(f"{dataset}:v{number}")
            decision = standing.decide(row, now_ns)
            _may_approve(actor, row, decision)
            assert decision.rule is not None
            key = (decision.rule.name, decision.rule.rule.digest)
            ref = VersionRef(dataset, number, row.manifest_sha256.hex())
            by_rule.setdefault(key, []).append(ref)
        for (name, digest), refs in by_rule.items():
            _append(lake, Approved(name, digest, tuple(sorted(refs)), reason), actor)
        after = Standing(lake.index)
        return {
            "approved": [
                _approval_facts(lake, after, ref, now_ns)
                for refs in by_rule.values()
                for ref in refs
            ]
        }


def waiting_in_plan(lake: Lake, actor: Actor, digest: str) -> list[tuple[str, int]]:
    """The versions that the plan of this hash blocks and that this person could approve.

    ConflictError when the plan of today is another.
    """
    with lake.append_lock:
        now_ns, tally, standing = lake.clock(), Tally(), Standing(lake.index)
        items = list(plan_items(lake, now_ns, tally, standing=standing))
        if tally.digest != digest:
            raise ConflictError(
                f"the plan {digest[:12]} has grown stale: make a new one with dtafsctl retain plan"
            )
        found = []
        for item in items:
            if item.action == "blocked":
                row = lake.resolve(f"{item.dataset}:v{item.version}")
                try:
                    _may_approve(actor, row, standing.decide(row, now_ns))
                except (ConflictError, RefusedError):
                    continue
                found.append((item.dataset, item.version))
        return found


def _may_approve(actor: Actor, row: VersionRow, decision: Decision) -> None:
    if decision.fate == "disposed":
        raise ConflictError(f"{row.name} is disposed of already")
    if decision.rule is None or decision.fate == "kept":
        raise RefusedError(f"{row.name} is not due: {decision.reasons[0].text}")
    if not decision.approvals_needed:
        raise RefusedError(f"{row.name} needs no approval under rule {decision.rule.name!r}")
    if any(same_person(actor, author) for author in decision.authors):
        raise RefusedError(
            f"rule {decision.rule.name!r}, or another that asks for approvals of {row.name}, was made by "
            f"{actor.user!r}: somebody else has to approve"
        )
    if any(same_person(actor, other) for other in decision.approvers):
        raise ConflictError(f"{actor.user!r} has approved the disposition of {row.name} already")


def _approval_facts(lake: Lake, standing: Standing, ref: VersionRef, now_ns: int) -> dict[str, Any]:
    row = lake.resolve(f"{ref.dataset}:v{ref.version}")
    decision = standing.decide(row, now_ns)
    assert decision.rule is not None
    return {
        "id": row.name,
        "rule": decision.rule.name,
        "approvals": len(decision.approvers),
        "needed": decision.approvals_needed,
        "holds": list(decision.holds),
    }


def confirm_clock(lake: Lake, actor: Actor, stated: str, reason: str = "") -> dict[str, Any]:
    """Record that a person has looked at another clock, which says `stated`, as this host's does."""
    check_text("a reason", reason, needed=False)
    stated_ns, host_ns = parse_time(stated), lake.clock()
    refused = why_not_confirmed(stated_ns, host_ns)
    if refused is not None:
        raise RefusedError(refused)
    with lake.append_lock:
        body = Clocked(format_time(stated_ns), format_time(host_ns), reason)
        return {"confirmed": body.time, **_append(lake, body, actor)}


# Tags


def refuse_untagging(lake: Lake, row: VersionRow, remove: Sequence[str]) -> None:
    """RefusedError where taking tags off a version would take it out of a hold, out of a rule in
    compliance mode, or, under a hold, out of any rule that keeps it."""
    standing = Standing(lake.index)
    if not standing.rules and not standing.holds:
        return
    before = facts_of(row, None)
    after = before._replace(tags=tuple(tag for tag in row.tags if tag not in remove))
    kept = {limits.held.name for limits in standing.holds_in(after)}
    for limits in standing.holds_in(before):
        if limits.held.name not in kept:
            raise RefusedError(
                f"hold {limits.held.name!r} is on {row.name} because of its tags: they stay until "
                "it is released"
            )
    held = bool(standing.holds_on(row))
    for active in standing.rules_for(row.dataset):
        if not active.concerns(before.tags) or active.concerns(after.tags):
            continue
        if active.rule.mode == COMPLIANCE or (held and active.rule.action == DISPOSE):
            why = (
                "is in compliance mode"
                if active.rule.mode == COMPLIANCE
                else "decides under a hold"
            )
            raise RefusedError(
                f"rule {active.name!r} {why} and is for {row.name} because of its tags: they stay"
            )
