"""The durable format, pinned byte for byte, and what a reader makes of other bytes."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from dtafs.core.values import Actor, Branch, Entry, Manifest, Source, Span, Totals, Transform
from dtafs.errors import IntegrityError, UnsupportedError, UsageError

H = bytes(range(32))
BLOCK = fmt.Superblock(
    format=1,
    lake="00" * 16,
    created="2026-11-23T00:00:00.000000000Z",
    public_key="11" * 32,
    chunking=ChunkParameters(),
)


def test_the_superblock_is_canonical_json() -> None:
    assert fmt.encode_superblock(BLOCK) == (
        b'{"chunking":{"algorithm":"fastcdc-2020","average":65536,"maximum":262144,"minimum":16384,'
        b'"normalization":2,"seed":0},"created":"2026-11-23T00:00:00.000000000Z","format":1,'
        b'"lake":"00000000000000000000000000000000","optional":[],"public_key":"'
        + b"11"
        * 32
        + b'",'
        b'"required":[],"signature":""}\n'
    )
    assert fmt.decode_superblock(fmt.encode_superblock(BLOCK)) == BLOCK


def test_a_newer_lake_is_refused_by_what_it_needs() -> None:
    newer = json.loads(fmt.encode_superblock(BLOCK)) | {"format": 2, "shape": "other"}
    with pytest.raises(UnsupportedError, match="format 2"):
        fmt.decode_superblock(json.dumps(newer).encode())
    needs = json.loads(fmt.encode_superblock(BLOCK)) | {"required": ["encrypted-datasets"]}
    with pytest.raises(UnsupportedError, match="requires encrypted-datasets"):
        fmt.decode_superblock(json.dumps(needs).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"format":1}', b"\xff", b'{"format":0,"required":3}']
)
def test_a_damaged_superblock_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"lake\.json is damaged"):
        fmt.decode_superblock(data)


def example_pack() -> bytes:
    """The pack of the format's docstring."""
    node = bytes.fromhex("93010090")
    frames = [fmt.Frame(4, 4, fmt.Codec.RAW, (fmt.Chunk(hashlib.sha256(node).digest(), 4),))]
    return fmt.encode_pack_header(fmt.PackKind.METADATA) + node + fmt.encode_pack_end(frames)


def test_the_example_pack_is_what_the_docstring_says() -> None:
    pack = example_pack()
    digest = hashlib.sha256(bytes.fromhex("93010090")).digest()
    footer = bytes.fromhex("91 94 04 04 00 91 92 c4 20") + digest + b"\x04"
    assert len(footer) == 42 and len(pack) == 110
    assert pack == (
        bytes.fromhex("89 64 74 61 66 73 0d 0a 01 02 00 00 00 00 00 00 93 01 00 90")
        + footer
        + bytes.fromhex("2a 00 00 00 01 00 00 00")
        + hashlib.sha256(footer).digest()
        + b"dtafend\n"
    )
    assert hashlib.sha256(pack).hexdigest() == (
        "f8dabf542c541a328a583561ca5bd9462562cd55b5672d70537e7a0bbcda5948"
    )


def read_pack(pack: bytes) -> list[fmt.Frame]:
    fmt.decode_pack_header(pack)
    size, count, digest = fmt.decode_trailer(pack[-48:], len(pack))
    start = len(pack) - 48 - size
    return fmt.decode_footer(pack[start:-48], count, digest, start - 16)


def test_the_example_pack_reads_back() -> None:
    (frame,) = read_pack(example_pack())
    assert (frame.stored, frame.plain, frame.codec, frame.chunks[0].size) == (4, 4, 0, 4)


def test_every_flipped_byte_outside_the_frames_is_noticed() -> None:
    pack = example_pack()
    for at in (*range(16), *range(20, len(pack))):
        altered = bytearray(pack)
        altered[at] ^= 0x41
        with pytest.raises(IntegrityError):
            read_pack(bytes(altered))


def test_every_cut_is_noticed() -> None:
    pack = example_pack()
    for end in range(len(pack)):
        with pytest.raises(IntegrityError):
            read_pack(pack[:end])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_a_garbage_footer_is_one_documented_error(footer: bytes) -> None:
    with pytest.raises(IntegrityError):
        fmt.decode_footer(footer, 1, hashlib.sha256(footer).digest(), 4)


@pytest.mark.parametrize(
    "frame",
    [
        (5, 4, 0, ((H, 4),)),
        (4, 4, 7, ((H, 4),)),
        (4, 4, 0, ((H, 3),)),
        (4, 4, 0, ((H[:31], 4),)),
        (4, 2 << 20, 1, ((H, 2 << 20),)),
        (4, 4, 0, ()),
        (0, 0, 0, ()),
    ],
)
def test_an_impossible_frame_is_refused(frame: tuple[object, ...]) -> None:
    footer = msgspec.msgpack.encode([frame])
    with pytest.raises(IntegrityError, match="impossible frame"):
        fmt.decode_footer(footer, 1, hashlib.sha256(footer).digest(), 4)


