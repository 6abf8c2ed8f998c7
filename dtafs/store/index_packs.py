"""The rows of the index for packs and for the chunks in them; `dtafs.store.index` has the tables.

Functions that change rows run inside the txn that applies a log entry.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from dtafs.core.entries import LogEntry
from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError
from dtafs.store.database import Txn, row_decoder
from dtafs.store.packs import Pack, Place

_PLACE = struct.Struct("<32sIIIBII")

Present = Callable[[bytes], bool]
"""Whether the pack with an id is in the home store."""

Removed = tuple[bytes, Sequence[bytes] | None]
"""A pack that an entry removes, with the chunks in it, or None where its footer cannot be read."""


class PackRow(Struct, frozen=True, array_like=True):
    """A pack that an entry names; sizes in bytes."""

    kind: int
    size: int
    plain: int
    frames: int
    chunks: int
    dataset: str
    sequence: int


_encode = msgspec.msgpack.Encoder().encode
decode_pack = row_decoder(PackRow)


def encode_place(place: Place) -> bytes:
    """A place as the chunk tables hold it."""
    return _PLACE.pack(*place)


def decode_place(data: bytes) -> Place:
    """The inverse of `encode_place`; IntegrityError for another length."""
    if len(data) != _PLACE.size:
        raise IntegrityError("a row of the chunk table is damaged")
    return Place(*_PLACE.unpack(data))


class Gathered:
    """What packs bring to the tables, until there is enough of it for some txns."""

    def __init__(self) -> None:
        self.rows: list[bytes] = []
        """Chunks, each with its encoded place behind it."""
        self.packs: dict[bytes, PackRow] = {}

    def add(self, pack: Pack, entry: LogEntry) -> None:
        """Add the rows of a pack that an entry brings."""
        if pack.id in self.packs:
            return
        places = sorted(pack.places())
        plain = sum(frame.plain for frame in pack.frames)
        count, frames = len(places), len(pack.frames)
        self.packs[pack.id] = PackRow(
            pack.kind, pack.size, plain, frames, count, entry.dataset, entry.sequence
        )
        before = b""
        for chunk, place in places:
            if chunk != before:  # the first of several places in one pack is the one that counts
                self.rows.append(chunk + encode_place(place))
            before = chunk

    def take_sorted(self) -> list[bytes]:
        """All rows, in order: neighbours share pages of the table."""
        rows, self.rows = sorted(self.rows), []
        return rows


def add_rows(txn: Txn, rows: Iterable[bytes], present: Present) -> None:
    """Add rows of `Gathered`; those that are there already change nothing."""
    for row in rows:
        _add_place(txn, row[:HASH_BYTES], row[HASH_BYTES:], present)


def add_packs(txn: Txn, packs: Mapping[bytes, PackRow]) -> None:
    """Add the packs themselves, of which the tables have all rows by now."""
    for pack, row in packs.items():
        if txn.get("pack", pack) is None:
            txn.put("pack", pack, _encode(row))


def _add_place(txn: Txn, chunk: bytes, value: bytes, present: Present) -> None:
    pack, known = value[:HASH_BYTES], txn.get("chunk", chunk)
    while known is not None and not present(known[:HASH_BYTES]):  # lost: a copy takes over
        known = _take_copy(txn, chunk)
    if known is None or known[:HASH_BYTES] > pack:
        txn.put("chunk", chunk, value)
        if known is not None:
            txn.put("copy", chunk + known[:HASH_BYTES], known)
    else:
        txn.put("chunk", chunk, known)
        if known[:HASH_BYTES] != pack:
            txn.put("copy", chunk + pack, value)


def _take_copy(txn: Txn, chunk: bytes) -> bytes | None:
    """Take the first copy of a chunk out of its table."""
    found = next(iter(txn.scan("copy", chunk)), None)
    if found is None:
        return None
    txn.delete("copy", found[0])
    return found[1]


def remove_pack(txn: Txn, removed: Removed) -> None:
    """Take a pack out of the tables; another place of each of its chunks, if any, takes over."""
    pack, chunks = removed
    txn.delete("pack", pack)
    if chunks is None:
        held = [key for key, value in txn.scan("chunk") if value.startswith(pack)]
        copied = [key for key, _ in txn.scan("copy") if key.endswith(pack)]
        chunks = [*held, *(key[:HASH_BYTES] for key in copied)]
    for chunk in chunks:
        txn.delete("copy", chunk + pack)
        known = txn.get("chunk", chunk)
        if known is None or not known.startswith(pack):
            continue
        following = _take_copy(txn, chunk)
        if following is None:
            txn.delete("chunk", chunk)
        else:
            txn.put("chunk", chunk, following)
