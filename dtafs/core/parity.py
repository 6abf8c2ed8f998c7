"""Parity of packs: how a pack is cut into shards, and the head of a parity file.

`dtafs.core.format` specifies the bytes. A pack is cut into at most `DATA_SHARDS` shards of one size,
the last padded with zeros; P percent of parity are `2 * P` shards of that size more, and so many
damaged shards can be made again. Shards are consecutive bytes: a damaged region of half of P percent is
at most as long as P shards, so it touches P + 1 of them at most, wherever it begins.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import NamedTuple

from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError, UsageError

PARITY_MAGIC = b"\x89dtapar\n"
PARITY_VERSION = 1
PARITY_HEAD = struct.Struct("<8sBBBxIQ32s")
SUM_BYTES = 8
"""Of the SHA-256 of a shard: enough to find the damaged ones. What is mended with them must have the
SHA-256 that names the pack."""

DATA_SHARDS = 200
"""With two parity shards a percent, 25 % makes 250 shards; Reed-Solomon over bytes allows 256."""

SHARD_MIN_BYTES = 256
"""A small pack has fewer shards, so that their sums do not take more room than they do."""

PERCENT_MAX = 25
PACK_MAX_BYTES = 1 << 40
"""What a reader takes for the size of a pack; shard sizes then fit their field."""

_FEATURE = "parity-"


class Parity(NamedTuple):
    """The head of a parity file: which pack it belongs to, how that is cut, what its shards sum to."""

    pack: bytes
    size: int
    """Of the pack, in bytes."""
    shard: int
    """Bytes of each shard."""
    sums: tuple[bytes, ...]
    """Of the data shards and then of the parity shards."""

    @property
    def data(self) -> int:
        """How many shards the pack has."""
        return -(-self.size // self.shard)

    @property
    def extra(self) -> int:
        """How many parity shards there are: so many damaged ones can be mended."""
        return len(self.sums) - self.data

    @property
    def head_bytes(self) -> int:
        """Where the first parity shard begins."""
        return PARITY_HEAD.size + len(self.sums) * SUM_BYTES + HASH_BYTES

    @property
    def file_bytes(self) -> int:
        """The size of the whole parity file."""
        return self.head_bytes + self.extra * self.shard


def layout(size: int, percent: int) -> tuple[int, int, int]:
    """Bytes of a shard, number of data shards, number of parity shards, for a pack of `size`."""
    shard = max(SHARD_MIN_BYTES, -(-size // DATA_SHARDS))
    return shard, -(-size // shard), 2 * percent


def mendable_bytes(size: int, percent: int) -> int:
    """So long a damaged region is always mended, wherever in a pack of `size` bytes it lies."""
    shard, _data, extra = layout(size, percent)
    return (extra - 1) * shard + 1


def sum_of(shard: bytes | bytearray) -> bytes:
    """What a head says of a shard."""
    return hashlib.sha256(shard).digest()[:SUM_BYTES]


def encode_parity_head(parity: Parity) -> bytes:
    """The beginning of a parity file, up to its first shard."""
    head = PARITY_HEAD.pack(
        PARITY_MAGIC,
        PARITY_VERSION,
        parity.data,
        parity.extra,
        parity.shard,
        parity.size,
        parity.pack,
    ) + b"".join(parity.sums)
    return head + hashlib.sha256(head).digest()


def head_bytes_of(data: bytes) -> int:
    """How long the head is that begins with these `PARITY_HEAD.size` bytes; IntegrityError for others."""
    if len(data) < PARITY_HEAD.size:
        raise IntegrityError("the parity file is too short")
    magic, version, count, extra, *_ = PARITY_HEAD.unpack(data[: PARITY_HEAD.size])
    if magic != PARITY_MAGIC or version != PARITY_VERSION:
        raise IntegrityError("the parity file does not begin as one")
    return int(PARITY_HEAD.size + (count + extra) * SUM_BYTES + HASH_BYTES)


def decode_parity_head(data: bytes) -> Parity:
    """The head in the first bytes of a parity file; IntegrityError unless it is as it was written."""
    end = head_bytes_of(data)
    if len(data) < end:
        raise IntegrityError("the parity file is too short")
    body = data[: end - HASH_BYTES]
    if hashlib.sha256(body).digest() != data[end - HASH_BYTES : end]:
        raise IntegrityError("the head of the parity file is altered")
    _magic, _version, count, extra, shard, size, pack = PARITY_HEAD.unpack(body[: PARITY_HEAD.size])
    raw = body[PARITY_HEAD.size :]
    sums = tuple(raw[i : i + SUM_BYTES] for i in range(0, len(raw), SUM_BYTES))
    parity = Parity(pack, size, shard, sums)
    sound = (
        0 < size <= PACK_MAX_BYTES
        and shard > 0
        and 0 < count <= DATA_SHARDS
        and 0 < extra <= 2 * PERCENT_MAX
        and parity.data == count
    )
    if not sound:
        raise IntegrityError("the head of the parity file describes what cannot be")
    return parity


def parity_key(pack: bytes) -> str:
    """The key of a pack's parity below the lake."""
    name = pack.hex()
    return f"parity/{name[:2]}/{name}"


def parity_feature(percent: int) -> str:
    """The name of the optional feature of a lake whose packs have so much parity."""
    return f"{_FEATURE}{percent}"


def parity_percent(features: Iterable[str]) -> int:
    """How much parity a lake with these optional features has, 0 for none."""
    for name in features:
        text = name.removeprefix(_FEATURE)
        if name != text and text.isascii() and text.isdigit() and 0 < int(text) <= PERCENT_MAX:
            return int(text)
    return 0


def parse_percent(text: str) -> int:
    """The percentage that a user writes: `2%` or `2`. UsageError for what cannot be."""
    bare = text.strip().removesuffix("%").strip()
    if not (bare.isascii() and bare.isdigit() and len(bare) < 4 and 0 < int(bare) <= PERCENT_MAX):
        raise UsageError(
            f"{text!r} is not a share of parity: write 1% to {PERCENT_MAX}%, such as 2%"
        )
    return int(bare)
