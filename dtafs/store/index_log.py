"""Applying log entries to the index; `dtafs.store.index` has the tables.

Functions here run inside the txn that applies an entry, and depend on it and on the rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from dtafs.core.entries import (
    LogEntry,
    check_place,
    decode_collection,
    decode_manifest,
    manifest_hash,
)
from dtafs.core.names import LAKE_LOG
from dtafs.core.records import DISPOSITION_KINDS
from dtafs.errors import IntegrityError
from dtafs.store.database import Txn
from dtafs.store.index_packs import Removed, remove_pack
from dtafs.store.index_records import (
    apply_disposition,
    apply_record,
    get_own,
    note_time,
    put_children,
    put_own,
)
from dtafs.store.index_rows import (
    NUMBER,
    DatasetRow,
    VersionRow,
    decode_version,
    encode_row,
    get_dataset,
    tag_key,
    version_key,
)
from dtafs.store.packs import Pack


class Step(NamedTuple):
    """A log entry that is to be applied."""

    entry: LogEntry
    object_hash: bytes
    packs: Iterable[Pack]
    """Those that a `committed` or `collected` entry brings."""
    removed: Sequence[Removed] = ()
    """Those that a `collected` entry removes."""


def check_follows(head: tuple[int, bytes] | None, entry: LogEntry) -> None:
    """IntegrityError unless an entry can come after the last one of its log, of this number and hash."""
    sequence, previous = (head[0], head[1].hex()) if head else (0, None)
    if entry.sequence != sequence + 1 or entry.previous != previous:
        raise IntegrityError(
            f"entry {entry.sequence} of {entry.dataset!r} does not follow the entry before it: "
            "the log was altered"
        )
    check_place(entry.dataset, entry.sequence, entry.kind)


def apply_step(txn: Txn, step: Step) -> None:
    """Apply an entry, but for what its packs bring; IntegrityError when it does not follow the last
    one of its log."""
    entry = step.entry
    if entry.dataset == LAKE_LOG:
        own = get_own(txn)
        check_follows((own.sequence, own.head) if own else None, entry)
        apply_record(txn, entry)
        put_own(txn, entry.sequence, step.object_hash)
    else:
        row = get_dataset(txn, entry.dataset)
        check_follows((row.sequence, row.head) if row else None, entry)
        row = _apply_to(txn, row, step)
        row = msgspec.structs.replace(row, sequence=entry.sequence, head=step.object_hash)
        txn.put("dataset", entry.dataset.encode(), encode_row(row))
    note_time(txn, entry)


def _apply_to(txn: Txn, row: DatasetRow | None, step: Step) -> DatasetRow:
    """What an entry of a dataset's log changes; the dataset's row after it."""
    entry = step.entry
    where = f"entry {entry.sequence} of {entry.dataset!r}"
    if row is None:
        return DatasetRow(entry.dataset, entry.time_ns, _tags(entry.body, where), 0, 0, b"")
    if entry.kind == "committed":
        return _apply_commit(txn, row, entry, where)
    if entry.kind in ("tagged", "untagged"):
        _apply_tags(txn, entry, where)
    elif entry.kind == "collected":
        decode_collection(entry.body)
        for gone in step.removed:
            remove_pack(txn, gone)
    elif entry.kind in DISPOSITION_KINDS:
        apply_disposition(txn, entry, where)
    return row


def _tags(body: dict[str, Any], where: str) -> tuple[str, ...]:
    try:
        return msgspec.convert(body.get("tags", []), tuple[str, ...])
    except msgspec.ValidationError:
        raise IntegrityError(f"{where} holds malformed tags") from None


def _apply_commit(txn: Txn, row: DatasetRow, entry: LogEntry, where: str) -> DatasetRow:
    manifest = decode_manifest(entry.body)
    if manifest.dataset != row.name or manifest.version != row.newest + 1:
        raise IntegrityError(f"{where} holds the manifest of another version")
    last = txn.get("meta", b"serial")
    serial = (0 if last is None else NUMBER.unpack(last)[0]) + 1
    version = VersionRow(
        row.name,
        manifest.version,
        serial,
        manifest,
        manifest_hash(manifest),
        entry.time_ns,
        entry.sequence,
        entry.actor,
        tuple(sorted(manifest.tags)),
    )
    key = version_key(row.name, version.number)
    txn.put("meta", b"serial", NUMBER.pack(serial))
    txn.put("serial", NUMBER.pack(serial), key)
    txn.put("version", key, encode_row(version))
    for tag in version.tags:
        txn.put("tag", tag_key(row.name, tag, version.number), b"")
    put_children(txn, version)
    return msgspec.structs.replace(row, newest=version.number)


def _apply_tags(txn: Txn, entry: LogEntry, where: str) -> None:
    number, tags = entry.body.get("version"), _tags(entry.body, where)
    value = None
    if isinstance(number, int) and 0 < number < 2**32:
        value = txn.get("version", version_key(entry.dataset, number))
    if value is None:
        raise IntegrityError(f"{where} tags a version that does not exist")
    version = decode_version(value)
    adding = entry.kind == "tagged"
    current = set(version.tags) | set(tags) if adding else set(version.tags) - set(tags)
    for tag in tags:
        key = tag_key(entry.dataset, tag, version.number)
        txn.put("tag", key, b"") if adding else txn.delete("tag", key)
    changed = msgspec.structs.replace(version, tags=tuple(sorted(current)))
    txn.put("version", version_key(entry.dataset, version.number), encode_row(changed))
