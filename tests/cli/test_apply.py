"""retain apply as a command: with a daemon and without one, and what users of the mount see of it."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from dtafs.core.names import format_time, parse_time
from dtafs.core.records import Cutoff, Rule, Ruled
from dtafs.store.lake import Lake
from tests.cli.conftest import Commands
from tests.support.mounts import Mount
from tests.support.programs import CTL, ROOT, command_line, ctl, environment
from tests.support.records import record
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed
from tests.support.tiered import add_tiers
from tests.support.traces import traces

D = "D"
LONG_AGO = ("2015-03-01T12:00Z", "2016-03-01T12:00Z", "2040-01-01")
AUTHORITY = ("--authority", "GRS 3.1 item 020", "--reason", "the schedule says so")


def now() -> str:
    return format_time(time.time_ns())


@pytest.fixture
def old_path(lake_path: Path, tmp_path: Path) -> Path:
    """A lake with tiers and a dataset of two old versions and a new one, and the clock not confirmed."""
    add_tiers(lake_path)
    with Lake.open(lake_path) as lake:
        real = lake.clock
        for seed, at in enumerate(LONG_AGO, 1):
            lake.clock = partial(parse_time, at) if seed < 3 else real
            if seed == 1:
                lake.create_dataset(D, ACTOR)
                record(lake, Ruled("note", Rule(Cutoff("committed", "900y"), "notify", "a habit")))
            put_tree(lake, D, tree_of_seed(seed), tmp_path / "scratch")
            commit(lake, D, f"number {seed}")
    return lake_path


@pytest.fixture(params=["alone", "daemon"])
def run(request: pytest.FixtureRequest, old_path: Path) -> Commands:
    if request.param == "daemon":
        request.getfixturevalue("mount")(old_path)
    return Commands(old_path)


def needles() -> list[bytes]:
    """What only the first version has."""
    return [
        tree_of_seed(1)[path].content[:40]
        for path in (b"dir/file 1", b"dir/file 3")
        if len(tree_of_seed(1)[path].content) >= 40
    ]


def rule(run: Commands, *what: str) -> None:
    run("retain", "rule", "add", "seven", "--after", "7y", *what, *AUTHORITY, "--datasets", "D*")


def test_the_clock_comes_first(run: Commands) -> None:
    rule(run, "--dispose")
    said = run.fails(5, "retain", "apply")
    assert "nothing is archived or disposed of" in said and "--confirm-clock" in said
    wrong = ctl(run.lake, "retain", "apply", "--confirm-clock", "2031-01-01", exit_code=5)
    assert b"set it right first" in wrong.stderr
    facts = run.json("retain", "apply", "--confirm-clock", now(), "--reason", "by the wall clock")
    assert facts["disposed"] == ["D:v1", "D:v2"]


def test_disposing(run: Commands) -> None:
    rule(run, "--dispose", "--approvals", "0")
    run("retain", "apply", "--confirm-clock", now())
    assert run("retain", "apply") == "Nothing is due\n"
    assert needles() and traces([run.lake], needles()) == []
    assert [v["disposed"] for v in run.json("ls", D)["versions"]] == [True, True, False]
    assert "GRS 3.1 item 020" in run("retain", "certificate", "D:v1")
    explained = run("retain", "explain", "D:v1")
    assert "State    disposed of" in explained and "Keep until" not in explained
    assert "no longer: it was disposed of by entry" in run("show", "D:v1")
    held = run.json("hold", "place", "late", D, "--matter", "m", "--reason", "too late for two")
    assert (held["versions"], held["disposed"]) == (1, 2)
    assert run.json("check", "--read-data")["sound"]
    assert "was not disposed of" in run.fails(3, "retain", "certificate", "D:v3")


def test_a_plan_says_what_it_frees(run: Commands) -> None:
    rule(run, "--dispose")
    freed = run.json("retain", "plan")["freed"]
    assert freed["chunks"] > 10 and freed["size_bytes"] > 10_000
    assert "that nothing else needs" in run("retain", "plan")
    assert run.json("retain", "plan", "--no-bytes")["freed"] is None
    assert run.json("retain", "plan", "--at", "2016-01-01")["freed"]["chunks"] == 0
    facts = run.json("retain", "apply", "--confirm-clock", now())
    gone = run.json("retain", "certificate", "D:v1")["destroyed"]["hot"]
    assert len(facts["disposed"]) == 2 and gone["size_bytes"] == freed["size_bytes"]


def test_a_plan_that_has_grown_stale(run: Commands) -> None:
    rule(run, "--dispose")
    run.json("retain", "apply", "--confirm-clock", now(), "--plan", "0" * 64, exit_code=4)
    plan = run.json("retain", "plan")["plan"]
    run("hold", "place", "case", "D:v1", "--matter", "Doe v. Roe", "--reason", "subpoena")
    assert "has grown stale" in run.fails(4, "retain", "apply", "--plan", plan)
    facts = run.json("retain", "apply", "--plan", run.json("retain", "plan")["plan"])
    assert facts["disposed"] == ["D:v2"] and [b["id"] for b in facts["blocked"]] == ["D:v1"]
    assert "hold 'case'" in run("retain", "apply")


def test_the_nightly_scheduler(run: Commands) -> None:
    """As the seed's own script prints it, and what it moves to the archive."""
    run("retain", "rule", "load", ROOT / "systemd" / "schedule.toml")
    said = run("retain", "apply", "--confirm-clock", now())
    assert said.splitlines() == ["📦 Archived D v1", "📦 Archived D v2"]
    assert run("retain", "apply") == "Nothing is due\n"
    assert list((run.lake.parent / "cold").glob("packs/*/*"))
    ctl(run.lake, "cat", "D:v3", "dir/file 1")
    assert run.json("check")["sound"]


