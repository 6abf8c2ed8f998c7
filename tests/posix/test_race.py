"""Many processes make, move, link, write and remove the same few names at once, and then all is well.

In the manner of LTP's fs_racer and xfstests' fsstress: which call wins is left to chance, what is
there afterwards has to agree with itself in every way of looking at it, and with what is sealed.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.posix import acts, races
from tests.support.actors import Actor
from tests.support.mounts import Mount
from tests.support.trees import assert_same_tree, tree_of

RACERS = 5
RUN_S, SOAK_S = 4.0, 60.0


def race(staging: Path, seconds: float, seed: int) -> None:
    """Let processes loose on a directory."""
    dice = random.Random(seed)
    with ExitStack() as stack:
        racers = [Actor() for _ in range(RACERS)]
        for racer in racers:
            stack.callback(racer.close)
            racer.do(acts.enter, str(staging), "/")
        for racer in racers[:-1]:
            racer.begin(races.change, dice.random(), seconds)
        racers[-1].begin(races.look, seconds)
        outcomes = [racer.end() for racer in racers]
    expected = {errno.errorcode[number] for number in races.EXPECTED}
    for outcome in outcomes:
        assert {*outcome} <= {"", *expected}, outcome
    assert all(outcome.get("") for outcome in outcomes), "each has done something"


def check(top: Path) -> None:
    """What is there agrees with itself."""
    links: dict[int, list[Path]] = {}
    for path in [top, *top.rglob("*")]:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            links.setdefault(found.st_ino, []).append(path)
            continue
        names = os.listdir(path)
        assert len(names) == len({*names})
        below = [name for name in names if stat.S_ISDIR(os.lstat(path / name).st_mode)]
        assert found.st_nlink == 2 + len(below), path
        with os.scandir(path) as entries:
            numbers = {entry.name: entry.inode() for entry in entries}
        assert numbers == {name: os.lstat(path / name).st_ino for name in names}
    for paths in links.values():
        assert os.lstat(paths[0]).st_nlink == len(paths), paths


@pytest.mark.parametrize(
    ("seconds", "seed"),
    [(RUN_S, 1), *(pytest.param(SOAK_S, seed, marks=pytest.mark.soak) for seed in (2, 3))],
)
def test_a_race(mounted_lake: Mount, seconds: float, seed: int) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    race(staging, seconds / 2, seed)
    check(staging)
    os.rename(staging, mounted_lake / "D/v1")
    assert_same_tree(tree_of(mounted_lake / "D/v1"), tree_of(staging))
    before = tree_of(mounted_lake / "D/v1")
    race(staging, seconds / 2, seed + 1_000)  # over what is sealed
    os.rename(staging, mounted_lake / "D/v2")
    assert_same_tree(tree_of(mounted_lake / "D/v2"), tree_of(staging))
    assert_same_tree(before, tree_of(mounted_lake / "D/v1"))
