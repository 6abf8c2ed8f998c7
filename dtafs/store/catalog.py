"""The catalog: the lake's history as a SQLite file, for anyone with any SQLite client.

`datasets`, `versions` and `lineage` are the three tables that records officers' scripts were
written against, column for column. `tags`, `sources`, `manifests` and `entries` hold what those
have no column for, `rules`, `holds`, `events`, `approvals`, `archived` and `dispositions` what the log
says of retention (`dtafs.store.catalog_records`), and the view `history` joins a version with all that
is known of it.

`placement`, `access` and `pins` say what this host knows of where packs lie and when they were read
(`dtafs.store.catalog_places`).

A catalog is a function of the log, which only grows, and of what the host knows. Each state is one
file, `cache/catalog/<number>.sqlite`, that never changes once it has its name, and no number is given
twice while a lake is open: whoever has opened an older one goes on reading it, in a consistent state,
without a lock. A new file is the newest one that belongs to this log, plus the entries that came
since, with the host's tables written anew; when none belongs to it (a lake put back from a backup) or
is whole, everything is read again.

The files are in rollback-journal mode: a WAL would have to be written by those who may only read.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dtafs.core.entries import LogEntry, decode_manifest, manifest_hash
from dtafs.core.record_checks import DECODERS
from dtafs.core.values import Manifest
from dtafs.errors import DtafsError, StorageError, StorageFullError, from_os_error
from dtafs.store.catalog_places import PLACES_SCHEMA, HostTables
from dtafs.store.catalog_records import RECORDS_SCHEMA, add_record, sql_time

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

GENERATIONS_KEPT = 4
"""Files that stay for those who looked a moment ago; an open one outlives its name anyway."""

Heads = dict[str, tuple[int, str]]
"""The last entry of each log that is reflected: its number and the hash of its object."""


class State(NamedTuple):
    """What a file reflects."""

    heads: Heads
    host: str
    """What the host knew, as `HostTables.look` names it."""


SCHEMA_VERSION = 3
"""Goes into `PRAGMA user_version`; a file with another one is made anew."""

SCHEMA = """
CREATE TABLE datasets (
  id         TEXT PRIMARY KEY,
  created_at DATETIME
);
CREATE TABLE versions (
  ds_id      TEXT,
  ver        TEXT,
  ts         DATETIME,
  comment    TEXT,
  hash       TEXT,     -- SHA-256 of manifest
  tags       TEXT      -- CSV string
);
CREATE TABLE lineage (
  ds_id TEXT, ver TEXT, source_ver TEXT, transform TEXT
);
CREATE TABLE tags (
  ds_id TEXT, ver TEXT, tag TEXT, ts DATETIME
);
CREATE TABLE sources (
  ds_id TEXT, ver TEXT, source_ds_id TEXT, source_ver TEXT, source_hash TEXT,
  transform TEXT, parameters TEXT, program_sha256 TEXT
);
CREATE TABLE manifests (
  ds_id TEXT, ver TEXT, number INTEGER, seq INTEGER, time TEXT, root TEXT, parent TEXT,
  files INTEGER, bytes INTEGER, user TEXT, uid INTEGER, host TEXT, program TEXT,
  PRIMARY KEY (ds_id, number)
);
CREATE TABLE entries (
  ds_id TEXT, seq INTEGER, ts DATETIME, time TEXT, kind TEXT, actor TEXT, uid INTEGER,
  host TEXT, program TEXT, hash TEXT, body TEXT,
  PRIMARY KEY (ds_id, seq)
);
CREATE UNIQUE INDEX versions_by_name ON versions (ds_id, ver);
CREATE INDEX versions_by_time ON versions (ts);
CREATE INDEX lineage_by_version ON lineage (ds_id, ver);
CREATE UNIQUE INDEX tags_by_name ON tags (ds_id, tag, ver);
CREATE UNIQUE INDEX manifests_by_entry ON manifests (ds_id, seq);
CREATE VIEW history AS
  SELECT v.ds_id, v.ver, v.ts, v.comment, v.hash, v.tags, m.number, m.files, m.bytes, m.user,
         m.uid, m.host, m.program, m.root, m.parent, m.seq
  FROM versions v JOIN manifests m ON m.ds_id = v.ds_id AND m.ver = v.ver;
