"""What may become of a rule and of a hold, whoever asks: pure, so that the log is read by the same
rules that commands hold to."""

from __future__ import annotations

from dtafs.core.patterns import parse_pattern
from dtafs.core.records import COMPLIANCE, DISPOSE, Held, Rule
from dtafs.core.retention import same_person
from dtafs.core.values import Actor


def why_not_changed(old: Rule, new: Rule | None) -> str | None:
    """Why a rule must stay what it is; None when the change is allowed.

    A rule in compliance mode may come to keep longer and more, and nothing else.
    """
    if old.mode != COMPLIANCE:
        return None
    if new is None:
        return "is in compliance mode and can never be removed"
    shortened = why_shorter(old, new)
    if shortened is None and new.mode != COMPLIANCE:
        shortened = "it would no longer be in compliance mode"
    return None if shortened is None else f"is in compliance mode: {shortened}"


def why_shorter(old: Rule, new: Rule | None) -> str | None:
    """What a rule kept, if anything, that it would keep no more or less long; None for nothing.

    Where it cannot be told, as between two patterns, it counts as shorter.
    """
    if new is None:
        return "what it kept would no longer be kept by it"
    if old == new:
        return None
    pattern = parse_pattern(new.datasets)
    if new.datasets != old.datasets and not pattern.matches_everything:
        return f"it would no longer be for all datasets that {old.datasets!r} matches"
    if not set(new.tags) <= set(old.tags):
        return "it would be for fewer versions, those with more tags"
    if new.action != old.action or new.tier != old.tier:
        return f"it would no longer {old.action}" + (f" to {old.tier}" if old.tier else "")
    if new.cutoff.start != old.cutoff.start:
        return f"its period would no longer begin with {old.cutoff.start!r}"
    if not new.cutoff.parsed.covers(old.cutoff.parsed):
        return f"its period of {old.cutoff.period} cannot be shortened to {new.cutoff.period}"
    if old.action == DISPOSE and new.approvals < old.approvals:
        return f"it would need {new.approvals} instead of {old.approvals} approvals"
    return None


def why_not_released(held: Held, placed_by: Actor, custodian: str, actor: Actor) -> str | None:
    """Why `actor` may not end a hold on behalf of `custodian`; None when they may.

    It takes the custodian, or who placed the hold for them: that somebody else names them is not enough.
    """
    name, of = held.name, held.custodian
    if custodian != of:
        return f"hold {name!r} is in the custody of {of!r}: only on their behalf can it be released"
    if actor.user == of or same_person(actor, placed_by):
        return None
    return (
        f"hold {name!r} is in the custody of {of!r} and was placed by {placed_by.user!r}: "
        f"{actor.user!r} cannot release it"
    )
