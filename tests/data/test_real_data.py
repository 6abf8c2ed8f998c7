"""Real data, through every way in and every way out, byte for byte.

Each version of a set is copied into staging on a real mount (the first by `cp -a`, the others by
`rsync -a --delete`) and committed; then all of them are compared with the originals: through the
mount, after it was unmounted and mounted again, through an export, and after the index was deleted
and rebuilt. By default a few small versions; with --soak all versions of the four sets.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from scripts import firesensor, sample_data
from tests.support import programs
from tests.support.mounts import Mount, mounted
from tests.support.trees import Seen, assert_same_tree, tree_of

DATASET = "real-data"
SOAK_LIMIT_S = 3_600.0

Trees = list[dict[bytes, Seen]]


def small_iers() -> list[Path]:
    return sample_data.fetch("iers", newest=3)


def part_of_botocore(top: Path) -> list[Path]:
    """Two releases, of each the services that start with an a: most files are unchanged."""
    parts = []
    for release in sample_data.fetch("botocore", newest=2):
        part = top / f"part-{release.name}"
        for directory in (release / "botocore" / "data").glob("a*"):
            copy(directory, part / directory.name, ["-a"])
        parts.append(part)
    return parts


def copy(source: Path, target: Path, options: Iterable[str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", *options, str(source), str(target)], check=True)


def make_interesting(tree: Path) -> None:
    """What published files lack: odd modes, times, names, links, an empty and a sparse file."""
    odd = tree / "odd"
    odd.mkdir()
    (odd / "empty").touch()
    (odd / "mode").write_bytes(b"#!/bin/sh\n")
    (odd / "mode").chmod(0o4751)
    (odd / "old").write_bytes(b"before the epoch")
    os.utime(odd / "old", ns=(-1_500_000_001, -1_500_000_001))
    (odd / "link").symlink_to("mode")
    (odd / "twin").hardlink_to(odd / "mode")
    (odd / os.fsdecode(b"\xff name\n")).write_bytes(b"any byte but / and NUL")
    with (odd / "sparse").open("wb") as stream:
        stream.seek(3 << 20)
        stream.write(b"the end")
    (odd / "private").mkdir(mode=0o700)
    os.utime(odd, ns=(1, 1_234_567_890_123_456_789))


def stage(tree: Path, staging: Path, number: int) -> None:
    """Make staging equal to a tree: the first version by cp, the others by rsync.

    Without the modify window, rsync compares times by the second, and files that were unpacked in
    the same second and are of one size would pass for unchanged.
    """
    if number == 1:
        copy(tree / ".", staging, ["-a", "-T"])
    else:
        options = ["-a", "--hard-links", "--delete", "--modify-window=-1"]
        subprocess.run(["rsync", *options, f"{tree}/", f"{staging}/"], check=True)


def commit_all(mount: Mount, trees: list[Path]) -> Trees:
    """Commit every version; what each should look like from then on."""
    dataset = mount / DATASET
    dataset.mkdir()
    originals = []
    for number, tree in enumerate(trees, 1):
        stage(tree, dataset / "staging", number)
        made = programs.ctl_json(mount.lake, "commit", DATASET, "-m", f"version {number}")
        assert made["id"] == f"{DATASET}:v{number}"
        originals.append(tree_of(tree))
    return originals


def assert_versions(dataset: Path, originals: Trees) -> None:
    for number, original in enumerate(originals, 1):
        assert_same_tree(original, tree_of(dataset / f"v{number}"))


def assert_exports(lake: Path, originals: Trees, top: Path) -> None:
    """Export every version as a directory and compare; its checksums satisfy sha256sum -c."""
    for number, original in enumerate(originals, 1):
        target = top / f"export-{number}"
        programs.ctl(lake, "export", f"{DATASET}:v{number}", "--to", "dir", target)
        done = subprocess.run(
            ["sha256sum", "--quiet", "-c", "manifest-sha256.txt"],
            cwd=target,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert_same_tree(original, tree_of(target / "data"))
        shutil.rmtree(target)


def round_trip(lake: Path, trees: list[Path], top: Path, limit_s: float = 300.0) -> None:
    """Everything that this module promises, for one set of versions."""
    with mounted(lake, top / "mnt", limit_s=limit_s) as mount:
        originals = commit_all(mount, trees)
        assert_versions(mount / DATASET, originals)
    with mounted(lake, top / "mnt", limit_s=limit_s) as mount:
        assert_versions(mount / DATASET, originals)
        assert_same_tree(originals[-1], tree_of(mount / DATASET / "staging"))
    assert_exports(lake, originals, top)
    before = hashes(lake)
    shutil.rmtree(lake / "index")
    programs.ctl(lake, "reindex")
    assert hashes(lake) == before
    with mounted(lake, top / "mnt", limit_s=limit_s) as mount:
        assert_versions(mount / DATASET, originals)


def hashes(lake: Path) -> str:
    """All that the log says, with the hash of every version, as one text to compare."""
    return json.dumps(programs.ctl_json(lake, "log", DATASET), sort_keys=True)


def test_weekly_observations(lake_path: Path, tmp_path: Path) -> None:
    trees = []
    for release in small_iers():
        trees.append(tmp_path / release.name)
        copy(release, trees[-1], ["-a"])
    make_interesting(trees[1])
    round_trip(lake_path, trees, tmp_path)


def test_many_small_files(lake_path: Path, tmp_path: Path) -> None:
    round_trip(lake_path, part_of_botocore(tmp_path), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", sample_data.SETS)
def test_whole_set(name: str, lake_path: Path, tmp_path: Path) -> None:
    round_trip(lake_path, sample_data.fetch(name), tmp_path, SOAK_LIMIT_S)


def test_tools_of_data_people(lake_path: Path, mount: Callable[..., Mount], tmp_path: Path) -> None:
    """pandas and DuckDB read a sealed version through the mount as they read any directory."""
    import duckdb
    import pandas

    firesensor.write_version(tmp_path / "fire", 1, stations=3, days=2)
    there = mount(lake_path)
    dataset = there / DATASET
    dataset.mkdir()
    copy(tmp_path / "fire" / "v1" / ".", dataset / "staging", ["-a", "-T"])
    programs.ctl(lake_path, "commit", DATASET, "-m", "readings")
    frame = pandas.read_csv(dataset / "v1" / "readings" / "station-001.csv")
    assert len(frame) == 2 * firesensor.MINUTES
    pattern = dataset / "v1" / "readings" / "*.csv"
    with duckdb.connect() as database:
        found = database.sql(f"SELECT count(*), round(avg(temp_c), 6) FROM '{pattern}'").fetchall()
        plain = str(tmp_path / "fire" / "v1" / "readings" / "*.csv")
        assert (
            found
            == database.sql(f"SELECT count(*), round(avg(temp_c), 6) FROM '{plain}'").fetchall()
        )
    parquet = dataset / "staging" / "clean.parquet"
    frame.to_parquet(parquet)
    assert pandas.read_parquet(parquet).equals(frame)
