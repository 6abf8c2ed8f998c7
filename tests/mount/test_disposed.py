"""What a version that was disposed of looks like to those who use the mount and the commands."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from tests.support.disposing import dispose_of, order_of
from tests.support.mounts import Mount
from tests.support.programs import ctl, ctl_json
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed

D = "D"


@pytest.fixture
def disposed_path(lake_path: Path, tmp_path: Path) -> Path:
    """Three versions, of which the newest and the oldest were disposed of."""
    with Lake.open(lake_path) as lake:
        lake.create_dataset(D, ACTOR)
        for seed, tags in ((1, ("raw",)), (2, ("raw", "clean")), (3, ("clean", "last"))):
            put_tree(lake, D, tree_of_seed(seed), tmp_path / "scratch")
            commit(lake, D, f"number {seed}", tags)
        dispose_of(lake, order_of(D, 1, 3))
    return lake_path


def test_it_is_shown_and_cannot_be_opened(disposed_path: Path, mount: Callable[..., Mount]) -> None:
    mounted = mount(disposed_path)
    top = mounted / D
    names = {entry.name: entry for entry in os.scandir(top)}
    assert {"v1", "v2", "v3", "latest", "raw", "clean", "last", "staging"} == set(names)
    assert names["v1"].is_dir() and names["v1"].stat().st_mode & 0o777 == 0o555
    for call in (
        os.listdir,
        lambda path: os.stat(path / "big"),
        lambda path: (path / "big").read_bytes(),
    ):
        with pytest.raises(OSError) as raised:
            call(top / "v1")
        assert raised.value.errno == errno.ENODATA
    assert os.getxattr(top / "v1", "user.dtafs.disposed") == b"entry 5"
    assert os.getxattr(top / "v1", "user.dtafs.version") == b"D:v1"
    assert "user.dtafs.disposed" not in os.listxattr(top / "v2")
    proof = mounted / ".dtafs" / "provenance" / D / "v1.txt"
    assert "GRS 3.1 item 020" in proof.read_text() and "file 1" not in proof.read_text()
    links = {name: os.readlink(top / name) for name in ("latest", "raw", "clean", "last")}
    assert links == {"latest": "v2", "raw": "v2", "clean": "v2", "last": "v3"}
    assert (top / "latest" / "dir").is_dir()
    assert os.listdir(top / "staging") == []
    (top / "staging" / "new").write_bytes(b"fresh")
    (top / "staging").rename(top / "v4")
    assert os.listdir(top / "v4") == ["new"] and os.readlink(top / "latest") == "v4"


def test_what_commands_say_of_it(disposed_path: Path) -> None:
    said = ctl_json(disposed_path, "ls", D)["versions"]
    assert [one["disposed"] for one in said] == [True, False, True]
    assert b"[disposed] number 1" in ctl(disposed_path, "ls", D).stdout
    shown = ctl_json(disposed_path, "show", f"{D}:v1")
    assert shown["disposed"] and shown["message"] == "number 1"
    assert b"retain certificate D:v1" in ctl(disposed_path, "show", f"{D}:v1").stdout
    assert ctl_json(disposed_path, "show", D)["latest"] == f"{D}:v2"
    assert ctl_json(disposed_path, "stats")["disposed_versions"] == 2
    for arguments in (
        ("ls", f"{D}:v1"),
        ("cat", f"{D}:v1", "big"),
        ("diff", f"{D}:v1", f"{D}:v2"),
        ("export", f"{D}:v3", "--to", "dir", disposed_path.parent / "out"),
        ("show", f"{D}:v1", "--verified"),
    ):
        done = ctl(disposed_path, *arguments, exit_code=3)
        assert b"was disposed of by entry" in done.stderr and b"retain certificate" in done.stderr
    assert not (disposed_path.parent / "out").exists()
    ctl(disposed_path, "ls", f"{D}:last", exit_code=3)
    assert ctl_json(disposed_path, "ls", f"{D}:latest")["version"] == f"{D}:v2"
    ctl(disposed_path, "verify", "--all")
    ctl(disposed_path, "check", "--read-data")
    ctl(disposed_path, "lineage", f"{D}:v1")
    kinds = [entry["kind"] for entry in ctl_json(disposed_path, "log", D)["entries"]]
    assert "disposed" in kinds and kinds[-1] == "destroyed"
    ctl(disposed_path, "reindex")
    ctl(disposed_path, "collect", "--grace", "0")
    ctl(disposed_path, "repair")
    assert ctl_json(disposed_path, "ls", f"{D}:latest")["version"] == f"{D}:v2"


def test_the_certificate(disposed_path: Path) -> None:
    facts = ctl_json(disposed_path, "retain", "certificate", f"{D}:v1")
    assert facts["version"] == f"{D}:v1" and facts["authority"] == "GRS 3.1 item 020"
    assert facts["together_with"] == [f"{D}:v3"] and set(facts["confirmed"]) == {"hot"}
    said = ctl(disposed_path, "retain", "certificate", f"{D}:v1").stdout.decode()
    for text in (
        "Certificate of disposition",
        "GRS 3.1 item 020",
        "confirmed",
        f"{D}:v2",
        "entry 5",
    ):
        assert text in said
    refused = ctl(disposed_path, "retain", "certificate", f"{D}:v2", exit_code=3)
    assert b"was not disposed of" in refused.stderr


def test_a_certificate_of_a_log_that_was_altered(disposed_path: Path) -> None:
    entry = disposed_path / "log" / D / "0000000005"
    kept = entry.read_bytes()
    entry.chmod(0o644)
    entry.write_bytes(kept.replace(b"payload", b"PAYLOAD", 1))
    ctl(disposed_path, "retain", "certificate", f"{D}:v1", exit_code=6)
    entry.write_bytes(kept)


def test_an_export_of_a_later_version_still_verifies(disposed_path: Path) -> None:
    out = disposed_path.parent / "kept.zip"
    ctl(disposed_path, "export", f"{D}:v2", "--to", "zip", out)
    ctl(disposed_path, "verify", out)
