"""The scripts of the checkout, and that the package holds what the checkout does."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from scripts import firesensor, sample_data
from tests.support import programs
from tests.support.mounts import end_daemon_of
from tests.support.programs import ROOT
from tests.support.trees import tree_of

SHELL_SCRIPTS = sorted(
    path
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]
    if path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env bash")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TOUR_LIMIT_S = 300
FIRESENSOR_SHA256 = "60cade301b79e888cbc54bed7a3ee0b4e165358fd165f4a60985787fac4cc6b0"


def script(name: str, *arguments: object, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a script as a user would; its exit code and all that it said."""
    done = subprocess.run(
        [str(ROOT / "scripts" / name), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=programs.environment(env),
        timeout=TOUR_LIMIT_S,
        check=False,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("path", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_parse_and_can_be_run(path: Path) -> None:
    assert os.access(path, os.X_OK)
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["setup", "quickstart", "test"])
def test_help_and_unknown_options(name: str) -> None:
    code, said = script(name, "--help")
    assert code == 0
    assert f"scripts/{name}" in said
    if name != "test":  # that one hands unknown options to pytest
        code, said = script(name, "--no-such-option")
        assert code == 2
        assert "--no-such-option" in said


def test_setup_returns_at_once_when_nothing_has_changed() -> None:
    code, said = script("setup")
    assert code == 0, said
    assert said == ""


ON_A_MACHINE = (
    *("bash", "dirname", "gcc", "pkg-config", "fusermount3", "setfattr", "sqlite3", "git", "make"),
    *("vim", "unzip", "patch", "systemd-analyze"),
)
"""What `scripts/setup` runs or looks for, but for rsync."""


@pytest.mark.parametrize(
    ("uid", "has_apt", "said"),
    [
        (1000, True, "    sudo apt-get update && sudo apt-get install rsync\n"),
        (0, False, "(the names are Debian's) install them with this system's package manager"),
    ],
)
def test_setup_says_what_to_install(tmp_path: Path, uid: int, has_apt: bool, said: str) -> None:
    """On a machine without rsync, by somebody who is not root or who has no apt."""
    for name in ON_A_MACHINE:
        found = shutil.which(name)
        assert found, name
        (tmp_path / name).symlink_to(found)
    fakes = {"id": f"echo {uid}", **({"apt-get": "exit 9"} if has_apt else {})}
    for name, does in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    code, printed = script("setup", env={"PATH": str(tmp_path), "DTAFS_PYTHON": sys.executable})
    assert code == 1
    assert printed.startswith("setup: these are missing: rsync\n") and said in printed
    assert len(printed.splitlines()) <= 3


def test_packages_are_listed() -> None:
    """pyproject.toml lists packages by hand, so that hms_dta can lie below dtafs/."""
    found = {
        ".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("dtafs/**/__init__.py")
    }
    found = {"hms_dta" if name == "dtafs.hms_dta" else name for name in found}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_commands_of_the_package_exist() -> None:
    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_wheels_are_unpacked_with_their_modes(tmp_path: Path) -> None:
    archive = tmp_path / "a.whl"
    with zipfile.ZipFile(archive, "w") as target:
        for name, mode in (("data/readings.csv", 0o640), ("run.sh", 0o755)):
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            target.writestr(member, name)
    sample_data.unpack(archive, tmp_path / "tree")
    seen = tree_of(tmp_path / "tree")
    assert seen.keys() == {b"data", b"data/readings.csv", b"run.sh"}
    assert seen[b"data/readings.csv"].mode == 0o640
    assert seen[b"run.sh"].mode == 0o755


def test_published_sets_are_in_order() -> None:
    for name, published in sample_data.PUBLISHED.items():
        numbers = [tuple(map(int, release.split("."))) for release in published.releases]
        assert numbers == sorted(set(numbers)), name


def test_a_set_that_is_there_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, sample_data.count_of("pvlib") + 1):
        (tmp_path / "pvlib" / f"v{number}").mkdir(parents=True)
    monkeypatch.setenv("DTAFS_DATA", str(tmp_path))
    assert sample_data.fetch("pvlib", newest=2) == [tmp_path / "pvlib/v2", tmp_path / "pvlib/v3"]
    monkeypatch.delenv("DTAFS_DATA")
    assert sample_data.fetch("pvlib", tmp_path)[0] == tmp_path / "pvlib/v1"


def test_firesensor_is_the_same_everywhere(tmp_path: Path) -> None:
    for number in range(1, 5):
        firesensor.write_version(tmp_path, number, stations=8, days=6)
    digest = hashlib.sha256()
    for name, seen in sorted(tree_of(tmp_path).items()):
        digest.update(name + seen.content.encode())
    assert digest.hexdigest() == FIRESENSOR_SHA256


def test_firesensor_versions_change_as_described(tmp_path: Path) -> None:
    for number in range(1, 5):
        firesensor.write_version(tmp_path, number, stations=8, days=6)

    def rows(version: int, station: int) -> list[str]:
        path = tmp_path / f"v{version}" / "readings" / f"station-{station:03d}.csv"
        return path.read_text().splitlines()

    day = firesensor.MINUTES
    assert len(rows(1, 0)) == 1 + 6 * day
    assert len(rows(2, 0)) == len(rows(1, 0)) + firesensor.DAYS_PER_VERSION * day
    assert rows(2, 8)[1].startswith("2025-06-01T00:00:00Z,S008,")
    # Station 2 is corrected in version 2: one day in the middle, its PM2.5 only.
    pairs = [(a, b) for a, b in zip(rows(1, 2), rows(2, 2), strict=False) if a != b]
    assert 0 < len(pairs) <= day
    assert {a[:10] for a, _ in pairs} == {pairs[0][0][:10]}
    assert all(a.split(",")[:5] == b.split(",")[:5] for a, b in pairs)
    late = [row for row in rows(4, 5) if "L,S005," in row]
    assert len(late) == day // 10
    assert not any("L,S" in row for row in rows(4, 0))


@pytest.fixture
def tour(tmp_path: Path) -> Path:
    return tmp_path / "a tour"


def test_quickstart_from_start_to_end(tour: Path) -> None:
    """The README's first command, with a blank in its path; then again; then down."""
    try:
        code, said = script("quickstart", tour)
        assert code == 0, said
        for step in ("dtafsctl commit", "dtafsctl diff", "dtafsctl export", "dtafsctl verify"):
            assert f"$ {step}" in said, said
        assert "earth-rotation:v4" in said
        assert "Traceback" not in said
        dataset = tour / "mnt" / "earth-rotation"
        assert sorted(os.listdir(dataset)) == ["latest", "raw", "staging", "v1", "v2", "v3", "v4"]
        code, said = script("quickstart", tour)
        assert code == 0, said
        assert "was made before" in said
        (tour / "mine.txt").write_text("not of the tour")
        code, said = script("quickstart", "--down", tour)
        assert code == 0, said
    finally:
        end_daemon_of(tour / "lake", tour / "mnt")
    assert os.listdir(tour) == ["mine.txt"]


def test_quickstart_touches_nothing_that_is_not_its_own(tour: Path) -> None:
    tour.mkdir()
    (tour / "mine.txt").write_text("not of the tour")
    code, said = script("quickstart", tour)
    assert code == 1
    assert "is not empty" in said
    code, said = script("quickstart", "--down", tour)
    assert code == 1
    assert "was not made by" in said
    assert os.listdir(tour) == ["mine.txt"]


def test_the_drill(tmp_path: Path) -> None:
    """A lake is lost and restored with real data and a real server; its temporary directory is gone."""
    code, said = script("drill", env={"TMPDIR": str(tmp_path)})
    assert code == 0, said
    assert "\nidentical\n" in said and "The lake is sound" in said
    assert "The drill has succeeded" in said
    assert not list(tmp_path.iterdir())
