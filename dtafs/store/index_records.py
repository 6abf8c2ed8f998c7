"""The rows of the index for retention; `dtafs.store.index` has the tables.

What an entry says that it may not (a shortened compliance rule, a hold that another custodian ends) has
no effect, however it came into the log: the functions that change rows hold to the rules that the
commands hold to. They run inside the txn that applies a log entry.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

import msgspec
from msgspec import Struct

from dtafs.core.entries import LogEntry
from dtafs.core.names import parse_time
from dtafs.core.record_checks import (
    decode_approved,
    decode_archived,
    decode_clocked,
    decode_destroyed,
    decode_disposed,
    decode_event,
    decode_held,
    decode_released,
    decode_ruled,
    decode_scheduled,
)
from dtafs.core.records import Archived, Destroyed, Disposed, Held, Rule, Ruled, VersionRef
from dtafs.core.rule_changes import why_not_changed, why_not_released
from dtafs.core.values import Actor
from dtafs.errors import IntegrityError
from dtafs.store.database import Txn, row_decoder
from dtafs.store.index_rows import (
    NUMBER,
    TIME,
    VersionRow,
    decode_version,
    encode_row,
    version_key,
)


class Rows(Protocol):
    """Of a txn, what changes single rows."""

    def get(self, table: str, key: bytes) -> bytes | None: ...
    def put(self, table: str, key: bytes, value: bytes) -> None: ...
    def delete(self, table: str, key: bytes) -> bool: ...


_SERIALS = struct.Struct(">I")
_ORDER = struct.Struct(">Q")


class OwnRow(Struct, frozen=True, array_like=True):
    """How far the lake's own log is applied."""

    sequence: int
    head: bytes


class ClockRow(Struct, frozen=True, array_like=True):
    """What the times of the log tell of the clock since a person last confirmed it.

    `gap_ns` is the longest time between an entry and the one before it, in any log, which ended at
    `gap_at_ns`. `confirmed_ns` is what the host said when a person confirmed it, at the entry of the
    time `confirmed_at_ns`; both 0 before that.
    """

    gap_ns: int = 0
    gap_at_ns: int = 0
    confirmed_ns: int = 0
    confirmed_at_ns: int = 0


class RuleRow(Struct, frozen=True, array_like=True):
    """A rule in force, and the entry that made it what it is."""

    name: str
    rule: Rule
    time_ns: int
    sequence: int
    actor: Actor
    reason: str


class HoldRow(Struct, frozen=True, array_like=True):
    """A hold that is not released, and the entry that placed it."""

    held: Held
    time_ns: int
    sequence: int
    actor: Actor

    @property
    def name(self) -> str:
        return self.held.name


class EventRow(Struct, frozen=True, array_like=True):
    """When something happened, by its latest time if several were recorded; and who said so."""

    time_ns: int
    sequence: int
    actor: Actor


class ApprovalRow(Struct, frozen=True, array_like=True):
    """That a person agrees to the disposition of a version under a rule as it was then."""

    rule: str
    rule_sha256: str
    manifest: str
    time_ns: int
    sequence: int
    actor: Actor


class ArchivedRow(Struct, frozen=True, array_like=True):
    """The last time that a rule sent a version to a tier."""

    rule: str
    tier: str
    time_ns: int
    sequence: int


class DispositionRow(Struct, frozen=True, array_like=True):
    """That a version was disposed of, by the entry `sequence` of its dataset's log."""

    rule: str
    authority: str
    time_ns: int
    sequence: int
    confirmed: tuple[str, ...] = ()
    """The tiers in which the bytes are known to be gone."""


_decode_own = row_decoder(OwnRow)
_decode_clock = row_decoder(ClockRow)
decode_rule_row = row_decoder(RuleRow)
decode_hold_row = row_decoder(HoldRow)
decode_event_row = row_decoder(EventRow)
decode_approval_row = row_decoder(ApprovalRow)
decode_archived_row = row_decoder(ArchivedRow)
decode_disposition_row = row_decoder(DispositionRow)


def event_key(dataset: str, name: str, version: int | None) -> bytes:
    """The key of an event of a version, or of a whole dataset."""
    return b"%b\0%b\0%b" % (dataset.encode(), name.encode(), NUMBER.pack(version or 0))


