"""The tables of the catalog for what a host knows beside the log: where packs lie, when they were read,
and what is pinned.

`placement` has a row for each pack that the log names and each place where it is, or one with the tier
`missing` where its stub knows of no place (a pack without a stub can only be hot: whether it is lost is for
the check to say); `ds_id` and `ver` are the version that brought it (which other versions may need too),
`since` is when it came there: by the log, the time of the file, or when the tier's copy was verified.
`access` has what was written down of reads (`dtafs.store.placement.heat`), at most some minutes old. The
view `whereabouts` joins both, a row for each version and each place of the content that it brought.

What every version needs in all would take a walk over the metadata of each; `tier plan-read` walks over one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dtafs.core.format import PackKind
from dtafs.core.names import format_time, version_name
from dtafs.errors import DtafsError, IntegrityError
from dtafs.store.catalog_records import sql_time
from dtafs.store.condemn import FOLDER
from dtafs.store.placement import heat, pins
from dtafs.store.placement.survey import Survey

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

log = logging.getLogger(__name__)

PLACES_SCHEMA = """
CREATE TABLE placement (
  pack TEXT, kind TEXT, ds_id TEXT, ver TEXT, tier TEXT, since DATETIME, size_bytes INTEGER,
  PRIMARY KEY (pack, tier)
) WITHOUT ROWID;
CREATE TABLE access (
  pack TEXT PRIMARY KEY, last_access DATETIME, count INTEGER
) WITHOUT ROWID;
CREATE TABLE pins (
  ds_id TEXT, ver TEXT, path TEXT, user TEXT, since DATETIME
);
CREATE TABLE state (host TEXT);
CREATE INDEX placement_by_version ON placement (ds_id, ver);
CREATE VIEW whereabouts AS
  SELECT v.ds_id, v.ver, p.tier, COUNT(p.pack) AS packs, COALESCE(SUM(p.size_bytes), 0) AS bytes,
         MIN(p.since) AS since, MAX(a.last_access) AS last_access, COALESCE(SUM(a.count), 0) AS count,
         EXISTS (SELECT 1 FROM pins WHERE pins.ds_id = v.ds_id AND
                 (pins.ver IS NULL OR pins.ver = v.ver)) AS pinned
  FROM versions v
  LEFT JOIN placement p ON p.ds_id = v.ds_id AND p.ver = v.ver AND p.kind = 'content'
  LEFT JOIN access a ON a.pack = p.pack
  GROUP BY v.ds_id, v.ver, p.tier;
"""

FOUND = """
CREATE TEMP TABLE found (
  pack TEXT, kind TEXT, ds_id TEXT, seq INTEGER, tier TEXT, since TEXT, size_bytes INTEGER
)
"""

PLACE = """
INSERT INTO placement
  SELECT f.pack, f.kind, f.ds_id, m.ver, f.tier, COALESCE(f.since, e.ts), f.size_bytes
  FROM found f
  LEFT JOIN entries e ON e.ds_id = f.ds_id AND e.seq = f.seq
  LEFT JOIN manifests m ON m.ds_id = f.ds_id AND m.seq = f.seq
  ORDER BY f.pack, f.tier
"""

ACCESS = """
INSERT INTO access SELECT * FROM reads WHERE pack IN (SELECT pack FROM placement) ORDER BY pack
"""

COUNT_MAX = (1 << 63) - 1
"""The largest integer of SQLite."""

Found = tuple[str, str, str, int, str, str | None, int]
"""A row of the table `found`."""


class HostTables:
    """What a host knows. Blocks; used by one thread at a time."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._survey = Survey(lake.path)

    def look(self) -> str:
        """Look at what has changed; a text that is the same as long as nothing has."""
        lake = self._lake
        if lake.can_write:
            with contextlib.suppress(DtafsError):  # then what is shown is older
                lake.heat.save_stale(lake.disk)
        files = [_stamp(lake.path / FOLDER / name) for name in (heat.FILE, pins.FILE)]
        return hashlib.sha256(json.dumps([self._survey.look(), *files]).encode()).hexdigest()

    def write(self, db: sqlite3.Connection, heads: Mapping[str, int]) -> None:
        """Write the tables anew, as of the last look; `heads` are the logs' last entries there."""
        db.execute("PRAGMA temp_store = MEMORY")
        for table in ("placement", "access", "pins"):
            db.execute(f"DELETE FROM {table}")
        db.execute(FOUND)
        db.executemany("INSERT INTO found VALUES (?, ?, ?, ?, ?, ?, ?)", self._places(heads))
        db.execute(PLACE)
        db.execute("DROP TABLE found")
        db.execute("CREATE TEMP TABLE reads (pack TEXT, last_access TEXT, count INTEGER)")
        reads = heat.read_heat(self._lake.path).items()
        rows = (
            (pack.hex(), _time(read.time_ns), min(read.frames, COUNT_MAX)) for pack, read in reads
        )
        db.executemany("INSERT INTO reads VALUES (?, ?, ?)", rows)
        db.execute(ACCESS)  # SQLite sorts without the interpreter's lock, which `sorted` does not
        db.execute("DROP TABLE reads")
        db.executemany("INSERT INTO pins VALUES (?, ?, ?, ?, ?)", self._pins())

    def _places(self, heads: Mapping[str, int]) -> Iterator[Found]:
        for pack, row in self._lake.index.packs():
            if row.sequence > heads.get(row.dataset, 0):
                continue  # the log went on meanwhile
            kind = PackKind(row.kind).name.lower()
            about = pack.hex(), kind, row.dataset, row.sequence
            lies = self._survey.lies(pack)
            if lies is None:
                yield *about, "hot", None, row.size
                continue
            if lies.hot_ns is not None:
                yield *about, "hot", _time(lies.hot_ns), row.size
            elif not lies.copies:
                yield *about, "missing", None, row.size
            for tier, since_ns in lies.copies:
                yield *about, tier, _time(since_ns), row.size

    def _pins(self) -> Iterator[tuple[str, str | None, str | None, str, str | None]]:
        try:
            found = pins.read_pins(self._lake.path)
        except IntegrityError as error:
            log.warning("the catalog shows no pins: %s", error)
            return
        for pin in found:
            ver = version_name(pin.version) if pin.version else None
            path = os.fsencode(pin.path).decode(errors="backslashreplace")  # SQLite's text is UTF-8
            yield pin.dataset, ver, path or None, pin.user, _sql_time(pin.time)


def _time(time_ns: int) -> str | None:
    """A time as SQL has it; None for one that no calendar has: these files are not proven."""
    try:
        return sql_time(format_time(time_ns))
    except (ValueError, OverflowError, OSError):
        return None


def _sql_time(text: str) -> str | None:
    try:
        return sql_time(text)
    except DtafsError:
        return None


def _stamp(path: Path) -> list[int]:
    """What tells a file that is replaced as a whole from the one before."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return [status.st_ino, status.st_mtime_ns, status.st_size]
