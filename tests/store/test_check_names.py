"""What `check` names of each kind of damage to each kind of object: exactly what it affects.

What cannot be read is found out by reading it, piece by piece, so that the checker is not asked
about itself.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dtafs.core.chunklist import chunks_in
from dtafs.core.format import PackKind, pack_key
from dtafs.core.tree import find, walk
from dtafs.core.values import Content, Kind
from dtafs.errors import DtafsError
from dtafs.store.affected import merged
from dtafs.store.check import Finding, check
from dtafs.store.findings import Affected
from dtafs.store.lake import Lake
from dtafs.store.packs import read_footer
from dtafs.store.staging.plans import execute_read
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed

Range = tuple[int, int]


class File(NamedTuple):
    """A file of a version, and where its chunks begin and end."""

    dataset: str
    version: int
    path: str
    content: Content
    pieces: list[Range]


class Intact:
    """A lake of two datasets, three versions and staged work, and what is in it."""

    def __init__(self, top: Path) -> None:
        self.path = top / "lake"
        with Lake.create(self.path) as lake:
            for name, seeds in (("a", (1, 2)), ("b", (3,))):
                lake.create_dataset(name, ACTOR)
                for seed in seeds:
                    put_tree(lake, name, tree_of_seed(seed), top / "scratch")
                    commit(lake, name, f"seed {seed}")
            lake.set_tags("a", 1, ACTOR, add=("raw",))
            put_tree(lake, "b", tree_of_seed(4), top / "scratch")
            assert lake.pending is not None
            self.pending = sorted(pack for pack, _dataset in lake.pending.all_packs())
        with Lake.open(self.path, write=False) as lake:
            self.files = list(_files(lake))
            packs = lake.index.packs()
            self.packs = {kind: [p for p, row in packs if row.kind == kind] for kind in PackKind}
            self.entries = {
                f"log/{row.name}/{number:010}": (row.name, number)
                for row in lake.datasets()
                for number in range(1, row.sequence + 1)
            }
            self.sealed_by = {
                (name, row.sequence): row.number for name in "ab" for row in lake.versions(name)
            }


def _files(lake: Lake) -> Iterator[File]:
    for dataset in ("a", "b"):
        for row in lake.versions(dataset):
            for path, entry in walk(lake.objects.node, lake.objects.top(row)):
                if entry.kind == Kind.FILE:
                    ends, pieces = 0, []
                    fetch, name = lake.objects.node, lake.objects.chunk_id
                    for piece in chunks_in(fetch, name, entry.content):
                        pieces.append((ends, ends + piece.size))
                        ends += piece.size
                    text = os.fsdecode(b"/".join(path))
                    yield File(dataset, row.number, text, entry.content, pieces)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Intact:
    return Intact(tmp_path_factory.mktemp("intact"))


class Named(NamedTuple):
    """What is lost, or said to be: versions of datasets, and ranges of paths in datasets."""

    versions: dict[str, set[int]]
    paths: dict[tuple[str, str], list[Range]]


def really_lost(intact: Intact, path: Path) -> Named:
    """What of the files of all versions cannot be read."""
    lost = Named({}, {})
    with Lake.open(path, write=False) as lake:
        for file in intact.files:
            for start, end in file.pieces:
                try:
                    lake.objects.read(file.content, start, end - start)
                except DtafsError:
                    lost.versions.setdefault(file.dataset, set()).add(file.version)
                    lost.paths.setdefault((file.dataset, file.path), []).append((start, end))
    return Named(lost.versions, {spot: merged(sorted(r)) for spot, r in lost.paths.items()})


def said_to_be_lost(found: list[Finding]) -> Named:
    """What the findings of I6 name."""
    lost = Named({}, {})
    for affected in _affected(found, 6):
        lost.versions.setdefault(affected.dataset, set()).update(affected.versions)
        assert not affected.more
        for path, ranges in zip(affected.paths, affected.ranges, strict=True):
            lost.paths.setdefault((affected.dataset, path), []).extend(ranges)
    return Named(lost.versions, {spot: merged(sorted(r)) for spot, r in lost.paths.items()})


def _affected(found: list[Finding], invariant: int) -> list[Affected]:
    return [one for f in found if f.invariant == invariant for one in f.affects]


class Copy:
    """A copy of the lake to damage, one object at a time."""

    def __init__(self, intact: Intact, path: Path) -> None:
        self._intact = intact
        self.path = Path(shutil.copytree(intact.path, path))

    def put(self, name: str, data: bytes | None) -> None:
        """Replace an object by force; None: it is gone."""
        (self.path / name).unlink(missing_ok=True)
        if data is not None:
            (self.path / name).write_bytes(data)

    def heal(self, *names: str) -> None:
        for name in names:
            self.put(name, (self._intact.path / name).read_bytes())

    def findings(self, *, read_data: bool = True) -> list[Finding]:
        with Lake.open(self.path) as lake:
            return [f for f in check(lake, read_data=read_data) if f.severity == "error"]


@pytest.fixture
def copy(intact: Intact, tmp_path: Path) -> Copy:
    return Copy(intact, tmp_path / "lake")


def damages(data: bytes) -> Iterator[tuple[str, bytes | None]]:
    """Ways to damage a pack so that the whole of it cannot be read."""
    middle = len(data) // 2
    yield "its trailer altered", data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]
    yield "cut", data[:middle]
    yield "empty", b""
    yield "zeroed", bytes(len(data))
    yield "gone", None


def frames_of(intact: Intact, pack: bytes) -> list[int]:
    """A byte in the middle of each frame of a pack."""
    places = [place for _chunk, place in read_footer(intact.path, pack).places()]
    return sorted({place.offset + place.stored // 2 for place in places})


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def test_frames_of_content(intact: Intact, copy: Copy) -> None:
    """Each frame of each pack: dataset, versions, paths and ranges of bytes, no more and no less."""
    tried = 0
    for pack in intact.packs[PackKind.CONTENT]:
        name = pack_key(pack)
        data = (intact.path / name).read_bytes()
        for at in frames_of(intact, pack):
            copy.put(name, flipped(data, at))
            lost = really_lost(intact, copy.path)
            found = copy.findings()
            assert lost.paths and said_to_be_lost(found) == lost
            assert _affected(found, 4), "the pack is named, too"
            tried += 1
        copy.heal(name)
    assert tried >= 3
    assert not copy.findings()


def test_packs_of_content(intact: Intact, copy: Copy) -> None:
    """As a whole: altered where it is described, cut, gone; also without reading data.

    What can be read by the index alone, which a reindex would not find again, is named as well.
    """
    for pack in intact.packs[PackKind.CONTENT]:
        name = pack_key(pack)
        copy.put(name, None)
        lost = really_lost(intact, copy.path)
        for what, damaged in damages((intact.path / name).read_bytes()):
            copy.put(name, damaged)
            for read_data in (True, False):
                found = copy.findings(read_data=read_data)
                assert lost.paths and said_to_be_lost(found) == lost, what
                (bringer,) = {(a.dataset, a.versions) for a in _affected(found, 1)}
                assert bringer[0] in lost.versions and set(bringer[1]) <= lost.versions[bringer[0]]
        copy.heal(name)


def test_packs_in_each_others_places(intact: Intact, copy: Copy) -> None:
    """Of the same dataset and of different ones: each decodes, and is not what it should be."""
    packs = intact.packs[PackKind.CONTENT]
    for one, other in zip(packs, packs[1:] + packs[:1], strict=True):
        first, second = pack_key(one), pack_key(other)
        copy.put(first, (intact.path / second).read_bytes())
        copy.put(second, (intact.path / first).read_bytes())
        lost = really_lost(intact, copy.path)
        found = copy.findings()
        assert lost.paths and said_to_be_lost(found) == lost
        copy.heal(first, second)


def test_nodes(intact: Intact, copy: Copy) -> None:
    """Metadata: what is below what is named cannot be read, and all else can."""
    tried = 0
    for pack in intact.packs[PackKind.METADATA]:
        name = pack_key(pack)
        data = (intact.path / name).read_bytes()
        for at in frames_of(intact, pack):
            copy.put(name, flipped(data, at))
            _expect_named(copy, _unreachable(intact, copy.path))
            tried += 1
        copy.put(name, None)
        missing = _unreachable(intact, copy.path)
        for _what, damaged in damages(data):
            copy.put(name, damaged)
            _expect_named(copy, missing)
            tried += 1
        copy.heal(name)
    assert tried >= 15


Missing = set[tuple[str, int, str]]
"""Datasets, versions and paths of files that cannot be found, or read."""


def _expect_named(copy: Copy, missing: Missing) -> None:
    """Each of them is named, or a directory above it; and no version else."""
    named = {
        (one.dataset, number, path)
        for one in _affected(copy.findings(), 6)
        for number in one.versions
        for path in one.paths or ("",)
    }
    assert missing and named
    for dataset, number, path in missing:
        above = ["", *(path[:at] for at in range(len(path)) if path[at] == "/"), path]
        assert any((dataset, number, one) in named for one in above), path
    versions = {(dataset, number) for dataset, number, _path in missing}
    assert {(dataset, number) for dataset, number, _path in named} == versions


def _unreachable(intact: Intact, path: Path) -> Missing:
    """The files that cannot be found, or whose list of chunks cannot be read."""
    missing = set()
    with Lake.open(path, write=False) as lake:
        for file in intact.files:
            try:
                top = lake.objects.top(lake.resolve(f"{file.dataset}:v{file.version}"))
                entry = top
                for name in os.fsencode(file.path).split(b"/"):
                    located = find(lake.objects.node, entry.ref, name)
                    assert located is not None
                    entry = located.entry
                lake.objects.read(entry.content, 0, entry.size)
            except DtafsError:
                missing.add((file.dataset, file.version, file.path))
    return missing


def test_entries_of_the_log(intact: Intact, copy: Copy) -> None:
    """The dataset, and the version that an entry sealed."""
    names = list(intact.entries)
    for at, name in enumerate(names):
        dataset, sequence = intact.entries[name]
        data = (intact.path / name).read_bytes()
        other = (intact.path / names[at - 1]).read_bytes()
        for damaged in (flipped(data, 100), data[:-1], b"", other, None):
            copy.put(name, damaged)
            found = [one for i in (4, 10) for one in _affected(copy.findings(), i)]
            versions = {n for one in found if one.dataset == dataset for n in one.versions}
            assert dataset in {one.dataset for one in found}
            sealed = intact.sealed_by.get((dataset, sequence))
            assert sealed is None or sealed in versions, (name, found)
        copy.heal(name)
    assert not copy.findings()


def test_packs_of_staged_work(intact: Intact, copy: Copy) -> None:
    """The dataset, the staged paths, and which of their bytes."""
    assert intact.pending
    for pack in intact.pending:
        name = pack_key(pack)
        data = (intact.path / name).read_bytes()
        for damaged in (flipped(data, frames_of(intact, pack)[0]), None):
            copy.put(name, damaged)
            found = copy.findings()
            named = {
                (one.dataset, path): ranges
                for one in _affected(found, 8)
                for path, ranges in zip(one.paths, one.ranges, strict=True)
            }
            assert set(named) == {("b", path) for path in _unreadable_staged(copy.path)}
            assert named and all(named.values())
            big = named.get(("b", "big"))
            size = len(tree_of_seed(4)[b"big"].content)
            assert big is None or all(0 <= start < end <= size for start, end in big)
        copy.heal(name)


def _unreadable_staged(path: Path) -> set[str]:
    lost = set()
    with Lake.open(path) as lake:
        staging = lake.staging("b")
        for name, item in tree_of_seed(4).items():
            found = staging.resolve(tuple(name.split(b"/")))
            assert found is not None
            if item.kind != Kind.FILE:
                continue
            try:
                plan = staging.plan_read(found.ino, 0, found.size)
                assert execute_read(plan, lake.objects) == item.content
            except DtafsError:
                lost.add(os.fsdecode(name))
    return lost


def test_the_text_says_it(intact: Intact, copy: Copy) -> None:
    """For people: bytes from the first to the last, and names as they can be shown."""
    one = Affected("a", (1, 2), ("big", "odd\n"), 3, (((0, 10), (20, 21)), ()))
    assert str(one) == r"a:v1,v2 big (bytes 0-9, 20-20), 'odd\n' and 3 more"
    many = tuple((at, at + 1) for at in range(0, 50, 10))
    assert str(Affected("a", (), ("x",), 0, (many,))) == (
        "a x (bytes 0-0, 10-10, 20-20 and 2 more ranges)"
    )
