"""The real commands, killed with SIGKILL at random moments: a lake survives each of them.

Nothing is simulated here: what is lost is what was in the process. The lake is checked after every
kill, each version is read back, and what a finished command had promised must be there.
"""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from tests.crash.promises import assert_no_errors
from tests.support.disposing import needles_of
from tests.support.programs import CTL, command_line, ctl, environment, kill
from tests.support.small_lakes import Tree, commit, read_version, tree_of_seed, write_tree
from tests.support.traces import traces
from tests.support.tried import tried

DATASET = "killed"
CYCLES = 12
CYCLES_SOAK = 100
START_S = 0.12
"""About what a command takes before it touches the lake; most kills should come later."""


def run_and_kill(lake: Path, arguments: list[str], delay_s: float) -> bool:
    """Run a command and kill it after a while; True when it was done before."""
    process = subprocess.Popen(
        command_line(CTL, "--lake", str(lake), *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    try:
        return process.wait(delay_s) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        kill(process)
        tried("kills of commands")


def big_tree(seed: int) -> Tree:
    """Enough files for a command to take a while."""
    tree = tree_of_seed(seed)
    body = random.Random(seed).randbytes(2_000_000)
    for number in range(300):
        item = tree[b"big"]
        start = number * 5_000
        tree[b"file %03d" % number] = item._replace(content=body[start : start + 40_000])
    return tree


def test_killed_while_disposing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """`retain apply`, killed again and again: what it was told to dispose of goes in the end, and nothing
    else; a version is never half there."""
    soak = request.config.getoption("--soak")
    dice = random.Random("dispose")
    lake, scratch = tmp_path / "lake", tmp_path / "scratch"
    ctl(lake, "init")
    ctl(lake, "create", DATASET)
    trees = [big_tree(cycle) for cycle in range(CYCLES_SOAK // 10 if soak else 6)]
    for tree in trees:
        write_tree(tree, scratch)
        ctl(lake, "put", DATASET, f"{scratch}/.", "--delete", "--commit", "one")
    rule = ("retain", "rule", "add", "now", "--from", "superseded", "--after", "0d", "--dispose")
    ctl(lake, *rule, "--authority", "a test", "--datasets", "kill*")
    kills = 0
    while not run_and_kill(lake, ["retain", "apply"], START_S + dice.random() * kills / 10):
        kills += 1
        with Lake.open(lake) as opened:
            assert_no_errors(opened)
            for row, tree in zip(opened.versions(DATASET), trees, strict=True):
                assert row.disposed or read_version(opened, row) == tree
    assert kills
    with Lake.open(lake) as opened:
        assert_no_errors(opened)
        rows = opened.versions(DATASET)
        assert [bool(row.disposed) for row in rows] == [True] * (len(rows) - 1) + [False]
        assert read_version(opened, rows[-1]) == trees[-1]
    for tree in trees[:-1]:
        assert traces([lake], needles_of(tree, trees[-1])) == []


@pytest.mark.parametrize("command", ["put", "commit", "tag", "reindex", "collect", "repair"])
def test_killed_at_random(command: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    soak = request.config.getoption("--soak")
    dice = random.Random(command)
    lake, scratch = tmp_path / "lake", tmp_path / "scratch"
    ctl(lake, "init", *(["--parity", "2%"] if command == "repair" else []))
    ctl(lake, "create", DATASET)
    versions: list[Tree] = []
    longest_s = 0.6
    for cycle in range(CYCLES_SOAK if soak else CYCLES // 2):
        tree = big_tree(cycle)
        if command == "collect":  # half of what this stages is garbage once the other is staged too
            write_tree(big_tree(cycle + 1_000), scratch)
            ctl(lake, "put", DATASET, f"{scratch}/.")
            write_tree(tree, scratch)
            ctl(lake, "put", DATASET, f"{scratch}/file 000", f"{scratch}/file 001")
        write_tree(tree, scratch)
        if command != "put":
            ctl(lake, "put", DATASET, f"{scratch}/.", "--delete")
        if command in ("tag", "reindex", "collect", "repair"):
            ctl(lake, "commit", DATASET, "-m", str(cycle))
            versions.append(tree)
        arguments = {
            "put": ["put", DATASET, f"{scratch}/.", "--delete"],
            "commit": ["commit", DATASET, "-m", str(cycle)],
            "tag": ["tag", f"{DATASET}:latest", f"tag{cycle}"],
            "reindex": ["reindex"],
            "collect": ["collect", "--grace", "0"],
            "repair": ["repair"],
        }[command]
        if command == "repair":
            _damage(lake, dice)
        started_s = time.monotonic()
        if command == "collect" and dice.random() < 0.3:
            ctl(lake, "collect")  # rewrites; what is killed then is the deleting
        done = run_and_kill(lake, arguments, START_S + dice.random() * longest_s)
        if done:
            longest_s = min(longest_s, time.monotonic() - started_s)
        if command == "repair" and not done:
            ctl(lake, "repair")
        with Lake.open(lake) as opened:
            assert_no_errors(opened)
            _verify(opened, command, done, tree, versions, cycle)


def _damage(lake: Path, dice: random.Random) -> None:
    """What parity can mend, in every pack."""
    for file in (lake / "packs").glob("*/*"):
        data = bytearray(file.read_bytes())
        start = dice.randrange(len(data))
        data[start : start + len(data) // 100] = bytes(len(data[start : start + len(data) // 100]))
        data[start] ^= 1
        file.unlink()
        file.write_bytes(data)


def _verify(
    lake: Lake, command: str, done: bool, tree: Tree, versions: list[Tree], cycle: int
) -> None:
    rows = lake.versions(DATASET)
    if command == "commit":
        assert len(rows) >= len(versions) + done
        if len(rows) > len(versions):
            assert lake.staging(DATASET).is_clean()
        else:
            rows.append(commit(lake, DATASET, "after the kill"))
        versions.append(tree)
    elif command == "put" and done:
        rows.append(commit(lake, DATASET, "after the put"))
        versions.append(tree)
    elif command == "tag" and done:
        assert lake.resolve(f"{DATASET}:tag{cycle}").number == len(versions)
    assert len(rows) == len(versions)
    for row, expected in list(zip(rows, versions, strict=True))[-2:]:
        assert read_version(lake, row) == expected