def split_event_key(key: bytes) -> tuple[str, str, int]:
    """Dataset, name of the event, number of the version or 0."""
    dataset, name, number = key[:-5].partition(b"\0")[0], key[:-5].partition(b"\0")[2], key[-4:]
    return dataset.decode(), name.decode(), NUMBER.unpack(number)[0]


# The lake's own log


def get_own(txn: Rows) -> OwnRow | None:
    """How far the lake's own log is applied; None where it has no entry."""
    value = txn.get("meta", b"own")
    return None if value is None else _decode_own(value)


def put_own(txn: Rows, sequence: int, object_hash: bytes) -> None:
    """Note the last entry of the lake's own log that is applied."""
    txn.put("meta", b"own", encode_row(OwnRow(sequence, object_hash)))


def get_clock(txn: Rows) -> ClockRow:
    """What is known of the clock."""
    value = txn.get("meta", b"clock")
    return ClockRow() if value is None else _decode_clock(value)


def note_time(txn: Rows, entry: LogEntry) -> None:
    """Note the time of an entry of any log, and how long after the newest one it is."""
    value = txn.get("meta", b"time")
    newest = None if value is None else TIME.unpack(value)[0]
    time_ns = entry.time_ns
    if newest is not None and newest >= time_ns:
        return
    txn.put("meta", b"time", TIME.pack(time_ns))
    if newest is None or entry.kind == "clocked":
        return
    clock, gap_ns = get_clock(txn), time_ns - newest
    if gap_ns > clock.gap_ns:
        changed = msgspec.structs.replace(clock, gap_ns=gap_ns, gap_at_ns=time_ns)
        txn.put("meta", b"clock", encode_row(changed))


def apply_record(txn: Rows, entry: LogEntry) -> str | None:
    """Apply what the lake's own log says; why an entry has no effect, if it has none."""
    match entry.kind:
        case "ruled":
            return _apply_ruled(txn, entry, decode_ruled(entry.body))
        case "scheduled":
            return _apply_scheduled(txn, entry)
        case "held":
            return _apply_held(txn, entry)
        case "released":
            return _apply_released(txn, entry)
        case "event":
            _apply_event(txn, entry)
        case "approved":
            _apply_approved(txn, entry)
        case "clocked":
            clocked = decode_clocked(entry.body)
            row = ClockRow(0, 0, parse_time(clocked.host_time), entry.time_ns)
            txn.put("meta", b"clock", encode_row(row))
    return None


def _apply_scheduled(txn: Rows, entry: LogEntry) -> str | None:
    scheduled = decode_scheduled(entry.body)
    refused = [
        _apply_ruled(txn, entry, Ruled(name, rule, scheduled.reason))
        for name, rule in sorted(scheduled.rules.items())
    ]
    return "; ".join(why for why in refused if why is not None) or None


def _apply_ruled(txn: Rows, entry: LogEntry, ruled: Ruled) -> str | None:
    key = ruled.name.encode()
    value = txn.get("rule", key)
    if value is not None:
        refused = why_not_changed(decode_rule_row(value).rule, ruled.rule)
        if refused is not None:
            return f"rule {ruled.name!r} {refused}"
    if ruled.rule is None:
        return None if txn.delete("rule", key) else f"there is no rule {ruled.name!r} to remove"
    row = RuleRow(ruled.name, ruled.rule, entry.time_ns, entry.sequence, entry.actor, ruled.reason)
    txn.put("rule", key, encode_row(row))
    return None


def _apply_held(txn: Rows, entry: LogEntry) -> str | None:
    held = decode_held(entry.body)
    key = held.name.encode()
    if txn.get("hold", key) is not None:
        return f"there is a hold {held.name!r} already, which stays what it is"
    txn.put("hold", key, encode_row(HoldRow(held, entry.time_ns, entry.sequence, entry.actor)))
    return None


def _apply_released(txn: Rows, entry: LogEntry) -> str | None:
    released = decode_released(entry.body)
    key = released.name.encode()
    value = txn.get("hold", key)
    if value is None:
        return f"there is no hold {released.name!r} to release"
    row = decode_hold_row(value)
    refused = why_not_released(row.held, row.actor, released.custodian, entry.actor)
    if refused is not None:
        return refused
    txn.delete("hold", key)
    return None


