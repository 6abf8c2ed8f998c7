"""Stubs: what stays on the hot disk of a content pack that has copies in other tiers.

A stub lies at `placed/<first 2 hex>/<64 hex of the pack>`. It is derived: from the tiers' listings and
the packs there it can be made again. ::

    offset  size
    0       8     magic  89 64 74 61 70 6c 63 0a  (0x89 "dtaplc" LF)
    8       4     f, the size of the facts in bytes, little-endian
    12      32    SHA-256 of all that follows
    44      f     facts: JSON, the members of `_Facts`, sorted
    44+f    …     the pack's header, footer and trailer, as they are in the pack

With its header, footer and trailer at hand, what a pack holds is known, and a range of it can be read,
without asking the tier for anything else. A tier that stands in `copies` with a time has a copy that
was verified then; one with 0 may have one, whole or not: a move to it has begun, or its copy is being
deleted. The stub of a pack that is being deleted everywhere lies at `doomed/<64 hex>`: nothing relies
on it, and it says where there may be something left to delete.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

import msgspec
from msgspec import Struct

from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError

STUB_MAGIC = b"\x89dtaplc\n"
STUB_HEAD = struct.Struct("<8sI32s")
STUB_LIMIT_BYTES = 64 << 20
"""What a reader takes for the size of a stub; a pack of 32 MiB has a footer of 40 KiB, one of chunks
of a few bytes each has one of some MiB."""


class _Facts(Struct, frozen=True, forbid_unknown_fields=True):
    pack: str
    """The pack's id, in hex."""
    size_bytes: int
    """Of the pack."""
    copies: dict[str, int]
    """Tier -> when its copy was verified, in ns since 1970; 0 while that did not happen."""
    hot_until_ns: int
    """A copy on the hot disk was recalled and stays at least so long; 0 for none."""


class Stub(NamedTuple):
    """Where a pack lies, and how it begins and ends."""

    pack: bytes
    size: int
    """Of the pack, in bytes."""
    ends: bytes
    """Its header, footer and trailer."""
    copies: dict[str, int]
    """Tier -> when its copy was verified, in ns since 1970; 0 while that did not happen."""
    hot_until_ns: int = 0
    """A copy on the hot disk was recalled and stays at least so long; 0 for none."""

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers that have a verified copy, sorted."""
        return tuple(sorted(name for name, since_ns in self.copies.items() if since_ns))


def stub_key(pack: bytes) -> str:
    """The key of a pack's stub below the lake."""
    name = pack.hex()
    return f"placed/{name[:2]}/{name}"


def doomed_key(pack: bytes) -> str:
    """The key of the stub of a pack that is being deleted."""
    return f"doomed/{pack.hex()}"


def encode_stub(stub: Stub) -> bytes:
    """The bytes of a stub."""
    facts = _Facts(stub.pack.hex(), stub.size, dict(stub.copies), stub.hot_until_ns)
    written = msgspec.json.encode(facts, order="sorted")
    rest = written + stub.ends
    return STUB_HEAD.pack(STUB_MAGIC, len(written), hashlib.sha256(rest).digest()) + rest


def decode_stub(data: bytes, pack: bytes) -> Stub:
    """The stub of a pack; IntegrityError for anything else."""
    size = _facts_size(data, pack)
    rest = data[STUB_HEAD.size :]
    if hashlib.sha256(rest).digest() != STUB_HEAD.unpack_from(data)[2]:
        raise _damaged(pack, "it is cut short or altered")
    facts = _decode_facts(rest[:size], pack)
    return Stub(pack, facts.size_bytes, rest[size:], facts.copies, facts.hot_until_ns)


def peek_copies(start: bytes, pack: bytes) -> dict[str, int]:
    """The `copies` of a stub by its first bytes alone, unproven, for those who only show them:
    IntegrityError where these are too few, or not a stub's."""
    size = _facts_size(start, pack)
    return _decode_facts(start[STUB_HEAD.size : STUB_HEAD.size + size], pack).copies


def _facts_size(data: bytes, pack: bytes) -> int:
    if len(data) < STUB_HEAD.size:
        raise _damaged(pack, "it is too short")
    magic, size, _digest = STUB_HEAD.unpack_from(data)
    if magic != STUB_MAGIC or STUB_HEAD.size + size > len(data):
        raise _damaged(pack, "it is cut short or altered")
    return int(size)


def _decode_facts(data: bytes, pack: bytes) -> _Facts:
    try:
        facts = msgspec.json.decode(data, type=_Facts)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(pack, str(error)) from None
    if facts.pack != pack.hex() or len(pack) != HASH_BYTES:
        raise _damaged(pack, "it is that of another pack")
    return facts


def _damaged(pack: bytes, why: str) -> IntegrityError:
    return IntegrityError(f"the stub of pack {pack.hex()} is damaged: {why}")
