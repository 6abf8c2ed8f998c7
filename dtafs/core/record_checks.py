"""What a record of retention may say: `dtafs.core.records` has the structs.

`check_x` raises UsageError for what a person asks for; `decode_x` takes what a log holds and raises
IntegrityError. Both hold it to the same rules, so that whoever has a decoded body may rely on them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from dtafs.core.names import check_dataset_name, check_label, check_tag, parse_time
from dtafs.core.patterns import parse_pattern
from dtafs.core.records import (
    ACTIONS,
    ARCHIVE,
    COMMITTED,
    DISPOSE,
    EVENT_PREFIX,
    MODES,
    SUPERSEDED,
    Amount,
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
    VersionRef,
)
from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError, UsageError

T = TypeVar("T")

TEXT_MAX_BYTES = 2_000
"""Of an authority, a matter, a reason, and so on."""

VERSIONS_MAX = 10_000
RULES_MAX = 100_000
"""In one entry."""

TAGS_MAX = 100
TIME_MIN_NS, TIME_MAX_NS = -9_214_560_000 * 10**9, 9_214_646_399 * 10**9
"""The years 1678 to 2261: what fits into 8 bytes."""

APPROVALS_MAX = 10


def check_text(what: str, text: str, *, needed: bool = True) -> str:
    """Return a line of text; UsageError where it is empty, too long, or holds control characters."""
    if needed and not text.strip():
        raise UsageError(f"{what} is needed, and cannot be empty")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{what} is not valid UTF-8") from None
    if size > TEXT_MAX_BYTES:
        raise UsageError(f"{what} has {size:,} bytes; {TEXT_MAX_BYTES:,} are allowed")
    for char in text:
        if unicodedata.category(char) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp"):
            raise UsageError(f"{what} cannot contain the control character {char!r}")
    return text


def check_rule(name: str, rule: Rule) -> None:
    """UsageError says what is wrong with a rule."""
    check_label("rule's name", name)
    try:
        _check_rule(rule)
    except UsageError as error:
        raise UsageError(f"rule {name!r}: {error}") from None


def _check_rule(rule: Rule) -> None:
    parse_pattern(rule.datasets)
    _check_tags(rule.tags)
    check_start(rule.cutoff.start)
    period = rule.cutoff.parsed
    if rule.cutoff.period != str(period):
        raise UsageError(f"the period {rule.cutoff.period!r} is written {str(period)!r}")
    _one_of("action", rule.action, ACTIONS)
    _one_of("mode", rule.mode, MODES)
    check_text("an authority", rule.authority)
    if not 0 <= rule.approvals <= APPROVALS_MAX:
        raise UsageError(f"between 0 and {APPROVALS_MAX} approvals can be asked for")
    if rule.approvals and rule.action != DISPOSE:
        raise UsageError("only a disposition can need approvals")
    if rule.action == ARCHIVE:
        check_label("tier", rule.tier)
    elif rule.tier:
        raise UsageError("only a rule that archives has a tier")


def check_start(start: str) -> str:
    """Return what a cutoff begins with, when it can; UsageError says what can."""
    if start.startswith(EVENT_PREFIX):
        check_label("event's name", start.removeprefix(EVENT_PREFIX))
    elif start not in (COMMITTED, SUPERSEDED):
        raise UsageError(
            f"a cutoff cannot begin with {start!r}: it is {COMMITTED!r}, {SUPERSEDED!r} or "
            f"'{EVENT_PREFIX}NAME'"
        )
    return start


def _one_of(what: str, word: str, allowed: tuple[str, ...]) -> None:
    if word not in allowed:
        choices = ", ".join(map(repr, allowed))
        raise UsageError(f"{word!r} is no {what}: it is one of {choices}")


def _check_tags(tags: tuple[str, ...]) -> None:
    if len(tags) > TAGS_MAX or list(tags) != sorted({check_tag(tag) for tag in tags}):
        raise UsageError(f"tags are sorted, each once, at most {TAGS_MAX} of them")


def check_hold(held: Held) -> None:
    """UsageError says what is wrong with a hold."""
    check_label("hold's name", held.name)
    check_text("a custodian", held.custodian)
    check_text("a matter", held.matter)
    check_text("a reason", held.reason)
    scope = held.scope
    parse_pattern(scope.datasets)
    _check_tags(scope.tags)
    if len(scope.versions) > VERSIONS_MAX or list(scope.versions) != sorted(set(scope.versions)):
        raise UsageError(f"versions are sorted, each once, at most {VERSIONS_MAX:,} of them")
    if any(not 0 < number < 2**32 for number in scope.versions):
        raise UsageError("a hold names a version that cannot exist")
    after, before = (
        parse_time(text) if text is not None else None
        for text in (scope.committed_after, scope.committed_before)
    )
    if after is not None and before is not None and after >= before:
        raise UsageError("no version can be committed both after and before these times")


def _check_time(text: str) -> None:
    if not TIME_MIN_NS <= parse_time(text) <= TIME_MAX_NS:
        raise UsageError(f"{text!r} is out of range: times are from 1678 to 2261")


def check_event(event: Event) -> None:
    """UsageError says what is wrong with an event."""
    check_label("event's name", event.name)
    check_dataset_name(event.dataset)
    _check_time(event.time)
    check_text("a reason", event.reason, needed=False)
    if event.version is not None and not 0 < event.version < 2**32:
        raise UsageError("an event concerns a version that cannot exist")


def _decoder(shape: type[T], check: Callable[[T], None]) -> Callable[[dict[str, Any]], T]:
    what = f"the body of a log entry ({shape.__name__.lower()})"

    def decode(body: dict[str, Any]) -> T:
        try:
            found = msgspec.convert(body, shape)
            check(found)
        except (msgspec.MsgspecError, UsageError, ValueError, RecursionError) as error:
            raise IntegrityError(f"{what} is malformed: {error}") from None
        return found

    return decode


def _check_hash(digest: str) -> None:
    try:
        sound = len(bytes.fromhex(digest)) == HASH_BYTES and digest == digest.lower()
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(f"{digest[:70]!r} is not a hash")


def _check_refs(versions: tuple[VersionRef, ...], dataset: str | None = None) -> None:
    if not 0 < len(versions) <= VERSIONS_MAX:
        raise UsageError(f"it names {len(versions):,} versions; 1 to {VERSIONS_MAX:,} are allowed")
    for ref in versions:
        check_dataset_name(ref.dataset)
        _check_hash(ref.manifest)
        if not 0 < ref.version < 2**32 or (dataset is not None and ref.dataset != dataset):
            raise UsageError("it names a version that cannot be meant")


def _check_amounts(*amounts: Amount) -> None:
    if any(min(a.packs, a.chunks, a.size_bytes) < 0 for a in amounts):
        raise UsageError("an amount is negative")


def _check_ruled(ruled: Ruled) -> None:
    check_label("rule's name", ruled.name)
    check_text("a reason", ruled.reason, needed=False)
    if ruled.rule is not None:
        _check_rule(ruled.rule)


def _check_scheduled(scheduled: Scheduled) -> None:
    if not 0 < len(scheduled.rules) <= RULES_MAX:
        raise UsageError(f"it has {len(scheduled.rules):,} rules; 1 to {RULES_MAX:,} are allowed")
    check_text("a reason", scheduled.reason, needed=False)
    for name, rule in scheduled.rules.items():
        check_rule(name, rule)


def _check_released(released: Released) -> None:
    check_label("hold's name", released.name)
    check_text("a custodian", released.custodian)
    check_text("a reason", released.reason)


def _check_approved(approved: Approved) -> None:
    check_label("rule's name", approved.rule)
    _check_hash(approved.rule_sha256)
    _check_refs(approved.versions)
    check_text("a reason", approved.reason, needed=False)


def _check_clocked(clocked: Clocked) -> None:
    _check_time(clocked.time)
    _check_time(clocked.host_time)
    check_text("a reason", clocked.reason, needed=False)


def _check_archived(archived: Archived) -> None:
    check_label("rule's name", archived.rule)
    check_label("tier", archived.tier)
    check_text("an authority", archived.authority)
    _check_refs(archived.versions, archived.versions[0].dataset if archived.versions else None)
    if min(archived.packs, archived.size_bytes) < 0:
        raise UsageError("an amount is negative")


def _check_disposed(disposed: Disposed) -> None:
    check_label("rule's name", disposed.rule)
    _check_hash(disposed.rule_sha256)
    _check_hash(disposed.plan)
    check_text("an authority", disposed.authority)
    check_text("a reason", disposed.reason, needed=False)
    _check_refs(disposed.versions, disposed.versions[0].dataset if disposed.versions else None)
    _check_amounts(*disposed.destroyed.values(), disposed.before, disposed.after)
    if disposed.survives:
        _check_refs(tuple(survivor.because for survivor in disposed.survives))
    if any(min(s.chunks, s.size_bytes) < 0 for s in disposed.survives):
        raise UsageError("an amount is negative")


def _check_destroyed(destroyed: Destroyed) -> None:
    _check_refs(destroyed.versions, destroyed.versions[0].dataset if destroyed.versions else None)
    _check_amounts(*destroyed.tiers.values())
    if destroyed.disposed < 1:
        raise UsageError("it completes an entry that cannot exist")


decode_ruled = _decoder(Ruled, _check_ruled)
decode_scheduled = _decoder(Scheduled, _check_scheduled)
decode_held = _decoder(Held, check_hold)
decode_released = _decoder(Released, _check_released)
decode_event = _decoder(Event, check_event)
decode_approved = _decoder(Approved, _check_approved)
decode_clocked = _decoder(Clocked, _check_clocked)
decode_archived = _decoder(Archived, _check_archived)
decode_disposed = _decoder(Disposed, _check_disposed)
decode_destroyed = _decoder(Destroyed, _check_destroyed)

DECODERS: dict[str, Callable[[dict[str, Any]], Body]] = {
    "ruled": decode_ruled,
    "scheduled": decode_scheduled,
    "held": decode_held,
    "released": decode_released,
    "event": decode_event,
    "approved": decode_approved,
    "clocked": decode_clocked,
    "archived": decode_archived,
    "disposed": decode_disposed,
    "destroyed": decode_destroyed,
}


def encode_body(body: Body) -> dict[str, Any]:
    """What goes into a log entry; UsageError where a reader would refuse it."""
    plain: dict[str, Any] = msgspec.to_builtins(body)
    try:
        DECODERS[type(body).__name__.lower()](plain)
    except IntegrityError as error:
        raise UsageError(str(error).partition(" is malformed: ")[2]) from None
    return plain