def _apply_event(txn: Rows, entry: LogEntry) -> None:
    event = decode_event(entry.body)
    key = event_key(event.dataset, event.name, event.version)
    row = EventRow(parse_time(event.time), entry.sequence, entry.actor)
    value = txn.get("event", key)
    if value is None or decode_event_row(value).time_ns < row.time_ns:
        txn.put("event", key, encode_row(row))


def _apply_approved(txn: Rows, entry: LogEntry) -> None:
    approved = decode_approved(entry.body)
    for ref in approved.versions:
        row = ApprovalRow(
            *(approved.rule, approved.rule_sha256, ref.manifest),
            *(entry.time_ns, entry.sequence, entry.actor),
        )
        key = version_key(ref.dataset, ref.version) + _ORDER.pack(entry.sequence)
        txn.put("approval", key, encode_row(row))


# The datasets' logs


def put_children(txn: Rows, version: VersionRow) -> None:
    """Note of the sources of a new version that it was made from them."""
    for source in version.manifest.sources:
        name = source.dataset.encode()
        if 0 < len(name) <= 200 and b"\0" not in name and 0 < source.version < 2**32:
            key = version_key(source.dataset, source.version) + _SERIALS.pack(version.serial)
            txn.put("child", key, b"")


def children(txn: Txn, dataset: str, number: int) -> list[VersionRow]:
    """The versions that name a version as one of their sources."""
    found = []
    for key, _value in txn.scan("child", version_key(dataset, number)):
        place = txn.get("serial", key[-_SERIALS.size :])
        value = None if place is None else txn.get("version", place)
        if value is None:
            raise IntegrityError("a row of the index names a version that is not there")
        found.append(decode_version(value))
    return found


def apply_disposition(txn: Txn, entry: LogEntry, where: str) -> None:
    """Apply what a dataset's log says of its versions' archiving and disposition."""
    if entry.kind == "archived":
        archived = decode_archived(entry.body)
        for version in _versions(txn, entry, archived, where):
            row = ArchivedRow(archived.rule, archived.tier, entry.time_ns, entry.sequence)
            txn.put("archived", version_key(version.dataset, version.number), encode_row(row))
    elif entry.kind == "disposed":
        disposed = decode_disposed(entry.body)
        for version in _versions(txn, entry, disposed, where):
            if version.disposed:
                raise IntegrityError(f"{where} disposes of {version.name} a second time")
            key = version_key(version.dataset, version.number)
            changed = msgspec.structs.replace(version, disposed=entry.sequence)
            txn.put("version", key, encode_row(changed))
            gone = DispositionRow(disposed.rule, disposed.authority, entry.time_ns, entry.sequence)
            txn.put("disposition", key, encode_row(gone))
    else:
        _confirm(txn, entry, where)


def _confirm(txn: Txn, entry: LogEntry, where: str) -> None:
    destroyed = decode_destroyed(entry.body)
    for version in _versions(txn, entry, destroyed, where):
        key = version_key(version.dataset, version.number)
        value = txn.get("disposition", key)
        row = None if value is None else decode_disposition_row(value)
        if row is None or row.sequence != destroyed.disposed:
            raise IntegrityError(f"{where} completes a disposition that does not exist")
        confirmed = tuple(sorted({*row.confirmed, *destroyed.tiers}))
        txn.put("disposition", key, encode_row(msgspec.structs.replace(row, confirmed=confirmed)))


def _versions(
    txn: Txn, entry: LogEntry, body: Archived | Disposed | Destroyed, where: str
) -> Iterator[VersionRow]:
    for ref in body.versions:
        yield _version(txn, entry.dataset, ref, where)


def _version(txn: Txn, dataset: str, ref: VersionRef, where: str) -> VersionRow:
    value = None
    if ref.dataset == dataset:
        value = txn.get("version", version_key(ref.dataset, ref.version))
    version = None if value is None else decode_version(value)
    if version is None or version.manifest_sha256.hex() != ref.manifest:
        raise IntegrityError(f"{where} names a version that does not exist")
    return version


def fill_in(txn: Txn, start: bytes, most: int) -> bytes | None:
    """Bring versions of an index that an earlier release wrote up to date, from a key on.

    At most so many; where to go on, or None at the end.
    """
    rows = list(islice(txn.scan("version", start=start), most + 1))
    for key, value in rows[:most]:
        version = decode_version(value)
        txn.put("version", key, encode_row(version))
        put_children(txn, version)
    return rows[most][0] if len(rows) > most else None