def test_a_tier_that_is_gone(run: Commands) -> None:
    rule(run, "--archive", "cold")
    (run.lake.parent / "cold").rename(run.lake.parent / "away")
    said = run.json("retain", "apply", "--confirm-clock", now(), exit_code=1)
    assert said["not_archived"] and "next run goes on" in said["error"]["message"]
    (run.lake.parent / "away").rename(run.lake.parent / "cold")
    assert len(run.json("retain", "apply")["archived"]) == 2


def test_whoever_uses_the_mount_sees_it_go(old_path: Path, mount: Callable[..., Mount]) -> None:
    mounted = mount(old_path)
    first = mounted / D / "v1" / "dir" / "file 1"
    proof = mounted / ".dtafs" / "provenance" / D / "v1.txt"
    assert "dir/file 1" in proof.read_text()
    assert first.read_bytes() == tree_of_seed(1)[b"dir/file 1"].content
    os.listdir(mounted / D / "v1")
    run = Commands(old_path)
    rule(run, "--dispose")
    run("retain", "apply", "--confirm-clock", now())
    for call in (first.read_bytes, first.stat, lambda: os.listdir(mounted / D / "v1")):
        with pytest.raises(OSError) as raised:
            call()
        assert raised.value.errno == errno.ENODATA
    assert os.getxattr(mounted / D / "v1", "user.dtafs.disposed").startswith(b"entry ")
    assert "Certificate of disposition" in proof.read_text()
    assert "dir/file 1" not in proof.read_text()
    assert (mounted / D / "latest" / "dir" / "file 1").read_bytes()


def test_the_newest_version_under_a_mount(old_path: Path, mount: Callable[..., Mount]) -> None:
    mounted = mount(old_path)
    run = Commands(old_path)
    staging = mounted / D / "staging"
    assert (staging / "dir" / "file 1").read_bytes()
    run("retain", "rule", "add", "now", "--after", "0d", "--dispose", *AUTHORITY, "--datasets", "D")
    with (staging / "kept").open("wb") as held:
        held.write(b"uncommitted")
        assert "is open for writing by process" in run("retain", "apply", "--confirm-clock", now())
    said = run("retain", "apply", "--confirm-clock", now())
    assert "Kept D:v3: staging has uncommitted changes" in said
    run("discard", D)
    assert "Disposed of D:v3" in run("retain", "apply")
    assert os.listdir(staging) == []
    (staging / "fresh").write_bytes(b"new work")
    run("retain", "rule", "remove", "now", "--reason", "done")
    staging.rename(mounted / D / "v4")
    assert (mounted / D / "latest" / "fresh").read_bytes() == b"new work"


def test_twice_at_once(old_path: Path) -> None:
    rule(Commands(old_path), "--dispose")
    arguments = command_line(CTL, "--lake", old_path, "retain", "apply", "--confirm-clock", now())
    both = [
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    disposed = b"".join(out for out, _err in said).count(b"Disposed of D:v1")
    assert disposed == 1, said
    assert all(process.returncode in (0, 4) for process in both), said
    ctl(old_path, "retain", "apply")
