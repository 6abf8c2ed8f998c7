"""The real daemon and the real commands, killed with SIGKILL at each named step of what moves and deletes
packs in tiers: nothing is lost, and the same command finishes it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dtafs.store.lake import Lake
from dtafs.store.placement.stubs import doomed_packs, stubbed_packs, tiers_of
from tests.crash import moves
from tests.crash.killed_daemon import AFTER, BEFORE, HALFWAY, SAID, Point
from tests.crash.promises import assert_no_errors
from tests.crash.scenarios import DATASET, ONE, TWO, garbage_away
from tests.crash.test_daemon_kills import clear_away, daemon
from tests.support import kernel
from tests.support.disposing import needles_of
from tests.support.programs import CTL, ctl, run
from tests.support.small_lakes import read_version
from tests.support.traces import traces
from tests.support.tried import tried

KILLED_CTL = "tests.crash.killed_ctl"
RULE = (
    "retain",
    "rule",
    "add",
    "now",
    "--from",
    "superseded",
    "--after",
    "0d",
    "--dispose",
    "--datasets",
    "WF-*",
)
NEAR, SECOND = "tiers/near/packs/", "tiers/second/packs/"


def due(path: Path, scratch: Path) -> None:
    """All content in a tier, and a rule by which the first version goes."""
    moves.away(path, scratch)
    ctl(path, *RULE, "--authority", "a test")


def packs_there(lake: Lake, tier: str) -> set[bytes]:
    """The packs that lie in a tier."""
    return {bytes.fromhex(file.name) for file in (lake.path / f"tiers/{tier}/packs").glob("*/*")}


def is_in(tier: str) -> Callable[[Lake], bool]:
    """Whether all content is in a tier, and nowhere else."""

    def check(lake: Lake) -> bool:
        packs = moves.content_packs(lake)
        assert packs_there(lake, tier) == set(packs)
        return all(tiers_of(lake.path, pack).keys() == {tier} for pack in packs) and not any(
            map(lake.placed.is_hot, packs)
        )

    return check


def is_hot(lake: Lake) -> bool:
    return all(map(lake.placed.is_hot, moves.content_packs(lake)))


def is_tidy(lake: Lake) -> bool:
    """Whether nothing is left of what was deleted, on the disk or in the tier."""
    assert packs_there(lake, "near") == set(stubbed_packs(lake.path))
    return not doomed_packs(lake.path)


def is_disposed(lake: Lake) -> bool:
    """Whether the first version is gone, every byte that only it had."""
    assert traces([lake.path], needles_of(ONE, TWO)) == []
    return bool(lake.versions(DATASET)[0].disposed) and not doomed_packs(lake.path)


class Work(NamedTuple):
    """A command, what it is given, where it is killed, and what there is in the end."""

    name: str
    prepare: Callable[[Path, Path], None]
    command: tuple[str, ...]
    points: tuple[Point, ...]
    done: Callable[[Lake], bool]


STUB, PACK, LOG, DOOMED = "placed/", "packs/", f"log/{DATASET}/", "doomed/"
WHAT = (f"{DATASET}:v1", f"{DATASET}:v2")

WORKS = (
    Work(
        "move",
        moves.hot,
        ("tier", "move", *WHAT, "--to", "near"),
        (
            Point("rename", STUB, BEFORE),  # that something may come to lie there is not noted
            Point("rename", STUB, AFTER),
            Point("write", "tiers/near/tmp/", HALFWAY),
            Point("link", NEAR, BEFORE),
            Point("link", NEAR, AFTER),  # copied, not verified
            Point("rename", STUB, BEFORE, 2),  # verified, and no stub says so
            Point("rename", STUB, AFTER, 2),
            Point("remove", PACK, BEFORE),
            Point("remove", PACK, AFTER),
        ),
        is_in("near"),
    ),
    Work(
        "recall",
        moves.away,
        ("tier", "recall", *WHAT),
        (
            Point("rename", "upkeep/recalls", BEFORE),
            Point("rename", "upkeep/recalls", AFTER),
            Point("write", "tmp/", HALFWAY, 2),
            Point("link", PACK, BEFORE),
            Point("link", PACK, AFTER),
            Point("rename", STUB, BEFORE),
            Point("rename", "upkeep/recalls", BEFORE, 2),
        ),
        is_hot,
    ),
    Work(
        "move on",
        moves.away,
        ("tier", "move", *WHAT, "--to", "second"),
        (
            Point("link", SECOND, AFTER),
            Point("rename", STUB, AFTER, 2),
            Point("rename", STUB, AFTER, 3),  # the copy that goes is not counted on any more
            Point("remove", NEAR, BEFORE),
            Point("remove", NEAR, AFTER),
            Point("rename", STUB, BEFORE, 4),
        ),
        is_in("second"),
    ),
    Work(
        "dispose",
        due,
        ("retain", "apply"),
        (
            Point("link", LOG, BEFORE),
            Point("link", LOG, AFTER),  # disposed of, and nothing deleted
            Point("commit", "index", BEFORE),
            Point("link", PACK, AFTER),  # a pack that takes over what is kept
            Point("rename", DOOMED, BEFORE),
            Point("rename", DOOMED, AFTER),
            Point("remove", PACK, AFTER),
            Point("remove", NEAR, BEFORE),
            Point("remove", NEAR, AFTER),
            Point("remove", DOOMED, BEFORE),
            Point("link", LOG, BEFORE, 2),
            Point("link", LOG, AFTER, 2),
        ),
        is_disposed,
    ),
    Work(
        "collect",
        garbage_away,
        ("collect", "--grace", "0"),
        (
            Point("rename", "upkeep/condemned", AFTER),
            Point("link", PACK, BEFORE),
            Point("link", PACK, AFTER),  # rewritten, and named by nothing
            Point("link", LOG, AFTER),
            Point("commit", "index", BEFORE),
            Point("rename", DOOMED, BEFORE),
            Point("rename", DOOMED, AFTER),
            Point("remove", NEAR, BEFORE),
            Point("remove", NEAR, AFTER),
            Point("remove", DOOMED, BEFORE),
        ),
        is_tidy,
    ),
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each work the lake that it begins with, apart from where it is used."""
    top = tmp_path_factory.mktemp("tier-kills")
    found = {}
    for work in WORKS:
        work.prepare(top / "lake", top / "scratch")
        found[work.name] = (top / "lake").rename(top / work.name)
    return found


