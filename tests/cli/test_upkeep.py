"""collect, and check with its memory, as commands."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.cli.conftest import Commands
from tests.support.programs import ctl


@pytest.fixture
def garbage(commands: Commands, tmp_path: Path) -> Commands:
    """A lake with a version, and a pack of which most is garbage."""
    source = tmp_path / "source"
    source.mkdir()
    commands("create", "D")
    dice = random.Random(
        1
    )  # where chunks end decides how many packs there are: both files have several
    (source / "kept").write_bytes(dice.randbytes(100_000))
    (source / "waste").write_bytes(dice.randbytes(500_000))
    commands("put", "D", f"{source}/.")
    (source / "waste").unlink()
    commands("put", "D", f"{source}/.", "--delete")
    commands("commit", "D", "-m", "First")
    return commands


def test_collect(garbage: Commands) -> None:
    planned = garbage("collect", "--dry-run")
    assert "rewrite " in planned and "% of it is needed by nothing" in planned
    assert "2 packs" in planned and "would be rewritten" in planned
    facts = garbage.json("collect")
    assert facts["rewritten"]["packs"] == 2 and facts["grace_s"] == 7 * 86_400
    assert {pack["action"] for pack in facts["packs"]} == {"rewrite"}
    waiting = garbage("collect")
    assert "waiting for the end of the grace period" in waiting and "(due 2" in waiting
    assert "2 packs" in garbage("collect", "--grace", "0")
    assert "collected: packs removed 1, written in their place 1" in garbage("log", "D")
    assert garbage.json("check", "--read-data")["findings"] == []


def test_verification_is_remembered(garbage: Commands) -> None:
    assert garbage.json("stats")["verified"]["never"] == 3
    assert "never: 3 of 3 packs" in garbage("show", "D:v1", "--verified")
    assert garbage.json("check", "--read-data", "--max-age", "30d")["read"]["packs"] == 3
    read = garbage.json("check", "--read-data", "--max-age", "30d", "--rate", "1G")["read"]
    assert (read["packs"], read["skipped"]) == (0, 3)
    facts = garbage.json("show", "D:v1", "--verified")["verified"]
    assert facts["never"] == 0 and facts["oldest"]
    assert "Verified     since 2" in garbage("show", "D:v1", "--verified")
    assert "Data verified" in garbage("stats")


@pytest.mark.parametrize(
    "options",
    [
        ["check", "--max-age", "30d"],
        ["check", "--rate", "1M"],
        ["check", "--read-data", "--max-age", "soon"],
        ["check", "--read-data", "--rate", "0"],
        ["check", "--read-data", "--rate", "fast"],
        ["collect", "--grace", "7"],
    ],
)
def test_bad_options(commands: Commands, options: list[str]) -> None:
    done = ctl(commands.lake, *options, exit_code=2)
    assert done.stderr.count(b"\n") == 1
