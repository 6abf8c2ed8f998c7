"""Every kind of object damaged in every way that fits a test: found, and never returned as data."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.errors import DtafsError, IntegrityError, NotFoundError
from dtafs.store.check import Finding, check
from dtafs.store.lake import Lake
from dtafs.store.reindex import dump, reindex_at
from tests.support.small_lakes import (
    ACTOR,
    Tree,
    commit,
    put_tree,
    read_version,
    tree_of_seed,
)
from tests.support.tried import tried

DATASETS = ("a", "b")
FLIPS = 40
"""Flipped bytes per file: the first and last ones, which have a structure, and others at random."""


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two datasets, three versions and a tag. Tests copy it."""
    top = tmp_path_factory.mktemp("intact")
    with Lake.create(top / "lake") as lake:
        for name, seeds in (("a", (1, 2)), ("b", (3,))):
            lake.create_dataset(name, ACTOR)
            for seed in seeds:
                put_tree(lake, name, tree_of_seed(seed), top / "scratch")
                commit(lake, name, f"seed {seed}")
        lake.set_tags("a", 1, ACTOR, add=("raw",))
        put_tree(lake, "b", tree_of_seed(4), top / "scratch")  # stays staged
    return top / "lake"


EXPECTED = {("a", 1): tree_of_seed(1), ("a", 2): tree_of_seed(2), ("b", 1): tree_of_seed(3)}


def objects_of(lake: Path) -> list[Path]:
    """The immutable objects of a lake, relative to it."""
    found = [lake / "lake.json", *(lake / "log").rglob("*"), *(lake / "packs").rglob("*")]
    return sorted(path.relative_to(lake) for path in found if path.is_file())


