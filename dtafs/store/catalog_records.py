"""The tables of the catalog for retention. They keep what was: a rule that was changed or removed and a
hold that was released have an `until`; what has none is in force.

An entry that has no effect (`dtafs.core.rule_changes`) changes nothing here either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

import msgspec

from dtafs.core.entries import LogEntry
from dtafs.core.names import LAKE_LOG, parse_time
from dtafs.core.record_checks import DECODERS
from dtafs.core.records import (
    Approved,
    Archived,
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
from dtafs.core.rule_changes import why_not_changed, why_not_released
from dtafs.core.values import Actor

RECORDS_SCHEMA = """
CREATE TABLE rules (
  name TEXT, datasets TEXT, tags TEXT, "from" TEXT, period TEXT, action TEXT, tier TEXT,
  authority TEXT, mode TEXT, approvals INTEGER, reason TEXT, user TEXT, seq INTEGER,
  since DATETIME, until DATETIME, body TEXT
);
CREATE TABLE holds (
  name TEXT, custodian TEXT, matter TEXT, reason TEXT, datasets TEXT, versions TEXT, tags TEXT,
  committed_after TEXT, committed_before TEXT, descendants INTEGER, user TEXT, seq INTEGER,
  since DATETIME, until DATETIME, released_by TEXT, release_reason TEXT
);
CREATE TABLE events (
  name TEXT, ds_id TEXT, ver TEXT, time TEXT, reason TEXT, user TEXT, ts DATETIME, seq INTEGER
);
CREATE TABLE approvals (
  ds_id TEXT, ver TEXT, hash TEXT, rule TEXT, rule_hash TEXT, user TEXT, uid INTEGER, host TEXT,
  reason TEXT, ts DATETIME, seq INTEGER
);
CREATE TABLE archived (
  ds_id TEXT, ver TEXT, hash TEXT, rule TEXT, authority TEXT, tier TEXT, ts DATETIME, seq INTEGER
);
CREATE TABLE dispositions (
  ds_id TEXT, ver TEXT, hash TEXT, rule TEXT, authority TEXT, approvers TEXT, plan TEXT,
  ts DATETIME, seq INTEGER, tiers TEXT
);
CREATE INDEX rules_by_name ON rules (name);
CREATE INDEX holds_by_name ON holds (name);
CREATE UNIQUE INDEX dispositions_by_version ON dispositions (ds_id, ver);
CREATE INDEX archived_by_version ON archived (ds_id, ver);
"""


def sql_time(time: str) -> str:
    """A time of the log as SQLite's own functions write it: `YYYY-MM-DD HH:MM:SS`, UTC."""
    parse_time(time)
    return f"{time[:10]} {time[11:19]}"


def add_record(db: sqlite3.Connection, entry: LogEntry) -> None:
    """Add what an entry says of retention."""
    ts, actor, seq = sql_time(entry.time), entry.actor, entry.sequence
    match DECODERS[entry.kind](entry.body):
        case Ruled() as ruled:
            _rule(db, entry, ruled)
        case Scheduled() as scheduled:
            for name, rule in sorted(scheduled.rules.items()):
                _rule(db, entry, Ruled(name, rule, scheduled.reason))
        case Held() as held:
            _hold(db, entry, held)
        case Released() as released:
            _release(db, entry, released)
        case Event() as event:
            ver = None if event.version is None else f"v{event.version}"
            row = (event.name, event.dataset, ver, event.time, event.reason, actor.user, ts, seq)
            db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        case Approved() as said:
            person = (actor.user, actor.uid, actor.host, said.reason, ts, seq)
            _insert(db, "approvals", said.versions, (said.rule, said.rule_sha256, *person))
        case Archived() as sent:
            _insert(db, "archived", sent.versions, (sent.rule, sent.authority, sent.tier, ts, seq))
        case Disposed() as gone:
            approvers = ", ".join(person.user for person in gone.approvers)
            rest = (gone.rule, gone.authority, approvers, gone.plan, ts, seq, "")
            _insert(db, "dispositions", gone.versions, rest)
        case Destroyed() as done:
            _confirm(db, entry.dataset, done)
        case Clocked():
            pass  # it is among the entries


