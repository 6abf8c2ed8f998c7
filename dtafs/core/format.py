"""The durable format, version 1: what lies in the home store, byte for byte.

Terms: *chunk*, a run of plain bytes named by its SHA-256; *frame*, one or more chunks compressed
together; *pack*, a file of frames; *node*, a metadata chunk; *entry*, a signed fact in a dataset's
log; *superblock*, what holds for the whole lake. Numbers in packs are little-endian.

Objects and keys
----------------
::

    lake.json                           superblock
    packs/<first 2 hex>/<64 hex>        a pack; the key is the SHA-256 of all its bytes
    log/<dataset>/<10 digits>           entry number 1, 2, … of a dataset's log
    log/.lake/<10 digits>               the same of the lake's own log, once it has any
    parity/<first 2 hex>/<64 hex>       parity of the pack of that name, if the lake has any
    placed/<first 2 hex>/<64 hex>       stub of a content pack that has copies in other tiers
    footers/<first 2 hex>/<64 hex>      only in a mirror: the stub of a content pack, naming no tier

Objects are created once, whole, and never change. There is no mutable head: a dataset's head is
its highest entry, and creating the next number *if absent* is the compare-and-swap.

Superblock
----------
Canonical JSON (RFC 8785) with the members `format` (1), `lake` (32 hex digits, chosen at random),
`created` (time), `public_key` (Ed25519, 64 hex digits), `chunking` (the fields of
`dtafs.core.chunking.ChunkParameters`), `required` and `optional` (lists of feature names, sorted),
and `signature`: the Ed25519 signature, in hex, of the canonical JSON of all the other members.

Pack
----
::

    offset  size
    0       8     magic  89 64 74 61 66 73 0d 0a  (0x89 "dtafs" CR LF)
    8       1     format version, 1
    9       1     kind: 1 content, 2 metadata
    10      6     zero
    16      …     the frames, back to back
    …       f     footer: MessagePack  [[stored, plain, codec, [[chunk id, size], …]], …]
    end-48  4     f, the size of the footer in bytes
    end-44  4     the number of frames
    end-40  32    SHA-256 of the footer
    end-8   8     magic  "dtafend" LF

The magic has a byte above 127 and a line end, so that a transfer that "corrects" text is noticed.
A frame is `stored` bytes long (where it begins is the sum of those before it) and decodes to
`plain` bytes: the chunks of its list one after the other. Codec 0 is raw, 1 a Zstandard frame
(RFC 8878) that states its content size. The frame, not the chunk, is compressed, since neighbours
compress better together; a frame holds several chunks up to about 256 KiB or one larger one. The
footer makes a pack self-describing, so that the index is a view; it lies at the end, so that a pack
is written in one pass. Content and metadata never share a pack: metadata stays hot for ever.

Parity
------
A lake with the feature `parity-P` in `optional` has P percent of parity beside each pack. It is
derived from the pack, and a reader needs none of it. It is optional because a writer that does not
know it does no harm: `repair` adds what is missing. ::

    offset  size
    0       8     magic  89 64 74 61 70 61 72 0a  (0x89 "dtapar" LF)
    8       1     version, 1
    9       1     k, the number of data shards, at most 200
    10      1     m, the number of parity shards, 2 P
    11      1     zero
    12      4     s, the size of a shard in bytes: 256, or a 200th of the pack, rounded up
    16      8     the size of the pack in bytes
    24      32    the pack's id
    56      8(k+m)  the first 8 bytes of the SHA-256 of each shard, of the data and then of the parity
    …       32    SHA-256 of all before it
    …       m s   the parity shards

Data shard i is the s bytes of the pack from i s on, padded with zeros at the end of the pack. Each byte
of the parity shards is made of the bytes at the same place in the data shards, by Reed-Solomon over
GF(2^8) with the polynomial 0x11d: the data are the values, at the points 0, 1, 2, 4, 8, … (zero and
the powers of 2 in the field), of the one polynomial of a degree below k, the parity its values at the
m next points. Any k of the k+m shards give the others. `dtafs.core.parity` says what P mends.

Stub
----
A content pack may lie in other tiers, under the same key, and in the home store or not. Its stub says
where, and has its header, footer and trailer (`dtafs.core.placed` has the bytes). Stubs are the only
objects that are replaced, each in one step; they are derived from what lies in the tiers.

Node
----
A node is a chunk in a metadata pack: MessagePack `[kind, level, items]`; its id is the SHA-256 of
its bytes. MessagePack integers are in their shortest form, byte strings are `bin`.

=====================  =======================================================================
kind 1, level 0        a directory's entries, sorted by name: `[name, kind, mode, uid, gid,
                       mtime_ns, size, sha256, ref, [[xattr, value], …], link, nlink, below]`,
                       see `dtafs.core.values.Entry`; `below` is `[entries, files, size, linked]`
kind 1, level > 0      `[first name, node id, names, totals]`, sorted by first name
kind 2, level 0        the chunks of a file in order: `[chunk id, size, 1]`
kind 2, level > 0      `[node id, size, chunks]`
kind 3, level 0        one entry with the empty name: a version's top directory
=====================  =======================================================================

A file whose content is one chunk has an empty `ref`: the chunk's id follows from its `sha256`.
Nodes end where the SHA-256 of (level, last key) falls below a bound in proportion to the last item's
size (`dtafs.core.nodes`), so that equal directories have equal nodes; a reader needs not know.

Log entry
---------
A DSSE envelope (https://github.com/secure-systems-lab/dsse) in canonical JSON, payload type
`application/vnd.dtafs.entry+json`, one Ed25519 signature whose `keyid` is the first 16 hex digits
of the SHA-256 of the raw public key. The payload is canonical JSON with the members of
`dtafs.core.entries.LogEntry`. `previous` is the SHA-256 of the whole object before it, as
`sha256sum` prints it.
The body of a `committed` entry is the version's manifest (`dtafs.core.values.Manifest`); **the hash
of a version is the SHA-256 of the canonical JSON of its manifest**. The body of a `collected` entry
is `dtafs.core.entries.Collection`: packs are `removed` since nothing needs them, or since what is
needed of them, or what a repair could save, lies in the packs `added`. The packs of a lake are those
that entries, of all datasets in the order of their times, brought and no later one removed; a removed
one may still lie there, and may be brought again.

A dataset's log begins with `created`. What concerns several datasets, rules and holds and what belongs to
them, lies in the *lake's own log*, which begins with its first fact; its entries name `.lake` as their
dataset, which none can be called. `dtafs.core.records` lists the kinds of both logs that are about
retention, with their bodies. Who reads a log gives no effect to an entry that shortens or removes a rule in
compliance mode, that releases a hold on behalf of another than its custodian, or that places a hold whose
name is taken (`dtafs.core.rule_changes`); of several times of an event the latest counts.

A version that a `disposed` entry names stays in the log, and keeps its number. What it alone needed goes from
the packs by `collected` entries after that; a `destroyed` entry says that it is in no object of some tiers.

A reader refuses a kind that it does not know unless `skippable` is true. Times
are UTC with nine digits and grow along a log.

Write ordering
--------------
1. A pack must be durable (data synced, then its directory) before an entry names it.
2. An entry must be durable before anyone is told of it. Its creation is the commit point.
3. The index is updated after the entry, in one transaction; it may be lost and rebuilt.
4. A writer should write content packs before the metadata packs that refer to them.
5. Deleting goes the other way: entry, index row, bytes. A pack that no entry ever named needs none.
   A version is disposed of by its entry before any entry removes what only it needs.
6. Parity is as durable as its pack, and follows it: the pack, then its parity, then the entry that
   names the pack. It is removed before the pack is. What is mended takes its place in one step.

A reader must check a chunk against its id before it uses it, must bound what it allocates by
`CHUNK_LIMIT_BYTES` and `FOOTER_LIMIT_BYTES`, and must not trust a footer that fails its SHA-256.

An example
----------
A metadata pack with one raw frame that holds the 4-byte node `93 01 00 90` (not a valid
directory, but short), 110 bytes::

    89 64 74 61 66 73 0d 0a  01 02 00 00 00 00 00 00      magic, version 1, kind 2
    93 01 00 90                                           the frame
    91 94 04 04 00 91 92 c4 20 <32 bytes: SHA-256 of the frame> 04   footer: 42 bytes
    2a 00 00 00  01 00 00 00  <32 bytes: SHA-256 of the footer>
    64 74 61 66 65 6e 64 0a

Footer by hand: `91` a list of one frame; `94` its four fields: `04` stored, `04` plain, `00` raw;
`91` one chunk; `92 c4 20 …` its 32-byte id and `04` its size.

How the format changes
----------------------
A change that an old reader would misread gets a name in `required`; a reader refuses a lake that
requires what it does not know, and says the name. What an old reader may ignore goes to `optional`.
`format` itself changes only when even the superblock could not be read. Encrypted datasets are such
a feature (`encrypted-datasets`): the `created` entry then carries the dataset's wrapped key; a pack
of it has flag 1 in byte 10 and a 32-byte salt after the header, from which HKDF derives the key
that seals its frames and footer with AES-256-GCM (codec 2 and 3: sealed raw, sealed Zstandard);
chunk and node ids are the HMAC-SHA-256, under the dataset's key, of the SHA-256 of the plain bytes.
Nothing that is written in clear changes by it.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from dtafs.core.canonical import canonical_json
from dtafs.core.chunking import CHUNK_LIMIT_BYTES, ChunkParameters
from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError, UnsupportedError, UsageError

FORMAT_VERSION = 1
SUPPORTED_FEATURES: frozenset[str] = frozenset()
"""The `required` features that this release can read: none exists yet."""

PACK_MAGIC = b"\x89dtafs\r\n"
PACK_END_MAGIC = b"dtafend\n"
PACK_HEADER = struct.Struct("<8sBB6s")
PACK_TRAILER = struct.Struct("<II32s8s")
FOOTER_LIMIT_BYTES = 64 * 1024 * 1024
"""A reader takes no larger footer."""


class PackKind(IntEnum):
    """What a pack holds; the two are never mixed."""

    CONTENT = 1
    METADATA = 2


class Codec(IntEnum):
    """How a frame is stored."""

    RAW = 0
    ZSTD = 1


class Chunk(NamedTuple):
    """A chunk in a frame: its id and its plain size in bytes."""

    id: bytes
    size: int


class Frame(NamedTuple):
    """A frame as the footer lists it; sizes in bytes."""

    stored: int
    plain: int
    codec: int
    chunks: tuple[Chunk, ...]


class Superblock(Struct, frozen=True, forbid_unknown_fields=True):
    """What holds for the whole lake; `signature` covers the other fields."""

    format: int
    lake: str
    created: str
    public_key: str
    chunking: ChunkParameters
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    signature: str = ""


def superblock_message(block: Superblock) -> bytes:
    """What the signature of a superblock covers."""
    fields = msgspec.to_builtins(block)
    del fields["signature"]
    return canonical_json(fields)


def encode_superblock(block: Superblock) -> bytes:
    """The bytes of `lake.json`."""
    return canonical_json(block) + b"\n"


def decode_superblock(data: bytes) -> Superblock:
    """Raises UnsupportedError for a newer lake, IntegrityError for a damaged one."""
    try:
        loose = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"lake.json is damaged: {error}") from None
    version, required = loose.get("format"), loose.get("required", [])
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UnsupportedError(
            f"this lake has format {version} and this release of dtafs reads format "
            f"{FORMAT_VERSION}; install a newer dtafs"
        )
    unknown = (
        sorted(str(f) for f in required if f not in SUPPORTED_FEATURES)
        if isinstance(required, list)
        else []
    )
    if unknown:
        raise UnsupportedError(
            f"this lake requires {', '.join(unknown)}, which this release of dtafs does not know; "
            "install a newer dtafs"
        )
    try:
        block = msgspec.convert(loose, Superblock)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"lake.json is damaged: {error}") from None
    if block.format != FORMAT_VERSION:
        raise IntegrityError(f"lake.json is damaged: format {block.format} does not exist")
    try:
        same = encode_superblock(block) == data
    except UsageError:  # a number or a character that the canonical form does not have
        same = False
    if not same:
        raise IntegrityError("lake.json is damaged: it is not written as it was signed")
    return block


def encode_pack_header(kind: PackKind) -> bytes:
    """The first 16 bytes of a pack."""
    return PACK_HEADER.pack(PACK_MAGIC, FORMAT_VERSION, kind, bytes(6))


def decode_pack_header(data: bytes) -> PackKind:
    """The kind of the pack that begins with these bytes."""
    if len(data) < PACK_HEADER.size:
        raise IntegrityError("the pack is too short")
    magic, version, kind, rest = PACK_HEADER.unpack(data[: PACK_HEADER.size])
    if magic != PACK_MAGIC or version != FORMAT_VERSION or any(rest):
        raise IntegrityError("the pack does not begin as a pack of format 1")
    if kind not in (PackKind.CONTENT, PackKind.METADATA):
        raise IntegrityError(f"the pack is of the unknown kind {kind}")
    return PackKind(kind)


def encode_pack_end(frames: list[Frame]) -> bytes:
    """Footer and trailer of a pack."""
    footer = msgspec.msgpack.encode(frames)
    digest = hashlib.sha256(footer).digest()
    return footer + PACK_TRAILER.pack(len(footer), len(frames), digest, PACK_END_MAGIC)


def decode_trailer(data: bytes, pack_bytes: int) -> tuple[int, int, bytes]:
    """Size of the footer, number of frames, hash of the footer, from a pack's last bytes."""
    if len(data) < PACK_TRAILER.size or pack_bytes < PACK_HEADER.size + PACK_TRAILER.size:
        raise IntegrityError("the pack is too short")
    size, count, digest, magic = PACK_TRAILER.unpack(data[-PACK_TRAILER.size :])
    room = pack_bytes - PACK_HEADER.size - PACK_TRAILER.size
    if magic != PACK_END_MAGIC or size > min(room, FOOTER_LIMIT_BYTES):
        raise IntegrityError("the pack does not end as a pack: it is cut short or altered")
    return size, count, digest


