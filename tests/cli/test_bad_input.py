"""Bad input: one clear sentence on stderr, the documented exit code, the same in JSON, no change."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dtafs.cli.base import run_program
from dtafs.cli.commands import ctl
from dtafs.errors import RefusedError
from dtafs.store.lake import Lake
from tests.cli.conftest import Commands
from tests.support.evidence import make_tree
from tests.support.lakes import assert_sound
from tests.support.programs import CTL, command_line, environment, run

Arguments = tuple[object, ...]


@pytest.fixture
def filled(commands: Commands, tree: Path) -> Commands:
    """A lake whose dataset WF-2024-07 has v1, tagged raw."""
    commands("create", "WF-2024-07", "--tag", "raw")
    commands("put", "WF-2024-07", f"{tree}/.")
    commands("commit", "WF-2024-07", "-m", "First")
    return commands


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """The same without a daemon, for all the calls that must change nothing."""
    top = tmp_path_factory.mktemp("standing")
    make_tree(top / "tree")
    commands = Commands(top / "lake")
    commands("init")
    commands("create", "WF-2024-07", "--tag", "raw")
    commands("put", "WF-2024-07", f"{top}/tree/.")
    commands("commit", "WF-2024-07", "-m", "First")
    return commands


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (2, ("create", ""), "cannot be empty"),
        (2, ("create", "."), "cannot begin with a dot"),
        (2, ("create", "a/b"), "cannot contain '/'"),
        (2, ("create", "a:b"), "cannot contain ':'"),
        (2, ("create", ".dtafs"), "dtafs"),
        (2, ("create", "lost+found"), "reserved"),
        (2, ("create", "x" * 201), "at most 200 bytes"),
        (2, ("create", "X", "--tag", "v7"), "looks like a version"),
        (2, ("create", "X", "--tag", "latest"), "a meaning of its own"),
        (4, ("create", "WF-2024-07"), "exists already"),
        (3, ("ls", "WF-2024-7"), "did you mean 'WF-2024-07'?"),
        (3, ("show", "wf-2024-07"), "did you mean 'WF-2024-07'?"),
        (3, ("show", "WF-2024-07:v9"), "the newest is v1"),
        (3, ("show", "WF-2024-07:rwa"), "did you mean 'raw'?"),
        (2, ("show", "WF-2024-07:v01"), "versions are written v1"),
        (3, ("show", "WF-2024-07@1999-01-01"), "had no version at 1999"),
        (2, ("show", "WF-2024-07@yesterday"), "not a time"),
        (3, ("cat", "WF-2024-07:v1", "a.cvs"), "did you mean 'a.csv'"),
        (3, ("cat", "WF-2024-07:v1", "a.csv/x"), "not a directory"),
        (2, ("cat", "WF-2024-07:v1", "sub"), "is a directory, not a file"),
        (2, ("cat", "WF-2024-07:v1", "../x"), "not a path inside a dataset"),
        (3, ("diff", "WF-2024-07:v1"), "is the first version"),
        (3, ("put", "WF-2024-7", "."), "did you mean 'WF-2024-07'?"),
        (3, ("put", "WF-2024-07", "/no/such"), "'/no/such': No such file"),
        (5, ("put", "WF-2024-07", "/dev/null"), "'/dev/null' is a char device"),
        (2, ("put", "WF-2024-07", "/etc/hostname", "--into", "../x"), "not a path inside"),
        (5, ("commit", "WF-2024-07", "-m", "again"), "nothing to commit"),
        (2, ("commit", "WF-2024-07"), "missing option"),
        (2, ("tag", "WF-2024-07:v1", "v3"), "looks like a version"),
        (3, ("tag", "WF-2024-07:v1", "rwa", "--remove"), "did you mean 'raw'?"),
        (3, ("status", "nothing"), "no dataset 'nothing'"),
        (3, ("discard", "nothing"), "no dataset 'nothing'"),
        (3, ("export", "WF-2024-07:v2", "--to", "zip", "x.zip"), "the newest is v1"),
        (2, ("export", "WF-2024-07:v1", "--to", "rar", "x.rar"), "is not one of"),
        (2, ("export", "WF-2024-07:v1", "--to", "zip", "/no/such/x.zip"), "no directory"),
        (2, ("export", "WF-2024-07:v1", "--to", "tar", "--store", "x"), "--store is for a zip"),
        (2, ("verify",), "name an export to verify"),
        (2, ("verify", "x.zip", "--all"), "name an export to verify"),
        (3, ("verify", "/no/such.zip"), "does not exist"),
        (2, ("verify", "/etc/passwd"), "neither a zip, a tar nor a directory"),
        (2, ("lss",), "did you mean"),
        (2, ("ls", "--lnog"), "no such option"),
    ],
    ids=lambda value: " ".join(map(str, value))[:40] if isinstance(value, tuple) else None,
)
def test_one_sentence_and_the_exit_code(
    standing: Commands, code: int, arguments: Arguments, said: str, tmp_path: Path
) -> None:
    sentence = standing.fails(code, *arguments, cwd=tmp_path)
    assert said in sentence, sentence
    assert os.listdir(tmp_path) == []


def test_none_of_that_changed_anything(standing: Commands) -> None:
    assert [entry["kind"] for entry in standing.json("log")["entries"]] == ["created", "committed"]
    assert standing.json("status", "WF-2024-07")["changes"] == []
    assert_sound(standing.lake)


@pytest.mark.parametrize(
    ("code", "arguments", "said"),
    [
        (4, ("create", "WF-2024-07"), "exists already"),
        (2, ("create", "a/b"), "cannot contain '/'"),
        (3, ("put", "WF-2024-07", "/no/such"), "'/no/such': No such file"),
        (3, ("put", "nothing", "/etc"), "no dataset 'nothing'"),
        (5, ("commit", "WF-2024-07", "-m", "again"), "nothing to commit"),
        (2, ("commit", "WF-2024-07", "-m", "m", "--tag", "v3"), "looks like a version"),
        (3, ("tag", "WF-2024-07:v1", "rwa", "--remove"), "did you mean 'raw'?"),
        (3, ("status", "nothing"), "no dataset 'nothing'"),
        (3, ("discard", "nothing"), "no dataset 'nothing'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_a_daemon_says_the_same(
    filled: Commands, code: int, arguments: Arguments, said: str
) -> None:
    assert said in filled.fails(code, *arguments)


def test_lakes_that_are_none(tmp_path: Path) -> None:
    none = Commands(tmp_path / "none")
    assert f"dtafsctl --lake {tmp_path / 'none'} init" in none.fails(3, "ls")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    other = Commands(tmp_path / "other")
    assert "is not a lake" in other.fails(3, "create", "D")
    assert "is not empty" in other.fails(4, "init")
    assert "is not a directory" in Commands(tmp_path / "other" / "file").fails(3, "ls")
    lake = Commands(tmp_path / "lake")
    lake("init")
    assert "is a lake already" in lake.fails(4, "init")


def test_a_lake_that_was_half_made_can_be_finished(tmp_path: Path) -> None:
    lake = Commands(tmp_path / "lake")
    for folder in ("packs", "keys", "run"):
        (tmp_path / "lake" / folder).mkdir(parents=True)
    assert "was interrupted" in lake.fails(3, "ls")
    lake("init")
    assert lake("ls") == ""


@pytest.mark.damages_lake
def test_a_newer_lake_says_what_is_missing(alone: Commands) -> None:
    path = alone.lake / "lake.json"
    block = json.loads(path.read_text())
    path.chmod(0o644)

    def write(**changes: object) -> None:
        text = json.dumps({**block, **changes}, sort_keys=True, separators=(",", ":"))
        path.write_text(text + "\n")

    write(required=["time-travel"])
    assert "requires time-travel" in alone.fails(1, "ls")
    write(format=2)
    assert "has format 2" in alone.fails(1, "ls")
    write(created="2020-01-01T00:00:00.000000000Z")
    assert "signature of lake.json does not verify" in alone.fails(6, "ls")
    path.write_text(path.read_text()[:40])
    assert "lake.json is damaged" in alone.fails(6, "ls")


def test_a_second_writer_is_named(alone: Commands) -> None:
    with Lake.open(alone.lake):
        sentence = alone.fails(4, "create", "D")
    assert f"in use by process {os.getpid()} " in sentence


def test_reading_goes_on_while_another_process_writes(alone: Commands) -> None:
    alone("create", "D")
    with Lake.open(alone.lake):
        assert alone("ls").splitlines()[1].startswith("D ")
        assert len(alone("log").splitlines()) == 1


def test_an_export_without_permission_to_write(
    alone: Commands, tree: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Somebody who may only read the lake gets the export; that it is not recorded is said."""
    alone("create", "D")
    alone("put", "D", f"{tree}/.")
    alone("commit", "D", "-m", "First")
    opening = Lake.open

    def read_only(path: Path, *, write: bool = True, **how: Any) -> Lake:
        if write:
            raise RefusedError("the disk is read-only")
        return opening(path, write=False, **how)

    monkeypatch.setattr(Lake, "open", read_only)
    out = str(tree.parent / "out.zip")
    command = ["--lake", str(alone.lake), "export", "D:v1", "--to", "zip", out]
    assert run_program(ctl, "dtafsctl", command) == 0
    printed = capfd.readouterr()
    assert printed.out.endswith("✔ Provenance.txt attached\n")
    assert printed.err == (
        "dtafsctl: the export is complete, but the log could not record it: the disk is read-only\n"
    )
    assert alone.json("verify", out)["verified"] is True
    assert len(alone.json("log")["entries"]) == 2