def damages(data: bytes, seed: str) -> Iterator[tuple[str, bytes | None]]:
    """Ways to damage an object: what was done, and the bytes then (None: the object is gone)."""
    dice = random.Random(seed)
    size = len(data)
    places = {*range(4), *range(size - 4, size), *dice.sample(range(size), min(size, FLIPS))}
    for place in sorted(places):
        bit = 1 << dice.randrange(8)
        yield f"bit {bit} of byte {place} flipped", _set(data, place, data[place] ^ bit)
    for end in (0, 1, size // 2, size - 1):
        yield f"cut to {end} bytes", data[:end]
    yield "a byte added", data + b"\0"
    if size > 400:
        start = size // 3
        yield "a stretch zeroed", data[:start] + bytes(100) + data[start + 100 :]
    yield "gone", None


def _set(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([value]) + data[place + 1 :]


def put_object(lake: Path, name: Path, data: bytes | None) -> None:
    """Replace an object by force."""
    (lake / name).unlink()
    if data is not None:
        (lake / name).write_bytes(data)


def errors_of(path: Path, *, read_data: bool = True) -> list[Finding] | str:
    """What the checker finds, or why the lake cannot be opened."""
    try:
        with Lake.open(path) as lake:
            found = check(lake, read_data=read_data)
    except DtafsError as error:
        return str(error)
    return [finding for finding in found if finding.severity == "error"]


def read_all(path: Path) -> int:
    """Read every version; what comes back is right or is an error. How many could be read."""
    right = 0
    try:
        with Lake.open(path, write=False) as lake:
            for (dataset, number), tree in EXPECTED.items():
                right += _reads_right(lake, dataset, number, tree)
    except DtafsError:
        return 0
    return right


def _reads_right(lake: Lake, dataset: str, number: int, tree: Tree) -> bool:
    try:
        found = read_version(lake, lake.resolve(f"{dataset}:v{number}"))
    except (IntegrityError, NotFoundError):
        return False
    assert found == tree, "damaged data was returned"
    return True


def copy_of(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "lake", dirs_exist_ok=True))


def test_the_intact_lake_is_sound(intact: Path, tmp_path: Path) -> None:
    path = copy_of(intact, tmp_path)
    assert errors_of(path) == []
    assert read_all(path) == len(EXPECTED)


def test_every_damage_is_found(intact: Path, tmp_path: Path) -> None:
    path = copy_of(intact, tmp_path)
    count = 0
    for name in objects_of(intact):
        data = (intact / name).read_bytes()
        for what, damaged in damages(data, str(name)):
            put_object(path, name, damaged)
            assert errors_of(path), f"{name}: {what}, and nothing was found"
            read_all(path)
            count += 1
            if damaged is None:
                (path / name).touch()
        put_object(path, name, data)
    assert errors_of(path) == []
    assert count > 500
    tried("objects damaged", count)


def test_objects_of_one_kind_swapped(intact: Path, tmp_path: Path) -> None:
    path = copy_of(intact, tmp_path)
    for kind in ("packs", "log"):
        names = [name for name in objects_of(intact) if name.parts[0] == kind]
        for one, other in itertools.combinations(names, 2):
            first, second = (intact / one).read_bytes(), (intact / other).read_bytes()
            put_object(path, one, second)
            put_object(path, other, first)
            assert errors_of(path), f"{one} and {other} were swapped, and nothing was found"
            tried("objects damaged")
            read_all(path)
            put_object(path, one, first)
            put_object(path, other, second)
    assert errors_of(path) == []


def test_the_finding_names_what_is_lost(intact: Path, tmp_path: Path) -> None:
    """One altered frame of content: versions and paths in it are named, all others still read."""
    path = copy_of(intact, tmp_path)
    with Lake.open(path) as lake:
        row = lake.resolve("b:v1")
        pack = next(p for p in row.manifest.packs if _is_content(lake, p))
    name = Path("packs", pack[:2], pack)
    data = (path / name).read_bytes()
    put_object(path, name, _set(data, 40, data[40] ^ 1))
    found = errors_of(path)
    assert isinstance(found, list)
    lost = next(finding for finding in found if finding.invariant == 6)
    assert [(a.dataset, a.versions) for a in lost.affects] == [("b", (1,))]
    paths = set(lost.affects[0].paths)
    assert paths and paths <= {os.fsdecode(p) for p in EXPECTED["b", 1]}
    assert read_all(path) == 2
    quick = errors_of(path, read_data=False)
    assert quick == [], "without reading data, an altered frame cannot be known"


def _is_content(lake: Lake, pack: str) -> bool:
    found = lake.index.pack(bytes.fromhex(pack))
    return found is not None and found.kind == 1


def test_an_extra_pack_is_a_warning(intact: Path, tmp_path: Path) -> None:
    path = copy_of(intact, tmp_path)
    (path / "packs" / "00").mkdir(exist_ok=True)
    source = next((path / "packs").rglob("?" * 64))
    shutil.copy(source, path / "packs" / "00" / ("0" * 64))
    (path / "packs" / "README").write_text("what is this")
    with Lake.open(path) as lake:
        found = check(lake)
    assert {(finding.invariant, finding.severity) for finding in found} == {(5, "warning")}
    assert len(found) == 2


@pytest.mark.parametrize("damage", ["gone", "cut", "garbage", "zeroed", "empty"])
def test_a_damaged_index_is_refused_and_rebuilt(intact: Path, tmp_path: Path, damage: str) -> None:
    path = copy_of(intact, tmp_path)
    with Lake.open(path) as lake:
        before = list(dump(lake.index.database))
    file = path / "index" / "data.mdb"
    data = file.read_bytes()
    if damage == "gone":
        shutil.rmtree(path / "index")
    else:
        kinds = {"cut": data[: len(data) // 2], "garbage": random.Random(1).randbytes(len(data))}
        file.write_bytes(kinds.get(damage, bytes(len(data)) if damage == "zeroed" else b""))
    if damage in ("cut", "garbage", "zeroed"):
        with pytest.raises(IntegrityError):
            Lake.open(path)
    reindex_at(path)
    with Lake.open(path) as lake:
        assert list(dump(lake.index.database)) == before
    assert errors_of(path) == []
    assert read_all(path) == len(EXPECTED)


def test_wrong_rows_are_found_and_mended(intact: Path, tmp_path: Path) -> None:
    """Rows with a right checksum that say something wrong: a bug's work, or a stranger's."""
    path = copy_of(intact, tmp_path)
    with Lake.open(path) as lake:
        tables = lake.index.database
        rows = list(dump(tables))
    for table in ("dataset", "version", "serial", "tag", "pack", "chunk"):
        keys = [(key, value) for name, key, value in rows if name == table]
        key, value = keys[0]
        wrong = keys[-1][1]
        if table == "chunk":
            wrong = value[:32] + bytes([value[32] ^ 1]) + value[33:]  # another offset in the pack
        with Lake.open(path) as lake:
            _change_row(lake, table, key, wrong)
            found = check(lake)
        assert any(f.severity == "error" and f.invariant in (2, 3, 5) for f in found), table
        reindex_at(path)
        assert errors_of(path) == []


def _change_row(lake: Lake, table: str, key: bytes, value: bytes) -> None:
    if table == "tag":  # its rows have no value that could be wrong
        lake.index.database.write(lambda txn: txn.delete(table, key))
    else:
        lake.index.database.write(lambda txn: txn.put(table, key, value))


def test_the_end_of_a_log_cut_off(intact: Path, tmp_path: Path) -> None:
    path = copy_of(intact, tmp_path)
    newest = sorted((path / "log" / "a").iterdir())[-1]
    newest.unlink()
    found = errors_of(path)
    assert isinstance(found, list)
    assert any(finding.invariant == 10 and "a" in str(finding) for finding in found)


def test_lost_staged_bytes_are_found(intact: Path, tmp_path: Path) -> None:
    """A pack of uncommitted work that is gone: staging's paths are named, versions still read."""
    path = copy_of(intact, tmp_path)
    with Lake.open(path) as lake:
        assert lake.pending is not None
        packs = lake.pending.packs("b")
    assert packs
    for pack in packs:
        (path / "packs" / pack.hex()[:2] / pack.hex()).unlink()
    found = errors_of(path)
    assert isinstance(found, list)
    assert {finding.invariant for finding in found} == {8}
    assert any("dir/" in str(finding) for finding in found)
    assert read_all(path) == len(EXPECTED)


@pytest.mark.parametrize("lost", ["table", "packs"])
def test_a_version_is_never_made_of_what_is_lost(intact: Path, tmp_path: Path, lost: str) -> None:
    """What is staged can no longer be read: the commit is refused, and nothing else is harmed."""
    path = copy_of(intact, tmp_path)
    with Lake.open(path) as lake:
        assert lake.pending is not None
        packs = lake.pending.packs("b")
    if lost == "table":
        shutil.rmtree(path / "staging" / "pending")
    else:
        for pack in packs:
            (path / "packs" / pack.hex()[:2] / pack.hex()).unlink()
    with Lake.open(path) as lake:
        with pytest.raises(IntegrityError):
            commit(lake, "b", "of nothing")
        assert lake.dataset("b").newest == 1
        put_tree(lake, "a", tree_of_seed(8), tmp_path / "scratch")
        assert read_version(lake, commit(lake, "a")) == tree_of_seed(8)
    assert read_all(path) == len(EXPECTED)


def test_a_lake_can_be_checked_by_a_reader(intact: Path, tmp_path: Path) -> None:
    """Without the lock: what staging needs is looked at too, as far as it has reached LMDB."""
    path = copy_of(intact, tmp_path)
    with Lake.open(path, write=False) as lake:
        assert check(lake, read_data=True) == []
    with Lake.open(path) as lake:
        assert lake.pending is not None
        pack = lake.pending.packs("b")[0]
    (path / "packs" / pack.hex()[:2] / pack.hex()).unlink()
    with Lake.open(path, write=False) as lake:
        found = check(lake)
    assert found and {finding.invariant for finding in found} == {8}


def test_two_datasets_may_bring_the_same_pack(lake: Lake, tmp_path: Path) -> None:
    """The same bytes staged in two datasets before either is committed make the same pack."""
    for name in ("a", "b"):
        lake.create_dataset(name, ACTOR)
        put_tree(lake, name, tree_of_seed(1), tmp_path / "scratch")
    for name in ("b", "a"):
        commit(lake, name)
    assert check(lake, read_data=True) == []
