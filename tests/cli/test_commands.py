"""Each command, in text and in JSON, with and without a daemon."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.cli.conftest import Commands
from tests.support.programs import CTL, HMS, command_line, environment, run
from tests.support.trees import assert_same_tree, tree_of


@pytest.fixture
def filled(commands: Commands, tree: Path) -> Commands:
    """A lake whose dataset D has v1, tagged raw."""
    commands("create", "D", "--tag", "raw")
    commands("put", "D", f"{tree}/.")
    commands("commit", "D", "-m", "First")
    return commands


def test_init(tmp_path: Path) -> None:
    facts = Commands(tmp_path / "new" / "lake").json("init")
    assert len(facts["lake"]) == 32 and len(facts["public_key"]) == 64
    text = Commands(tmp_path / "other")("init")
    assert "Made the lake" in text and str(tmp_path / "other") in text


def test_the_way_of_a_dataset(commands: Commands, tree: Path) -> None:
    """create, put, status, commit, ls, log, show, diff, cat, tag, in the order of a day's work."""
    assert commands("create", "D", "--tag", "raw") == "Created D\n"
    assert commands("status", "D") == "Staging of D against an empty dataset:\nno changes\n"
    assert commands("put", "D", f"{tree}/.").startswith("Staged 11 files, 3,500,129 bytes")
    assert "A a.csv\n" in commands("status", "D")
    name, sha256 = commands("commit", "D", "-m", "First").split()
    assert name == "D:v1" and len(sha256) == 64
    assert commands("ls", "D:v1", "sub") == "deep/\nhard\nlarge\n"
    assert commands("cat", "D:v1", "a.csv") == "x,y\n1,2\n"
    (tree / "a.csv").write_text("x,y\n1,2\n3,4\n")
    (tree / "empty").unlink()
    commands("put", "D", f"{tree}/.", "--delete")
    assert "M a.csv  (+4 bytes)\nD empty\n" in commands("status", "D")
    commands("commit", "D", "-m", "Second", "--tag", "clean")
    text = commands("diff", "D:v1", "D:v2")
    assert text.startswith("From D:v1 to D:v2:\nM a.csv  (+4 bytes)\nD empty\n")
    assert commands("diff", "D:clean") == text
    assert commands("tag", "D:v2", "best") == "D:v2 is tagged best, clean\n"
    assert commands("tag", "D:best", "clean", "--remove") == "D:v2 is tagged best\n"
    assert commands("cat", "D:raw", "a.csv", "a.csv") == "x,y\n1,2\n" * 2
    log = commands("log", "D").splitlines()
    assert [line.split("  ")[2] for line in log] == [
        "created, first version to be tagged raw",
        "v1 committed: First",
        "v2 committed: Second",
        "v2 tagged best",
        "v2 no longer tagged clean",
    ]
    assert commands("log", "-n", "1") == log[-1] + "\n"
    assert f"SHA-256      {sha256}\n" in commands("show", "D:v1")
    assert "Tags      best -> D:v2\n          raw -> D:v1\n" in commands("show", "D")


def test_large_files_and_symlinks_come_and_go(commands: Commands, tree: Path) -> None:
    """What is no directory has nothing below it, whatever it refers to."""
    commands("create", "D")
    commands("put", "D", f"{tree}/a.csv")
    commands("commit", "D", "-m", "Small")
    commands("put", "D", f"{tree}/.", "--delete")
    assert "A link\n" in commands("status", "D") and "A sub/large\n" in commands("status", "D")
    commands("commit", "D", "-m", "All")
    (tree / "link").unlink()
    (tree / "sub/large").unlink()
    commands("put", "D", f"{tree}/.", "--delete")
    text = commands("status", "D")
    assert "D link\n" in text and "D sub/large\n" in text
    commands("commit", "D", "-m", "Without")
    for a, b, change in (("v1", "v2", "added"), ("v2", "v1", "removed"), ("v2", "v3", "removed")):
        changes = commands.json("diff", f"D:{a}", f"D:{b}")["changes"]
        found = [fact["path"] for fact in changes if fact["change"] == change]
        assert {"link", "sub/large"} <= set(found)


