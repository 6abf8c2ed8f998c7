"""Repair: whatever can be had from anywhere is put right, the rest is told and kept."""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.repair import repair
from tests.support.broken_lakes import (
    DAMAGES,
    assert_trees,
    damage,
    found_lake,
    packs_by_size,
    set_bytes,
)
from tests.support.collecting import assert_whole, packs_of
from tests.support.small_lakes import (
    ACTOR,
)


@pytest.fixture(scope="module", params=[0, 2], ids=["plain", "parity"])
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("intact")
    found_lake(top / "lake", top / "scratch", request.param)
    return top / "lake"


@pytest.fixture
def path(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "lake"))


@pytest.mark.parametrize("how", DAMAGES)
def test_all_packs_from_another_lake(path: Path, intact: Path, how: str) -> None:
    before = {file: file.read_bytes() for file in packs_by_size(path)}
    for file in before:
        damage(file, how)
    with Lake.open(path) as lake:
        assert any(f.severity == "error" for f in check(lake, read_data=True))
        planned = repair(lake, ACTOR, [str(intact)], dry_run=True)
        facts = repair(lake, ACTOR, [str(intact)])
        assert len(facts["mended"]) == len(before)
        assert planned["mended"] == facts["mended"]
        assert not facts["lost"] and not facts["replaced"]
        assert check(lake, read_data=True) == []
        assert_trees(lake)
    assert {file: file.read_bytes() for file in before} == before
    assert not (path / "quarantine").exists()


@pytest.mark.parametrize("how", DAMAGES)
def test_each_pack_by_parity_alone(tmp_path: Path, how: str) -> None:
    path = tmp_path / "lake"
    found_lake(path, tmp_path / "scratch", 2)
    for file in packs_by_size(path):
        damage(file, how)
    with Lake.open(path) as lake:
        facts = repair(lake, ACTOR)
        for one in facts["mended"]:
            assert "parity" in one["how"] or "index" in one["how"]
        if how not in ("gone", "empty"):
            assert len(facts["mended"]) == len(packs_of(lake)) and not facts["lost"]
            assert_whole(lake)
            assert_trees(lake)
        else:  # parity is no copy, but of a small pack
            assert facts["mended"] and facts["lost"]


def test_without_parity_headers_and_footers_come_from_the_index(path: Path) -> None:
    shutil.rmtree(path / "parity", ignore_errors=True)
    for how in ("header", "footer", "trailer", "longer"):
        for file in packs_by_size(path):
            damage(file, how)
    with Lake.open(path) as lake:
        facts = repair(lake, ACTOR)
        assert len(facts["mended"]) == len(packs_of(lake)) and not facts["lost"]
        assert_whole(lake)


def test_any_two_packs_swapped(path: Path) -> None:
    files = packs_by_size(path)
    for one, other in itertools.pairwise(files):
        first, second = one.read_bytes(), other.read_bytes()
        set_bytes(one, second)
        set_bytes(other, first)
        with Lake.open(path) as lake:
            facts = repair(lake, ACTOR)
            assert len(facts["mended"]) == 2 and not facts["lost"]
            assert check(lake, read_data=True) == []
        assert (one.read_bytes(), other.read_bytes()) == (first, second)


def test_all_packs_in_a_ring(path: Path) -> None:
    files = packs_by_size(path)
    data = [file.read_bytes() for file in files]
    for file, other in zip(files, data[1:] + data[:1], strict=True):
        set_bytes(file, other)
    with Lake.open(path) as lake:
        assert not repair(lake, ACTOR)["lost"]
        assert_whole(lake)
    assert [file.read_bytes() for file in files] == data


@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 32))
def test_any_damage_with_a_whole_copy(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    for path, whole in _copies(tmp_path_factory):
        dice = random.Random(seed)
        files = [f for f in path.rglob("*") if f.is_file() and f.parts[-3] in ("packs", "parity")]
        for file in dice.sample(sorted(files), dice.randint(1, len(files))):
            damage(file, dice.choice(sorted(DAMAGES)))
        with Lake.open(path) as lake:
            assert not repair(lake, ACTOR, [str(whole)])["lost"]
            assert_whole(lake)


_made: list[Path] = []


def _copies(factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    if not _made:
        top = factory.mktemp("whole")
        found_lake(top / "lake", top / "scratch", 2)
        _made.append(top / "lake")
    target = factory.mktemp("any") / "lake"
    yield Path(shutil.copytree(_made[0], target)), _made[0]
    shutil.rmtree(target)