def test_without_an_index_the_way_out_is_said(alone: Commands) -> None:
    alone("create", "D")
    shutil.rmtree(alone.lake / "index")
    assert "dtafsctl reindex" in alone.fails(3, "ls")
    alone("reindex")
    assert alone("ls").splitlines()[1].startswith("D ")


@pytest.mark.damages_lake
def test_an_altered_log_is_refused_by_its_reader(alone: Commands) -> None:
    alone("create", "D")
    path = alone.lake / "log" / "D" / "0000000001"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b'"sig":"', b'"sig":"AAAA'))
    assert "log entry 1 of 'D'" in alone.fails(6, "log", "D")
    assert "does not verify: 1 finding" in alone.fails(6, "verify", "--all")
    facts = alone.json("check", exit_code=6)
    assert facts["sound"] is False and facts["findings"]


@pytest.mark.damages_lake
def test_a_damaged_pack_is_found(alone: Commands, tree: Path) -> None:
    alone("create", "D")
    alone("put", "D", f"{tree}/.")
    alone("commit", "D", "-m", "First")
    packs = sorted((alone.lake / "packs").glob("*/*"), key=lambda path: path.stat().st_size)
    data = bytearray(packs[-1].read_bytes())
    data[1000] ^= 1
    packs[-1].chmod(0o644)
    packs[-1].write_bytes(data)
    assert "is not sound" in alone.fails(6, "check", "--read-data")
    for arguments in (("cat", "D:v1", "sub/large"), ("export", "D:v1", "--to", "zip", "-")):
        done = run(CTL, "--lake", alone.lake, *arguments)
        assert done.returncode == 6 and b"Traceback" not in done.stderr
    assert "does not verify" in alone.fails(6, "verify", "--all")


def test_interrupting_says_so_and_leaves_nothing(alone: Commands, tmp_path: Path) -> None:
    alone("create", "D")
    os.mkfifo(tmp_path / "never")
    command = command_line(CTL, "--lake", alone.lake, "verify", tmp_path / "never", "--json")
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == b"dtafsctl: interrupted\n"
    assert json.loads(out)["error"]["kind"] == "interrupted"


def test_json_has_no_room_beside_a_package(alone: Commands) -> None:
    facts = alone.json("export", "D:v1", "--to", "zip", "-", exit_code=2)
    assert "no room for --json" in facts["error"]["message"]
