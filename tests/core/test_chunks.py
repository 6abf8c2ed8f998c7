"""Chunk boundaries (golden vectors) and chunk lists."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtafs.core.chunking import Chunker, ChunkParameters
from dtafs.core.chunklist import build_chunk_list, chunks_in, list_nodes, parts_of
from dtafs.core.nodes import Node, decode_node
from dtafs.core.values import Content, Span
from dtafs.errors import IntegrityError, UnsupportedError


def noise(size: int, seed: int = 1) -> bytes:
    """The same bytes in every release: SHA-256 in counter mode."""
    blocks = (hashlib.sha256(b"%d/%d" % (seed, i)).digest() for i in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def sizes(data: bytes, parameters: ChunkParameters | None = None) -> list[int]:
    return [len(c) for c in Chunker(parameters or ChunkParameters()).cuts(memoryview(data), True)]


def test_the_cuts_are_these() -> None:
    assert sizes(noise(1_000_000)) == GOLDEN_NOISE
    assert sizes(bytes(600_000)) == [262144, 262144, 75712]
    assert sizes(b"") == [] and sizes(b"x") == [1]


def test_cuts_do_not_depend_on_how_the_data_arrives() -> None:
    data, rng = noise(3_000_000, 2), random.Random(5)
    chunker, found, at, end = Chunker(ChunkParameters()), [], 0, 0
    while at < len(data):
        end = min(len(data), end + rng.randrange(1, 700_000))
        for chunk in chunker.cuts(memoryview(data)[at:end], end == len(data)):
            found.append(len(chunk))
            at += len(chunk)
    assert found == sizes(data)


def test_an_insertion_moves_few_cuts() -> None:
    data = noise(4_000_000, 3)
    before = {bytes(c) for c in Chunker(ChunkParameters()).cuts(memoryview(data), True)}
    edited = data[:2_000_000] + b"inserted" + data[2_000_000:]
    after = {bytes(c) for c in Chunker(ChunkParameters()).cuts(memoryview(edited), True)}
    assert len(after - before) <= 3


def test_parameters_of_another_kind_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="'rabin'"):
        Chunker(ChunkParameters(algorithm="rabin"))
    with pytest.raises(UnsupportedError, match="out of range"):
        Chunker(ChunkParameters(maximum=1 << 30))


class Lists:
    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}

    def fetch(self, wanted: bytes) -> Node:
        return decode_node(self.nodes[wanted])

    def make(self, lengths: list[int], seed: int = 0) -> tuple[Content, list[Span]]:
        spans = [
            Span(hashlib.sha256(b"%d/%d" % (seed, i)).digest(), n) for i, n in enumerate(lengths)
        ]
        root, nodes = build_chunk_list(spans)
        self.nodes.update(nodes)
        return Content(sum(lengths), bytes(32), root), spans


def identity(digest: bytes) -> bytes:
    return digest


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=2000), st.data())
def test_any_range_of_a_list_is_found(lengths: list[int], data: st.DataObject) -> None:
    lists = Lists()
    content, spans = lists.make(lengths)
    offset = data.draw(st.integers(0, content.size + 2))
    size = data.draw(st.integers(0, content.size + 2))
    flat = [(s.id, i) for s in spans for i in range(s.size)]
    pieces = chunks_in(lists.fetch, identity, content, offset, size)
    assert [(p.id, p.start + i) for p in pieces for i in range(p.size)] == flat[
        offset : offset + size
    ]


def test_a_small_change_shares_nearly_all_nodes() -> None:
    lists = Lists()
    content, spans = lists.make([65536] * 20_000)
    root, nodes = build_chunk_list([*spans[:9000], Span(bytes(32), 7), *spans[9001:]])
    assert len(nodes.keys() - lists.nodes.keys()) <= 4
    assert root != content.chunk_list
    assert set(list_nodes(lists.fetch, content)) == set(lists.nodes)


def test_the_parts_of_a_list_are_its_nodes_and_chunks() -> None:
    lists = Lists()
    content, spans = lists.make([65536] * 5_000)
    found = list(parts_of(lists.fetch, content, lists.nodes.__contains__))
    assert sorted(found) == sorted([*lists.nodes, *(span.id for span in spans)])
    assert list(parts_of(lists.fetch, content, lambda _node: False)) == [content.chunk_list]
    assert list(parts_of(lists.fetch, Content(10, b"d" * 32), bool)) == []
    with pytest.raises(IntegrityError, match="does not fit"):
        list(parts_of(lists.fetch, Content(12, bytes(32), content.chunk_list), bool))


def test_equal_chunks_are_one_part() -> None:
    """The list of a hole is a few nodes, each many times."""
    lists = Lists()
    zeros = [Span(bytes(32), 9)] * 50_000
    root, nodes = build_chunk_list(zeros)
    lists.nodes.update(nodes)
    seen: set[bytes] = set()

    def once(node: bytes) -> bool:
        return node not in seen and not seen.add(node)

    content = Content(450_000, bytes(32), root)
    assert len(nodes) < 10
    assert set(parts_of(lists.fetch, content, once)) == {*nodes, bytes(32)}
    assert sum(piece.size for piece in chunks_in(lists.fetch, identity, content)) == 450_000


def test_one_chunk_and_no_chunk_need_no_list() -> None:
    fetch = Lists().fetch
    digest = b"d" * 32
    assert [tuple(p) for p in chunks_in(fetch, identity, Content(10, digest), 3, 4)] == [
        (digest, 3, 4, 10)
    ]
    assert list(chunks_in(fetch, identity, Content(0, digest))) == []


def test_a_list_of_another_size_is_noticed() -> None:
    lists = Lists()
    content, _spans = lists.make([5, 6])
    with pytest.raises(IntegrityError, match="covers 11 bytes of 12"):
        list(chunks_in(lists.fetch, identity, Content(12, bytes(32), content.chunk_list)))


GOLDEN_NOISE = [
    75326,
    75153,
    70931,
    100530,
    71321,
    67153,
    76354,
    69082,
    112407,
    94098,
    77756,
    73804,
    24936,
    11149,
]