"""


class Catalog:
    """The catalog of an open lake. Methods block and may be called from any thread."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._directory = lake.path / "cache" / "catalog"
        self._lock = threading.Lock()
        self._host = HostTables(lake)
        self._current: tuple[State, Path] | None = None
        """The file that was shown last: looking into it again costs a scan."""
        self._number = 0
        """The largest that was met: what the kernel knows of a file holds for no other."""

    def snapshot(self) -> tuple[Path, int]:
        """A SQLite file of the present state, which never changes, and how many entries it reflects.

        The file keeps its name until `GENERATIONS_KEPT` newer ones exist; who needs it longer
        keeps it open. Raises StorageFullError and the like when it cannot be written.
        """
        with self._lock:
            known = self._lake.index.heads()
            heads = {name: (sequence, digest.hex()) for name, (sequence, digest) in known.items()}
            state = State(heads, self._host.look())
            current = self._current
            if current is None or current[0] != state or not current[1].exists():
                path = self._find(state) or self._make(state)
                self._current = current = state, path
            return current[1], sum(sequence for sequence, _ in heads.values())

    def _find(self, state: State) -> Path | None:
        """A file of this state that is there already, made by this process or another."""
        for path in reversed(self._files()):
            known = _read(path, "SELECT host FROM state")
            if known == [(state.host,)] and _heads_of(path) == state.heads:
                return path
        return None

    def _make(self, state: State) -> Path:
        disk = self._lake.disk
        disk.make_directory(self._directory)
        while True:
            temp = disk.temp()
            try:
                with translated_sqlite(temp.path):
                    self._fill(temp.path, state)
                self._files()
                self._number += 1
                target = self._directory / f"{self._number:010d}.sqlite"
                if temp.publish(target):
                    break  # else another process was faster with this number
            except BaseException:
                temp.discard()
                raise
        for path in self._files()[:-GENERATIONS_KEPT]:
            disk.remove(path)
        return target

    def _fill(self, path: Path, state: State) -> None:
        done = self._begin(path, state.heads)
        with contextlib.closing(_connect(path)) as db, db:
            for name, (sequence, _) in sorted(state.heads.items()):
                self._extend(db, name, done.get(name, (0, ""))[0], sequence)
            self._host.write(db, {name: sequence for name, (sequence, _) in state.heads.items()})
            db.execute("DELETE FROM state")
            db.execute("INSERT INTO state VALUES (?)", (state.host,))

    def _begin(self, path: Path, heads: Heads) -> Heads:
        """Start the file at `path` as a copy of an older one to add to, or empty; what it has."""
        for older in reversed(self._files()):
            done = _heads_of(older)
            if done is not None and all(self._belongs(n, *h, heads) for n, h in done.items()):
                try:
                    shutil.copyfile(older, path)
                except OSError as error:
                    raise from_os_error(error, "writing the catalog") from error
                return done
        with contextlib.closing(_connect(path)) as db:
            db.executescript(SCHEMA + RECORDS_SCHEMA + PLACES_SCHEMA)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return {}

    def _belongs(self, name: str, sequence: int, digest: str, heads: Heads) -> bool:
        """Whether entry `sequence` of a dataset's log is the one with this hash."""
        if name not in heads or sequence > heads[name][0]:
            return False
        if sequence == heads[name][0]:
            return digest == heads[name][1]
        try:
            return self._lake.log.read(name, sequence).object_hash.hex() == digest
        except DtafsError:
            return False

    def _extend(self, db: sqlite3.Connection, name: str, after: int, upto: int) -> None:
        for sequence in range(after + 1, upto + 1):
            logged = self._lake.log.read(name, sequence)
            add_entry(db, logged.entry, logged.object_hash)

    def _files(self) -> list[Path]:
        """The files that there are, the newest last."""
        found = sorted(self._directory.glob("??????????.sqlite"))
        numbers = (int(path.stem) for path in found if path.stem.isdecimal())
        self._number = max(self._number, *numbers, 0)
        return found


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    # The file has no name yet that anyone trusts, and gets it only after a sync: SQLite's own
    # journal would protect a state that a crash throws away as a whole.
    db.execute("PRAGMA journal_mode = OFF")
    db.execute("PRAGMA synchronous = OFF")
    return db