def test_json_of_every_reading_command(filled: Commands) -> None:
    assert [d["dataset"] for d in filled.json("ls")["datasets"]] == ["D"]
    version = filled.json("ls", "D")["versions"][0]
    assert version["id"] == "D:v1" and version["tags"] == ["raw"] and version["files"] == 11
    shown = filled.json("show", "D:latest")
    assert shown["sha256"] == version["sha256"] and shown["parent"] is None
    assert filled.json("show", "D")["tags"] == {"raw": "D:v1"}
    assert [e["kind"] for e in filled.json("log")["entries"]] == ["created", "committed"]
    assert filled.json("lineage", "D")["versions"][0]["sources"] == []
    assert filled.json("status", "D")["changes"] == []
    assert filled.json("stats")["versions"] == 1
    assert filled.json("check", "--read-data")["findings"] == []
    assert filled.json("reindex")["entries"] == 2
    assert filled.json("verify", "--all")["verified"] is True


def test_text_of_every_reading_command(filled: Commands) -> None:
    assert filled("ls").splitlines()[1].split()[:3] == ["D", "1", "11"]
    assert filled("ls", "D").splitlines()[1].endswith("raw   First")
    assert "First" in filled("lineage", "D:v1")
    assert "Versions" in filled("stats")
    assert "✔ The lake is sound" in filled("check")
    assert "Applied 2 log entries" in filled("reindex")
    assert "✔ 1 version proved" in filled("verify", "--all")


def test_json_of_every_changing_command(commands: Commands, tree: Path) -> None:
    assert commands.json("create", "D", "--tag", "raw")["tags"] == ["raw"]
    assert commands.json("put", "D", tree, "--into", "x")["files"] == 11
    assert commands.json("status", "D")["totals"]["added"] > 11
    assert commands.json("commit", "D", "-m", "First")["id"] == "D:v1"
    assert commands.json("tag", "D:v1", "t")["tags"] == ["raw", "t"]
    commands("put", "D", tree / "a.csv")
    assert commands.json("discard", "D")["base"] == 1
    assert commands.json("status", "D")["changes"] == []


def test_json_may_stand_in_front_or_behind(filled: Commands) -> None:
    behind = json.loads(filled("ls", "D", "--json"))
    assert behind == filled.json("ls", "D")


def test_names_of_any_bytes(filled: Commands) -> None:
    entries = filled.json("ls", "D:v1", "-R")["entries"]
    odd = next(entry for entry in entries if "path_hex" in entry)
    assert (odd["path"], odd["path_hex"]) == ("\\xff\\xfe", "fffe")
    text = filled("ls", "-l", "D:v1")
    assert "line\\nfeed\n" in text and "carriage\\rreturn\n" in text and "\\xff\\xfe\n" in text
    done = run(CTL, "--lake", filled.lake, "cat", "D:v1", b"\xff\xfe")
    assert done.stdout == b"content of \xff\xfe"


def test_cat_gives_the_bytes(filled: Commands, tree: Path) -> None:
    done = run(CTL, "--lake", filled.lake, "cat", "D:v1", "sub/large")
    assert done.stdout == (tree / "sub" / "large").read_bytes()
    facts = filled.json("cat", "D:v1", "a.csv")["files"][0]
    assert base64.b64decode(facts["content_base64"]) == b"x,y\n1,2\n"
    assert facts["sha256"] == hashlib.sha256(b"x,y\n1,2\n").hexdigest()


def test_cat_into_a_pipe_that_closes(filled: Commands) -> None:
    command = command_line(CTL, "--lake", filled.lake, "cat", "D:v1", "sub/large", "sub/large")
    with subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_the_listing_of_the_seed(filled: Commands, tmp_path: Path) -> None:
    out = tmp_path / "raw.zip"
    done = run(HMS, "dta", "export", "D:v1", "--to", "zip", out, env={"DTAFS_LAKE": filled.lake})
    assert done.stderr == b""
    size = filled.json("show", "D:v1")["size_bytes"]
    assert done.stdout.decode() == f"✔ Exported {size:,} bytes\n✔ Provenance.txt attached\n"
    assert filled("verify", out).startswith("✔ D:v1: 11 files")
    assert filled.json("log")["entries"][-1]["kind"] == "exported"


