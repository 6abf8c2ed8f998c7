"""What is to be done by the rules of retention at a time: a plan, with what stands in its way. Pure.

A plan is a list of items in the order of datasets and versions. Its hash covers them all, and not the
time at which it was made: as long as the hash is the same, it is the same plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import msgspec

from dtafs.core.names import format_time
from dtafs.core.records import VersionRef
from dtafs.core.retention import (
    ActiveHold,
    Approval,
    Cutoffs,
    Deed,
    Events,
    RuleSet,
    VersionFacts,
    agreeing,
    archiving,
    authors_of,
    due_deeds,
    hold_reasons,
    latest_cutoff,
    notifying,
)
from dtafs.core.values import Actor

Action = Literal["archive", "dispose", "notify", "blocked"]
ACTIONS: tuple[Action, ...] = ("archive", "dispose", "notify", "blocked")


class Item(NamedTuple):
    """One thing to do with a version, by a rule whose cutoff was at `due_ns`.

    `blocked` is a disposition that cannot be: `blocked_by` says by what, in sentences.
    """

    action: Action
    dataset: str
    version: int
    manifest: str
    rule: str
    rule_sha256: str
    authority: str
    due_ns: int
    tier: str = ""
    blocked_by: tuple[str, ...] = ()
    approvers: tuple[Actor, ...] = ()

    @property
    def ref(self) -> VersionRef:
        return VersionRef(self.dataset, self.version, self.manifest)

    @property
    def name(self) -> str:
        return f"{self.dataset}:v{self.version}"


class Lookups(NamedTuple):
    """What is asked about a version only when it comes to that."""

    holds: Callable[[VersionFacts], Sequence[ActiveHold]]
    approvals: Callable[[VersionFacts], Sequence[Approval]]
    sent_to: Callable[[VersionFacts], str | None]
    """The tier that a rule has sent it to already."""
    obstacle: Callable[[VersionFacts], str | None]
    """What else keeps it from being disposed of on this host, in a sentence."""


def plan_version(
    version: VersionFacts, rules: RuleSet, events: Events, ask: Lookups, now_ns: int
) -> Iterator[Item]:
    """What is to be done with one version; nothing where it is kept as it is. As `decide` has it."""
    # Of most versions nothing is due, which this tells without looking at calendars.
    soonest_ns = rules.soonest_ns
    if version.disposed or soonest_ns is None or soonest_ns > now_ns - version.committed_ns:
        return
    cutoffs = Cutoffs(version, events)
    latest = latest_cutoff(rules, cutoffs, now_ns)
    if latest is not None:
        item = _disposition(version, rules, Deed(latest[1], latest[0]), ask)
        yield item
        if item.action == "dispose":
            return
    due = due_deeds(rules, cutoffs, now_ns)
    sent = archiving(due, ask.sent_to(version)) if due else None
    if sent is not None:
        yield _item("archive", version, sent)
    for deed in notifying(due):
        yield _item("notify", version, deed)


def _item(action: Action, version: VersionFacts, deed: Deed) -> Item:
    rule = deed.active.rule
    return Item(
        action=action,
        dataset=version.dataset,
        version=version.number,
        manifest=version.manifest,
        rule=deed.active.name,
        rule_sha256=rule.digest,
        authority=rule.authority,
        due_ns=deed.due_ns,
        tier=rule.tier,
    )


def _disposition(version: VersionFacts, rules: RuleSet, deed: Deed, ask: Lookups) -> Item:
    """The disposition of a version whose cutoffs are all over, or what blocks it."""
    needed = rules.approvals
    approvers: tuple[Actor, ...] = ()
    blocked = [reason.text for reason in hold_reasons(ask.holds(version))]
    if needed:
        authors = authors_of(deed.active, rules.disposing)
        approvers = agreeing(deed.active, version, ask.approvals(version), authors)
    missing = needed - len(approvers)
    if missing > 0:
        blocked.append(f"{missing} of {needed} approvals by other persons are missing")
    obstacle = ask.obstacle(version)
    if obstacle is not None:
        blocked.append(obstacle)
    item = _item("blocked" if blocked else "dispose", version, deed)
    if not blocked and not approvers:
        return item
    return item._replace(blocked_by=tuple(blocked), approvers=approvers)


class Tally:
    """Counts the items of a plan as they come, and hashes them."""

    def __init__(self) -> None:
        self.counts: dict[Action, int] = dict.fromkeys(ACTIONS, 0)
        self.versions = 0
        """How many versions were looked at."""
        self._hash = hashlib.sha256()

    def add(self, item: Item) -> None:
        """Take one item into account."""
        self.counts[item.action] += 1
        self._hash.update(_encode(item) + b"\n")

    @property
    def digest(self) -> str:
        """The hash of the items so far, in hex."""
        return self._hash.hexdigest()


_encode = msgspec.json.Encoder().encode


def item_facts(item: Item) -> dict[str, object]:
    """An item as a document shows it."""
    facts = {
        "action": item.action,
        "id": item.name,
        "dataset": item.dataset,
        "version": item.version,
        "sha256": item.manifest,
        "rule": item.rule,
        "authority": item.authority,
        "due": format_time(item.due_ns),
    }
    if item.tier:
        facts["tier"] = item.tier
    if item.action in ("dispose", "blocked"):
        facts["approvers"] = [msgspec.to_builtins(actor) for actor in item.approvers]
    return {**facts, "blocked_by": list(item.blocked_by)} if item.blocked_by else facts
