"""The directory tree: equal to one built from nothing after any edits, and to a dict in every search."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtafs.core import tree
from dtafs.core.difference import compare
from dtafs.core.nodes import NODE_LIMIT_BYTES, Node, decode_node
from dtafs.core.tree import Built, at_ordinal, edit, find, open_root, scan, seal_root, walk
from dtafs.core.values import Entry, Kind
from dtafs.errors import IntegrityError


class Nodes:
    """Nodes by id, as a store would keep them."""

    def __init__(self) -> None:
        self.data: dict[bytes, bytes] = {}
        self.fetched = 0

    def fetch(self, wanted: bytes) -> Node:
        self.fetched += 1
        return decode_node(self.data[wanted])

    def edit(self, root: bytes, changes: dict[bytes, Entry | None]) -> Built:
        built = edit(self.fetch, root, sorted(changes.items()))
        self.data.update(built.nodes)
        return built

    def directory(self, name: bytes, entries: list[Entry]) -> Entry:
        built = self.edit(b"", {e.name: e for e in entries})
        return Entry(
            name,
            Kind.DIRECTORY,
            0o755,
            0,
            0,
            0,
            built.totals.size,
            b"",
            built.root,
            below=built.totals,
        )


def file(name: bytes, stamp: int = 0, xattr: bytes = b"") -> Entry:
    return Entry(
        name,
        Kind.FILE,
        0o644,
        1,
        2,
        stamp,
        10,
        b"h" * 32,
        xattrs=((b"user.x", xattr),) if xattr else (),
    )


NAMES = st.binary(min_size=1, max_size=12).filter(
    lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(NAMES, st.integers(-1, 3), max_size=40), max_size=6))
def test_edits_give_the_tree_of_the_entries(batches: list[dict[bytes, int]]) -> None:
    nodes, root, model = Nodes(), b"", {}
    for batch in batches:
        changes = {n: None if v < 0 else file(n, v, b"x" * 700) for n, v in batch.items()}
        for name, entry in changes.items():
            model.pop(name, None) if entry is None else model.update({name: entry})
        built = nodes.edit(root, changes)
        root = built.root
        assert root == nodes.edit(b"", dict(model)).root
        assert [loc.entry for loc in scan(nodes.fetch, root)] == [model[n] for n in sorted(model)]
        assert built.names == len(model) and built.totals.files == len(model)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(NAMES, st.integers(-1, 3), max_size=40), max_size=6))
def test_a_sink_gets_the_same_nodes(batches: list[dict[bytes, int]]) -> None:
    """All that the tree needs and nothing else, whichever way an edit takes."""
    nodes, root = Nodes(), b""
    for batch in batches:
        changes = {n: None if v < 0 else file(n, v, b"x" * 700) for n, v in batch.items()}
        poured: dict[bytes, bytes] = {}
        streamed = edit(nodes.fetch, root, sorted(changes.items()), poured.__setitem__)
        built = nodes.edit(root, changes)
        assert streamed == built._replace(nodes={}) and poured == built.nodes
        root = built.root


def test_leaves_go_to_a_sink_as_they_are_made() -> None:
    taken = 0
    poured: list[tuple[bytes, int]] = []

    def changes() -> Iterator[tuple[bytes, Entry]]:
        nonlocal taken
        for number in range(5_000):
            taken += 1
            yield b"%06d" % number, file(b"%06d" % number)

    edit(Nodes().fetch, b"", changes(), lambda node, _: poured.append((node, taken)))
    early = [node for node, at in poured if at < 5_000]
    assert len(early) > 0.9 * len(poured) > 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.dictionaries(NAMES, st.integers(-1, 3), max_size=12), max_size=6))
def test_small_directories_are_edited_to_the_same(batches: list[dict[bytes, int]]) -> None:
    """The way of small directories and the way of all give the same, also where one grows out of it."""
    nodes, root, other = Nodes(), b"", b""
    for batch in batches:
        changes = {n: None if v < 0 else file(n, v, b"x" * 100 * v) for n, v in batch.items()}
        built = nodes.edit(root, changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tree, "_edit_small", lambda *_: None)
            expected = nodes.edit(other, changes)
        root, other = built.root, expected.root
        assert built[:3] == expected[:3] and built.nodes.items() <= expected.nodes.items()


@pytest.mark.parametrize("seed", range(4))
def test_large_edits_give_the_tree_of_the_entries(seed: int) -> None:
    rng = random.Random(seed)
    nodes, root, model = Nodes(), b"", {}
    for step in range(25):
        changes: dict[bytes, Entry | None] = {}
        for _ in range(rng.choice([1, 30, 2000])):
            name = b"f%06d" % rng.randrange(8000)
            changes[name] = file(name, rng.randrange(9)) if rng.random() < 0.6 else None
        if step == 15:
            changes = dict.fromkeys(sorted(model)[2:])
        for name, entry in changes.items():
            model.pop(name, None) if entry is None else model.update({name: entry})
        root = nodes.edit(root, changes).root
        assert root == nodes.edit(b"", dict(model)).root


def test_every_search_agrees_with_the_list() -> None:
    nodes = Nodes()
    entries = [file(b"%05d" % i) for i in range(3000)]
    top = nodes.directory(b"", entries)
    for position in (0, 1, 77, 1500, 2999):
        located = find(nodes.fetch, top.ref, entries[position].name)
        assert located == (entries[position], position, position + 1)
        assert at_ordinal(nodes.fetch, top, position + 1) == (
            (entries[position].name,),
            entries[position],
            0,
        )
        assert [x.position for x in scan(nodes.fetch, top.ref, position)] == list(
            range(position, 3000)
        )
    assert (
        find(nodes.fetch, top.ref, b"!") is None and find(nodes.fetch, top.ref, b"00000x") is None
    )
    assert list(scan(nodes.fetch, top.ref, 3000)) == [] and find(nodes.fetch, b"", b"x") is None
    with pytest.raises(KeyError):
        at_ordinal(nodes.fetch, top, 3001)


def test_ordinals_number_a_nested_tree_in_preorder() -> None:
    nodes = Nodes()
    inner = nodes.directory(b"inner", [file(b"%04d" % i) for i in range(400)])
    middle = nodes.directory(b"m", [file(b"a"), inner, file(b"z")])
    top = nodes.directory(b"", [file(b"before"), middle, nodes.directory(b"n", []), file(b"x")])
    seen = list(walk(nodes.fetch, top))
    assert len(seen) == top.below.entries + 1 == 408
    numbers = {path: ordinal for ordinal, (path, _) in enumerate(seen)}
    for ordinal, (path, entry) in enumerate(seen):
        assert at_ordinal(nodes.fetch, top, ordinal) == (path, entry, numbers[path[:-1]])
    located = find(nodes.fetch, top.ref, b"m")
    assert located is not None and seen[located.ordinal][1] == middle
    assert top.below.size == 10 * top.below.files


def test_a_lookup_in_a_large_directory_reads_few_nodes() -> None:
    nodes = Nodes()
    top = nodes.directory(b"", [file(b"%07d" % i) for i in range(60000)])
    nodes.fetched = 0
    assert find(nodes.fetch, top.ref, b"0031234")
    assert nodes.fetched <= 4
    assert len(nodes.edit(top.ref, {b"0031234": file(b"0031234", 9)}).nodes) <= 5
    assert max(map(len, nodes.data.values())) < NODE_LIMIT_BYTES


def test_comparison_finds_what_changed_and_reads_little() -> None:
    nodes = Nodes()
    entries = [file(b"%06d" % i) for i in range(20000)]
    before = nodes.directory(b"", entries)
    changes: dict[bytes, Entry | None] = {
        b"000123": None,
        b"010000": file(b"010000", 5),
        b"zzz": nodes.directory(b"zzz", [file(b"new")]),
    }
    built = nodes.edit(before.ref, changes)
    after = Entry(b"", 2, 0o755, 0, 0, 0, built.totals.size, b"", built.root, below=built.totals)
    nodes.fetched = 0
    found = list(compare(nodes.fetch, before, after))
    assert [(c.path, c.before is None, c.after is None) for c in found] == [
        ((b"000123",), False, True),
        ((b"010000",), False, False),
        ((b"zzz",), True, False),
        ((b"zzz", b"new"), True, False),
    ]
    assert nodes.fetched < 30


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(NAMES, st.integers(0, 2)), st.dictionaries(NAMES, st.integers(0, 2)))
def test_comparison_agrees_with_dicts(a: dict[bytes, int], b: dict[bytes, int]) -> None:
    nodes = Nodes()
    before = nodes.directory(b"", [file(n, v, b"y" * 900) for n, v in a.items()])
    after = nodes.directory(b"", [file(n, v, b"y" * 900) for n, v in b.items()])
    want = sorted(n for n in a.keys() | b.keys() if a.get(n) != b.get(n))
    assert [c.path[0] for c in compare(nodes.fetch, before, after)] == want


def test_a_file_that_becomes_a_directory_goes_and_comes() -> None:
    nodes = Nodes()
    before = nodes.directory(b"", [file(b"x")])
    after = nodes.directory(b"", [nodes.directory(b"x", [file(b"y")])])
    kinds = [(c.path, c.before is not None) for c in compare(nodes.fetch, before, after)]
    assert kinds == [((b"x",), True), ((b"x",), False), ((b"x", b"y"), False)]


def test_what_is_no_directory_has_nothing_below_it() -> None:
    """A large file refers to the list of its chunks, a symlink to its target."""
    nodes = Nodes()
    large = Entry(b"large", Kind.FILE, 0o644, 0, 0, 0, 1 << 30, b"h" * 32, b"l" * 32)
    link = Entry(b"link", Kind.SYMLINK, 0o777, 0, 0, 0, 4, b"", b"link")
    empty = nodes.directory(b"", [])
    full = nodes.directory(b"", [large, link, nodes.directory(b"sub", [large])])
    names = [(b"large",), (b"link",), (b"sub",), (b"sub", b"large")]
    came = list(compare(nodes.fetch, empty, full))
    assert [change.path for change in came if change.before is None] == names
    went = list(compare(nodes.fetch, full, empty))
    assert [change.path for change in went if change.after is None] == names
    assert list(walk(nodes.fetch, large)) == [((), large)]


def test_a_root_node_holds_the_top_directory() -> None:
    nodes = Nodes()
    top = nodes.directory(b"", [file(b"x")])
    root, data = seal_root(top)
    nodes.data[root] = data
    assert open_root(nodes.fetch, root) == top
    with pytest.raises(IntegrityError, match="should be the root"):
        open_root(nodes.fetch, top.ref)
    with pytest.raises(IntegrityError, match="should describe a directory"):
        find(nodes.fetch, root, b"x")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_one_documented_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode_node(data)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_flipped_byte_of_a_node_is_an_error_or_another_node(at: int, value: int) -> None:
    nodes = Nodes()
    top = nodes.directory(b"", [file(b"%03d" % i) for i in range(20)])
    data = bytearray(nodes.data[top.ref])
    data[at % len(data)] = value
    try:
        decode_node(bytes(data))
    except IntegrityError:
        return
    assert (
        bytes(data) == nodes.data[top.ref]
        or decode_node(bytes(data)).items != nodes.fetch(top.ref).items
    )