def begin(prepared: dict[str, Path], work: Work) -> Path:
    """A fresh lake for a work, where the URLs of its tiers say."""
    lake = prepared[work.name].with_name("lake")
    shutil.rmtree(lake, ignore_errors=True)
    shutil.copytree(prepared[work.name], lake)
    return lake


def verify(lake: Path, work: Work) -> None:
    """All that was committed reads as it was, or was disposed of; the same command finishes the work."""
    for finished in (False, True):
        if finished:
            ctl(lake, *work.command)
        with Lake.open(lake) as opened:
            assert_no_errors(opened)
            for row, tree in zip(opened.versions(DATASET), (ONE, TWO), strict=True):
                assert row.disposed or read_version(opened, row) == tree
            assert not finished or work.done(opened)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_killed_commands(prepared: dict[str, Path], work: Work, tmp_path: Path) -> None:
    armed = tmp_path / "armed"
    armed.touch()
    for point in work.points:
        lake = begin(prepared, work)
        env = {"KILL_AT": str(point), "KILL_WHEN": str(armed)}
        done = run(KILLED_CTL, "--lake", lake, *work.command, env=env)
        tried("kills of commands")
        assert SAID in done.stderr, f"{work.name} did not come to {point}"
        verify(lake, work)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.name)
def test_killed_daemons(prepared: dict[str, Path], work: Work, tmp_path: Path) -> None:
    armed, mountpoint = tmp_path / "armed", tmp_path / "mnt"
    mountpoint.mkdir()
    for point in work.points:
        lake = begin(prepared, work)
        armed.unlink(missing_ok=True)
        try:
            with daemon(lake, mountpoint, point, armed) as mount:
                armed.touch()
                done = run(CTL, "--lake", lake, *work.command)
            tried("kills of the daemon")
            assert SAID in mount.said(), f"{work.name} did not come to {point}"
            assert done.returncode == 1 and done.stderr
        finally:
            clear_away(mountpoint, random.Random(str(point)))
            if kernel.is_mounted(mountpoint):
                kernel.unmount(mountpoint, lazy=True)
        verify(lake, work)
