"""dtafsctl tier move, recall, pin, plan, plan-read: without a daemon, and with one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dtafs.core.values import Kind
from dtafs.store.lake import Lake
from tests.cli.conftest import Commands
from tests.support.mounts import Mount
from tests.support.programs import ctl
from tests.support.small_lakes import Item
from tests.support.tiered import DATASET, add_tiers, configure, fill, random_tree

TREE = random_tree(1)


@pytest.fixture(params=["alone", "daemon"])
def tiered_ctl(
    request: pytest.FixtureRequest, lake_path: Path, mount: Callable[..., Mount]
) -> Commands:
    """`dtafsctl` on a lake with tiers and a version."""
    add_tiers(lake_path)
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", TREE, TREE)
    if request.param == "daemon":
        mount(lake_path)
    return Commands(lake_path)


def test_a_version_goes_and_comes_back(tiered_ctl: Commands) -> None:
    run = tiered_ctl
    assert "1 pack" in run("tier", "move", f"{DATASET}:v1", "--to", "cold")
    said = run("tier", "plan-read", f"{DATASET}:v1/file 0")
    assert "cold (archive): 1 pack" in said and "about 5.0 h" in said
    facts = run.json("tier", "plan-read", f"{DATASET}:v2")
    assert facts["must_recall"] and facts["places"][0]["tier"] == "cold"
    assert "archive tier 'cold'" in run.fails(7, "cat", f"{DATASET}:v1", "file 0")
    assert "Brought back 1 pack" in run("tier", "recall", DATASET)
    assert run("tier", "recall", DATASET) == "All of it is on the hot disk\n"
    assert ctl(run.lake, "cat", f"{DATASET}:v1", "file 1").stdout == TREE[b"file 1"].content
    stats = run.json("stats")["placement"]
    assert stats["hot"]["packs"] == 1 and stats["tiers"]["cold"]["packs"] == 1
    assert "In cold" in run("stats")


def test_a_plan_with_its_reasons(tiered_ctl: Commands) -> None:
    run = tiered_ctl
    assert run("tier", "plan") == "Everything lies where it should\n"
    assert run.json("tier", "plan")["steps"] == []


def test_a_plan_is_carried_out(lake_path: Path) -> None:
    add_tiers(lake_path, "\n[tiering]\nafter_days = 0\nsettle_hours = 0\n")
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", TREE)
    run = Commands(lake_path)
    said = run("tier", "plan")
    assert "move warm" in said and "nobody has read it for 0.0 hours" in said
    (step,) = run.json("tier", "plan")["steps"]
    assert step["tier"] == "warm" and len(step["pack"]) == 64
    assert "Moved 1 pack" in run("tier", "plan", "--apply")
    assert run("tier", "plan") == "Everything lies where it should\n"


def test_pins(tiered_ctl: Commands) -> None:
    run = tiered_ctl
    assert run("tier", "pin") == "Nothing is pinned\n"
    assert f"{DATASET}:v1  by " in run("tier", "pin", f"{DATASET}:v1")
    assert "pinned already" in run.fails(4, "tier", "pin", f"{DATASET}:v1")
    assert run.json("tier", "pin")["pins"][0]["version"] == 1
    run("tier", "pin", f"{DATASET}:v1", "--remove")
    assert "is not pinned" in run.fails(3, "tier", "pin", f"{DATASET}:v1", "--remove")


def test_bad_input(tiered_ctl: Commands) -> None:
    run = tiered_ctl
    assert "no tier 'wram'; did you mean 'warm'" in run.fails(
        3, "tier", "move", DATASET, "--to", "wram"
    )
    assert "there is no dataset" in run.fails(3, "tier", "recall", "WF-2024-08")
    assert "has no version v7" in run.fails(3, "tier", "plan-read", f"{DATASET}:v7/x")
    assert "has no path 'y/z'" in run.fails(3, "tier", "plan-read", f"{DATASET}:v1/y/z")
    run.fails(2, "tier", "move", DATASET)
    run.fails(2, "tier", "pin", "--remove")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("after_days = -1", "tiering.after_days is a number from 0 up"),
        ("high_water = 0.5", "are in ascending order"),
        ("every_s = 0", "every_s is not 0"),
        ("rate_mib = inf", "tiering.rate_mib is a number"),
        ("after_day = 3", "did you mean 'after_days'"),
    ],
)
def test_bad_settings(lake_path: Path, line: str, sentence: str) -> None:
    config = lake_path / "config.toml"
    config.write_text("[tiering]\n" + line + "\n")
    assert sentence in Commands(lake_path).fails(2, "stats")
    config.unlink()


def test_a_path_of_a_mount(lake_path: Path, mount: Callable[..., Mount]) -> None:
    add_tiers(lake_path)
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", TREE)
    mounted = mount(lake_path)
    run = Commands(lake_path)
    run("tier", "move", mounted / DATASET / "v1", "--to", "warm")
    facts = run.json("tier", "plan-read", mounted / DATASET / "latest" / "file 2")
    assert [place["tier"] for place in facts["places"]] == ["warm"]


def test_paths_that_are_not_utf8(lake_path: Path, mount: Callable[..., Mount]) -> None:
    """They are planned, pinned, shown in the catalog, and moved, without a mount and with one."""
    add_tiers(lake_path)
    name = b"a b\xff\xfe"
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", {name: Item(Kind.FILE, 0o644, b"content")})
    run, path = Commands(lake_path), f"{DATASET}:v1/{os.fsdecode(name)}"
    assert run("tier", "plan-read", path) == "hot: 1 pack, here\n"
    assert "a b" in run("tier", "pin", path)
    assert [pin["path"] for pin in run.json("tier", "pin")["pins"]] == [os.fsdecode(name)]
    mounted = mount(lake_path)
    shown = mounted / DATASET / "v1" / os.fsdecode(name)
    assert run("tier", "plan-read", shown) == "hot: 1 pack, here\n"
    assert b"pinned already" in ctl(lake_path, "tier", "pin", shown, exit_code=4).stderr
    with contextlib.closing(sqlite3.connect(mounted / ".dtafs/catalog.sqlite")) as db:
        assert db.execute("SELECT path FROM pins").fetchall() == [("a b\\xff\\xfe",)]
    assert run("tier", "pin", shown, "--remove") == "Nothing is pinned\n"


def test_a_path_that_no_pack_has(lake_path: Path, mount: Callable[..., Mount]) -> None:
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", TREE)
    mounted = mount(lake_path)
    run = Commands(lake_path)
    staged = run.fails(2, "tier", "plan-read", mounted / DATASET / "staging" / "file 0")
    assert "is in staging, which stays on this disk: name a version" in staged
    assert "is no dataset: name one" in run.fails(2, "tier", "plan-read", mounted.mountpoint)
    assert "is no dataset" in run.fails(2, "tier", "plan-read", mounted / ".dtafs" / "status")
    then = mounted / DATASET / "@2100-01-01T00:00Z" / "file 0"
    assert run("tier", "plan-read", then) == "hot: 1 pack, here\n"


def test_a_move_from_an_archive_says_that_it_must_be_recalled(tiered_ctl: Commands) -> None:
    tiered_ctl("tier", "move", DATASET, "--to", "cold")
    said = tiered_ctl.fails(7, "tier", "move", DATASET, "--to", "warm")
    assert "must be recalled first: dtafsctl tier recall DATASET:V/PATH" in said


def test_the_daemon_does_what_the_policy_says(lake_path: Path, mount: Callable[..., Mount]) -> None:
    add_tiers(lake_path)
    configure(
        lake_path,
        "\n[tiering]\nafter_days = 0\nsettle_hours = 0\nsize_min_kib = 0\nevery_s = 0.1\n",
    )
    mounted = mount(lake_path)
    (mounted / "D").mkdir()
    for name, item in TREE.items():
        (mounted / "D/staging" / name.decode()).write_bytes(item.content)
    run = Commands(lake_path)
    run("commit", "D", "-m", "first")
    for _ in range(600):
        if run.json("stats")["placement"]["away"]["packs"]:
            break
    else:
        pytest.fail("nothing was moved")
    for name, item in TREE.items():
        assert (mounted / "D/v1" / name.decode()).read_bytes() == item.content
