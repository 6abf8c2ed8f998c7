"""What the kernel knows of FUSE mounts, and how to end one that hangs.

A request to a FUSE daemon that does not answer cannot be interrupted by a signal handler, so a
test that waits for one would wait for ever. Aborting the connection makes every waiting request
fail with ECONNABORTED; `Watchdog` does that when a test takes too long.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

MOUNTS = Path("/proc/self/mountinfo")
CONNECTIONS = Path("/sys/fs/fuse/connections")
POLL_S = 0.01


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted there, judged without touching the mount (it may hang)."""
    return device_of(mountpoint) is not None


def device_of(mountpoint: Path, table: Path = MOUNTS) -> int | None:
    """The number of the FUSE connection behind a mountpoint, or None where nothing is mounted."""
    wanted = os.fsencode(mountpoint)
    found = None
    for line in table.read_bytes().splitlines():
        fields = line.split(b" ")
        if _unescape(fields[4]) == wanted:
            found = int(fields[2].split(b":")[1])  # the last one listed lies on top
    return found


def abort(connection: int) -> None:
    """Make every request that waits on a FUSE connection fail, and all later ones too."""
    if not any(CONNECTIONS.iterdir()):
        subprocess.run(["mount", "-t", "fusectl", "none", str(CONNECTIONS)], check=False)
    switch = CONNECTIONS / str(connection) / "abort"
    if switch.exists():
        switch.write_text("1")


def unmount(mountpoint: Path, lazy: bool = False) -> str:
    """Run fusermount3 -u; returns what it complained of, "" when it is done."""
    command = ["fusermount3", "-uz" if lazy else "-u", str(mountpoint)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def unmount_patiently(mountpoint: Path, limit_s: float) -> str:
    """Unmount, trying again while it is busy: the kernel releases closed files asynchronously."""
    deadline = time.monotonic() + limit_s
    while complaint := unmount(mountpoint):
        if "busy" not in complaint or time.monotonic() > deadline:
            return complaint
        time.sleep(POLL_S)
    return ""


class Watchdog:
    """Aborts a FUSE connection unless the `with` block ends within `limit_s`."""

    def __init__(self, connection: int, limit_s: float) -> None:
        self.fired = False
        self._connection = connection
        self._timer = threading.Timer(limit_s, self._fire)
        self._timer.daemon = True

    def __enter__(self) -> Watchdog:
        self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    def _fire(self) -> None:
        self.fired = True
        abort(self._connection)


def _unescape(field: bytes) -> bytes:
    """Undo the octal escapes of /proc/self/mountinfo (space, tab, newline, backslash)."""
    return field.decode("unicode_escape").encode("latin-1")
