"""Repairing superblock and log: from a copy of the same history, and from nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dtafs.errors import DtafsError, IntegrityError
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.repair import repair
from dtafs.store.repair_closed import repair_at
from tests.support.collecting import assert_whole
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of one dataset with five log entries."""
    top = tmp_path_factory.mktemp("intact")
    with Lake.create(top / "lake", parity=2) as lake:
        lake.create_dataset("D", ACTOR)
        for seed in (1, 2, 3):
            put_tree(lake, "D", tree_of_seed(seed), top / "scratch")
            commit(lake, "D")
        lake.set_tags("D", 1, ACTOR, add=("raw",))
    return top / "lake"


@pytest.fixture
def path(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "lake"))


def entry(lake: Path, number: int) -> Path:
    return lake / "log" / "D" / f"{number:010d}"


def alter(file: Path, at: int) -> None:
    """Flip a bit of a file."""
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.unlink()
    file.write_bytes(data)


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("how", ["altered", "cut", "gone"])
def test_each_entry(path: Path, intact: Path, number: int, how: str) -> None:
    file = entry(path, number)
    before = file.read_bytes()
    if how == "altered":
        alter(file, len(before) // 2)
    elif how == "cut":
        file.chmod(0o644)
        file.write_bytes(before[:-9])
    else:
        file.unlink()
    with Lake.open(path) as lake:
        found = repair(lake, ACTOR)
        assert [one["object"] for one in found["lost"]] == [f"log/D/{number:010d}"]
        if how == "gone":
            assert not file.exists()
        else:
            assert file.exists(), "its number must not be given again"
        planned = repair(lake, ACTOR, [str(intact)], dry_run=True)
        facts = repair(lake, ACTOR, [str(intact)])
        assert planned["mended"] == facts["mended"]
        assert facts["mended"] == [{"object": f"log/D/{number:010d}", "how": f"lake {intact}"}]
        assert not facts["lost"]
        assert_whole(lake)
    assert file.read_bytes() == before


def test_entries_exchanged_and_the_whole_log_gone(path: Path, intact: Path) -> None:
    first, second = entry(path, 2).read_bytes(), entry(path, 3).read_bytes()
    for number, data in ((2, second), (3, first)):
        entry(path, number).unlink()
        entry(path, number).write_bytes(data)
    with Lake.open(path) as lake:
        assert len(repair(lake, ACTOR, [str(intact)])["mended"]) == 2
        assert_whole(lake)
        shutil.rmtree(path / "log")
        (path / "log").mkdir()
        assert len(repair(lake, ACTOR, [str(intact)])["mended"]) == 5
        assert_whole(lake)


def test_a_copy_that_went_another_way_is_of_no_use(path: Path, tmp_path: Path) -> None:
    """Signed by the same key, at the same place, and not what was sealed here."""
    fork = Path(shutil.copytree(path, tmp_path / "fork"))
    for where, seed in ((path, 8), (fork, 9)):
        with Lake.open(where) as lake:
            put_tree(lake, "D", tree_of_seed(seed), tmp_path / "scratch")
            commit(lake, "D")
            lake.set_tags("D", 2, ACTOR, add=("late",))
    alter(entry(path, 6), 100)
    with Lake.open(path) as lake:
        facts = repair(lake, ACTOR, [str(fork)])
        assert [one["object"] for one in facts["lost"]] == ["log/D/0000000006"]


def test_another_lake_has_another_log(path: Path, tmp_path: Path) -> None:
    with Lake.create(tmp_path / "other") as other:
        other.create_dataset("D", ACTOR)
    alter(entry(path, 1), 100)
    with Lake.open(path) as lake:
        assert repair(lake, ACTOR, [str(tmp_path / "other")])["lost"]


@pytest.mark.parametrize("how", ["altered", "gone", "newer", "another lake's"])
def test_the_superblock(path: Path, intact: Path, tmp_path: Path, how: str) -> None:
    file = path / "lake.json"
    before = file.read_bytes()
    file.unlink()
    with Lake.create(tmp_path / "other") as _other:
        pass
    if how == "altered":
        file.write_bytes(before.replace(b'"format":1', b'"format":0'))
    elif how == "newer":
        file.write_bytes(before.replace(b'"format":1', b'"format":2'))
    elif how == "another lake's":
        shutil.copy(tmp_path / "other" / "lake.json", file)
    with pytest.raises(DtafsError):
        repair_at(path, ACTOR)
    if how != "another lake's":
        with pytest.raises(DtafsError):
            repair_at(path, ACTOR, [str(tmp_path / "other")])
    planned = repair_at(path, ACTOR, [str(intact)], dry_run=True)
    facts = repair_at(path, ACTOR, [str(intact)])
    assert (
        planned["mended"] == facts["mended"] == [{"object": "lake.json", "how": f"lake {intact}"}]
    )
    assert file.read_bytes() == before
    with Lake.open(path) as lake:
        assert_whole(lake)


def test_of_an_open_lake_the_superblock_is_in_memory(path: Path) -> None:
    with Lake.open(path) as lake:
        before = (path / "lake.json").read_bytes()
        (path / "lake.json").unlink()
        assert repair(lake, ACTOR)["mended"] == [{"object": "lake.json", "how": "memory"}]
        assert (path / "lake.json").read_bytes() == before


@pytest.mark.parametrize("number", [2, 5])
def test_a_lake_that_does_not_open(path: Path, intact: Path, number: int) -> None:
    """The index is lost, and so an entry has to be read that is damaged."""
    shutil.rmtree(path / "index")
    alter(entry(path, number), 200)
    with pytest.raises(IntegrityError):
        Lake.open(path)
    with pytest.raises(IntegrityError):
        repair_at(path, ACTOR)
    facts = repair_at(path, ACTOR, [str(intact)])
    assert [one["object"] for one in facts["mended"]] == [f"log/D/{number:010d}"]
    with Lake.open(path) as lake:
        assert_whole(lake)
        assert len(lake.versions("D")) == 3


def test_a_damaged_index_is_a_matter_of_reindex(path: Path) -> None:
    data = path / "index" / "data.mdb"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(IntegrityError, match="reindex"):
        repair_at(path, ACTOR)


def test_packs_of_a_lost_entry_are_no_strays(path: Path) -> None:
    """While the log has a gap, a damaged pack that nothing seems to name stays where it is."""
    with Lake.open(path) as lake:
        names = lake.resolve("D:v3").manifest.packs
    alter(entry(path, 4), 100)
    for name in names:
        alter(path / "packs" / name[:2] / name, -1)
    shutil.rmtree(path / "parity")
    with Lake.open(path) as lake:
        facts = repair(lake, ACTOR)
        assert not facts["quarantined"] and facts["lost"]
        assert any(finding.severity == "error" for finding in check(lake))