def test_nodes_are_these_bytes() -> None:
    file = Entry(b"a", 1, 0o644, 1, 2, 3, 4, H, b"", ((b"user.k", b"v"),), 5, 2)
    assert encode_node(DIRECTORY_NODE, 0, [encode_item(file)]).hex() == (
        "93010091"
        "9d"
        "c40161"
        "01"
        "cd01a4"
        "01"
        "02"
        "03"
        "04"
        "c420" + H.hex() + "c400"
        "91"
        "92"
        "c406757365722e6b"
        "c40176"
        "05"
        "02"
        "9400000000"
    )
    branch = Branch(b"a", H, 2, Totals(3, 2, 500, 1))
    assert encode_node(DIRECTORY_NODE, 1, [encode_item(branch)]).hex() == (
        "9301019194c40161c420" + H.hex() + "02940302cd01f401"
    )
    assert encode_node(CHUNK_LIST_NODE, 0, [encode_item(Span(H, 70000))] * 16).hex() == (
        "930200dc0010" + ("93c420" + H.hex() + "ce0001117001") * 16
    )
    top = Entry(b"", 2, 0o755, 0, 0, -1, 0)
    assert encode_node(ROOT_NODE, 0, [encode_item(top)]).hex() == (
        "930300919dc40002cd01ed0000ff00c400c4009000019400000000"
    )


MANIFEST = Manifest(
    dataset="WF-2024-07",
    version=2,
    root=H.hex(),
    parent=H.hex(),
    files=2,
    size_bytes=10,
    message="Removed unused columns",
    tags=("clean",),
    sources=(Source("WF-2024-07", 1, H.hex()),),
    transform=Transform("csv_trim", {"cols": "a,b"}),
    packs=(H.hex(),),
)


def test_the_hash_of_a_version_is_that_of_its_canonical_manifest() -> None:
    text = log.encode_manifest(MANIFEST)
    assert text == (
        b'{"dataset":"WF-2024-07","files":2,"message":"Removed unused columns","packs":["'
        + H.hex().encode()
        + b'"],"parent":"'
        + H.hex().encode()
        + b'","root":"'
        + H.hex().encode()
        + b'","size_bytes":10,"sources":'
        b'[{"dataset":"WF-2024-07","manifest":"'
        + H.hex().encode()
        + b'","version":1}],"tags":["clean"],'
        b'"transform":{"name":"csv_trim","parameters":{"cols":"a,b"},"program_sha256":""},"version":2}'
    )
    assert log.manifest_hash(MANIFEST) == hashlib.sha256(text).digest()
    assert log.decode_manifest(json.loads(text)) == MANIFEST


@pytest.mark.parametrize(
    "change", [{"root": "00"}, {"root": "zz" * 32}, {"version": 0}, {"files": "x"}]
)
def test_a_malformed_manifest_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(IntegrityError, match="manifest"):
        log.decode_manifest(msgspec.to_builtins(MANIFEST) | change)


ACTOR = Actor("ann", 1000, "host", "dtafsctl")


def entry(kind: str = "created", skippable: bool = False) -> bytes:
    made = log.make_log_entry(
        "00" * 16, "D", 1, None, 1_000_000_007, ACTOR, kind, {"tags": ["raw"]}
    )
    return canonical_json(msgspec.structs.replace(made, skippable=skippable))


def test_a_log_entry_is_canonical_json_in_a_dsse_envelope() -> None:
    assert entry() == (
        b'{"actor":{"host":"host","program":"dtafsctl","uid":1000,"user":"ann"},"body":{"tags":["raw"]},'
        b'"dataset":"D","kind":"created","lake":"00000000000000000000000000000000","previous":null,'
        b'"sequence":1,"skippable":false,"time":"1970-01-01T00:00:01.000000007Z"}'
    )
    assert log.pre_authentication(b"hello").startswith(
        b"DSSEv1 32 application/vnd.dtafs.entry+json 5 hello"
    )
    data = log.encode_envelope(b"hi", "k", b"s")
    assert data == (
        b'{"payload":"aGk=","payloadType":"application/vnd.dtafs.entry+json",'
        b'"signatures":[{"keyid":"k","sig":"cw=="}]}\n'
    )
    assert log.decode_envelope(data).payload == b"hi"


def test_an_unknown_kind_is_refused_unless_it_may_be_skipped() -> None:
    with pytest.raises(UnsupportedError, match="'teleported'"):
        log.decode_log_entry(entry("teleported"))
    assert log.decode_log_entry(entry("teleported", skippable=True)).kind == "teleported"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_in_the_log_is_one_documented_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        log.decode_envelope(data)
    with pytest.raises(IntegrityError):
        log.decode_log_entry(data)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError):
        canonical_json({"x": "\ud800"})
    with pytest.raises(UsageError):
        canonical_json({"x": 2**60})


def test_keys() -> None:
    assert log.log_key("D", 7) == "log/D/0000000007"
    assert fmt.pack_key(H) == f"packs/00/{H.hex()}"


def test_every_limit_of_a_node_is_checked() -> None:
    good = Entry(b"a", 1, 0o644, 1, 2, 3, 4, H)
    for change in (
        {"name": b"a/b"},
        {"name": b""},
        {"name": b".."},
        {"name": b"x" * 256},
        {"kind": 5},
        {"mode": 0o10000},
        {"size": -1},
        {"sha256": b"short"},
        {"ref": b"short"},
        {"kind": 2},
        {"kind": 3},
        {"nlink": 0},
        {"uid": -1},
        {"below": Totals(1)},
    ):
        bad = msgspec.structs.replace(good, **change)
        with pytest.raises(IntegrityError):
            decode_node(encode_node(DIRECTORY_NODE, 0, [encode_item(bad)]))
    assert decode_node(encode_node(DIRECTORY_NODE, 0, [encode_item(good)])).items == (good,)
