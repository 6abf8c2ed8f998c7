"""Disposition: nothing of it remains in parity, in quarantine, or in what was written about it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.core.format import PackKind, pack_key
from dtafs.core.parity import parity_key
from dtafs.core.values import Kind
from dtafs.errors import DisposedError
from dtafs.store.check import check
from dtafs.store.export import export_file
from dtafs.store.lake import Lake
from dtafs.store.parity_upkeep import parity_files
from dtafs.store.progress import Progress
from dtafs.store.quarantine import quarantine_pack
from dtafs.store.repair import repair
from tests.support.collecting import assert_whole, big
from tests.support.disposing import assert_gone, dispose_of, order_of
from tests.support.small_lakes import ACTOR, Item, Tree, commit, put_tree
from tests.support.traces import traces

D = "D"
SMALL: Tree = {b"a secret name": Item(Kind.FILE, 0o644, b"what nobody is to read any more " * 4)}
"""Its pack has one block of parity, which is the very bytes."""


@pytest.fixture
def parity_lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.create(tmp_path / "parity", parity=10) as lake:
        lake.create_dataset(D, ACTOR)
        yield lake
        assert_whole(lake)
        assert not [f for f in check(lake, read_data=True) if f.severity == "error"]


def sealed(lake: Lake, tree: Tree, scratch: Path) -> list[bytes]:
    """Commit a tree; the packs that it brought."""
    put_tree(lake, D, tree, scratch)
    return [bytes.fromhex(name) for name in commit(lake, D).manifest.packs]


def test_parity_goes_with_its_pack(parity_lake: Lake, tmp_path: Path) -> None:
    lake = parity_lake
    packs = sealed(lake, SMALL | {b"shared": big(1, 90_000)}, tmp_path / "scratch")
    kept = {b"shared": big(1, 90_000)}
    sealed(lake, kept, tmp_path / "scratch")
    assert all((lake.path / parity_key(pack)).exists() for pack in packs)
    assert not dispose_of(lake, order_of(D, 1)).left
    assert not all((lake.path / parity_key(pack)).exists() for pack in packs)
    assert_gone(lake, SMALL, kept)
    assert traces([lake.path], [b"nobody is to read", b"a secret name"]) == []
    assert parity_files(lake.path).keys() == dict(lake.index.packs()).keys()


def test_parity_in_quarantine_goes_too(parity_lake: Lake, tmp_path: Path) -> None:
    lake = parity_lake
    packs = sealed(lake, SMALL, tmp_path / "scratch")
    for pack in packs:
        data = (lake.path / pack_key(pack)).read_bytes()
        again = (lake.path / parity_key(pack)).read_bytes()
        quarantine_pack(lake.disk, lake.path, pack)
        lake.disk.put_new(lake.path / pack_key(pack), data)
        lake.disk.put_new(lake.path / parity_key(pack), again)
    assert len(list((lake.path / "quarantine" / "parity").iterdir())) == len(packs)
    assert not dispose_of(lake, order_of(D, 1)).left
    assert traces([lake.path], [b"nobody is to read", b"a secret name"]) == []


def test_parity_whose_damaged_pack_was_deleted_goes_too(parity_lake: Lake, tmp_path: Path) -> None:
    """Of such a one nothing says what it is of: it may be of what was disposed of."""
    lake = parity_lake
    (pack, *_others) = sealed(lake, SMALL, tmp_path / "scratch")
    aside = lake.path / "quarantine" / "parity" / pack.hex()
    lake.disk.make_directory(aside.parent)
    lake.disk.put_new(aside, (lake.path / parity_key(pack)).read_bytes())
    assert not dispose_of(lake, order_of(D, 1)).left
    assert traces([lake.path], [b"nobody is to read", b"a secret name"]) == []


def lose(lake: Lake, pack: bytes) -> None:
    """A pack is damaged beyond repair, and put aside; the owner deletes it."""
    path = lake.path / pack_key(pack)
    path.chmod(0o644)
    path.write_bytes(bytes(len(path.read_bytes())))
    lake.objects.clear()
    repair(lake, ACTOR)
    for aside in (lake.path / "quarantine" / "packs").iterdir():
        aside.unlink()


def content_of(lake: Lake, packs: list[bytes]) -> bytes:
    """The only pack of content among some."""
    named = dict(lake.index.packs())
    (found,) = (pack for pack in packs if named[pack].kind == PackKind.CONTENT)
    return found


def test_what_was_lost_is_told_without_names_afterwards(lake: Lake, tmp_path: Path) -> None:
    """A report of a repair names paths; those that only a version had which was disposed of go."""
    lake.create_dataset(D, ACTOR)
    both = {b"kept": big(1, 90_000)}
    lost = content_of(lake, sealed(lake, SMALL | both, tmp_path / "scratch"))
    sealed(lake, both | {b"more": big(2, 9_000)}, tmp_path / "scratch")
    whole = (lake.path / pack_key(lost)).read_bytes()
    lose(lake, lost)
    (report,) = (lake.path / "quarantine").glob("*.json")
    assert "a secret name" in report.read_text()
    assert list(dispose_of(lake, order_of(D, 1)).left) == [pack_key(lost)], "it holds what is kept"
    (told,) = json.loads(report.read_text())["affects"]
    assert [one["path"] for one in told["paths"]] == ["kept"] and told["more"] == 1
    lake.disk.put_new(lake.path / pack_key(lost), whole)  # it is found again
    assert not dispose_of(lake).left
    assert_gone(lake, SMALL, both)


def test_a_pack_that_is_lost_keeps_nothing_else_alive(lake: Lake, tmp_path: Path) -> None:
    """Nothing can be destroyed of it; what else goes with the version must go all the same."""
    lake.create_dataset(D, ACTOR)
    lost = content_of(lake, sealed(lake, {b"lost": big(1, 90_000)}, tmp_path / "scratch"))
    sealed(lake, {b"lost": big(1, 90_000), **SMALL}, tmp_path / "scratch")
    sealed(lake, {b"kept": big(2, 90_000)}, tmp_path / "scratch")
    lose(lake, lost)
    assert not dispose_of(lake, order_of(D, 1, 2)).left
    assert lake.log.read(D, lake.index.head(D)[0]).entry.kind == "destroyed"
    assert_gone(lake, SMALL, {b"kept": big(2, 90_000)})


@pytest.mark.parametrize("form", ["dir", "zip"])
def test_an_export_under_way_says_that_it_is_gone(lake: Lake, tmp_path: Path, form: str) -> None:
    """And leaves nothing of it behind."""
    lake.create_dataset(D, ACTOR)
    sealed(lake, {b"%d" % i: big(i, 900_000) for i in range(4)}, tmp_path / "scratch")
    row = lake.resolve("D:v1")

    def dispose_meanwhile(_progress: Progress) -> None:
        if not lake.resolve("D:v1").disposed:
            dispose_of(lake, order_of(D, 1))

    with pytest.raises(DisposedError, match="was disposed of by entry 3"):
        export_file(lake, row, form, tmp_path / "out", report=dispose_meanwhile)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lake", "scratch"]
