"""Where rules contradict each other, which of them wins and why: for those who make them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dtafs.core.records import ARCHIVE, DISPOSE, NOTIFY, Rule
from dtafs.core.retention import ActiveRule
from dtafs.store.retention_facts import Standing

TOLD_MAX = 20
DATASETS_MAX = 10_000
"""Names that are looked at; more would only repeat what these tell."""


class _Pair(NamedTuple):
    one: str
    other: str


def overlaps(standing: Standing, rules: Mapping[str, Rule], datasets: Iterable[str]) -> list[str]:
    """Of some rules, what other rules for the same datasets make of them; a sentence each."""
    found: dict[_Pair, tuple[str, str, int]] = {}
    for _, dataset in zip(range(DATASETS_MAX), datasets, strict=False):
        here = sorted(standing.rules_for(dataset), key=lambda active: active.name)
        for one in here:
            if one.name not in rules:
                continue
            for other in here:
                both = _Pair(*sorted((one.name, other.name)))
                if other.name == one.name or (other.name in rules and other.name < one.name):
                    continue
                if both in found:
                    text, example, count = found[both]
                    found[both] = (text, example, count + 1)
                elif (said := _contradiction(one, other)) is not None:
                    found[both] = (said, dataset, 1)
            if len(found) >= TOLD_MAX:
                break
    return [
        f"{text} ({example!r}" + (f" and {count - 1:,} more datasets)" if count > 1 else ")")
        for text, example, count in found.values()
    ]


def _contradiction(one: ActiveRule, other: ActiveRule) -> str | None:
    actions = {one.rule.action, other.rule.action}
    if NOTIFY in actions or actions == {ARCHIVE}:
        return None
    if actions == {DISPOSE}:
        if one.rule.cutoff == other.rule.cutoff:
            return None
        if one.rule.cutoff.start == other.rule.cutoff.start:
            for longer, shorter in ((one, other), (other, one)):
                if longer.period.covers(shorter.period):
                    return (
                        f"rule {longer.name!r} wins over {shorter.name!r} where both apply: "
                        f"{longer.rule.cutoff.period} is longer than {shorter.rule.cutoff.period}, and "
                        "the longest decides"
                    )
        return (
            f"of the rules {one.name!r} and {other.name!r}, for each version the one wins that ends "
            "later"
        )
    archive, dispose = (one, other) if one.rule.action == ARCHIVE else (other, one)
    same = archive.rule.cutoff.start == dispose.rule.cutoff.start
    if same and archive.period.covers(dispose.period):
        return (
            f"rule {dispose.name!r} disposes of what {archive.name!r} would archive, "
            f"{dispose.rule.cutoff.period} being no later than {archive.rule.cutoff.period}"
        )
    return None
