"""What the index knows that decides how long versions are kept, read once for as long as it holds.

A view is of one state of the lake's own log: `Standing.of` gives the same one until a rule or a hold
changes. Events, approvals and versions are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from typing import NamedTuple

import msgspec
from msgspec import Struct

from dtafs.core.names import parse_time
from dtafs.core.patterns import Patterns, parse_pattern
from dtafs.core.records import Held
from dtafs.core.retention import (
    ActiveHold,
    ActiveRule,
    Approval,
    Decision,
    Events,
    VersionFacts,
    decide,
)
from dtafs.errors import IntegrityError
from dtafs.store.database import Txn, row_decoder
from dtafs.store.index import Index, VersionRow
from dtafs.store.index_records import (
    HoldRow,
    RuleRow,
    children,
    decode_approval_row,
    decode_archived_row,
    decode_event_row,
    decode_hold_row,
    split_event_key,
)
from dtafs.store.index_rows import version_key
from dtafs.store.rule_book import RuleBook, RuleSets

PAGE_ROWS = 4_096
"""Versions that are read in one txn; a longer one would make the file grow under a writer."""


class _Brief(Struct, frozen=True, array_like=True):
    """Of a `VersionRow` what retention needs; the rest is not decoded, which halves the time."""

    dataset: str
    number: int
    serial: int
    manifest: msgspec.Raw
    manifest_sha256: bytes
    time_ns: int
    sequence: int
    actor: msgspec.Raw
    tags: tuple[str, ...]
    disposed: int = 0


_decode_brief = row_decoder(_Brief)


class Limits(NamedTuple):
    """A hold, its scope taken apart."""

    held: Held
    versions: frozenset[int]
    tags: frozenset[str]
    after_ns: int | None
    before_ns: int | None

    def concerns(self, version: VersionFacts) -> bool:
        """Whether a version of a dataset that the pattern matches is in scope."""
        return (
            (not self.versions or version.number in self.versions)
            and (not self.tags or self.tags.issubset(version.tags))
            and (self.after_ns is None or version.committed_ns >= self.after_ns)
            and (self.before_ns is None or version.committed_ns < self.before_ns)
        )


def limits_of(held: Held) -> Limits:
    """A hold whose scope can be asked."""
    scope = held.scope
    after, before = (
        None if text is None else parse_time(text)
        for text in (scope.committed_after, scope.committed_before)
    )
    return Limits(held, frozenset(scope.versions), frozenset(scope.tags), after, before)


class Standing:
    """The rules and holds in force. Immutable, so any thread may ask."""

    def __init__(self, index: Index) -> None:
        with index.database.read() as txn:
            self.book = RuleBook([value for _key, value in txn.scan("rule")])
            self.holds = [decode_hold_row(value) for _key, value in txn.scan("hold")]
            self._own = txn.get("meta", b"own")
        self._index = index
        self._holds: Patterns[Limits] = Patterns()
        for hold in self.holds:
            self._holds.add(parse_pattern(hold.held.scope.datasets), limits_of(hold.held))
        self._last: tuple[str, list[Limits]] = ("", [])
        """The dataset that was asked about last, and the holds for it: versions come by dataset."""
        self.follows = any(hold.held.descendants for hold in self.holds)
        """Whether a hold is also on what was made from what it is on."""

    @staticmethod
    def of(index: Index, known: Standing | None = None) -> Standing:
        """What is in force now; `known` again, as long as that is still so."""
        if known is None or known._index is not index:
            return Standing(index)
        return known if index.database.get("meta", b"own") == known._own else Standing(index)

    @property
    def rules(self) -> list[RuleRow]:
        """The rules in force, by name."""
        return self.book.rows()

    def rule(self, name: str) -> RuleRow | None:
        """A rule in force, or None."""
        return next((row for row in self.rules if row.name == name), None)

    def hold(self, name: str) -> HoldRow | None:
        """A hold that is not released, or None."""
        return next((row for row in self.holds if row.name == name), None)

    def rules_for(self, dataset: str) -> list[ActiveRule]:
        """The rules whose pattern matches a dataset, whatever tags they ask for."""
        return self.book.rules_for(dataset)

    def rule_sets(self, dataset: str) -> RuleSets:
        """The rules for the versions of a dataset, by their tags."""
        return RuleSets(self.book, dataset)

    def holds_in(self, version: VersionFacts) -> list[Limits]:
        """The holds in whose scope a version is, by itself."""
        dataset, found = self._last
        if dataset != version.dataset:
            found = self._holds.matching(version.dataset)
            self._last = version.dataset, found
        return [limits for limits in found if limits.concerns(version)]

    def events_of(self, dataset: str) -> Events:
        """When events happened that concern a dataset and its versions."""
        return events_of(self._index, dataset)

    def holds_on(self, row: VersionRow) -> list[ActiveHold]:
        """The holds on a version, with those on what it was made from that follow."""
        found = {
            limits.held.name: ActiveHold(limits.held)
            for limits in self.holds_in(facts_of(row, None))
        }
        if self.follows:
            for source in self._ancestors(row):
                for limits in self.holds_in(facts_of(source, None)):
                    if limits.held.descendants:
                        followed = ActiveHold(limits.held, source.name)
                        found.setdefault(limits.held.name, followed)
        return list(found.values())

    def _ancestors(self, row: VersionRow) -> Iterator[VersionRow]:
        """The versions that a version was made from, directly or not, nearest first."""
        seen = {(row.dataset, row.number)}
        pending = [row]
        while pending:
            following = []
            for one in pending:
                for source in one.manifest.sources:
                    if (source.dataset, source.version) in seen:
                        continue
                    seen.add((source.dataset, source.version))
                    found = find_version(self._index, source.dataset, source.version)
                    if found is not None:
                        yield found
                        following.append(found)
            pending = following

    def inherited(self) -> dict[tuple[str, int], list[ActiveHold]]:
        """Of all versions the holds that they have because of what they were made from.

        Takes time and memory in proportion to those versions, and reads what is in the scope of
        holds that follow.
        """
        found: dict[tuple[str, int], list[ActiveHold]] = {}
        if not self.follows:
            return found
        names = [row.name for row in self._index.datasets()]
        for row in self.holds:
            if row.held.descendants:
                self._follow(row.held, names, found)
        return found

    def _follow(
        self, held: Held, names: list[str], found: dict[tuple[str, int], list[ActiveHold]]
    ) -> None:
        limits, pattern = limits_of(held), parse_pattern(held.scope.datasets)
        seen: set[tuple[str, int]] = set()
        for name in (name for name in names if pattern.matches(name)):
            for version in versions_of(self._index, name):
                if limits.concerns(version):
                    self._spread(held, version.dataset, version.number, seen, found)

    def _spread(
        self,
        held: Held,
        dataset: str,
        number: int,
        seen: set[tuple[str, int]],
        found: dict[tuple[str, int], list[ActiveHold]],
    ) -> None:
        pending = [(dataset, number)]
        while pending:
            place = pending.pop()
            with self._index.database.read() as txn:
                made = children(txn, *place)
            for child in made:
                key = (child.dataset, child.number)
                if key not in seen:
                    seen.add(key)
                    through = ActiveHold(held, f"{place[0]}:v{place[1]}")
                    found.setdefault(key, []).append(through)
                    pending.append(key)

    def decide(self, row: VersionRow, now_ns: int) -> Decision:
        """What becomes of a version at a time, with the reasons."""
        facts = facts_of(row, superseded_ns(self._index, row))
        return decide(
            facts,
            self.rules_for(row.dataset),
            self.holds_on(row),
            self.events_of(row.dataset),
            approvals_of(self._index, row.dataset, row.number),
            now_ns,
        )


def facts_of(row: VersionRow, superseded: int | None) -> VersionFacts:
    """What of a version matters to retention."""
    return VersionFacts(
        *(row.dataset, row.number, row.manifest_sha256.hex(), row.time_ns),
        *(superseded, row.tags, row.disposed),
    )


def superseded_ns(index: Index, row: VersionRow) -> int | None:
    """When the next version was committed; None for the newest."""
    following = index.version(row.dataset, row.number + 1)
    return None if following is None else following.time_ns


def find_version(index: Index, dataset: str, number: int) -> VersionRow | None:
    """A version by what a manifest calls it, which may be no name at all; None if there is none."""
    name = dataset.encode(errors="surrogateescape")
    if not 0 < len(name) <= 200 or not 0 < number < 2**32:
        return None
    return index.version(dataset, number)


def events_of(index: Index, dataset: str) -> Events:
    """When events happened that concern a dataset and its versions."""
    whole: dict[str, int] = {}
    single: dict[tuple[str, int], int] = {}
    with index.database.read() as txn:
        for key, value in txn.scan("event", dataset.encode() + b"\0"):
            _dataset, name, number = split_event_key(key)
            time_ns = decode_event_row(value).time_ns
            if number:
                single[name, number] = time_ns
            else:
                whole[name] = time_ns
    return Events(whole, single)


def approvals_of(index: Index, dataset: str, number: int) -> list[Approval]:
    """Who has approved a disposition of a version, whatever has become of the rule since."""
    found = []
    with index.database.read() as txn:
        for _key, value in txn.scan("approval", version_key(dataset, number)):
            row = decode_approval_row(value)
            said = (row.rule, row.rule_sha256, row.manifest, row.actor, row.sequence)
            found.append(Approval(*said))
    return found


def sent_to(index: Index, dataset: str, number: int) -> str | None:
    """The tier to which a rule has sent a version last, if any has."""
    with index.database.read() as txn:
        value = txn.get("archived", version_key(dataset, number))
    return None if value is None else decode_archived_row(value).tier


def all_versions(index: Index) -> Iterator[tuple[str, Iterator[VersionFacts]]]:
    """Every version of the lake, by dataset, oldest first; each group is to be used up in its turn.

    Versions that are committed meanwhile may be missed. Memory is bounded.
    """
    return groupby(_with_following(_briefs(index, b"")), key=lambda version: version.dataset)


def versions_of(index: Index, dataset: str) -> Iterator[VersionFacts]:
    """The versions of a dataset, oldest first."""
    return _with_following(_briefs(index, dataset.encode() + b"\0"))


def _briefs(index: Index, prefix: bytes) -> Iterator[_Brief]:
    start = prefix
    while True:
        with index.database.read() as txn:
            page = list(islice(_scan(txn, prefix, start), PAGE_ROWS))
        yield from (row for _key, row in page)
        if len(page) < PAGE_ROWS:
            return
        start = page[-1][0] + b"\0"


def _scan(txn: Txn, prefix: bytes, start: bytes) -> Iterator[tuple[bytes, _Brief]]:
    for key, value in txn.scan("version", prefix, start):
        yield key, _decode_brief(value)


def _with_following(rows: Iterator[_Brief]) -> Iterator[VersionFacts]:
    """Each version with the time of the next one of its dataset."""
    held: _Brief | None = None
    for row in rows:
        if held is not None:
            same = held.dataset == row.dataset
            if same and row.number != held.number + 1:
                raise IntegrityError(
                    f"version {held.number + 1} of {row.dataset!r} is missing from the index; "
                    "run dtafsctl reindex"
                )
            yield _facts(held, row.time_ns if same else None)
        held = row
    if held is not None:
        yield _facts(held, None)


def _facts(row: _Brief, superseded: int | None) -> VersionFacts:
    return VersionFacts(
        row.dataset,
        row.number,
        row.manifest_sha256.hex(),
        row.time_ns,
        superseded,
        row.tags,
        row.disposed,
    )
