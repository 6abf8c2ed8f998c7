"""repair and init --parity, as commands, with and without a daemon."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Commands
from tests.support.programs import ctl, ctl_json


@pytest.fixture
def sealed(commands: Commands, tmp_path: Path) -> Commands:
    """A lake with a version of one large file and a small one."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(900_000))
    (source / "small").write_bytes(b"small")
    commands("create", "D")
    commands("put", "D", f"{source}/.")
    commands("commit", "D", "-m", "First")
    return commands


def largest_pack(lake: Path) -> Path:
    return max((lake / "packs").glob("*/*"), key=lambda file: file.stat().st_size)


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


@pytest.mark.damages_lake
def test_what_is_lost_is_named(sealed: Commands, tmp_path: Path) -> None:
    assert "Nothing is lost" in sealed("repair")
    whole = tmp_path / "whole"
    shutil.copytree(sealed.lake, whole, ignore=shutil.ignore_patterns("run"))
    flip(largest_pack(sealed.lake), 300_000)
    planned = sealed("repair", "--dry-run", exit_code=6)
    assert "would be replaced" in planned and "LOST" in planned
    told = sealed("repair", exit_code=6)
    assert "replaced  packs/" in told and "to quarantine/packs/" in told
    assert "    large  bytes " in told and "  D:v1" in told
    assert sealed("cat", "D:v1", "small") == "small"
    ctl(sealed.lake, "cat", "D:v1", "large", exit_code=6)
    facts = sealed.json("repair", exit_code=6)
    assert facts["error"]["kind"] == "integrity"
    assert facts["lost"][0]["affects"][0]["paths"][0]["path"] == "large"
    report = sealed.lake / facts["lost"][0]["report"]
    assert json.loads(report.read_bytes())["affects"] == facts["lost"][0]["affects"]
    assert sealed.json("stats")["quarantine_bytes"] > 900_000
    assert "Nothing is lost" in sealed("repair", "--from", whole)
    assert sealed.json("check", "--read-data")["sound"]
    assert "written in their place 1" in sealed("log", "D")


def test_from_another_lake(sealed: Commands, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(sealed.lake, whole, ignore=shutil.ignore_patterns("run"))
    pack = largest_pack(sealed.lake)
    pack.unlink()
    (sealed.lake / "log" / "D" / "0000000002").unlink()
    text = sealed("repair", "--from", whole.name, cwd=tmp_path)
    assert f"mended    packs/{pack.parent.name}/{pack.name}  from lake {whole}" in text
    assert "mended    log/D/0000000002" in text
    assert sealed.json("check", "--read-data")["findings"] == []


@pytest.mark.parametrize("share", ["2%", "10"])
def test_parity(tmp_path: Path, share: str) -> None:
    lake, source = tmp_path / "lake", tmp_path / "source"
    source.write_bytes(os.urandom(700_000))
    assert ctl_json(lake, "init", "--parity", share)["parity_percent"] == int(share.rstrip("%"))
    ctl(lake, "create", "D")
    ctl(lake, "put", "D", source)
    ctl(lake, "commit", "D", "-m", "First")
    pack = largest_pack(lake)
    with pack.open("rb+") as file:
        file.truncate(pack.stat().st_size - 7_000)
    ctl(lake, "check", exit_code=6)
    ctl(lake, "cat", "D:v1", "source", exit_code=6)
    assert b"from parity" in ctl(lake, "repair").stdout
    shutil.rmtree(lake / "parity")
    assert b"without parity: run dtafsctl repair" in ctl(lake, "check").stdout
    assert b"Parity of 3 packs would be made" in ctl(lake, "repair", "--dry-run").stdout
    assert b"Parity of 3 packs made" in ctl(lake, "repair").stdout
    assert ctl_json(lake, "check", "--read-data")["findings"] == []
    assert ctl_json(lake, "stats")["parity_files"] == 3


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["init", "--parity", "0%"], 2),
        (["init", "--parity", "50%"], 2),
        (["repair", "--from", "/nowhere"], 2),
        (["repair", "--from", "."], 2),
    ],
)
def test_bad_options(alone: Commands, options: list[str], code: int) -> None:
    alone.fails(code, *options, cwd=alone.lake)


def test_repair_of_no_lake(tmp_path: Path) -> None:
    ctl(tmp_path / "nothing", "repair", exit_code=3)
