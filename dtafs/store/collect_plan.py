"""What a collection decides, pack by pack: a pure function from facts to decisions with reasons.

| a pack | that | is |
|---|---|---|
| needed by nothing | has no mark | condemned |
| | was marked less than the grace period ago | left waiting |
| | was marked longer ago | removed |
| needed | has a mark | spared |
| named by the log, half or more of it garbage | nobody's uncommitted work has a part in | rewritten |

A metadata pack with any garbage at all is rewritten as soon as something else is removed or
rewritten: a node that the index knows must lead somewhere (`dtafs.store.reachable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from dtafs.core.format import PackKind
from dtafs.store.condemn import Mark

Origin = Literal["logged", "staged", "stray"]
"""Named by the log; of uncommitted work; neither: left by a crash, or rewritten."""

Action = Literal["keep", "spare", "condemn", "wait", "remove", "rewrite"]

UNREACHED = "unreached"
REWRITTEN = "rewritten"
REASONS: dict[Origin, str] = {
    "logged": "no version and nothing staged needs any of it",
    "staged": "staged, and written over or discarded since",
    "stray": "no log entry and no staging names it",
}
MARKED_AS = {REWRITTEN: "what is needed of it was written to another pack"}


class PackFacts(NamedTuple):
    """A pack as a collection finds it; sizes in bytes, `needed` and `plain` before compression."""

    id: bytes
    origin: Origin
    dataset: str
    """Whose entry, or whose staging, brought it; empty for a stray."""
    kind: PackKind | None
    """None where the pack does not say: its footer is damaged."""
    size: int
    plain: int
    needed: int
    shared: bool = False
    """Named by the log, and part of uncommitted work as well."""


class Rule(NamedTuple):
    """What decides: the length of the grace period, and from what share of garbage to rewrite."""

    grace_ns: int
    rewrite_share: float


class Decision(Struct, frozen=True):
    """What is to be done with a pack, and why."""

    pack: bytes
    action: Action
    reason: str
    origin: Origin
    dataset: str
    kind: PackKind | None
    size_bytes: int
    garbage_bytes: int
    """Of the stored size, in proportion to what is not needed before compression."""
    since_ns: int | None = None


def plan_collection(
    facts: Iterable[PackFacts], marks: Mapping[bytes, Mark], now_ns: int, rule: Rule
) -> list[Decision]:
    """A decision for every pack, sorted by pack."""
    known = sorted(facts)
    plan = [_decide(one, marks.get(one.id), now_ns, rule) for one in known]
    acts = any(d.origin == "logged" and d.action in ("remove", "rewrite") for d in plan)
    if not acts:
        return plan
    return [_with_metadata(one, decision) for one, decision in zip(known, plan, strict=True)]


def _decide(pack: PackFacts, mark: Mark | None, now_ns: int, rule: Rule) -> Decision:
    garbage = _garbage(pack)
    since_ns = None if mark is None else mark.since_ns

    def decided(action: Action, reason: str) -> Decision:
        return Decision(
            pack=pack.id,
            action=action,
            reason=reason,
            origin=pack.origin,
            dataset=pack.dataset,
            kind=pack.kind,
            size_bytes=pack.size,
            garbage_bytes=garbage,
            since_ns=since_ns,
        )

    if not pack.needed:
        reason = REASONS[pack.origin]
        if mark is not None and pack.origin == "stray":
            reason = MARKED_AS.get(mark.reason, reason)
        if rule.grace_ns == 0 or (mark is not None and now_ns - mark.since_ns >= rule.grace_ns):
            return decided("remove", reason)
        return decided("condemn" if mark is None else "wait", reason)
    share = 1 - pack.needed / pack.plain if pack.plain else 0.0
    if pack.origin == "logged" and not pack.shared and share >= rule.rewrite_share and share > 0:
        return decided("rewrite", f"{share:.0%} of it is needed by nothing")
    if mark is not None:
        return decided("spare", "something needs it again")
    return decided("keep", "")


def _with_metadata(pack: PackFacts, decision: Decision) -> Decision:
    tidy = pack.needed == pack.plain or pack.kind != PackKind.METADATA or pack.shared
    if tidy or pack.origin != "logged" or decision.action not in ("keep", "spare"):
        return decision
    reason = "it has nodes that nothing reaches, which could lead nowhere"
    return msgspec.structs.replace(decision, action="rewrite", reason=reason)


def _garbage(pack: PackFacts) -> int:
    if not pack.needed:
        return pack.size
    return round(pack.size * (1 - pack.needed / pack.plain)) if pack.plain else 0
