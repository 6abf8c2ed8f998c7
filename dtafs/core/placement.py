"""The policy of tiers: which packs move where, and why. A pure function from facts to a plan.

| a content pack on the hot disk that | goes |
|---|---|
| was recalled, and whose time is over | from the hot disk again |
| only superseded versions need, and nobody read for `superseded_after` | to the first tier that can be read |
| nobody read for `after` | the same |
| is older than `aged_after` | the same |
| only carriers of a tag of `archive_tags` need | to the archive |
| is unread for longest, while the hot disk is above its high water, until it is below the low | the same |
| a version, a pin or a tag of `keep_tags` holds | nowhere: it stays, or comes back |

A pack in a readable tier that nobody read for `archive_after` goes on to the archive. What was read or
written within `settle` stays, and so does a pack that is smaller than `size_min`, unless the disk is above
its high water. Without a tier of a kind, its rules do not apply.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from dtafs.core.periods import DAY_NS

Action = Literal["move", "drop", "recall"]

HOT = "hot"
"""The lake's own disk, where a tier is named."""


class PackFacts(NamedTuple):
    """A content pack as the policy sees it; sizes in bytes, times in ns since 1970."""

    id: bytes
    size: int
    hot: bool
    tiers: tuple[str, ...]
    """That have a verified copy."""
    written_ns: int
    """When the version was committed that brought it."""
    read_ns: int
    """When it was last read, 0 when that is not known."""
    current: bool
    """A newest version needs it."""
    kept: str = ""
    """What holds it on the hot disk, such as a pin; empty when nothing does."""
    archived_by: str = ""
    """The tag that every version which needs it carries, and that sends it to the archive."""
    hot_until_ns: int = 0


class TierFacts(NamedTuple):
    """A tier that is attached, in the order of preference."""

    name: str
    archive: bool


class Rules(NamedTuple):
    """What decides. None switches a rule off."""

    after_ns: int | None
    superseded_after_ns: int | None
    aged_after_ns: int | None
    archive_after_ns: int | None
    settle_ns: int
    size_min: int


class Disk(NamedTuple):
    """The hot disk, in bytes: what is used of what is there, and the marks."""

    used: int
    high: int
    low: int


class Step(Struct, frozen=True):
    """One pack, what is to be done with it, and why."""

    pack: bytes
    action: Action
    tier: str
    """Where it goes; for a recall, `hot`; for a drop, a tier that has it already."""
    size_bytes: int
    reason: str


def plan_placement(
    packs: Iterable[PackFacts],
    tiers: Sequence[TierFacts],
    disk: Disk,
    rules: Rules,
    now_ns: int,
) -> list[Step]:
    """The steps that the facts call for, the most useful first: what is held comes back, what is due
    leaves, then what the high water drives out, and last what goes on from tier to tier."""
    known = sorted(packs)
    warm = next((tier.name for tier in tiers if not tier.archive), None)
    cold = next((tier.name for tier in tiers if tier.archive), None)
    target = warm or cold
    back = [_back(pack) for pack in known if pack.kept and not pack.hot and pack.tiers]
    due = [step for pack in known if (step := _due(pack, target, cold, rules, now_ns))]
    going = {step.pack for step in due}
    freed = sum(step.size_bytes for step in due) - sum(step.size_bytes for step in back)
    driven = _driven(known, going, target, disk, disk.used - freed, now_ns)
    onward = [step for pack in known if (step := _onward(pack, warm, cold, rules, now_ns))]
    return [*back, *sorted(due, key=_drops_first), *driven, *onward]


def _drops_first(step: Step) -> tuple[bool, bytes]:
    return step.action != "drop", step.pack


def _back(pack: PackFacts) -> Step:
    return Step(pack.id, "recall", HOT, pack.size, f"{pack.kept} holds it on the hot disk")


def _away(pack: PackFacts, tier: str, reason: str) -> Step:
    """The step that takes a pack from the hot disk: only a drop where a tier has it already."""
    if tier in pack.tiers:
        return Step(pack.id, "drop", tier, pack.size, f"{reason}; {tier} has it already")
    return Step(pack.id, "move", tier, pack.size, reason)


def _due(
    pack: PackFacts, target: str | None, cold: str | None, rules: Rules, now_ns: int
) -> Step | None:
    """Why a hot pack leaves, whatever room there is."""
    if not pack.hot or pack.kept or target is None or pack.hot_until_ns > now_ns:
        return None
    if pack.archived_by and cold is not None:
        tag = f"every version that needs it carries the tag {pack.archived_by!r}"
        return _away(pack, cold, tag)
    if pack.size < rules.size_min and not pack.tiers:
        return None
    idle_ns = _idle_ns(pack, now_ns)
    if idle_ns < rules.settle_ns:
        return None
    if pack.hot_until_ns and pack.tiers:
        return _away(pack, pack.tiers[0], "it was recalled, and its time is over")
    if not pack.current and _is_over(rules.superseded_after_ns, idle_ns):
        return _away(pack, target, f"only superseded versions need it, {_unread(idle_ns)}")
    if _is_over(rules.after_ns, idle_ns):
        return _away(pack, target, _unread(idle_ns))
    age_ns = max(0, now_ns - pack.written_ns)
    if _is_over(rules.aged_after_ns, age_ns):
        return _away(pack, target, f"it was written {age_ns / DAY_NS:.0f} days ago")
    return None


def _driven(
    packs: Sequence[PackFacts],
    going: set[bytes],
    target: str | None,
    disk: Disk,
    used: int,
    now_ns: int,
) -> list[Step]:
    """What leaves since the hot disk is above its high water."""
    steps: list[Step] = []
    if used <= disk.high or target is None:
        return steps
    free = [
        pack
        for pack in packs
        if pack.hot and not pack.kept and pack.id not in going and pack.hot_until_ns <= now_ns
    ]
    # What needs no transfer first, then what only old versions need, then the longest unread.
    free.sort(key=lambda pack: (not pack.tiers, pack.current, -_idle_ns(pack, now_ns), pack.id))
    for pack in free:
        if used <= disk.low:
            break
        reason = f"the hot disk is above its high water; {_unread(_idle_ns(pack, now_ns))}"
        steps.append(_away(pack, pack.tiers[0] if pack.tiers else target, reason))
        used -= pack.size
    return steps


def _onward(
    pack: PackFacts, warm: str | None, cold: str | None, rules: Rules, now_ns: int
) -> Step | None:
    """Why a pack that left the hot disk goes on to the archive."""
    if pack.hot or pack.kept or warm is None or cold is None:
        return None
    if warm not in pack.tiers or cold in pack.tiers:
        return None
    idle_ns = _idle_ns(pack, now_ns)
    if pack.archived_by:
        tag = f"every version that needs it carries the tag {pack.archived_by!r}"
        return Step(pack.id, "move", cold, pack.size, tag)
    if _is_over(rules.archive_after_ns, idle_ns):
        return Step(pack.id, "move", cold, pack.size, _unread(idle_ns))
    return None


def _idle_ns(pack: PackFacts, now_ns: int) -> int:
    """For how long nobody has read or written a pack; 0 where a clock says otherwise."""
    return max(0, now_ns - max(pack.written_ns, pack.read_ns))


def _is_over(limit_ns: int | None, idle_ns: int) -> bool:
    return limit_ns is not None and idle_ns >= limit_ns


def _unread(idle_ns: int) -> str:
    days = idle_ns / DAY_NS
    shown = f"{days:.0f} days" if days >= 1 else f"{idle_ns / 3.6e12:.1f} hours"
    return f"nobody has read it for {shown}"
