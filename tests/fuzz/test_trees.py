"""Trees of nodes that no writer made: they end, and they never take more than their bounds.

A node is found by its hash, so that a cycle cannot be made; the functions end all the same when a
`fetch` gives them one.
"""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from collections.abc import Callable
from itertools import islice

import msgspec
import pytest
import zstandard
from hypothesis import given

from dtafs.core.chunklist import chunks_in, list_nodes, parts_of
from dtafs.core.format import CHUNK_LIMIT_BYTES, Codec
from dtafs.core.nodes import (
    CHUNK_LIST_NODE,
    DIRECTORY_NODE,
    LEVEL_MAX,
    NODE_LIMIT_BYTES,
    Node,
    decode_node,
    encode_item,
    encode_node,
)
from dtafs.core.tree import at_ordinal, find, scan, walk
from dtafs.core.values import Branch, Content, Entry, Span, Totals
from dtafs.errors import IntegrityError
from dtafs.store.packs import decode_frame
from tests.fuzz.mutations import ACCEPTED, SEEDS, TRIED, how_many

H = bytes(range(32))
MANY = 10_000
"""More than any sound tree of these tests holds."""


def graph(nodes: dict[bytes, bytes]) -> Callable[[bytes], Node]:
    """A `fetch` over encoded nodes; any id may lead to any node, which hashes forbid."""

    def fetch(wanted: bytes) -> Node:
        if wanted not in nodes:
            raise IntegrityError(f"node {wanted.hex()} is missing")
        return decode_node(nodes[wanted])

    return fetch


def label(number: int) -> bytes:
    return bytes([number]) * 32


def random_graph(dice: random.Random) -> dict[bytes, bytes]:
    """Up to seven nodes of all kinds and levels that refer to each other, and to themselves."""
    count = dice.randrange(1, 8)
    sizes = (0, 1, 2, 5, 2**40, 2**63)

    def any_totals() -> Totals:
        return Totals(*(dice.choice(sizes) for _ in range(4)))

    def item(kind: int, level: int, name: bytes) -> bytes:
        ref = label(dice.randrange(count + 1))
        if kind == CHUNK_LIST_NODE:
            return encode_item(Span(ref, dice.choice(sizes), dice.choice((1, 1, 3))))
        if level:
            return encode_item(Branch(name, ref, dice.choice(sizes), any_totals()))
        below = any_totals()
        if dice.random() < 0.3:
            return encode_item(Entry(name, 1, 0o644, 0, 0, 0, 5, H, dice.choice((b"", ref))))
        return encode_item(Entry(name, 2, 0o755, 0, 0, 0, below.size, b"", ref, below=below))

    def node() -> bytes:
        kind = dice.choice((DIRECTORY_NODE, DIRECTORY_NODE, CHUNK_LIST_NODE))
        level = dice.choice((0, 0, 1, 2, LEVEL_MAX))
        names = sorted({bytes([97 + dice.randrange(8)]) for _ in range(dice.randrange(1, 5))})
        return encode_node(kind, level, [item(kind, level, name) for name in names])

    return {label(number): node() for number in range(count)}


@how_many(3)
@given(SEEDS)
def test_any_graph_of_nodes_ends(seed: int) -> None:
    dice = random.Random(seed)
    fetch = graph(random_graph(dice))
    start = label(0)
    top = Entry(b"", 2, 0o755, 0, 0, 0, 5, b"", start, below=Totals(dice.choice((1, 5, 40)), 1, 5))
    content = Content(dice.choice((1, 5, 10, 2**40)), H, start)
    for act in (
        lambda: sum(1 for _ in walk(fetch, top)),
        lambda: sum(1 for _ in islice(scan(fetch, start), MANY)),
        lambda: find(fetch, start, b"c"),
        lambda: at_ordinal(fetch, top, 3),
        lambda: sum(1 for _ in islice(chunks_in(fetch, bytes, content), MANY)),
        lambda: sum(1 for _ in islice(chunks_in(fetch, bytes, content, 3, 4), MANY)),
        lambda: sum(1 for _ in islice(list_nodes(fetch, content), MANY)),
        lambda: sum(1 for _ in islice(parts_of(fetch, content, lambda _node: True), MANY)),
    ):
        TRIED["graph of nodes"] += 1
        try:
            act()
        except (IntegrityError, KeyError):
            continue
        ACCEPTED["graph of nodes"] += 1


def test_a_directory_in_itself_is_refused() -> None:
    inside = Entry(b"a", 2, 0o755, 0, 0, 0, 0, b"", label(0), below=Totals(3))
    fetch = graph({label(0): encode_node(DIRECTORY_NODE, 0, [encode_item(inside)])})
    top = Entry(b"", 2, 0o755, 0, 0, 0, 0, b"", label(0), below=Totals(4))
    with pytest.raises(IntegrityError, match="more entries than it says"):
        list(walk(fetch, top))


