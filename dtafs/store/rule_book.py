"""The rules in force, and which of them are for the versions of a dataset.

A lake may have ten thousand rules. Asked about one dataset, as `retain explain` asks, most are put aside by
the first characters of their pattern, without being taken apart: 0.5 us each instead of 20. Asked about
many, as a plan asks, the patterns are sorted by what they have in common first.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from dtafs.core.patterns import Pattern, Patterns, may_match, parse_pattern
from dtafs.core.retention import ActiveRule, RuleSet, activate
from dtafs.store.database import row_decoder
from dtafs.store.index_records import RuleRow, decode_rule_row

UNTAGGED = ""
SETS_MAX = 1_024
"""Combinations of tags of one dataset whose rules are remembered."""

SINGLE_LOOKS = 8
"""Datasets that are asked about one by one before the patterns are sorted."""


class _Scope(Struct, frozen=True):
    """Of a rule what it is for; other fields are passed over."""

    datasets: str = "*"
    tags: tuple[str, ...] = ()


class _Brief(Struct, frozen=True, array_like=True):
    """Of a `RuleRow` what it is for."""

    name: str
    rule: _Scope


_decode_brief = row_decoder(_Brief)


class _Page:
    """A rule that nobody has had to read yet."""

    __slots__ = ("_active", "_pattern", "scope", "value")

    def __init__(self, value: bytes) -> None:
        self.value = value
        self.scope = _decode_brief(value).rule
        self._pattern: Pattern | None = None
        self._active: ActiveRule | None = None

    @property
    def pattern(self) -> Pattern:
        """Its pattern, taken apart when it is first asked for."""
        if self._pattern is None:
            self._pattern = parse_pattern(self.scope.datasets)
        return self._pattern

    @property
    def active(self) -> ActiveRule:
        """The rule, decoded when it is first asked for."""
        if self._active is None:
            row = decode_rule_row(self.value)
            self._active = activate(row.name, row.rule, row.actor, row.sequence)
        return self._active

    @property
    def tag(self) -> str:
        """The first of the tags that it asks for, if any: no version without it is meant."""
        return next(iter(self.scope.tags), UNTAGGED)


class RuleBook:
    """The rules in force, by what they are for. Threads may ask at once."""

    def __init__(self, values: Sequence[bytes]) -> None:
        """`values` are the rows of the index."""
        self._pages = [_Page(value) for value in values]
        self._sorted: dict[str, Patterns[_Page]] | None = None
        self._looks = 0

    def __len__(self) -> int:
        return len(self._pages)

    def rows(self) -> list[RuleRow]:
        """All rules, by name."""
        return [decode_rule_row(page.value) for page in self._pages]

    def rules_for(self, dataset: str) -> list[ActiveRule]:
        """The rules whose pattern matches a dataset, whatever tags they ask for."""
        self._looks += 1
        if self._looks <= SINGLE_LOOKS:
            return [page.active for page in self._looked_through(dataset)]
        under = self._by_tag()
        return [page.active for tag in under for page in under[tag].matching(dataset)]

    def _looked_through(self, dataset: str) -> list[_Page]:
        return [
            page
            for page in self._pages
            if may_match(page.scope.datasets, dataset) and page.pattern.matches(dataset)
        ]

    def _by_tag(self) -> dict[str, Patterns[_Page]]:
        if self._sorted is None:
            under: dict[str, Patterns[_Page]] = {}
            for page in self._pages:
                under.setdefault(page.tag, Patterns()).add(page.pattern, page)
            self._sorted = under
        return self._sorted

    def tagged(self, dataset: str, tag: str) -> list[ActiveRule]:
        """Of the rules for a dataset those whose first tag is this."""
        under = self._by_tag().get(tag)
        return [] if under is None else [page.active for page in under.matching(dataset)]


class RuleSets:
    """The rules for the versions of one dataset: looked up once for all versions of the same tags."""

    def __init__(self, book: RuleBook, dataset: str) -> None:
        self._book, self._dataset = book, dataset
        self._tagged: dict[str, list[ActiveRule]] = {}
        self._sets: dict[tuple[str, ...], RuleSet] = {}
        self._untagged = RuleSet(self._under(UNTAGGED))

    def of(self, tags: tuple[str, ...]) -> RuleSet:
        """The rules that concern a version with these tags."""
        if not tags or not any(map(self._under, tags)):
            return self._untagged
        found = self._sets.get(tags)
        if found is None:
            if len(self._sets) >= SETS_MAX:
                self._sets.clear()
            found = self._sets[tags] = RuleSet(
                active
                for tag in (UNTAGGED, *tags)
                for active in self._under(tag)
                if active.concerns(tags)
            )
        return found

    def _under(self, tag: str) -> list[ActiveRule]:
        found = self._tagged.get(tag)
        if found is None:
            found = self._tagged[tag] = self._book.tagged(self._dataset, tag)
        return found
