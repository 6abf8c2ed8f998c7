"""Holding past dispositions against the rules, holds and approvals of their time (I5, I10).

The log is gone through in the order of its times, as for the index, and at each `disposed` entry the lattice
is asked of every version that it names: what it kept then was disposed of against the rules, however the
entry came into the log.
"""

from __future__ import annotations

from typing import NamedTuple

from dtafs.core.entries import LogEntry
from dtafs.core.patterns import Patterns, parse_pattern
from dtafs.core.record_checks import decode_approved, decode_disposed
from dtafs.core.records import Disposed
from dtafs.core.retention import (
    ActiveHold,
    Approval,
    Decision,
    Events,
    VersionFacts,
    decide,
)
from dtafs.store.findings import Affected
from dtafs.store.index_records import decode_event_row, decode_hold_row, split_event_key
from dtafs.store.retention_facts import Limits, limits_of
from dtafs.store.rows_in_memory import RowsInMemory
from dtafs.store.rule_book import RuleBook
from dtafs.store.survey import LoggedVersion, Survey


class _Known(NamedTuple):
    version: LoggedVersion
    tags: set[str]


class Past:
    """What there was of versions, rules and holds at a moment of the log."""

    def __init__(self, survey: Survey, rows: RowsInMemory) -> None:
        """`rows` are the records of retention, as the log has been gone through so far."""
        self._survey, self._rows = survey, rows
        self._by_entry = {(v.dataset, v.sequence): v for v in survey.versions}
        self._known: dict[tuple[str, int], _Known] = {}
        self._approvals: dict[tuple[str, int], list[Approval]] = {}
        self._changed = True
        """Whether rules or holds are others than when they were taken apart."""
        self._book, self._limits, self._follows = RuleBook([]), Patterns[Limits](), False

    def note(self, entry: LogEntry) -> None:
        """Go on by an entry; where it disposes of versions, hold it against what there was before it."""
        if entry.kind == "committed":
            version = self._by_entry.get((entry.dataset, entry.sequence))
            if version is not None:
                known = _Known(version, set(version.manifest.tags))
                self._known[version.dataset, version.number] = known
        elif entry.kind in ("tagged", "untagged"):
            tagged = self._known.get((entry.dataset, entry.body["version"]))
            if tagged is not None:
                change = (
                    tagged.tags.update if entry.kind == "tagged" else tagged.tags.difference_update
                )
                change(entry.body["tags"])
        elif entry.kind == "approved":
            said = decode_approved(entry.body)
            for ref in said.versions:
                rest = (ref.manifest, entry.actor, entry.sequence)
                approval = Approval(said.rule, said.rule_sha256, *rest)
                self._approvals.setdefault((ref.dataset, ref.version), []).append(approval)
        elif entry.kind == "disposed":
            if self._changed:
                self._renew()
            self._judge(entry)
        self._changed |= entry.kind in ("ruled", "scheduled", "held", "released")

    def _judge(self, entry: LogEntry) -> None:
        disposed = decode_disposed(entry.body)
        rules, events = self._book.rules_for(entry.dataset), self._events(entry.dataset)
        for ref in disposed.versions:
            known = self._known.get((ref.dataset, ref.version))
            if known is None:
                continue  # reported as an entry that names no version
            facts = self._facts(known)
            holds = self._holds(known)
            approvals = self._approvals.get((ref.dataset, ref.version), ())
            found = decide(facts, rules, holds, events, approvals, entry.time_ns)
            why = _why_not(found) or _other_rule(found, disposed)
            if why is not None:
                text = f"entry {entry.sequence} of {entry.dataset!r} disposed of {facts.name}, although {why}"
                self._survey.add(5, text, [Affected(entry.dataset, (ref.version,))])

    def _facts(self, known: _Known) -> VersionFacts:
        version = known.version
        following = self._known.get((version.dataset, version.number + 1))
        return VersionFacts(
            dataset=version.dataset,
            number=version.number,
            manifest=version.digest.hex(),
            committed_ns=version.time_ns,
            superseded_ns=None if following is None else following.version.time_ns,
            tags=tuple(sorted(known.tags)),
        )

    def _events(self, dataset: str) -> Events:
        whole: dict[str, int] = {}
        single: dict[tuple[str, int], int] = {}
        for key, value in self._rows.tables.get("event", {}).items():
            of, name, number = split_event_key(key)
            if of == dataset and number:
                single[name, number] = decode_event_row(value).time_ns
            elif of == dataset:
                whole[name] = decode_event_row(value).time_ns
        return Events(whole, single)

    def _holds(self, known: _Known) -> list[ActiveHold]:
        """The holds on a version, each once: by itself, or by what it was made from."""
        found = {limits.held.name: ActiveHold(limits.held) for limits in self._holds_in(known)}
        if not self._follows:
            return list(found.values())
        pending, seen = [known], {(known.version.dataset, known.version.number)}
        while pending:
            for source in pending.pop().version.manifest.sources:
                place = (source.dataset, source.version)
                above = self._known.get(place)
                if above is None or place in seen:
                    continue
                seen.add(place)
                pending.append(above)
                for limits in self._holds_in(above):
                    if limits.held.descendants:
                        followed = ActiveHold(limits.held, above.version.name)
                        found.setdefault(limits.held.name, followed)
        return list(found.values())

    def _holds_in(self, known: _Known) -> list[Limits]:
        facts = self._facts(known)
        return [one for one in self._limits.matching(facts.dataset) if one.concerns(facts)]

    def _renew(self) -> None:
        """Take rules and holds apart anew, after an entry that changed some."""
        tables = self._rows.tables
        self._book = RuleBook(list(tables.get("rule", {}).values()))
        held = [decode_hold_row(value).held for value in tables.get("hold", {}).values()]
        self._limits = Patterns()
        for one in held:
            self._limits.add(parse_pattern(one.scope.datasets), limits_of(one))
        self._follows = any(one.descendants for one in held)
        self._changed = False


def _why_not(found: Decision) -> str | None:
    """What kept a version, if anything did, in a sentence."""
    if found.fate == "kept" or found.holds:
        return found.reasons[0].text
    missing = found.approvals_needed - len(found.approvers)
    if missing > 0:
        return f"{missing} of {found.approvals_needed} approvals by other persons were missing"
    return None


def _other_rule(found: Decision, disposed: Disposed) -> str | None:
    """Which rule decided, where an entry names another one, or one that it was not any more."""
    rule = found.rule
    if rule is None or (rule.name, rule.rule.digest) == (disposed.rule, disposed.rule_sha256):
        return None
    return f"rule {rule.name!r} decided on it, and not {disposed.rule!r} as the entry has it"
