"""Checks of what the index says of retention: exactly what the log says, and nothing that it may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from dtafs.core.entries import LogEntry
from dtafs.core.names import LAKE_LOG
from dtafs.core.record_checks import decode_archived, decode_destroyed, decode_disposed
from dtafs.store.checks_dispositions import Past
from dtafs.store.findings import WARNING, Affected
from dtafs.store.index_records import (
    ArchivedRow,
    DispositionRow,
    OwnRow,
    apply_record,
    decode_disposition_row,
    note_time,
    put_children,
)
from dtafs.store.index_rows import encode_row, version_key
from dtafs.store.rows_in_memory import RowsInMemory
from dtafs.store.survey import DAMAGE, Survey

RECORD_TABLES = ("rule", "hold", "event", "approval")


def check_records(survey: Survey) -> None:
    """I3, for rules, holds, events, approvals, dispositions and lineage: what the log says. And I5, of
    dispositions: that nothing kept what they destroyed."""
    logs = survey.entries.keys() | survey.lake.index.heads().keys()
    if not all(survey.log_is_whole(name) for name in logs):
        return  # reported already, and what the rows should be is not known
    rows = RowsInMemory()
    entries = [one.entry for logged in survey.entries.values() for one in logged if one.entry]
    # Of a lake in which nothing was disposed of there is nothing to remember.
    past = Past(survey, rows) if survey.disposed else None
    for entry in sorted(entries, key=lambda e: (e.time_ns, e.dataset, e.sequence)):
        if past is not None:
            survey.attempt(5, "holding dispositions against the rules", partial(past.note, entry))
        _replay(survey, rows, entry)
    own = survey.entries.get(LAKE_LOG, [])
    if own:
        rows.put("meta", b"own", encode_row(OwnRow(own[-1].sequence, own[-1].digest)))
    for version in survey.versions:
        row = survey.lake.index.version(version.dataset, version.number)
        if row is not None and row.manifest == version.manifest:
            put_children(rows, row)
    _compare(survey, rows)


def _replay(survey: Survey, rows: RowsInMemory, entry: LogEntry) -> None:
    where = f"entry {entry.sequence} of {entry.dataset!r}"
    try:
        if entry.dataset == LAKE_LOG:
            ignored = apply_record(rows, entry)
            rows.put("meta", b"own", encode_row(OwnRow(entry.sequence, b"")))
            if ignored is not None:
                survey.add(5, f"{where} has no effect: {ignored}", (), WARNING)
        _disposition(rows, entry)
        note_time(rows, entry)
    except DAMAGE as error:
        survey.add(4, f"{where}: {error}")


def _disposition(rows: RowsInMemory, entry: LogEntry) -> None:
    if entry.kind == "archived":
        archived = decode_archived(entry.body)
        sent = ArchivedRow(archived.rule, archived.tier, entry.time_ns, entry.sequence)
        for ref in archived.versions:
            rows.put("archived", version_key(ref.dataset, ref.version), encode_row(sent))
    elif entry.kind == "disposed":
        disposed = decode_disposed(entry.body)
        gone = DispositionRow(disposed.rule, disposed.authority, entry.time_ns, entry.sequence)
        for ref in disposed.versions:
            rows.put("disposition", version_key(ref.dataset, ref.version), encode_row(gone))
    elif entry.kind == "destroyed":
        destroyed = decode_destroyed(entry.body)
        for ref in destroyed.versions:
            key = version_key(ref.dataset, ref.version)
            value = rows.get("disposition", key)
            if value is not None:
                row = decode_disposition_row(value)
                confirmed = tuple(sorted({*row.confirmed, *destroyed.tiers}))
                gone = msgspec.structs.replace(row, confirmed=confirmed)
                rows.put("disposition", key, encode_row(gone))


def _compare(survey: Survey, rows: RowsInMemory) -> None:
    database = survey.lake.index.database
    for table in (*RECORD_TABLES, "child", "archived", "disposition"):
        with database.read() as txn:
            _compare_table(survey, table, rows, partial(txn.scan, table))
    for key in (b"own", b"clock"):
        if database.get("meta", key) != rows.get("meta", key):
            text = f"the index row {key.decode()!r} of the lake's own log differs from the log"
            survey.add(3, text)


def _compare_table(
    survey: Survey,
    table: str,
    rows: RowsInMemory,
    scan: Callable[[], Iterator[tuple[bytes, bytes]]],
) -> None:
    wanted = dict(rows.tables.get(table, {}))
    wrong = [key for key, value in scan() if wanted.pop(key, None) != value]
    for key in sorted({*wrong, *wanted}):
        name = key.partition(b"\0")[0].decode(errors="backslashreplace")
        affects = [] if table in ("rule", "hold") else [Affected(name)]
        survey.add(3, f"the index row of the {table} of {name!r} differs from the log", affects)