_decode_frames = msgspec.msgpack.Decoder(list[tuple[int, int, int, list[tuple[bytes, int]]]]).decode


def decode_footer(footer: bytes, count: int, digest: bytes, frames_bytes: int) -> list[Frame]:
    """The frames of a pack; `frames_bytes` is the room between header and footer."""
    if hashlib.sha256(footer).digest() != digest:
        raise IntegrityError("the footer of the pack is altered")
    try:
        raw = _decode_frames(footer)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"the footer of the pack is malformed: {error}") from None
    frames = [Frame(s, p, c, tuple(Chunk(*chunk) for chunk in chunks)) for s, p, c, chunks in raw]
    for frame in frames:
        sound = (
            0 < frame.stored <= frame.plain <= CHUNK_LIMIT_BYTES
            and frame.codec in (Codec.RAW, Codec.ZSTD)
            and (frame.codec != Codec.RAW or frame.stored == frame.plain)
            and sum(chunk.size for chunk in frame.chunks) == frame.plain
            and all(len(chunk.id) == HASH_BYTES and chunk.size > 0 for chunk in frame.chunks)
        )
        if not sound:
            raise IntegrityError("the footer of the pack describes an impossible frame")
    if len(frames) != count or sum(frame.stored for frame in frames) != frames_bytes:
        raise IntegrityError("the footer of the pack does not describe what lies before it")
    return frames


def decode_ends(ends: bytes, pack_bytes: int) -> tuple[PackKind, list[Frame]]:
    """Kind and frames of a pack from its header, footer and trailer, which are all of `ends`."""
    if len(ends) < PACK_HEADER.size + PACK_TRAILER.size:
        raise IntegrityError("the pack is too short")
    kind = decode_pack_header(ends[: PACK_HEADER.size])
    size, count, digest = decode_trailer(ends, pack_bytes)
    footer = ends[PACK_HEADER.size : -PACK_TRAILER.size]
    frames_bytes = pack_bytes - PACK_HEADER.size - PACK_TRAILER.size - size
    return kind, decode_footer(footer, count, digest, frames_bytes)


def pack_key(pack: bytes) -> str:
    """The key of a pack below the lake."""
    name = pack.hex()
    return f"packs/{name[:2]}/{name}"
