"""Where rules contradict each other, which of them wins and why: for those who make them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from dtafs.core.records import ARCHIVE, DISPOSE, NOTIFY, Rule
from dtafs.core.retention import ActiveRule
from dtafs.store.retention_facts import Standing

TOLD_MAX = 20
PAIRS_MAX = 200_000
"""Pairs of rules that are compared, 0.3 s: a thousand rules for everything make half a million."""

DATASETS_MAX = 10_000
"""Names that are looked at; more would only repeat what these tell."""


class _Pair(NamedTuple):
    one: str
    other: str


def overlaps(standing: Standing, rules: Mapping[str, Rule], datasets: Iterable[str]) -> list[str]:
    """Of some rules, what other rules for the same datasets make of them; a sentence each.

    Looks at so many pairs of rules at most; `retain explain` has the last word on each version.
    """
    found: dict[_Pair, tuple[str, str, int]] = {}
    pairs = _pairs(standing, rules, datasets)
    for dataset, one, other in islice(pairs, PAIRS_MAX):
        both = _Pair(*sorted((one.name, other.name)))
        if both in found:
            text, example, count = found[both]
            found[both] = (text, example, count + 1)
        elif len(found) < TOLD_MAX and (said := _contradiction(one, other)) is not None:
            found[both] = (said, dataset, 1)
    return [
        f"{text} ({example!r}" + (f" and {count - 1:,} more datasets)" if count > 1 else ")")
        for text, example, count in found.values()
    ]


def _pairs(
    standing: Standing, rules: Mapping[str, Rule], datasets: Iterable[str]
) -> Iterator[tuple[str, ActiveRule, ActiveRule]]:
    """Rules of which at least one is among `rules` and that are for the same dataset, each pair once."""
    for dataset in islice(datasets, DATASETS_MAX):
        here = sorted(standing.rules_for(dataset), key=lambda active: active.name)
        for one in here:
            if one.name in rules:
                for other in here:
                    if other.name != one.name and (
                        other.name not in rules or other.name > one.name
                    ):
                        yield dataset, one, other


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
