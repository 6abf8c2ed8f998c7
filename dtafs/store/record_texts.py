"""What log entries about retention say, in a few words, for people."""

from __future__ import annotations

from dtafs.core.entries import LogEntry
from dtafs.core.quantities import counted
from dtafs.core.record_checks import DECODERS
from dtafs.core.records import (
    ARCHIVE,
    DISPOSE,
    Approved,
    Archived,
    Body,
    Clocked,
    Destroyed,
    Disposed,
    Event,
    Held,
    Released,
    Rule,
    Ruled,
    Scheduled,
    Scope,
    VersionRef,
)
from dtafs.errors import IntegrityError
from dtafs.store.compare import printable

NAMED_MAX = 5
"""Versions and rules that are listed; of more, the number."""


def describe_record(entry: LogEntry) -> str:
    """What an entry of one of the kinds of `dtafs.core.records` says; the kind, if it says nothing."""
    try:
        return printable(_text(DECODERS[entry.kind](entry.body)))
    except IntegrityError:
        return f"{entry.kind}: malformed"


def _text(body: Body) -> str:
    match body:
        case Ruled(name, None):
            return f"rule {name} removed" + _why(body.reason)
        case Ruled(name, Rule() as rule):
            return f"rule {name}: {describe_rule(rule)}" + _why(body.reason)
        case Scheduled(rules):
            names = sorted(rules)
            more = len(names) - NAMED_MAX
            shown = ", ".join(names[:NAMED_MAX]) + (f" and {more:,} more" if more > 0 else "")
            return f"schedule of {counted(len(names), 'rule')}: {shown}" + _why(body.reason)
        case Held(name):
            followed = ", and what is made from it" if body.descendants else ""
            text = f"hold {name} placed on {describe_scope(body.scope)}{followed}"
            return f"{text}; matter {body.matter}, custodian {body.custodian}" + _why(body.reason)
        case Released(name):
            return f"hold {name} released for {body.custodian}" + _why(body.reason)
        case Event(name):
            what = body.dataset if body.version is None else f"{body.dataset}:v{body.version}"
            return f"event {name} of {what} at {body.time}" + _why(body.reason)
        case Approved():
            return f"disposition by rule {body.rule} approved: {_refs(body.versions)}"
        case Clocked():
            return f"clock confirmed: it is {body.time}, the host says {body.host_time}"
        case Archived():
            return f"archived to {body.tier} by rule {body.rule}: {_refs(body.versions)}"
        case Disposed():
            return f"disposed by rule {body.rule} ({body.authority}): {_refs(body.versions)}"
        case Destroyed():
            return f"destroyed in {', '.join(body.tiers)}: what entry {body.disposed} disposed of"
    return ""


def _why(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _refs(versions: tuple[VersionRef, ...]) -> str:
    if len(versions) > NAMED_MAX:
        return f"{len(versions):,} versions"
    return ", ".join(f"{ref.dataset}:v{ref.version}" for ref in versions)


def describe_rule(rule: Rule) -> str:
    """A rule in one line: what it does, when, to what, and on whose authority."""
    action = f"archive to {rule.tier}" if rule.action == ARCHIVE else rule.action
    event = rule.cutoff.event
    start = f"event {event}" if event is not None else f"it was {rule.cutoff.start}"
    text = f"{action} {rule.cutoff.period} after {start}: {rule.datasets}"
    text += f" tagged {', '.join(rule.tags)}" if rule.tags else ""
    text += f"; {rule.authority}; {rule.mode}"
    needs = f", {rule.approvals} to approve" if rule.action == DISPOSE and rule.approvals else ""
    return text + needs


def describe_scope(scope: Scope) -> str:
    """What a hold is on, in a few words."""
    text = scope.datasets
    if scope.versions:
        shown = [f"v{number}" for number in scope.versions[:NAMED_MAX]]
        more = len(scope.versions) - len(shown)
        text += f" {', '.join(shown)}" + (f" and {more} more" if more else "")
    text += f" tagged {', '.join(scope.tags)}" if scope.tags else ""
    text += f" committed from {scope.committed_after}" if scope.committed_after else ""
    return text + (f" committed before {scope.committed_before}" if scope.committed_before else "")