@pytest.mark.parametrize("form", ["zip", "tar", "dir"])
def test_export_and_verify(filled: Commands, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"out.{form}"
    facts = filled.json("export", "D:v1", "--to", form, out)
    assert facts["files"] == 11 and facts["recorded"] == 3
    if form != "dir":
        assert facts["package_sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    key = filled.json("show", "D:v1")["public_key"]
    assert filled.json("verify", out, "--key", key)["id"] == "D:v1"


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_export_to_stdout(filled: Commands, tmp_path: Path, form: str) -> None:
    done = run(CTL, "--lake", filled.lake, "export", "D:v1", "--to", form, "-")
    assert done.stderr.decode().endswith("✔ Provenance.txt attached\n")
    filled("export", "D:v1", "--to", form, tmp_path / "file")
    assert done.stdout == (tmp_path / "file").read_bytes()


def test_an_export_without_compression(filled: Commands, tmp_path: Path) -> None:
    filled("export", "D:v1", "--to", "zip", "--store", tmp_path / "x.zip")
    assert filled.json("verify", tmp_path / "x.zip")["verified"] is True
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        info = archive.getinfo("data/sub/large")
        assert info.compress_size > info.file_size


def test_an_altered_export_is_named(filled: Commands, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled("export", "D:v1", "--to", "dir", out)
    (out / "data" / "a.csv").write_text("x,y\n1,3\n")
    assert "does not verify: 1 finding" in filled.fails(6, "verify", out)
    facts = filled.json("verify", out, exit_code=6)
    assert facts["findings"][0].startswith("data/a.csv was altered")
    assert facts["error"]["kind"] == "integrity" and facts["verified"] is False


def test_a_directory_export_equals_what_was_put(
    filled: Commands, tree: Path, tmp_path: Path
) -> None:
    filled("export", "D:v1", "--to", "dir", tmp_path / "out")
    assert_same_tree(tree_of(tree, xattrs=True), tree_of(tmp_path / "out" / "data", xattrs=True))


def test_put_takes_relative_paths_from_where_it_is_called(commands: Commands, tree: Path) -> None:
    commands("create", "D")
    commands("put", "D", ".", cwd=tree / "sub")
    commands("put", "D", "a.csv", "--into", "x/y", cwd=tree)
    commands("commit", "D", "-m", "m")
    assert commands("ls", "D:v1") == "deep/\nhard\nlarge\nx/\n"
    assert commands("ls", "D:v1", "x/y") == "a.csv\n"


def test_put_can_commit_as_well(commands: Commands, tree: Path) -> None:
    commands("create", "D")
    facts = commands.json("put", "D", f"{tree}/.", "--commit", "First", "--tag", "raw")
    assert (facts["id"], facts["message"], facts["tags"]) == ("D:v1", "First", ["raw"])
    assert facts["put"]["files"] == facts["files"]
    assert commands.json("status", "D")["changes"] == []
    (tree / "a.csv").write_text("later\n")
    staged, version = commands("put", "D", f"{tree}/.", "--commit", "Second").splitlines()
    assert staged.startswith("Staged ")
    assert version == "D:v2 " + commands.json("show", "D:v2")["sha256"]


def test_at_a_time(filled: Commands, tree: Path) -> None:
    (tree / "a.csv").write_text("later\n")
    filled("put", "D", f"{tree}/a.csv")
    filled("commit", "D", "-m", "Second")
    times = [v["time"] for v in filled.json("ls", "D")["versions"]]
    assert filled.json("show", f"D@{times[0]}")["id"] == "D:v1"
    assert filled.json("show", f"D@{times[1]}")["id"] == "D:v2"


def test_lineage_goes_back_to_the_beginning(filled: Commands, tree: Path) -> None:
    env = {"DTAFS_LAKE": str(filled.lake)}
    code = (
        "from dtafs import Dataset\nds = Dataset.open('D')\nds.put(['a.csv'], into='more')\n"
        "ds.commit('Made', sources=[ds.latest], transform={'name': 'copy'})\n"
    )
    python = command_line(CTL)[0]
    subprocess.run([python, "-c", code], env=environment(env), cwd=tree, check=True)
    lines = filled("lineage", "D:v2").splitlines()
    assert lines[0].startswith("D:v2 ") and lines[0].endswith("by copy  Made")
    assert lines[1].startswith("  <- D:v1 ")
