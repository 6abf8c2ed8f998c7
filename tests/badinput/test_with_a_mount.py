"""What goes wrong around a mount: names, waiting clients, second mounts, sources that are the lake."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.mounts import Mount
from tests.support.programs import CTL, DAEMON, command_line, environment, run

SOON_S = 20.0


@pytest.fixture
def dataset(mounted_lake: Mount) -> Path:
    """The directory of a dataset that has one file staged."""
    (mounted_lake / "D").mkdir()
    (mounted_lake / "D/staging/x").write_bytes(b"one")
    return mounted_lake / "D"


def said(lake: Path, code: int, *arguments: object) -> str:
    """The one sentence of a command that ends with `code`."""
    return programs.ctl(lake, *arguments, exit_code=code, limit_s=SOON_S).stderr.decode()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"a:b", b".x", b"x" * 255, b"nl\nx"])
def test_a_name_that_no_dataset_can_have(mounted_lake: Mount, name: bytes) -> None:
    path = os.fsencode(mounted_lake.mountpoint) + b"/" + name
    with pytest.raises(FileNotFoundError):
        os.stat(path)
    with pytest.raises(OSError) as refused:
        os.mkdir(path)
    assert refused.value.errno == errno.EINVAL
    assert "is not valid" in said(mounted_lake.lake, 2, "status", b"\xff\xfe")
    assert "cannot be empty" in said(mounted_lake.lake, 2, "discard", "")


def test_a_draft_that_a_commit_would_refuse_is_refused_and_leaves_the_old(dataset: Path) -> None:
    staging = dataset / "staging"
    os.setxattr(staging, "user.dtafs.tags", b"raw")
    for name, value in (("message", b"\xff\xfe"), ("tags", b"ok,v3"), ("tags", b"\xff")):
        with pytest.raises(OSError) as refused:
            os.setxattr(staging, f"user.dtafs.{name}", value)
        assert refused.value.errno == errno.EINVAL
    os.rename(staging, dataset / "v1")
    assert os.readlink(dataset / "raw") == "v1"


def test_a_version_out_of_turn_is_not_said_to_be_below_itself(dataset: Path) -> None:
    done = subprocess.run(["mv", "staging", "v2"], cwd=dataset, capture_output=True, check=False)
    assert b"not permitted" in done.stderr
    os.rename(dataset / "staging", dataset / "v1")


def test_a_commit_nobody_waits_for_is_not_made(mounted_lake: Mount, dataset: Path) -> None:
    """More of them than the daemon has threads for commands, which others can still use."""
    with (dataset / "staging/x").open("ab") as writer:
        command = command_line(CTL, "--lake", mounted_lake.lake, "commit", "D", "-m", "m", "--wait")
        waiting = [
            subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE) for _ in range(9)
        ]
        for process in waiting:
            _await_connection(process)
        for process in waiting:
            process.send_signal(signal.SIGINT)
        for process in waiting:
            _out, err = process.communicate(timeout=SOON_S)
            assert process.returncode == 130, err
        assert "1 added" in programs.ctl(mounted_lake.lake, "status", "D").stdout.decode()
        assert "open for writing by process" in said(mounted_lake.lake, 4, "commit", "D", "-m", "m")
        writer.write(b" and two")
    time.sleep(0.5)
    assert not (dataset / "v1").exists()
    os.rename(dataset / "staging", dataset / "v1")
    assert (dataset / "v1/x").read_bytes() == b"one and two"


def _await_connection(process: subprocess.Popen[bytes]) -> None:
    """Until a command asks the daemon: then it has one socket open."""
    deadline_s = time.monotonic() + SOON_S
    descriptors = Path(f"/proc/{process.pid}/fd")
    while not any(os.readlink(fd).startswith("socket:") for fd in descriptors.iterdir()):
        assert process.poll() is None, "the command did not wait"
        assert time.monotonic() < deadline_s, "the command did not come to ask the daemon"
        time.sleep(0.02)


def test_a_commit_that_waits_holds_up_no_other(mounted_lake: Mount, dataset: Path) -> None:
    with (dataset / "staging/x").open("ab"):
        command = command_line(CTL, "--lake", mounted_lake.lake, "commit", "D", "-m", "m", "--wait")
        waiting = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.0)
        assert "open for writing by process" in said(mounted_lake.lake, 4, "commit", "D", "-m", "m")
    out, _err = waiting.communicate(timeout=SOON_S)
    assert out.startswith(b"D:v1 ")


def test_staging_the_lake_itself(mounted_lake: Mount, dataset: Path) -> None:
    lake, top = mounted_lake.lake, mounted_lake.mountpoint
    for source in (top, dataset / "staging", f"{dataset}/staging/.", lake):
        assert "is the lake itself" in said(lake, 2, "put", "D", source, "--into", "sub")
    assert "lies in the mount of a lake" in said(top / "new", 2, "init")
    assert sorted(os.listdir(top)) == [".dtafs", "D"]


def test_a_second_mount_names_the_first(mounted_lake: Mount, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    done = run(DAEMON, "mount", mounted_lake.lake, other, limit_s=SOON_S)
    assert done.returncode == 4
    assert f"is mounted on {mounted_lake.mountpoint} already".encode() in done.stderr
    done = run(DAEMON, "mount", mounted_lake.lake, "/proc", "--json", limit_s=SOON_S)
    assert done.returncode == 4 and b'"kind": "conflict"' in done.stdout
    assert b"dtafs umount" not in done.stderr
