"""Whatever bytes lie in a lake's objects, a decoder gives a value or its one documented error.

Each decoder starts from valid bytes, which hypothesis' seeds alter. (atheris, which would look for
untried branches, offers no build for this interpreter.)
"""

from __future__ import annotations

import hashlib
import json
from functools import partial
from typing import Any

import msgspec
import zstandard
from hypothesis import given

from dtafs.core import entries as log
from dtafs.core import format as fmt
from dtafs.core.canonical import canonical_json
from dtafs.core.chunking import ChunkParameters
from dtafs.core.nodes import (
    CHUNK_LIST_NODE,
    DIRECTORY_NODE,
    ROOT_NODE,
    decode_node,
    encode_item,
    encode_node,
)
from dtafs.core.patterns import parse_pattern
from dtafs.core.periods import end_of
from dtafs.core.record_checks import DECODERS, encode_body
from dtafs.core.records import Ruled
from dtafs.core.values import Actor, Branch, Entry, Manifest, Source, Span, Totals, Transform
from dtafs.errors import IntegrityError, UnsupportedError
from dtafs.store.packs import decode_frame
from tests.core.test_records import BODIES
from tests.fuzz.mutations import SEEDS, fuzz, how_many

H = bytes(range(32))
BLOCK = fmt.Superblock(
    format=1,
    lake="00" * 16,
    created="2026-11-23T00:00:00.000000000Z",
    public_key="11" * 32,
    chunking=ChunkParameters(),
    optional=("nice",),
    signature="22" * 64,
)
FRAMES = [
    fmt.Frame(40, 400, fmt.Codec.ZSTD, (fmt.Chunk(H, 300), fmt.Chunk(H[::-1], 100))),
    fmt.Frame(9, 9, fmt.Codec.RAW, (fmt.Chunk(H, 9),)),
]
PACK = fmt.encode_pack_header(fmt.PackKind.CONTENT) + bytes(49) + fmt.encode_pack_end(FRAMES)
ENTRIES = [
    Entry(b"a", 1, 0o644, 1, 2, 3, 4, H, b"", ((b"user.k", b"v"),), 5, 2),
    Entry(b"b", 2, 0o755, 1, 2, 3, 4, b"", H, below=Totals(1, 1, 4)),
    Entry(b"c", 3, 0o777, 1, 2, 3, 6, b"", b"target"),
    Entry(b"d", 4, 0o600, 1, 2, -3, 0),
]
NODES = [
    encode_node(DIRECTORY_NODE, 0, map(encode_item, ENTRIES)),
    encode_node(DIRECTORY_NODE, 2, [encode_item(Branch(b"a", H, 2, Totals(3, 2, 500, 1)))] * 1),
    encode_node(CHUNK_LIST_NODE, 0, [encode_item(Span(H, 70_000))] * 20),
    encode_node(CHUNK_LIST_NODE, 3, [encode_item(Span(H, 2**40, 2**20))] * 2),
    encode_node(ROOT_NODE, 0, [encode_item(Entry(b"", 2, 0o755, 0, 0, -1, 0))]),
]
MANIFEST = Manifest(
    dataset="WF",
    version=2,
    root=H.hex(),
    parent=H.hex(),
    files=2,
    size_bytes=10,
    message="m",
    tags=("clean",),
    sources=(Source("WF", 1, H.hex()),),
    transform=Transform("csv_trim", {"cols": "a,b"}),
    packs=(H.hex(),),
)
ACTOR = Actor("ann", 1000, "host", "dtafsctl")
COLLECTION = {"removed": {H.hex(): "unreached"}, "added": [H.hex()], "removed_bytes": 3}


def payload(kind: str, body: dict[str, Any]) -> bytes:
    return canonical_json(log.make_log_entry("00" * 16, "D", 7, H, 10**18, ACTOR, kind, body))


RECORDS = [(type(body).__name__.lower(), encode_body(body)) for body in BODIES]


