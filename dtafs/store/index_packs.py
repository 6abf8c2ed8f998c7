"""The rows of the index for packs and for the chunks in them; `dtafs.store.index` has the tables.

Functions that change rows run inside the txn that applies a log entry.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

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


def apply_pack(txn: Txn, pack: Pack, entry: LogEntry, present: Present) -> None:
    """Add the rows of a pack that an entry brings."""
    if txn.get("pack", pack.id) is not None:
        return
    places = sorted(pack.places())
    plain = sum(frame.plain for frame in pack.frames)
    row = PackRow(
        pack.kind, pack.size, plain, len(pack.frames), len(places), entry.dataset, entry.sequence
    )
    txn.put("pack", pack.id, _encode(row))
    for chunk, place in places:
        _add_place(txn, chunk, place, present)


def _add_place(txn: Txn, chunk: bytes, place: Place, present: Present) -> None:
    value, known = encode_place(place), txn.get("chunk", chunk)
    while known is not None and not present(known[:HASH_BYTES]):  # lost: a copy takes over
        known = _take_copy(txn, chunk)
    if known is None or known[:HASH_BYTES] > place.pack:
        txn.put("chunk", chunk, value)
        if known is not None:
            txn.put("copy", chunk + known[:HASH_BYTES], known)
    else:
        txn.put("chunk", chunk, known)
        if known[:HASH_BYTES] != place.pack:
            txn.put("copy", chunk + place.pack, value)


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
