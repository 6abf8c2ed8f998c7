"""The index: LMDB tables over the objects. A view: deleting it and replaying the log gives it back.

| table | key | value (MessagePack unless said otherwise) |
|---|---|---|
| `meta` | `serial` | the last version serial given, 4 bytes big-endian |
| | `time` | time of the newest entry applied, 8 bytes big-endian, ns |
| | `own` | `OwnRow`: the last entry of the lake's own log that is applied |
| | `clock` | `ClockRow`: what the times of the log tell of the host's clock |
| | `form` | of these tables: `2`; a writer brings rows without it up to date |
| `dataset` | name | `DatasetRow`: what the log says of it, and the last entry applied |
| `version` | name, NUL, number (4 bytes BE) | `VersionRow`: manifest, hash, time, current tags |
| `serial` | serial (4 bytes BE) | name, NUL, number (4 bytes BE) |
| `tag` | name, NUL, tag, NUL, number (4 bytes BE) | empty: the version carries the tag |
| `pack` | pack id | `PackRow`: kind, size, counts, the entry that brought it |
| `chunk` | chunk or node id | `Place` as 53 bytes: pack id, then six little-endian numbers |
| `copy` | chunk or node id, pack id | its place in another pack than the one in `chunk` |
| `child` | source's name, NUL, number (4 bytes BE), serial of what was made from it (4 BE) | empty |
| `rule` | name | `RuleRow`: a rule in force |
| `hold` | name | `HoldRow`: a hold that is not released |
| `event` | dataset, NUL, event, NUL, number or 0 (4 bytes BE) | `EventRow`: when it happened |
| `approval` | name, NUL, number (4 bytes BE), sequence (8 BE) | `ApprovalRow`: that a person agrees |
| `archived` | name, NUL, number (4 bytes BE) | `ArchivedRow`: the tier it was sent to by a rule |
| `disposition` | name, NUL, number (4 bytes BE) | `DispositionRow`: that and why it is gone |

A chunk that two packs hold keeps the place with the smaller pack id, so that the rows do not depend
on the order in which the packs were met; a pack that is gone does not count. The other places are
copies: when an entry removes the pack in `chunk`, the first of them takes over. One entry is applied
in one synced txn together with its sequence number, so that a crash leaves the index at some prefix
of each dataset's log. Only rows of `chunk` and `copy` may be there before their entry, and their pack,
where a commit brings more of them than one txn should change: the entry is in the log by then, and
applying it once more finds them as it would make them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from dtafs.core.names import LAKE_LOG
from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError
from dtafs.store.database import Database, Txn
from dtafs.store.index_log import Step, apply_step, check_follows
from dtafs.store.index_packs import (
    Gathered,
    PackRow,
    Present,
    add_packs,
    add_rows,
    decode_pack,
    decode_place,
)
from dtafs.store.index_records import (
    DispositionRow,
    OwnRow,
    decode_archived_row,
    decode_disposition_row,
    fill_in,
    get_own,
)
from dtafs.store.index_rows import (
    NUMBER,
    TIME,
    DatasetRow,
    VersionRow,
    decode_dataset,
    decode_version,
    get_dataset,
    version_key,
)
from dtafs.store.packs import Place

__all__ = ["TABLES", "DatasetRow", "Index", "Step", "VersionRow"]

TABLES = (
    *("meta", "dataset", "version", "serial", "tag", "pack", "chunk", "copy"),
    *("child", "rule", "hold", "event", "approval", "archived", "disposition"),
)
ROWS_AT_ONCE = 8_192
"""Rows of chunks in one txn. LMDB keeps in memory, for ever, as many pages as one txn has changed, and
each row may be on a page of its own: 32 MiB."""

GATHERED_ROWS = 131_072
"""So many rows are put in order first, 16 MiB: then a txn changes few pages of a table, and each of
them once, unless the table is much larger than what comes."""

OLDER_FORM, FORM = b"2", b"3"
"""What the rows of an index have: in the older one, gaps of the clock were not counted from the first
entry on."""


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Index:
    """Typed access to the tables. Reads may run inline: an LMDB get takes about 2 us."""

    def __init__(self, path: Path, *, write: bool) -> None:
        try:
            self.database = Database(path, TABLES, write=write)
        except IntegrityError as error:
            raise IntegrityError(f"{error}; rebuild the index with: dtafsctl reindex") from None
        if write:
            self._bring_up_to_date()
        self._file = path / "data.mdb"
        self._identity = _identity(self._file)

    def _bring_up_to_date(self) -> None:
        """Add what rows of an earlier release lack. A crash leaves some of it; all is done again."""
        if self.database.get("meta", b"form") is not None:
            return
        form = OLDER_FORM if self.heads() else FORM
        start: bytes | None = b""
        while start is not None:
            start = self.database.write(partial(fill_in, start=start, most=ROWS_AT_ONCE))
        self.database.write(lambda txn: txn.put("meta", b"form", form))

    @property
    def lacks_gaps(self) -> bool:
        """Whether an earlier release counted the gaps of the clock, which `replay.count_gaps` mends."""
        return self.database.get("meta", b"form") == OLDER_FORM

    def put_clock(self, clock: bytes | None) -> None:
        """Put the row of the clock in its place, counted from all entries."""

        def write(txn: Txn) -> None:
            if clock is not None:
                txn.put("meta", b"clock", clock)
            txn.put("meta", b"form", FORM)

        self.database.write(write)

    @property
    def is_current(self) -> bool:
        """False when a reindex has put another index in the place of this one."""
        return _identity(self._file) in (self._identity, None)

    def close(self) -> None:
        """Close the environment."""
        self.database.close()

    def examine(self) -> None:
        """Look at every page of the file; IntegrityError when one is damaged."""
        try:
            self.database.examine()
        except IntegrityError as error:
            raise IntegrityError(f"{error}; rebuild the index with: dtafsctl reindex") from None

    # Reading

    def dataset(self, name: str) -> DatasetRow | None:
        """A dataset, or None."""
        with self.database.read() as txn:
            return get_dataset(txn, name)

    def datasets(self) -> list[DatasetRow]:
        """All datasets, sorted by name."""
        with self.database.read() as txn:
            return [decode_dataset(value) for _key, value in txn.scan("dataset")]

    def own(self) -> OwnRow | None:
        """How far the lake's own log is applied, or None where it has no entry."""
        with self.database.read() as txn:
            return get_own(txn)

    def head(self, name: str) -> tuple[int, bytes] | None:
        """The number and hash of the last entry applied of a log, if any was."""
        row = self.own() if name == LAKE_LOG else self.dataset(name)
        return None if row is None else (row.sequence, row.head)

    def heads(self) -> dict[str, tuple[int, bytes]]:
        """Of each log, the lake's own too, the last entry applied: its number and its hash."""
        with self.database.read() as txn:
            rows = [decode_dataset(value) for _key, value in txn.scan("dataset")]
            own = get_own(txn)
        heads = {row.name: (row.sequence, row.head) for row in rows}
        return heads if own is None else {**heads, LAKE_LOG: (own.sequence, own.head)}

    def version(self, dataset: str, number: int) -> VersionRow | None:
        """A version, or None."""
        with self.database.read() as txn:
            value = txn.get("version", version_key(dataset, number))
        return None if value is None else decode_version(value)

    def versions(self, dataset: str) -> list[VersionRow]:
        """All versions of a dataset, oldest first."""
        with self.database.read() as txn:
            rows = txn.scan("version", dataset.encode() + b"\0")
            return [decode_version(value) for _key, value in rows]

    def version_numbers(self, dataset: str) -> list[int]:
        """The numbers of all versions of a dataset, in order."""
        with self.database.read() as txn:
            rows = txn.scan("version", dataset.encode() + b"\0")
            return [NUMBER.unpack(key[-NUMBER.size :])[0] for key, _value in rows]

    def version_by_serial(self, serial: int) -> VersionRow | None:
        """The version with a serial, or None."""
        with self.database.read() as txn:
            key = txn.get("serial", NUMBER.pack(serial)) if 0 < serial < 2**32 else None
            value = txn.get("version", key) if key is not None else None
        return None if value is None else decode_version(value)

    def tagged(self, dataset: str, tag: str) -> list[int]:
        """Numbers of the versions that carry a tag, oldest first."""
        prefix = dataset.encode() + b"\0" + tag.encode() + b"\0"
        with self.database.read() as txn:
            return [NUMBER.unpack(key[-4:])[0] for key, _value in txn.scan("tag", prefix)]

    def tags(self, dataset: str) -> dict[str, int]:
        """Every tag in use with the newest version that carries it."""
        prefix = dataset.encode() + b"\0"
        with self.database.read() as txn:
            return {
                key[len(prefix) : -5].decode(): NUMBER.unpack(key[-4:])[0]
                for key, _value in txn.scan("tag", prefix)
            }

    def archived_to(self, tier: str) -> list[VersionRow]:
        """The versions that a rule has sent to a tier."""
        with self.database.read() as txn:
            sent = [k for k, v in txn.scan("archived") if decode_archived_row(v).tier == tier]
            rows = [txn.get("version", key) for key in sent]
        return [decode_version(row) for row in rows if row is not None]

    def disposed_count(self) -> int:
        """How many versions were disposed of."""
        with self.database.read() as txn:
            return txn.count("disposition")

    def dispositions(self) -> Iterator[tuple[VersionRow, DispositionRow]]:
        """Every version that was disposed of; the txn lasts as long as the iteration."""
        with self.database.read() as txn:
            for key, value in txn.scan("disposition"):
                version = txn.get("version", key)
                if version is not None:
                    yield decode_version(version), decode_disposition_row(value)

    def chunk_count(self) -> int:
        """How many chunks and nodes the packs hold that the log names."""
        with self.database.read() as txn:
            return txn.count("chunk")

    def newest_serial(self) -> int:
        """The serial of the newest version of the lake, 0 where there is none."""
        with self.database.read() as txn:
            value = txn.get("meta", b"serial")
        return 0 if value is None else int(NUMBER.unpack(value)[0])

    def place(self, chunk: bytes) -> Place | None:
        """Where a chunk or node lies, or None."""
        with self.database.read() as txn:
            value = txn.get("chunk", chunk)
        return None if value is None else decode_place(value)

    def packs_of(self, chunks: Iterable[bytes]) -> dict[bytes, bytes]:
        """Of several chunks those that are known, each with the pack that it lies in."""
        with self.database.read() as txn:
            rows = [(chunk, txn.get("chunk", chunk)) for chunk in chunks]
        return {chunk: value[:HASH_BYTES] for chunk, value in rows if value is not None}

    def places_of(self, chunks: Iterable[bytes]) -> dict[bytes, Place]:
        """Of several chunks those that are known, each with its place."""
        with self.database.read() as txn:
            rows = [(chunk, txn.get("chunk", chunk)) for chunk in chunks]
        return {chunk: decode_place(value) for chunk, value in rows if value is not None}

    def places(self) -> Iterator[tuple[bytes, Place]]:
        """Every chunk with its place, sorted by id; the txn lasts as long as the iteration."""
        with self.database.read() as txn:
            for key, value in txn.scan("chunk"):
                yield key, decode_place(value)

    def copies(self, chunk: bytes) -> list[Place]:
        """The places of a chunk in other packs than that of `place`, sorted by pack."""
        with self.database.read() as txn:
            return [decode_place(value) for _key, value in txn.scan("copy", chunk)]

    def pack(self, pack: bytes) -> PackRow | None:
        """A pack that the log names, or None."""
        with self.database.read() as txn:
            value = txn.get("pack", pack)
        return None if value is None else decode_pack(value)

    def packs(self) -> list[tuple[bytes, PackRow]]:
        """All packs that the log names."""
        with self.database.read() as txn:
            return [(key, decode_pack(value)) for key, value in txn.scan("pack")]

    def pack_ids(self) -> set[bytes]:
        """The ids of all packs that the log names."""
        with self.database.read() as txn:
            return {key for key, _value in txn.scan("pack")}

    def newest_time_ns(self) -> int:
        """Time of the newest entry applied, 0 in an empty lake."""
        with self.database.read() as txn:
            value = txn.get("meta", b"time")
        return 0 if value is None else int(TIME.unpack(value)[0])

    # Applying the log

    def apply(self, steps: Sequence[Step], present: Present) -> None:
        """Apply entries that follow each other, in one txn: all of them or none.

        What their packs bring goes into that txn, too, where it is little; of much, the rows of chunks
        come before, in txns of their own. One that removes packs is applied by itself.
        `present` says whether a pack is there: a chunk whose pack is lost gets its new place.

        Raises IntegrityError when an entry does not follow the last one applied.
        """

        assert len(steps) == 1 or not any(step.removed for step in steps)
        gathered = Gathered()
        for number, step in enumerate(steps, 1):
            for pack in step.packs:
                if self.pack(pack.id) is None:
                    gathered.add(pack, step.entry)
                if len(gathered.rows) >= GATHERED_ROWS:
                    self._add_early(steps[:number], gathered.take_sorted(), present)
        rows = gathered.take_sorted()
        if len(rows) > ROWS_AT_ONCE:
            self._add_early(steps, rows[ROWS_AT_ONCE:], present)
            del rows[ROWS_AT_ONCE:]

        def apply(txn: Txn) -> None:
            add_rows(txn, rows, present)
            add_packs(txn, gathered.packs)
            for step in steps:
                apply_step(txn, step)

        self.database.write(apply)

    def _add_early(self, steps: Sequence[Step], rows: list[bytes], present: Present) -> None:
        """Add rows of chunks before the entries that bring them, once it is sure that those follow."""
        after: dict[str, tuple[int, bytes] | None] = {}
        for step in steps:
            name = step.entry.dataset
            check_follows(after[name] if name in after else self.head(name), step.entry)
            after[name] = (step.entry.sequence, step.object_hash)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            self.database.write(partial(add_rows, rows=some, present=present))

    def rehearse(self, step: Step) -> None:
        """Raise what applying an entry would raise, and change nothing: a log that has taken an entry
        that cannot be applied could be read no further."""

        def apply(txn: Txn) -> None:
            apply_step(txn, step)
            raise _RehearsedError

        with contextlib.suppress(_RehearsedError):
            self.database.write(apply)


class _RehearsedError(Exception):
    """Ends a txn whose changes are not wanted."""