def _insert(
    db: sqlite3.Connection, table: str, versions: Iterable[VersionRef], rest: tuple[object, ...]
) -> None:
    marks = ", ".join("?" * (3 + len(rest)))
    db.executemany(
        f"INSERT OR REPLACE INTO {table} VALUES ({marks})",
        [(ref.dataset, f"v{ref.version}", ref.manifest, *rest) for ref in versions],
    )


def _rule(db: sqlite3.Connection, entry: LogEntry, ruled: Ruled) -> None:
    found = db.execute(
        "SELECT rowid, body FROM rules WHERE name = ? AND until IS NULL", (ruled.name,)
    ).fetchone()
    if found is not None:
        if why_not_changed(msgspec.json.decode(found[1], type=Rule), ruled.rule) is not None:
            return
        ended = (sql_time(entry.time), found[0])
        db.execute("UPDATE rules SET until = ? WHERE rowid = ?", ended)
    rule = ruled.rule
    if rule is None:
        return
    db.execute(
        "INSERT INTO rules VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?)",
        (
            *(ruled.name, rule.datasets, ",".join(rule.tags), rule.cutoff.start),
            *(rule.cutoff.period, rule.action, rule.tier, rule.authority, rule.mode),
            *(rule.approvals, ruled.reason, entry.actor.user, entry.sequence),
            *(sql_time(entry.time), msgspec.json.encode(rule).decode()),
        ),
    )


def _hold(db: sqlite3.Connection, entry: LogEntry, held: Held) -> None:
    if _placed(db, held.name) is not None:
        return
    scope = held.scope
    db.execute(
        "INSERT INTO holds VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, NULL)",
        (
            *(held.name, held.custodian, held.matter, held.reason, scope.datasets),
            *(",".join(f"v{number}" for number in scope.versions), ",".join(scope.tags)),
            *(scope.committed_after, scope.committed_before, int(held.descendants)),
            *(entry.actor.user, entry.sequence, sql_time(entry.time)),
        ),
    )


def _placed(db: sqlite3.Connection, name: str) -> tuple[int, str, Actor] | None:
    """The row and the custodian of a hold that is not released, and who placed it."""
    found = db.execute(
        "SELECT holds.rowid, custodian, actor, uid, host, program FROM holds "
        "JOIN entries ON entries.ds_id = ? AND entries.seq = holds.seq "
        "WHERE name = ? AND until IS NULL",
        (LAKE_LOG, name),
    ).fetchone()
    return None if found is None else (found[0], found[1], Actor(*found[2:]))


def _release(db: sqlite3.Connection, entry: LogEntry, released: Released) -> None:
    found = _placed(db, released.name)
    if found is None:
        return
    row, custodian, placed_by = found
    held = Held(released.name, custodian, "", "", Scope())
    if why_not_released(held, placed_by, released.custodian, entry.actor) is not None:
        return
    db.execute(
        "UPDATE holds SET until = ?, released_by = ?, release_reason = ? WHERE rowid = ?",
        (sql_time(entry.time), entry.actor.user, released.reason, row),
    )


def _confirm(db: sqlite3.Connection, dataset: str, done: Destroyed) -> None:
    for ref in done.versions:
        row = db.execute(
            "SELECT rowid, tiers FROM dispositions WHERE ds_id = ? AND ver = ?",
            (dataset, f"v{ref.version}"),
        ).fetchone()
        if row is not None:
            tiers = sorted({*filter(None, row[1].split(",")), *done.tiers})
            changed = (",".join(tiers), row[0])
            db.execute("UPDATE dispositions SET tiers = ? WHERE rowid = ?", changed)
