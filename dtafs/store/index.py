"""The index: LMDB tables over the objects. A view: deleting it and replaying the log gives it back.

| table | key | value (MessagePack unless said otherwise) |
|---|---|---|
| `meta` | `serial` | the last version serial given, 4 bytes big-endian |
| | `time` | time of the newest entry applied, 8 bytes big-endian, ns |
| `dataset` | name | `DatasetRow`: what the log says of it, and the last entry applied |
| `version` | name, NUL, number (4 bytes BE) | `VersionRow`: manifest, hash, time, current tags |
| `serial` | serial (4 bytes BE) | name, NUL, number (4 bytes BE) |
| `tag` | name, NUL, tag, NUL, number (4 bytes BE) | empty: the version carries the tag |
| `pack` | pack id | `PackRow`: kind, size, counts, the entry that brought it |
| `chunk` | chunk or node id | `Place` as 53 bytes: pack id, then six little-endian numbers |
| `copy` | chunk or node id, pack id | its place in another pack than the one in `chunk` |

A chunk that two packs hold keeps the place with the smaller pack id, so that the rows do not depend
on the order in which the packs were met; a pack that is gone does not count. The other places are
copies: when an entry removes the pack in `chunk`, the first of them takes over. One entry is applied
in one synced txn together with its sequence number, so that a crash leaves the index at some prefix
of each dataset's log. Only rows of `chunk` and `copy` may be there before their entry, and their pack,
where a commit brings more of them than one txn should change: the entry is in the log by then, and
applying it once more finds them as it would make them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from dtafs.core.entries import LogEntry, decode_collection, decode_manifest, manifest_hash
from dtafs.core.names import DATASET_NAME_MAX_BYTES
from dtafs.core.values import HASH_BYTES, Actor, Manifest
from dtafs.errors import IntegrityError
from dtafs.store.database import Database, Txn, row_decoder
from dtafs.store.index_packs import (
    Gathered,
    PackRow,
    Present,
    Removed,
    add_packs,
    add_rows,
    decode_pack,
    decode_place,
    remove_pack,
)
from dtafs.store.packs import Pack, Place

TABLES = ("meta", "dataset", "version", "serial", "tag", "pack", "chunk", "copy")

ROWS_AT_ONCE = 8_192
"""Rows of chunks in one txn. LMDB keeps in memory, for ever, as many pages as one txn has changed, and
each row may be on a page of its own: 32 MiB."""

GATHERED_ROWS = 131_072
"""So many rows are put in order first, 16 MiB: then a txn changes few pages of a table, and each of
them once, unless the table is much larger than what comes."""

_NUMBER = struct.Struct(">I")
_TIME = struct.Struct(">Q")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class DatasetRow(Struct, frozen=True, array_like=True):
    """A dataset as the log has it up to entry `sequence`, whose object has the hash `head`."""

    name: str
    created_ns: int
    tags: tuple[str, ...]
    """Given at creation; the first version carries them."""
    newest: int
    """Number of the newest version, 0 where there is none."""
    sequence: int
    head: bytes


class VersionRow(Struct, frozen=True, array_like=True):
    """A sealed version. `serial` numbers all versions of the lake in the order of their commits."""

    dataset: str
    number: int
    serial: int
    manifest: Manifest
    manifest_sha256: bytes
    time_ns: int
    sequence: int
    actor: Actor
    tags: tuple[str, ...]
    """Tags now; those at the commit are in the manifest."""

    @property
    def root(self) -> bytes:
        """Id of the root node."""
        return bytes.fromhex(self.manifest.root)

    @property
    def name(self) -> str:
        """`DATASET:vN`."""
        return f"{self.dataset}:v{self.number}"


class Step(NamedTuple):
    """A log entry that is to be applied."""

    entry: LogEntry
    object_hash: bytes
    packs: Iterable[Pack]
    """Those that a `committed` or `collected` entry brings."""
    removed: Sequence[Removed] = ()
    """Those that a `collected` entry removes."""


_encode = msgspec.msgpack.Encoder().encode
_decode_dataset = row_decoder(DatasetRow)
_decode_version = row_decoder(VersionRow)


def _version_key(dataset: str, number: int) -> bytes:
    return dataset.encode() + b"\0" + _NUMBER.pack(number)


class Index:
    """Typed access to the tables. Reads may run inline: an LMDB get takes about 2 us."""

    def __init__(self, path: Path, *, write: bool) -> None:
        try:
            self.database = Database(path, TABLES, write=write)
        except IntegrityError as error:
            raise IntegrityError(f"{error}; rebuild the index with: dtafsctl reindex") from None
        self._file = path / "data.mdb"
        self._identity = _identity(self._file)

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
            return _get_dataset(txn, name)

    def datasets(self) -> list[DatasetRow]:
        """All datasets, sorted by name."""
        with self.database.read() as txn:
            return [_decode_dataset(value) for _key, value in txn.scan("dataset")]

    def version(self, dataset: str, number: int) -> VersionRow | None:
        """A version, or None."""
        with self.database.read() as txn:
            value = txn.get("version", _version_key(dataset, number))
        return None if value is None else _decode_version(value)

    def versions(self, dataset: str) -> list[VersionRow]:
        """All versions of a dataset, oldest first."""
        with self.database.read() as txn:
            rows = txn.scan("version", dataset.encode() + b"\0")
            return [_decode_version(value) for _key, value in rows]

    def version_numbers(self, dataset: str) -> list[int]:
        """The numbers of all versions of a dataset, in order."""
        with self.database.read() as txn:
            rows = txn.scan("version", dataset.encode() + b"\0")
            return [_NUMBER.unpack(key[-_NUMBER.size :])[0] for key, _value in rows]

    def version_by_serial(self, serial: int) -> VersionRow | None:
        """The version with a serial, or None."""
        with self.database.read() as txn:
            key = txn.get("serial", _NUMBER.pack(serial)) if 0 < serial < 2**32 else None
            value = txn.get("version", key) if key is not None else None
        return None if value is None else _decode_version(value)

    def tagged(self, dataset: str, tag: str) -> list[int]:
        """Numbers of the versions that carry a tag, oldest first."""
        prefix = dataset.encode() + b"\0" + tag.encode() + b"\0"
        with self.database.read() as txn:
            return [_NUMBER.unpack(key[-4:])[0] for key, _value in txn.scan("tag", prefix)]

    def tags(self, dataset: str) -> dict[str, int]:
        """Every tag in use with the newest version that carries it."""
        prefix = dataset.encode() + b"\0"
        with self.database.read() as txn:
            return {
                key[len(prefix) : -5].decode(): _NUMBER.unpack(key[-4:])[0]
                for key, _value in txn.scan("tag", prefix)
            }

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

    def newest_time_ns(self) -> int:
        """Time of the newest entry applied, 0 in an empty lake."""
        with self.database.read() as txn:
            value = txn.get("meta", b"time")
        return 0 if value is None else int(_TIME.unpack(value)[0])

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
                _apply(txn, step)

        self.database.write(apply)

    def _add_early(self, steps: Sequence[Step], rows: list[bytes], present: Present) -> None:
        """Add rows of chunks before the entries that bring them, once it is sure that those follow."""
        after: dict[str, DatasetRow | None] = {}
        for step in steps:
            name = step.entry.dataset
            row = after[name] if name in after else self.dataset(name)
            after[name] = _following(row, step)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            some = rows[start : start + ROWS_AT_ONCE]
            self.database.write(partial(add_rows, rows=some, present=present))


def _get_dataset(txn: Txn, name: str) -> DatasetRow | None:
    key = os.fsencode(name)  # any name may be asked for, also one that is not UTF-8
    if not 0 < len(key) <= DATASET_NAME_MAX_BYTES:
        return None
    value = txn.get("dataset", key)
    return None if value is None else _decode_dataset(value)


def _following(row: DatasetRow | None, step: Step) -> DatasetRow:
    """The row of a dataset after an entry; IntegrityError when that does not follow the last one."""
    entry = step.entry
    where = f"entry {entry.sequence} of {entry.dataset!r}"
    sequence, head = (row.sequence, row.head.hex()) if row else (0, None)
    if entry.sequence != sequence + 1 or entry.previous != head:
        raise IntegrityError(f"{where} does not follow the entry before it: the log was altered")
    if (entry.kind == "created") != (row is None):
        raise IntegrityError(f"{where} cannot be of the kind {entry.kind!r}")
    if row is None:
        row = DatasetRow(entry.dataset, entry.time_ns, _tags(entry.body, where), 0, 0, b"")
    return msgspec.structs.replace(row, sequence=entry.sequence, head=step.object_hash)


def _apply(txn: Txn, step: Step) -> None:
    entry = step.entry
    row = _following(_get_dataset(txn, entry.dataset), step)
    where = f"entry {entry.sequence} of {entry.dataset!r}"
    if entry.kind == "committed":
        row = _apply_commit(txn, row, entry, where)
    elif entry.kind in ("tagged", "untagged"):
        _apply_tags(txn, entry, where)
    elif entry.kind == "collected":
        decode_collection(entry.body)
        for gone in step.removed:
            remove_pack(txn, gone)
    txn.put("dataset", entry.dataset.encode(), _encode(row))
    newest = txn.get("meta", b"time")
    if newest is None or _TIME.unpack(newest)[0] < entry.time_ns:
        txn.put("meta", b"time", _TIME.pack(entry.time_ns))


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
    serial = (0 if last is None else _NUMBER.unpack(last)[0]) + 1
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
    key = _version_key(row.name, version.number)
    txn.put("meta", b"serial", _NUMBER.pack(serial))
    txn.put("serial", _NUMBER.pack(serial), key)
    txn.put("version", key, _encode(version))
    for tag in version.tags:
        txn.put("tag", _tag_key(row.name, tag, version.number), b"")
    return msgspec.structs.replace(row, newest=version.number)


def _tag_key(dataset: str, tag: str, number: int) -> bytes:
    return b"%b\0%b\0%b" % (dataset.encode(), tag.encode(), _NUMBER.pack(number))


def _apply_tags(txn: Txn, entry: LogEntry, where: str) -> None:
    number, tags = entry.body.get("version"), _tags(entry.body, where)
    value = None
    if isinstance(number, int) and 0 < number < 2**32:
        value = txn.get("version", _version_key(entry.dataset, number))
    if value is None:
        raise IntegrityError(f"{where} tags a version that does not exist")
    version = _decode_version(value)
    adding = entry.kind == "tagged"
    current = set(version.tags) | set(tags) if adding else set(version.tags) - set(tags)
    for tag in tags:
        key = _tag_key(entry.dataset, tag, version.number)
        txn.put("tag", key, b"") if adding else txn.delete("tag", key)
    changed = msgspec.structs.replace(version, tags=tuple(sorted(current)))
    txn.put("version", _version_key(entry.dataset, version.number), _encode(changed))