PAYLOADS = [
    payload("created", {"tags": ["raw"]}),
    payload("committed", msgspec.to_builtins(MANIFEST)),
    payload("collected", COLLECTION),
    *(payload(kind, body) for kind, body in RECORDS),
]
ENVELOPES = [log.encode_envelope(data, "0" * 16, bytes(64)) for data in PAYLOADS]
PLAIN = b"0123456789" * 100
STORED = [zstandard.compress(PLAIN), zstandard.compress(PLAIN, 9)]


@how_many()
@given(SEEDS)
def test_superblocks(seed: int) -> None:
    errors = (IntegrityError, UnsupportedError)
    fuzz("superblock", [fmt.encode_superblock(BLOCK)], fmt.decode_superblock, errors, seed)


def read_pack(pack: bytes) -> None:
    fmt.decode_pack_header(pack)
    size, count, digest = fmt.decode_trailer(pack[-48:], len(pack))
    start = len(pack) - 48 - size
    fmt.decode_footer(pack[start:-48], count, digest, start - 16)


@how_many()
@given(SEEDS)
def test_packs(seed: int) -> None:
    fuzz("pack header, trailer, footer", [PACK], read_pack, (IntegrityError,), seed)


@how_many()
@given(SEEDS)
def test_footers_with_a_right_hash(seed: int) -> None:
    """A footer that its writer, or somebody who knows the format, made wrong."""

    def decode(data: bytes) -> None:
        frames = fmt.decode_footer(data, 2, hashlib.sha256(data).digest(), 49)
        assert sum(frame.stored for frame in frames) == 49
        assert all(frame.plain <= fmt.CHUNK_LIMIT_BYTES for frame in frames)

    fuzz("footer", [msgspec.msgpack.encode(FRAMES)], decode, (IntegrityError,), seed)


@how_many()
@given(SEEDS)
def test_frames(seed: int) -> None:
    def decode(data: bytes) -> None:
        assert len(decode_frame(data, len(PLAIN), fmt.Codec.ZSTD)) == len(PLAIN)

    fuzz("frame", STORED, decode, (IntegrityError,), seed)


@how_many(2)
@given(SEEDS)
def test_nodes(seed: int) -> None:
    fuzz("node", NODES, decode_node, (IntegrityError,), seed)


@how_many()
@given(SEEDS)
def test_envelopes(seed: int) -> None:
    fuzz("DSSE envelope", ENVELOPES, log.decode_envelope, (IntegrityError,), seed)


@how_many()
@given(SEEDS)
def test_log_entries(seed: int) -> None:
    errors = (IntegrityError, UnsupportedError)
    fuzz("log entry", PAYLOADS, log.decode_log_entry, errors, seed)


def json_object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        raise IntegrityError("no JSON, which an entry has been decoded from") from None
    if not isinstance(found, dict):
        raise IntegrityError("not an object")
    return found


@how_many(0.5)
@given(SEEDS)
def test_records_of_retention(seed: int) -> None:
    """What is decoded can be written again, and used: its patterns, periods and times are sound."""

    def use(kind: str, data: bytes) -> None:
        found = DECODERS[kind](json_object(data))
        assert DECODERS[kind](encode_body(found)) == found
        if isinstance(found, Ruled) and found.rule is not None:
            parse_pattern(found.rule.datasets)
            end_of(10**18, found.rule.cutoff.parsed)

    for kind, body in RECORDS:
        fuzz(f"record {kind}", [canonical_json(body)], partial(use, kind), (IntegrityError,), seed)


@how_many()
@given(SEEDS)
def test_manifests_and_collections(seed: int) -> None:
    """What is decoded can also be hashed and stored again."""
    manifests = [canonical_json(MANIFEST)]
    collections = [canonical_json(COLLECTION)]

    def manifest(data: bytes) -> None:
        found = log.decode_manifest(json_object(data))
        assert len(log.manifest_hash(found)) == 32
        assert 0 < found.version < 2**32

    fuzz("manifest", manifests, manifest, (IntegrityError,), seed)
    fuzz(
        "collection",
        collections,
        lambda data: log.decode_collection(json_object(data)),
        (IntegrityError,),
        seed,
    )
