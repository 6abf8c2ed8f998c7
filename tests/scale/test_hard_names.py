"""Names that work against the trees of directories: chosen so that a node never ends, or always
does, where contents decide it; and long ones that differ only in their last bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path

import pytest

from dtafs.core.nodes import (
    NODE_CUT_BYTES,
    NODE_MIN_BYTES,
    NODE_SPREAD_BYTES,
    Node,
    decode_node,
    encode_item,
)
from dtafs.core.tree import Built, edit, find, scan
from dtafs.core.values import Entry, Kind
from dtafs.store.lake import Lake
from scripts.generated import Generated, content_of
from tests.support.mounts import Mount
from tests.support.sizes import sizes

ENTRY_BYTES = len(encode_item(Entry(b"n" * 12, Kind.FILE, 0o644, 0, 0, 1 << 60, 11, b"h" * 32)))
LEVELS = 4


def ends(name: bytes, level: int) -> bool:
    """Whether a node of a level ends after an item with this name, once it is long enough."""
    digest = hashlib.sha256(bytes((level,)) + name).digest()
    return int.from_bytes(digest[:4], "big") * NODE_SPREAD_BYTES < ENTRY_BYTES << 32


def never() -> Iterator[bytes]:
    names = (b"n%011d" % number for number in count())
    return (name for name in names if not any(ends(name, level) for level in range(LEVELS)))


def always() -> Iterator[bytes]:
    return (name for number in count() if ends(name := b"a%011d" % number, 0))


def long() -> Iterator[bytes]:
    return (b"x" * 247 + b"%08d" % number for number in count())


KINDS: dict[str, tuple[Callable[[], Iterator[bytes]], int]] = {
    "never": (never, 20_000),
    "always": (always, 2_000),
    "long": (long, 10_000),
}


def build(names: list[bytes]) -> tuple[Built, Callable[[bytes], Node]]:
    digest = hashlib.sha256(b"").digest()
    entries = [(n, Entry(n, Kind.FILE, 0o644, 0, 0, 1 << 60, 11, digest)) for n in names]
    nodes: dict[bytes, bytes] = {}

    def fetch(wanted: bytes) -> Node:
        return decode_node(nodes[wanted])

    built = edit(fetch, b"", entries)
    nodes.update(built.nodes)
    return built, fetch


@pytest.mark.parametrize("kind", KINDS)
def test_nodes_are_bounded_both_ways(kind: str) -> None:
    make, size = KINDS[kind]
    names = list(islice(make(), size))
    built, fetch = build(names)
    item_bytes = len(names[0]) + 100
    for data in built.nodes.values():
        assert len(data) < NODE_CUT_BYTES + item_bytes
    small = [data for data in built.nodes.values() if len(data) < NODE_MIN_BYTES]
    assert len(small) <= LEVELS, "only the last node of a level may be short"
    assert fetch(built.root).level <= LEVELS
    assert [located.entry.name for located in scan(fetch, built.root)] == names
    for name in (names[0], names[size // 2], names[-1]):
        assert find(fetch, built.root, name) is not None
    assert find(fetch, built.root, names[1] + b"?") is None


@pytest.mark.parametrize("kind", KINDS)
def test_edits_give_the_tree_of_the_names_alone(kind: str) -> None:
    """Also where every boundary after an edit moves."""
    make, size = KINDS[kind]
    names = list(islice(make(), size // 4))
    whole, fetch_whole = build(names)
    part, fetch = build(names[1:])
    entry = next(scan(fetch_whole, whole.root)).entry
    assert edit(fetch, part.root, [(names[0], entry)]).root == whole.root


@sizes(1_500, 50_000)
def test_on_a_mount(lake_path: Path, mount: Callable[..., Mount], size: int) -> None:
    with Lake.open(lake_path) as lake:
        generated = Generated(lake, "D")
        generated.commit(
            [
                generated.directory(
                    kind.encode(),
                    [generated.file(name, i) for i, name in enumerate(islice(make(), size))],
                )
                for kind, (make, _size) in sorted(KINDS.items())
            ]
        )
    mounted = mount(lake_path)
    for kind, (make, _size) in KINDS.items():
        names = list(islice(make(), size))
        directory = mounted / "D/v1" / kind
        assert sorted(map(os.fsencode, os.listdir(directory))) == names
        for number in (0, size // 2, size - 1):
            assert (directory / os.fsdecode(names[number])).read_bytes() == content_of(number)
        staged = mounted / "D/staging" / kind
        (staged / os.fsdecode(names[0])).unlink()
        (staged / ("y" * 255)).write_bytes(b"new")
    os.rename(mounted / "D/staging", mounted / "D/v2")
    for kind, (make, _size) in KINDS.items():
        names = [*list(islice(make(), size))[1:], b"y" * 255]
        assert sorted(map(os.fsencode, os.listdir(mounted / "D/v2" / kind))) == sorted(names)
