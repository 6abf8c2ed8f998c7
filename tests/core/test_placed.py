"""Stubs: pinned byte for byte, and what a reader makes of other bytes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.format import PackKind, decode_ends
from dtafs.core.placed import Stub, decode_stub, doomed_key, encode_stub, peek_copies, stub_key
from dtafs.errors import IntegrityError
from tests.core.test_format import example_pack

WHOLE = example_pack()
PACK = hashlib.sha256(WHOLE).digest()
ENDS = WHOLE[:16] + WHOLE[20:]
STUB = Stub(PACK, len(WHOLE), ENDS, {"warm": 1_800_000_000_000_000_001, "cold": 0}, 7)


def test_a_stub_is_a_head_facts_and_the_ends_of_its_pack() -> None:
    facts = (
        b'{"copies":{"cold":0,"warm":1800000000000000001},"hot_until_ns":7,"pack":"'
        + PACK.hex().encode()
        + b'","size_bytes":110}'
    )
    head = bytes.fromhex("89 64 74 61 70 6c 63 0a") + len(facts).to_bytes(4, "little")
    assert encode_stub(STUB) == head + hashlib.sha256(facts + ENDS).digest() + facts + ENDS
    assert decode_stub(encode_stub(STUB), PACK) == STUB
    assert STUB.tiers == ("warm",), "what was not verified does not count"


def test_keys() -> None:
    name = PACK.hex()
    assert stub_key(PACK) == f"placed/{name[:2]}/{name}"
    assert doomed_key(PACK) == f"doomed/{name}"


def test_its_ends_say_what_the_pack_holds() -> None:
    kind, frames = decode_ends(ENDS, len(WHOLE))
    assert kind == PackKind.METADATA and [frame.stored for frame in frames] == [4]
    for ends, size in ((ENDS, 111), (ENDS[:-1], 110), (ENDS[:20] + ENDS[21:], 110), (b"", 0)):
        with pytest.raises(IntegrityError):
            decode_ends(ends, size)


@given(st.integers(0, len(encode_stub(STUB)) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_found(at: int, by: int) -> None:
    data = bytearray(encode_stub(STUB))
    data[at] ^= by
    with pytest.raises(IntegrityError, match=f"stub of pack {PACK.hex()} is damaged"):
        decode_stub(bytes(data), PACK)


@given(st.binary(max_size=200))
def test_garbage_is_one_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="is damaged"):
        decode_stub(data, PACK)


def test_a_stub_of_another_pack_is_refused() -> None:
    with pytest.raises(IntegrityError, match="another pack"):
        decode_stub(encode_stub(STUB), bytes(32))


def test_a_glance_at_its_beginning() -> None:
    data = encode_stub(STUB)
    facts_end = len(data) - len(ENDS)
    assert peek_copies(data[:facts_end], PACK) == peek_copies(data, PACK) == STUB.copies
    for start, pack in ((data[: facts_end - 1], PACK), (data[:10], PACK), (data, bytes(32))):
        with pytest.raises(IntegrityError, match="is damaged"):
            peek_copies(start, pack)


@given(st.integers(0, len(encode_stub(STUB)) - 1), st.integers(1, 255))
def test_a_glance_at_a_flipped_byte_is_copies_or_the_one_error(at: int, by: int) -> None:
    data = bytearray(encode_stub(STUB))
    data[at] ^= by
    try:
        assert all(isinstance(ns, int) for ns in peek_copies(bytes(data), PACK).values())
    except IntegrityError as error:
        assert "is damaged" in str(error)
