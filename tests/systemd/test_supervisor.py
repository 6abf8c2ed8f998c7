"""What a daemon tells its supervisor, and the daemon as its unit would start it."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.services.supervisor import ALIVE, BEATS, READY, STOPPING, Supervisor
from tests.support import kernel
from tests.support.programs import environment, kill
from tests.systemd.units import PROGRAMS, command, settings

LIMIT_S = 60.0
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket that systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(LIMIT_S)
        yield listener


def heard(ear: socket.socket) -> list[str]:
    return ear.recv(4096).decode().split("\n")


def test_what_the_environment_says(ear: socket.socket) -> None:
    supervisor = Supervisor.of({"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "3000000"}, 7)
    assert supervisor.beat_s == 3.0 / BEATS
    supervisor.tell(READY, "STATUS=well")
    assert heard(ear) == [READY, "STATUS=well"]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "-3"},
    ],
)
def test_nobody_watches(more: dict[str, str], tmp_path: Path) -> None:
    assert Supervisor.of({"NOTIFY_SOCKET": str(tmp_path / "x"), **more}, 7).beat_s == 0


def test_without_a_supervisor_nothing_happens() -> None:
    supervisor = Supervisor.of({"WATCHDOG_USEC": "3000000"}, 7)
    assert supervisor.beat_s == 0
    supervisor.tell(READY)


def test_an_abstract_socket() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        name = f"dtafs-test-{os.getpid()}"
        listener.bind("\0" + name)
        listener.settimeout(LIMIT_S)
        Supervisor("@" + name).tell(STOPPING)
        assert heard(listener) == [STOPPING]


def test_a_supervisor_that_is_gone_is_no_reason_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Supervisor(str(tmp_path / "nobody")).tell(READY)
    assert "cannot tell" in caplog.text


def as_the_unit_would(lake: Path, mountpoint: Path, ear: socket.socket) -> subprocess.Popen[bytes]:
    """Start the daemon as its unit says: command, limits, capabilities, and what it may not do.

    What only systemd can do is left out: the filter of system calls, and the control group. As another
    user than root the mount goes through the set-uid fusermount3, so privileges are kept, as the unit says.
    """
    unit = settings("dtafs@.service")
    assert unit["Type"] == ["notify"] and unit["NotifyAccess"] == ["main"]
    watchdog_us = 1_500_000  # less than the unit's, so that the test need not wait for long
    assert float(unit["WatchdogSec"][0]) * 1e6 > watchdog_us
    asked = {"MOUNTPOINT": str(mountpoint), "MOUNT_OPTIONS": ""}
    words = command("dtafs@.service", lake, asked)
    words[0] = str(PROGRAMS / words[0])
    setpriv = shutil.which("setpriv")
    if os.geteuid() == 0 and setpriv:
        names = [
            name.removeprefix("CAP_").lower() for name in unit["CapabilityBoundingSet"][0].split()
        ]
        kept = ",".join(["-all", *(f"+{name}" for name in names)])
        assert unit["NoNewPrivileges"] == ["yes"]
        words = [setpriv, "--no-new-privs", "--bounding-set", kept, "--inh-caps", "-all", *words]

    def restrict() -> None:
        os.umask(int(unit["UMask"][0], 8))
        assert unit["MemoryDenyWriteExecute"] == ["yes"]
        ctypes.CDLL(None).prctl(
            PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0
        )  # newer kernels have it

    told = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": str(watchdog_us)}
    with open(mountpoint.with_suffix(".log"), "wb") as log:
        return subprocess.Popen(
            words,
            env=environment(told),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=restrict,
        )


def test_the_daemon_as_the_unit_would_start_it(
    lake_path: Path, tmp_path: Path, ear: socket.socket
) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    process = as_the_unit_would(lake_path, mountpoint, ear)
    try:
        said: list[str] = []
        while READY not in said:
            assert process.poll() is None, mountpoint.with_suffix(".log").read_text()
            said = heard(ear)
        assert f"STATUS={lake_path} is mounted on {mountpoint}" in said
        assert kernel.is_mounted(mountpoint)
        (mountpoint / "D").mkdir()
        staged = mountpoint / "D" / "staging" / "a"
        staged.write_bytes(b"x" * 100_000)
        staged.chmod(0o4755)
        (mountpoint / "D" / "staging").rename(mountpoint / "D" / "v1")
        assert (mountpoint / "D" / "v1" / "a").read_bytes() == b"x" * 100_000
        beats = [time.monotonic() for _ in range(4) if heard(ear) == [ALIVE]]
        assert len(beats) == 4 and beats[-1] - beats[0] < 10
        process.send_signal(signal.SIGTERM)
        while STOPPING not in (said := heard(ear)):
            assert said == [ALIVE]
        assert process.wait(LIMIT_S) == 0
        assert not kernel.is_mounted(mountpoint)
    finally:
        kill(process)
        if kernel.is_mounted(mountpoint):
            kernel.unmount(mountpoint, lazy=True)
