"""Packs that are durable but that no log entry names yet: what staging has chunked so far.

They are not derivable, so they have an LMDB environment of their own under `staging/pending`.

| table | key | value |
|---|---|---|
| `pack` | pack id, name of the dataset whose staging wrote it | empty |
| `chunk` | chunk or node id, name of the dataset | its place, as in the index |
| `intent` | name of the dataset | MessagePack [version, root id]: a commit that is about to be logged |

A pack is published first and its rows are written after, in one synced txn; a crash in between
leaves a pack that nothing names. The rows go when an entry names the pack, after the index has
them, some thousands in a txn: LMDB keeps in memory the pages that one txn changes. A crash in between
leaves rows, and the intent, which goes last. An intent tells a start after a crash whether the
version in the log was made from what is still in staging.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import msgspec

from dtafs.core.values import HASH_BYTES
from dtafs.store.database import Database, Txn, row_decoder
from dtafs.store.founding import staging_damage
from dtafs.store.index import Index
from dtafs.store.index_packs import decode_place, encode_place
from dtafs.store.packs import Pack, Place

TABLES = ("pack", "chunk", "intent")

DROPPED_AT_ONCE = 8_192
"""Rows that go in one txn; each may be on a page of its own."""
_decode_intent = row_decoder(tuple[int, bytes])


class Pending:
    """The packs of uncommitted work. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, TABLES)

    def close(self) -> None:
        """Close the environment."""
        self._database.close()

    def examine(self) -> None:
        """Look at every page of the file; IntegrityError when one is damaged."""
        self._database.examine()

    def add(self, dataset: str, pack: Pack) -> None:
        """Note a durable pack that belongs to a dataset's staging."""

        def insert(txn: Txn) -> None:
            txn.put("pack", pack.id + dataset.encode(), b"")
            for chunk, place in sorted(pack.places()):
                txn.put("chunk", chunk + dataset.encode(), encode_place(place))

        self._database.write(insert)

    def place(self, chunk: bytes, dataset: str | None = None) -> Place | None:
        """Where a chunk of uncommitted work lies, of one dataset's or of anyone's; or None."""
        with self._database.read() as txn:
            if dataset is not None:
                value = txn.get("chunk", chunk + dataset.encode())
            else:
                value = next((value for _key, value in txn.scan("chunk", chunk)), None)
        return None if value is None else decode_place(value)

    def places(self, chunk: bytes) -> list[Place]:
        """Every place of a chunk of uncommitted work, whosever it is."""
        with self._database.read() as txn:
            return [decode_place(value) for _key, value in txn.scan("chunk", chunk)]

    def places_in(self, pack: bytes) -> list[tuple[bytes, Place]]:
        """Every row that leads into a pack. Looks through all rows."""
        with self._database.read() as txn:
            rows = list(txn.scan("chunk"))
        return [(key[:HASH_BYTES], decode_place(v)) for key, v in rows if v.startswith(pack)]

    def packs_of(self, chunks: Iterable[bytes], dataset: str) -> dict[bytes, bytes]:
        """Of several chunks those that a dataset's uncommitted work has stored, each with its pack."""
        owner = dataset.encode()
        with self._database.read() as txn:
            rows = [(chunk, txn.get("chunk", chunk + owner)) for chunk in chunks]
        return {chunk: value[:HASH_BYTES] for chunk, value in rows if value is not None}

    def packs(self, dataset: str) -> list[bytes]:
        """The packs of a dataset's staging."""
        return [pack for pack, owner in self.all_packs() if owner == dataset]

    def all_packs(self) -> list[tuple[bytes, str]]:
        """Every pack with the dataset whose staging wrote it."""
        with self._database.read() as txn:
            return [
                (key[:HASH_BYTES], key[HASH_BYTES:].decode()) for key, _value in txn.scan("pack")
            ]

    def owners(self, pack: bytes) -> list[str]:
        """The datasets of whose uncommitted work a pack is a part."""
        with self._database.read() as txn:
            return [key[HASH_BYTES:].decode() for key, _value in txn.scan("pack", pack)]

    def drop(self, dataset: str, packs: Iterable[Pack]) -> None:
        """Forget packs of a dataset: an entry names them now, or nobody needs them.

        `packs` is iterated once, outside of any txn, and only one of them is held at a time.
        """
        self._drop(dataset, packs, intent=False)

    def _drop(self, dataset: str, packs: Iterable[Pack], *, intent: bool) -> None:
        """Forget packs and then, in the last txn, the intent if that is wanted."""
        rows = _rows_of(packs)
        more = True
        while more:
            some = list(islice(rows, DROPPED_AT_ONCE))
            more = len(some) == DROPPED_AT_ONCE
            ends = intent and not more
            if some or ends:
                self._database.write(partial(_delete, dataset.encode(), some, ends))

    def drop_unreadable(self, dataset: str, pack: bytes) -> None:
        """Forget a pack whose footer cannot be read: all rows are looked through for it."""
        owner = dataset.encode()

        def delete(txn: Txn) -> None:
            txn.delete("pack", pack + owner)
            rows = [key for key, value in txn.scan("chunk") if value.startswith(pack)]
            for key in rows:
                if key[HASH_BYTES:] == owner:
                    txn.delete("chunk", key)

        self._database.write(delete)

    def intend(self, dataset: str, version: int, root: bytes) -> None:
        """Note, durably, that a version with this root is about to be logged."""
        value = msgspec.msgpack.encode((version, root))
        self._database.write(lambda txn: txn.put("intent", dataset.encode(), value))

    def intents(self) -> list[tuple[str, int, bytes]]:
        """Commits that were begun: dataset, version, root."""
        with self._database.read() as txn:
            rows = list(txn.scan("intent"))
        found = []
        for key, value in rows:
            version, root = _decode_intent(value)
            found.append((key.decode(), version, root))
        return found

    def settle(self, dataset: str, packs: Iterable[Pack] = ()) -> None:
        """Forget packs that an entry names now, as `drop` does, and last the intent of the dataset."""
        self._drop(dataset, packs, intent=True)


def _rows_of(packs: Iterable[Pack]) -> Iterator[tuple[bytes, bytes]]:
    """What is to go, as (pack, chunk): the rows of each pack's chunks, then, with an empty chunk, the
    pack's own, so that a crash in between leaves what names the rest."""
    for pack in packs:
        for chunk in sorted({chunk.id for frame in pack.frames for chunk in frame.chunks}):
            yield pack.id, chunk
        yield pack.id, b""


def _delete(owner: bytes, rows: list[tuple[bytes, bytes]], intent: bool, txn: Txn) -> None:
    for pack, chunk in rows:
        if not chunk:
            txn.delete("pack", pack + owner)
            continue
        found = txn.get("chunk", chunk + owner)
        if found is not None and found[:HASH_BYTES] == pack:
            txn.delete("chunk", chunk + owner)
    if intent:
        txn.delete("intent", owner)


def open_pending(lake: Path, index: Index) -> Pending:
    """The pending packs of a lake that is opened for writing, after its index; where they are damaged, the
    index is closed: LMDB opens no file twice in a process, and this one may try again once that is mended.
    """
    try:
        with staging_damage(lake):
            return Pending(lake / "staging" / "pending")
    except BaseException:
        index.close()
        raise
