"""The catalog: the lake's history as a SQLite file, for anyone with any SQLite client.

`datasets`, `versions` and `lineage` are the three tables that records officers' scripts were
written against, column for column. `tags`, `sources`, `manifests` and `entries` hold what those
have no column for, `rules`, `holds`, `events`, `approvals`, `archived` and `dispositions` what the log
says of retention (`dtafs.store.catalog_records`), and the view `history` joins a version with all that
is known of it.

A catalog is a function of the log alone, and a log only grows, so the number of entries that it
reflects (its *generation*) names its content. Each generation is one file,
`cache/catalog/<generation>.sqlite`, that never changes once it has its name: whoever has opened an
older one goes on reading it, in a consistent state, without a lock. A new generation is the newest
older one plus the entries that came since; when that one does not belong to this log (a lake put
back from a backup) or is damaged, everything is read again.

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
from typing import TYPE_CHECKING

import msgspec

from dtafs.core.entries import LogEntry, decode_manifest, manifest_hash
from dtafs.core.record_checks import DECODERS
from dtafs.core.values import Manifest
from dtafs.errors import DtafsError, StorageError, StorageFullError, from_os_error
from dtafs.store.catalog_records import RECORDS_SCHEMA, add_record, sql_time

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

GENERATIONS_KEPT = 4
"""Files that stay for those who looked a moment ago; an open one outlives its name anyway."""

Heads = dict[str, tuple[int, str]]
"""The last entry of each log that is reflected: its number and the hash of its object."""

SCHEMA_VERSION = 2
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
        self._current: Heads = {}
        """What the newest file is known to reflect: looking into it again costs a scan."""

    def snapshot(self) -> tuple[Path, int]:
        """A SQLite file of the present state, which never changes, and its generation.

        The file keeps its name until `GENERATIONS_KEPT` newer ones exist; who needs it longer
        keeps it open. Raises StorageFullError and the like when it cannot be written.
        """
        with self._lock:
            known = self._lake.index.heads()
            heads = {name: (sequence, digest.hex()) for name, (sequence, digest) in known.items()}
            generation = sum(sequence for sequence, _ in heads.values())
            target = self._directory / f"{generation:010d}.sqlite"
            if self._current != heads or not target.exists():
                if _heads_of(target) != heads:
                    self._make(target, heads)
                    self._drop_old(generation)
                self._current = heads
            return target, generation

    def _make(self, target: Path, heads: Heads) -> None:
        disk = self._lake.disk
        disk.make_directory(self._directory)
        temp = disk.temp()
        try:
            with translated_sqlite(target):
                done = self._begin(temp.path, heads)
                with contextlib.closing(_connect(temp.path)) as db, db:
                    for name, (sequence, _) in sorted(heads.items()):
                        self._extend(db, name, done.get(name, (0, ""))[0], sequence)
            disk.remove(target)  # exists only when it does not belong to this log
            temp.publish(target)
        except BaseException:
            temp.discard()
            raise

    def _begin(self, path: Path, heads: Heads) -> Heads:
        """Start the file at `path` as a copy of a generation to add to, or empty; what it has."""
        for older in reversed(self._generations()):
            done = _heads_of(older)
            if done is not None and all(self._belongs(n, *h, heads) for n, h in done.items()):
                try:
                    shutil.copyfile(older, path)
                except OSError as error:
                    raise from_os_error(error, "writing the catalog") from error
                return done
        with contextlib.closing(_connect(path)) as db:
            db.executescript(SCHEMA + RECORDS_SCHEMA)
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

    def _generations(self) -> list[Path]:
        return sorted(self._directory.glob("??????????.sqlite"))

    def _drop_old(self, newest: int) -> None:
        """Keep the newest few; a larger number than the newest is of another log."""
        kept = [path for path in self._generations() if int(path.stem) <= newest]
        for path in set(self._generations()) - set(kept[-GENERATIONS_KEPT:]):
            self._lake.disk.remove(path)


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


def _heads_of(path: Path) -> Heads | None:
    """The last entry of each log that a catalog reflects; None for a damaged or missing one."""
    if not path.is_file():
        return None
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        ) as db:
            if db.execute("PRAGMA user_version").fetchone() != (SCHEMA_VERSION,):
                return None
            rows = db.execute(
                "SELECT ds_id, seq, hash FROM entries JOIN "
                "(SELECT ds_id, MAX(seq) AS seq FROM entries GROUP BY ds_id) USING (ds_id, seq)"
            )
            return {name: (sequence, digest) for name, sequence, digest in rows}
    except sqlite3.Error:
        return None


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
