"""The test support itself: what fails a test must really fail it."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest
import trio

from tests.support import kernel, programs
from tests.support.mounts import COMPLAINT
from tests.support.steps import StepWatch
from tests.support.trees import assert_same_tree, sha256_of, tree_of


def make_tree(top: Path) -> None:
    (top / "sub").mkdir(parents=True)
    (top / "file").write_bytes(b"some bytes")
    (top / "sub" / os.fsdecode(b"\xfe")).write_bytes(b"")
    (top / "link").symlink_to("file")


def test_a_tree_is_read_whole(tmp_path: Path) -> None:
    make_tree(tmp_path / "a")
    seen = tree_of(tmp_path / "a")
    assert seen.keys() == {b"file", b"link", b"sub", b"sub/\xfe"}
    assert [seen[name].kind for name in sorted(seen)] == ["-", "l", "d", "-"]
    assert seen[b"file"].content == sha256_of(tmp_path / "a" / "file")
    assert seen[b"link"].content == "file"
    assert_same_tree(seen, tree_of(tmp_path / "a"))


@pytest.mark.parametrize("change", ["content", "mode", "mtime", "missing", "more", "xattr"])
def test_every_difference_is_found(tmp_path: Path, change: str) -> None:
    make_tree(tmp_path / "a")
    before = tree_of(tmp_path / "a", xattrs=True)
    file = tmp_path / "a" / "file"
    status = file.stat()
    if change == "content":
        file.write_bytes(b"other byte")
    elif change == "mode":
        file.chmod(0o600)
    elif change == "missing":
        (tmp_path / "a" / "link").unlink()
    elif change == "more":
        (tmp_path / "a" / "new").touch()
    elif change == "xattr":
        os.setxattr(file, "user.note", b"1")
    elif change == "mtime":
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    if change == "content":  # the same size and time, so that only reading it tells
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(AssertionError, match="names differ"):
        assert_same_tree(before, tree_of(tmp_path / "a", xattrs=True))


@pytest.mark.parametrize(
    "line",
    [
        b"Traceback (most recent call last):",
        b"2026-01-01 WARNING dtafs.services.daemon: something",
        b"/x/y.py:3: ResourceWarning: unclosed file",
        b"Exception ignored in: <function",
        b"2026-01-01T00:00:00Z ERROR dtafs: something",
    ],
)
def test_complaints_in_a_log_are_found(line: bytes) -> None:
    assert COMPLAINT.findall(b"all is well\n" + line + b"\nall is well") == [line]


def test_what_is_normal_in_a_log_is_no_complaint() -> None:
    assert not COMPLAINT.findall(b"INFO mounted\nINFO committed error-rates:v3\n")


def test_a_mountpoint_is_found_by_its_odd_name(tmp_path: Path) -> None:
    assert kernel.is_mounted(Path("/proc"))
    assert not kernel.is_mounted(tmp_path)
    table = tmp_path / "mountinfo"
    row = "36 35 0:{} / {} rw,nosuid shared:1 - fuse.dtafs dtafs rw\n"
    odd = r"/a\040b\134c\011ñ\012"
    table.write_text(row.format(7, "/other") + row.format(8, odd) + row.format(9, odd))
    assert kernel.device_of(Path("/a b\\c\tñ\n"), table) == 9
    assert kernel.device_of(Path("/a"), table) is None


def test_a_program_is_killed_at_the_end(tmp_path: Path) -> None:
    program = tmp_path / "sleeper.py"
    program.write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n")
    output = tmp_path / "output"
    where = {"PYTHONPATH": str(tmp_path)}
    with programs.started("sleeper", output=output, env=where) as process:
        deadline = time.monotonic() + 30
        while b"up" not in output.read_bytes():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline
            time.sleep(kernel.POLL_S)
    assert process.returncode == -9


def test_a_traceback_of_a_command_fails_the_test(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise ValueError('x')\n")
    with pytest.raises(AssertionError, match="Traceback"):
        programs.run("broken", env={"PYTHONPATH": str(tmp_path)})


def test_programs_see_nothing_of_the_users_lake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTAFS_LAKE", "/somewhere")
    assert "DTAFS_LAKE" not in programs.environment()
    assert programs.command_line("m", b"\xff", Path("p"), 3) == [
        sys.executable, "-m", "m", "\udcff", "p", "3",
    ]  # fmt: skip


def burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def test_what_holds_an_event_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    lock, locked = threading.Lock(), threading.Event()

    def hold_the_lock() -> None:
        with lock:
            locked.set()
            time.sleep(0.2)

    def take_the_lock() -> None:
        with lock:
            pass

    async def steps() -> None:
        with StepWatch() as watch:
            await trio.sleep(0.2)
            await trio.to_thread.run_sync(time.sleep, 0.2)
            assert not caplog.records and watch.steps
            burn(0.1)
            await trio.lowlevel.checkpoint()
            time.sleep(0.1)
            await trio.lowlevel.checkpoint()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, hold_the_lock)
                await trio.to_thread.run_sync(locked.wait)
                take_the_lock()

    caplog.set_level("INFO")
    trio.run(steps)
    *said, last = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and " burn" in said[0]
    assert "system call" in said[1] and " steps" in said[1]
    assert "take_the_lock" in said[2]
    assert "the longest took" in last and "take_the_lock" in last