def test_a_node_below_itself_is_refused() -> None:
    span = encode_item(Span(label(0), 5, 2))
    fetch = graph({label(0): encode_node(CHUNK_LIST_NODE, 1, [span])})
    for act in (
        lambda: list(chunks_in(fetch, bytes, Content(5, H, label(0)))),
        lambda: list(list_nodes(fetch, Content(5, H, label(0)))),
        lambda: list(parts_of(fetch, Content(5, H, label(0)), lambda _node: True)),
    ):
        with pytest.raises(IntegrityError, match="does not fit its chunk list"):
            act()
    branch = encode_item(Branch(b"a", label(0), 1, Totals(1)))
    fetch = graph({label(0): encode_node(DIRECTORY_NODE, 1, [branch])})
    for search in (lambda: find(fetch, label(0), b"b"), lambda: list(scan(fetch, label(0)))):
        with pytest.raises(IntegrityError, match="wrong level"):
            search()


def test_a_tree_of_few_nodes_that_unfolds_to_more_than_it_says() -> None:
    """A thousand names in each of ten levels, all of which lead to one node: 10**30 entries."""
    nodes = {}
    for number in range(10):
        names = [b"%03d" % name for name in range(1_000)]
        ref, below = label(number + 1), Totals(7)
        entries = [Entry(name, 2, 0o755, 0, 0, 0, 0, b"", ref, below=below) for name in names]
        nodes[label(number)] = encode_node(DIRECTORY_NODE, 0, map(encode_item, entries))
    last = Entry(b"a", 1, 0o644, 0, 0, 0, 0, H)
    nodes[label(10)] = encode_node(DIRECTORY_NODE, 0, [encode_item(last)])
    top = Entry(b"", 2, 0o755, 0, 0, 0, 0, b"", label(0), below=Totals(7_000))
    with pytest.raises(IntegrityError, match="more entries than it says"):
        list(walk(graph(nodes), top))


def test_overflowing_sizes_are_refused() -> None:
    spans = [Span(H, 2**63, 1)] * 3
    with pytest.raises(IntegrityError, match="impossible"):
        decode_node(encode_node(CHUNK_LIST_NODE, 0, map(encode_item, spans)))
    for change in ({"size": 2**63}, {"link": 2**64 - 1}, {"nlink": 2**63}):
        entry = msgspec.structs.replace(Entry(b"a", 1, 0o644, 0, 0, 0, 4, H), **change)
        with pytest.raises(IntegrityError, match="out of range"):
            decode_node(encode_node(DIRECTORY_NODE, 0, [encode_item(entry)]))
    with pytest.raises(IntegrityError):
        branch = Branch(b"a", H, 2**64 - 1, Totals(2**64 - 1))
        decode_node(encode_node(DIRECTORY_NODE, 1, [encode_item(branch)]))


def peak_of(act: Callable[[], object]) -> int:
    """Bytes of memory that a call takes at its worst."""
    tracemalloc.start()
    try:
        with pytest.raises(IntegrityError):
            act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_frame_never_takes_more_than_its_pack_says() -> None:
    """A megabyte of zeros for each 33 bytes, and a frame that says no size, or a wrong one."""
    bomb = zstandard.compress(bytes(256 << 20))
    assert len(bomb) < 40_000
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(8 << 20))
    claims = bytearray(zstandard.compress(bytes(CHUNK_LIMIT_BYTES)))
    for data in (bomb, silent, bytes(claims[:-3]), b"", b"\x28\xb5\x2f\xfd"):
        for plain in (1, 4_096, CHUNK_LIMIT_BYTES):
            peak = peak_of(lambda d=data, p=plain: decode_frame(d, p, Codec.ZSTD))
            assert peak < 4 * CHUNK_LIMIT_BYTES


def test_deep_and_long_nodes_take_little_memory() -> None:
    depth = NODE_LIMIT_BYTES - 40
    for data in (
        bytes((0x93, 1, 0)) + b"\x91" * depth,
        bytes((0x93, 1, 0, 0x91, 0x9D, 0xC4, 1, 97))
        + b"\x01" * 6
        + b"\xc4\0\xc4\0"
        + b"\x91" * depth,
        bytes((0x93, 1, 0, 0xDD)) + b"\xff" * 4 + b"\x90" * depth,
        bytes((0x93, 2, 0, 0xDC)) + b"\xff" * 2 + b"\x93\xc6\xff\xff\xff\xff" * 1_000,
        bytes((0x93, 1, 1, 0xDC)) + b"\xff" * 2 + b"\x94" * depth,
        hashlib.sha256(b"").digest() * 10_000,
    ):
        assert peak_of(lambda d=data: decode_node(d)) < 64 * NODE_LIMIT_BYTES
