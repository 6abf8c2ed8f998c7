"""The daemon's life: starting, refusing, ending, and what survives each way of ending."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dtafs.services import daemon
from dtafs.services.mountpoints import daemon_of, mounted_at, mounts
from dtafs.store.lake import Lake
from tests.support import kernel, programs
from tests.support.mounts import Mount

READY_LIMIT_S = 30.0

START_LIMIT_S = 5.0
"""The goal is 0.3 s on an idle machine; a machine that runs all tests at once takes longer."""


def dtafs(*arguments: object, exit_code: int = 0) -> subprocess.CompletedProcess[bytes]:
    """Run `dtafs ARGUMENTS…` and assert how it ends."""
    done = programs.run(programs.DAEMON, *arguments)
    assert done.returncode == exit_code, (done.returncode, done.stdout, done.stderr)
    return done


@contextmanager
def background(lake: Path, mountpoint: Path, *options: str) -> Iterator[int]:
    """A mount made as a user makes it; the pid of its daemon. Ended by pid if it is still there."""
    mountpoint.mkdir(exist_ok=True)
    dtafs("mount", lake, mountpoint, *options)
    mount = mounted_at(mountpoint)
    assert mount is not None and mount.lake == lake
    pid = daemon_of(mount)
    try:
        assert pid is not None
        yield pid
    finally:
        if kernel.is_mounted(mountpoint):
            kernel.unmount(mountpoint, lazy=True)
        if pid is not None and not gone(pid, 10.0):
            os.kill(pid, signal.SIGKILL)


def gone(pid: int, limit_s: float) -> bool:
    """Wait for a process that is no child of ours to end."""
    deadline = time.monotonic() + limit_s
    while Path(f"/proc/{pid}").exists():
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(kernel.POLL_S)
    return True


def test_mount_returns_once_it_answers_and_umount_once_all_is_written(
    lake_path: Path, tmp_path: Path
) -> None:
    mountpoint = tmp_path / "mnt"
    started = time.monotonic()
    with background(lake_path, mountpoint) as pid:
        assert os.listdir(mountpoint) == [".dtafs"]
        assert time.monotonic() - started < START_LIMIT_S
        (mountpoint / "D").mkdir()
        (mountpoint / "D" / "staging" / "x").write_bytes(b"kept")
        done = dtafs("umount", mountpoint)
        assert b"no longer mounted" in done.stdout
        assert gone(pid, 0.5) and not kernel.is_mounted(mountpoint)
        assert not (lake_path / "run" / "daemon.json").exists()
        assert not (lake_path / "run" / "daemon.sock").exists()
    log = (lake_path / "run" / "daemon.log").read_text()
    assert "Traceback" not in log and "WARNING" not in log
    with background(lake_path, mountpoint):
        assert (mountpoint / "D" / "staging" / "x").read_bytes() == b"kept"


def test_json(lake_path: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    facts = json.loads(dtafs("mount", lake_path, mountpoint, "--json").stdout)
    assert facts == {"lake": str(lake_path), "mountpoint": str(mountpoint)}
    assert json.loads(dtafs("umount", mountpoint, "--json").stdout) == facts


def until_ready(mount: Mount) -> bytes:
    """What a daemon has said when it is ready: the kernel can be answered a little sooner."""
    until_s = time.monotonic() + READY_LIMIT_S
    while b" is mounted on " not in (said := mount.said()):
        assert time.monotonic() < until_s, said
    return said


def test_the_kernel_reads_ahead_further(mounted_lake: Mount) -> None:
    said = until_ready(mounted_lake)
    mount = mounted_at(mounted_lake.mountpoint)
    assert mount is not None
    switch = Path("/sys/class/bdi") / mount.device / "read_ahead_kb"
    if os.geteuid() == 0:
        assert switch.read_text().strip() == "1024"
        assert b"read-ahead" not in said


def test_what_to_do_where_it_may_not_read_ahead_further_is_said(
    lake_path: Path, mount: Callable[..., Mount]
) -> None:
    """More than the kernel takes stands for what it does not permit."""
    (lake_path / "config.toml").write_text(f"[mount]\nread_ahead_kib = {10**30}\n")
    mounted = mount(lake_path)
    said = until_ready(mounted)
    found = mounted_at(mounted.mountpoint)
    assert found is not None
    switch = f"/sys/class/bdi/{found.device}/read_ahead_kb"
    assert f"as root, after each mount: echo {10**30} > {switch}\n".encode() in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(lake_path: Path, tmp_path: Path, number: signal.Signals) -> None:
    mountpoint = tmp_path / "mnt"
    with background(lake_path, mountpoint) as pid:
        (mountpoint / "D").mkdir()
        (mountpoint / "D" / "staging" / "x").write_bytes(b"kept")
        os.kill(pid, number)
        assert gone(pid, 10.0)
        assert not kernel.is_mounted(mountpoint)
    with background(lake_path, mountpoint):
        assert (mountpoint / "D" / "staging" / "x").read_bytes() == b"kept"


def test_a_signal_while_the_mount_is_in_use_keeps_what_was_written(
    lake_path: Path, tmp_path: Path
) -> None:
    mountpoint = tmp_path / "mnt"
    with background(lake_path, mountpoint) as pid:
        (mountpoint / "D").mkdir()
        fd = os.open(mountpoint / "D" / "staging" / "x", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"dirty pages of an open file")
        os.kill(pid, signal.SIGTERM)
        assert gone(pid, 30.0)
        with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
            os.close(fd)  # whoever still had it open learns that it has ended
        assert not kernel.is_mounted(mountpoint)
    with background(lake_path, mountpoint):
        assert (mountpoint / "D" / "staging" / "x").read_bytes() == b"dirty pages of an open file"


def test_staging_survives_a_killed_daemon(lake_path: Path, mount: Callable[..., Mount]) -> None:
    first = mount(lake_path)
    (first / "D").mkdir()
    (first / "D/staging/a").mkdir()
    (first / "D/staging/a/x").write_bytes(b"written before the crash")
    first.kill()
    second = mount(lake_path)
    assert (second / "D/staging/a/x").read_bytes() == b"written before the crash"


def test_mountpoints_that_are_refused(lake_path: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    inside = lake_path / "tmp"
    cases = [
        (tmp_path / "absent", 3, b"does not exist"),
        (full / "file", 2, b"not a directory"),
        (full, 4, b"not empty"),
        (lake_path, 2, b"inside the lake"),
        (inside, 2, b"inside the lake"),
        (tmp_path, 2, b"contains the lake"),
    ]
    for place, code, words in cases:
        done = dtafs("mount", lake_path, place, exit_code=code)
        assert words in done.stderr and done.stderr.count(b"\n") == 1, done.stderr
        done = dtafs("mount", lake_path, place, "--foreground", exit_code=code)
        assert words in done.stderr


def test_lakes_that_are_refused(lake_path: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for lake in (nothing, tmp_path / "absent"):
        done = dtafs("mount", lake, mountpoint, exit_code=3)
        assert done.stderr.count(b"\n") == 1, done.stderr
    assert list(nothing.iterdir()) == []


def test_a_second_mount_is_refused_and_names_the_first(mounted_lake: Mount, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    done = dtafs("mount", mounted_lake.lake, other, exit_code=4)
    assert str(mounted_lake.pid).encode() in done.stderr
    done = dtafs("mount", mounted_lake.lake, mounted_lake.mountpoint, exit_code=4)
    assert b"mounted on" in done.stderr


def test_umount_of_what_is_not_mounted(tmp_path: Path) -> None:
    done = dtafs("umount", tmp_path, exit_code=3)
    assert b"no lake is mounted on" in done.stderr


def test_umount_names_who_is_in_the_way(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    sleeper = subprocess.Popen(["sleep", "60"], cwd=mounted_lake / "D")
    try:
        done = dtafs("umount", mounted_lake.mountpoint, exit_code=4)
        assert f"process {sleeper.pid} (sleep)".encode() in done.stderr
        assert os.listdir(mounted_lake / "D") == ["staging"]
    finally:
        programs.kill(sleeper)  # type: ignore[arg-type]


def test_a_dead_mount_can_be_taken_away(lake_path: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    with background(lake_path, mountpoint) as pid:
        os.kill(pid, signal.SIGKILL)
        assert gone(pid, 10.0)
        done = dtafs("mount", lake_path, mountpoint, exit_code=4)
        assert b"dtafs umount" in done.stderr
        dtafs("umount", mountpoint)
        assert not kernel.is_mounted(mountpoint)
    with background(lake_path, mountpoint):
        assert os.listdir(mountpoint) == [".dtafs"]


def test_places_with_odd_names(tmp_path: Path) -> None:
    lake, mountpoint = tmp_path / "a, lake\\ ü\n", tmp_path / "m n\tt,"
    Lake.create(lake).close()
    with background(lake, mountpoint):
        (mountpoint / "D").mkdir()
        assert [mount.lake for mount in mounts() if mount.mountpoint == mountpoint] == [lake]
        dtafs("umount", mountpoint)


def test_a_relative_path_and_a_symlink(
    lake_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    dtafs("mount", lake_path.name, "link")
    try:
        assert os.listdir(tmp_path / "real") == [".dtafs"]
    finally:
        dtafs("umount", "link")
    assert os.listdir(tmp_path / "real") == []


def test_a_read_only_mount(lake_path: Path, mount: Callable[..., Mount], tmp_path: Path) -> None:
    writer = mount(lake_path)
    (writer / "D").mkdir()
    (writer / "D/staging/x").write_bytes(b"1")
    os.rename(writer / "D/staging", writer / "D/v1")
    reader = mount(lake_path, "--read-only")
    assert sorted(os.listdir(reader / "D")) == ["latest", "v1"]
    assert (reader / "D/latest/x").read_bytes() == b"1"
    for change in (
        lambda: (reader / "E").mkdir(),
        lambda: (reader / "D/v1/x").write_bytes(b"2"),
        lambda: os.unlink(reader / "D/latest"),
    ):
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    (writer / "D/staging/y").write_bytes(b"2")
    os.rename(writer / "D/staging", writer / "D/v2")
    assert (reader / "D/latest/y").read_bytes() == b"2", "a reader sees what others commit"


def test_an_idle_daemon_is_small(mounted_lake: Mount) -> None:
    assert mounted_lake.resident_bytes() < 60 * 1024 * 1024


def test_replies_that_the_kernel_no_longer_wants_are_not_worth_a_line() -> None:
    def said(number: int) -> bool:
        message = "fuse_release(): fuse_reply_* failed with %s"
        args = (os.strerror(number),)
        record = logging.LogRecord("pyfuse3", logging.ERROR, "", 0, message, args, None)
        return daemon._pass_over_aborted(record)

    assert not said(errno.ENOENT)
    assert said(errno.EIO)


async def test_a_mountpoint_that_goes_while_the_daemon_ends_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(("it is in use", ""))
    monkeypatch.setattr(daemon.mountpoints, "detach", lambda *_how: next(answers))
    ending = object.__new__(daemon._Daemon)
    ending._options = daemon.MountOptions(tmp_path / "gone", False, False)
    ending._ended = True
    await ending._end()
    assert next(answers, None) is None
