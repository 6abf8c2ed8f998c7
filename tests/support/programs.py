"""Starting the project's programs from tests, and ending them: always by pid, never by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

DAEMON = "dtafs.cli.daemon"
WATCHED_DAEMON = "tests.support.watched_daemon"
CTL = "dtafs.cli.ctl"
HMS = "dtafs.cli.hms"

COMMAND_LIMIT_S = 120.0
"""Longer than any command takes on a busy machine; a test that meets it has found a hang."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every program under test: nothing of the user's lake, warnings shown."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DTAFS_")}
    kept["PYTHONPATH"] = str(ROOT)
    kept["PYTHONWARNINGS"] = "default"
    kept["PYTHONFAULTHANDLER"] = "1"
    kept["LC_ALL"] = "C.UTF-8"
    return {**kept, **(extra or {})}


def command_line(module: str, *arguments: object) -> list[str]:
    """The argument vector that runs a command of this checkout with this Python."""
    return [sys.executable, "-m", module, *(os.fsdecode(_plain(item)) for item in arguments)]


def run(
    module: str,
    *arguments: object,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    limit_s: float = COMMAND_LIMIT_S,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end and return what it printed, whatever its exit code.

    Stderr of an expected failure holds no traceback: that is asserted here, for every command.
    """
    done = subprocess.run(
        command_line(module, *arguments),
        input=stdin,
        capture_output=True,
        env=environment(env),
        cwd=cwd,
        timeout=limit_s,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
    return done


def ctl(
    lake: Path, *arguments: object, exit_code: int = 0, **how: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run `dtafsctl --lake LAKE ARGUMENTS…` and assert how it ends."""
    done = run(CTL, "--lake", lake, *arguments, **how)
    assert done.returncode == exit_code, (
        f"dtafsctl {' '.join(map(str, arguments))}: exit code {done.returncode}, not {exit_code}\n"
        f"{done.stdout.decode(errors='replace')}{done.stderr.decode(errors='replace')}"
    )
    return done


def ctl_json(lake: Path, *arguments: object, exit_code: int = 0, **how: Any) -> Any:
    """Run `dtafsctl … --json` and return the one document it prints."""
    return json.loads(ctl(lake, "--json", *arguments, exit_code=exit_code, **how).stdout)


@contextmanager
def started(
    module: str,
    *arguments: object,
    output: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in the background, its streams appended to `output`; killed at the end."""
    with output.open("ab") as stream:
        process = subprocess.Popen(
            command_line(module, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env=environment(env),
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process as a crash would (SIGKILL) and wait until it is gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.wait(COMMAND_LIMIT_S)


def _plain(item: object) -> str | bytes:
    return item if isinstance(item, str | bytes) else str(item)