@contextlib.contextmanager
def translated_sqlite(path: Path) -> Iterator[None]:
    """Turn an error of SQLite inside the block into one of dtafs's own."""
    try:
        yield
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        cls = StorageFullError if full else StorageError
        raise cls(f"writing the catalog {path}: {error}") from error


def _read(path: Path, sql: str) -> list[tuple[Any, ...]] | None:
    """What a query of a catalog gives; None for a damaged or missing one, or one of another layout."""
    if not path.is_file():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        ) as db:
            if db.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
                return None
            return db.execute(sql).fetchall()
    except sqlite3.Error:
        return None


def _heads_of(path: Path) -> Heads | None:
    """The last entry of each log that a catalog reflects; None where `_read` gives None."""
    rows = _read(
        path,
        "SELECT ds_id, seq, hash FROM entries JOIN "
        "(SELECT ds_id, MAX(seq) AS seq FROM entries GROUP BY ds_id) USING (ds_id, seq)",
    )
    if rows is None:
        return None
    return {name: (sequence, digest) for name, sequence, digest in rows}


def add_entry(db: sqlite3.Connection, entry: LogEntry, digest: bytes) -> None:
    """Add what one log entry says; `digest` is the hash of the entry's object."""
    actor = entry.actor
    body = json.dumps(entry.body, sort_keys=True, ensure_ascii=False)
    db.execute(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(entry.dataset, entry.sequence, sql_time(entry.time), entry.time, entry.kind),
            *(actor.user, actor.uid, actor.host, actor.program, digest.hex(), body),
        ),
    )
    if entry.kind == "created":
        db.execute("INSERT INTO datasets VALUES (?, ?)", (entry.dataset, sql_time(entry.time)))
    elif entry.kind == "committed":
        _add_version(db, entry, decode_manifest(entry.body))
    elif entry.kind in ("tagged", "untagged"):
        _change_tags(db, entry)
    elif entry.kind in DECODERS:
        add_record(db, entry)


def _add_version(db: sqlite3.Connection, entry: LogEntry, manifest: Manifest) -> None:
    name, ver, actor = manifest.dataset, f"v{manifest.version}", entry.actor
    row = (name, ver, sql_time(entry.time), manifest.message, manifest_hash(manifest).hex(), "")
    db.execute("INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?)", row)
    db.execute(
        "INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(name, ver, manifest.version, entry.sequence, entry.time, manifest.root),
            *(manifest.parent, manifest.files, manifest.size_bytes),
            *(actor.user, actor.uid, actor.host, actor.program),
        ),
    )
    made_by = manifest.transform
    transform = made_by.name if made_by else None
    parameters = json.dumps(msgspec.to_builtins(made_by.parameters)) if made_by else None
    for source in manifest.sources:
        theirs = f"v{source.version}"
        here = theirs if source.dataset == name else f"{source.dataset}:{theirs}"
        db.execute("INSERT INTO lineage VALUES (?, ?, ?, ?)", (name, ver, here, transform))
        db.execute(
            "INSERT INTO sources VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(name, ver, source.dataset, theirs, source.manifest, transform, parameters),
                made_by.program_sha256 if made_by else None,
            ),
        )
    _set_tags(db, entry, manifest.version, manifest.tags, ())


def _change_tags(db: sqlite3.Connection, entry: LogEntry) -> None:
    version, names = entry.body["version"], entry.body["tags"]
    tagging = entry.kind == "tagged"
    _set_tags(db, entry, version, names if tagging else (), () if tagging else names)


def _set_tags(
    db: sqlite3.Connection, entry: LogEntry, version: int, add: Iterable[str], drop: Iterable[str]
) -> None:
    """Put tags on a version and take others off; other versions keep theirs."""
    name, ver = entry.dataset, f"v{version}"
    for tag in drop:
        db.execute("DELETE FROM tags WHERE ds_id = ? AND ver = ? AND tag = ?", (name, ver, tag))
    for tag in add:
        row = (name, ver, tag, sql_time(entry.time))
        db.execute("INSERT OR IGNORE INTO tags VALUES (?, ?, ?, ?)", row)
    db.execute(
        "UPDATE versions SET tags = (SELECT COALESCE(GROUP_CONCAT(tag), '') FROM (SELECT tag "
        "FROM tags WHERE ds_id = ?1 AND ver = ?2 ORDER BY tag)) WHERE ds_id = ?1 AND ver = ?2",
        (name, ver),
    )
