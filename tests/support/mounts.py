"""A lake mounted by a real daemon in a process of its own.

`mounted` is for a `with` block; the fixtures `mounted_lake` and `mount` of tests/conftest.py are
made of it. On leaving, the mount is ended as a user would end it, and the test fails if that does
not work, if the daemon does not exit with 0, or if its log holds a warning or a traceback.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import kernel, programs

START_LIMIT_S = 30.0
STOP_LIMIT_S = 30.0
BODY_LIMIT_S = 300.0
"""How long the body of one mount may take before its requests are aborted (`kernel.Watchdog`)."""

COMPLAINT = re.compile(
    rb"^.*(?:Traceback|Exception ignored|\bWARNING\b|\bERROR\b|\bCRITICAL\b|Warning:).*$", re.M
)


@dataclass
class Mount:
    """A mounted lake: where it is, and the daemon that serves it."""

    lake: Path
    mountpoint: Path
    process: subprocess.Popen[bytes]
    output: Path
    """What the daemon printed; its own log is run/daemon.log in the lake."""
    crashed: bool = False

    def __truediv__(self, name: str) -> Path:
        return self.mountpoint / name

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """Kill the daemon (SIGKILL) as a crash would and clear the dead mountpoint away."""
        self.crashed = True
        programs.kill(self.process)
        complaint = kernel.unmount(self.mountpoint, lazy=True)
        assert not complaint or not kernel.is_mounted(self.mountpoint), complaint

    def resident_bytes(self) -> int:
        """Anonymous memory of the daemon: what it allocated; no LMDB map, no binaries."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.M)
        assert found, status
        return int(found[1]) * 1024

    def said(self) -> bytes:
        """Everything that the daemon printed or logged so far."""
        log = self.lake / "run" / "daemon.log"
        return b"".join(path.read_bytes() for path in (self.output, log) if path.exists())


@contextmanager
def mounted(
    lake: Path,
    mountpoint: Path,
    *options: str,
    limit_s: float = BODY_LIMIT_S,
    allow: bytes = rb"(?!)",
) -> Iterator[Mount]:
    """Mount `lake` for the length of the block.

    The log is that of this mount only: an older one is removed first. `allow` is a pattern of the
    log lines that are no failure.
    """
    mountpoint.mkdir(exist_ok=True)
    output = mountpoint.with_name(mountpoint.name + ".output")
    for stale in (output, lake / "run" / "daemon.log"):
        stale.unlink(missing_ok=True)
    arguments = ("mount", lake, mountpoint, "--foreground", *options)
    with programs.started(programs.WATCHED_DAEMON, *arguments, output=output) as process:
        mount = Mount(lake, mountpoint, process, output)
        connection = wait_until_answering(mount)
        try:
            with kernel.Watchdog(connection, limit_s) as watchdog:
                yield mount
        except BaseException:
            end(mount, connection)  # the test's own failure is the one to show
            raise
        complaint = end(mount, connection)
        assert not watchdog.fired, f"the mount was aborted after {limit_s:.0f} s\n{_tail(mount)}"
        assert not complaint, f"{complaint}\n{_tail(mount)}"
    assert_quiet(mount, allow)


def end_daemon_of(lake: Path, mountpoint: Path) -> None:
    """End the daemon of a mount that a script or a command made, whatever its state."""
    facts = lake / "run" / "daemon.json"
    if kernel.is_mounted(mountpoint):
        kernel.unmount_patiently(mountpoint, STOP_LIMIT_S)
    if kernel.is_mounted(mountpoint):
        pid = int(json.loads(facts.read_text())["pid"])
        os.kill(pid, signal.SIGKILL)
        kernel.unmount(mountpoint, lazy=True)


def wait_until_answering(mount: Mount) -> int:
    """Wait until the mount answers; returns the number of its FUSE connection."""
    deadline = time.monotonic() + START_LIMIT_S
    while (connection := kernel.device_of(mount.mountpoint)) is None:
        ended = mount.process.poll()
        assert ended is None, f"the daemon exited with {ended} before it mounted\n{_tail(mount)}"
        assert time.monotonic() < deadline, f"no mount in {START_LIMIT_S} s\n{_tail(mount)}"
        time.sleep(kernel.POLL_S)
    with kernel.Watchdog(connection, START_LIMIT_S):
        mount.mountpoint.stat()
    return connection


def end(mount: Mount, connection: int) -> str:
    """End a mount whatever its state; returns what went wrong, "" for a clean end."""
    if mount.crashed:
        return ""
    complaint = ""
    if kernel.is_mounted(mount.mountpoint):
        complaint = kernel.unmount_patiently(mount.mountpoint, STOP_LIMIT_S)
    try:
        code = mount.process.wait(0 if complaint else STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        complaint = complaint or f"the daemon still ran {STOP_LIMIT_S:.0f} s after its mount ended"
        kernel.abort(connection)
        kernel.unmount(mount.mountpoint, lazy=True)
        programs.kill(mount.process)
        return complaint
    return complaint or ("" if code == 0 else f"the daemon exited with {code}")


def assert_quiet(mount: Mount, allow: bytes = rb"(?!)") -> None:
    """Fail if the daemon logged a warning, an error or a traceback that `allow` does not match."""
    if mount.crashed:
        return
    complaints = [line for line in COMPLAINT.findall(mount.said()) if not re.search(allow, line)]
    assert not complaints, f"the daemon complained:\n{_tail(mount)}"


def _tail(mount: Mount) -> str:
    return mount.said()[-8_000:].decode(errors="replace")
