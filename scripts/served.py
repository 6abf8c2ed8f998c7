"""The programs that serve a stored tree as a file system, each behind the same few calls.

Each stores the tree once; then it is mounted and taken away as often as wanted, each time by a fresh
process. Everything is called as a user would call it, by its command and at its defaults.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from scripts.contenders import BIN, DATASET, run

ANSWER_LIMIT_S = 30.0
POLL_S = 0.01


class Served(Protocol):
    """A stored tree."""

    name: str

    def mount(self, mountpoint: Path) -> Path:
        """Start serving on an empty directory; the top of the tree, once it is there."""

    def umount(self, mountpoint: Path) -> None:
        """End it, and wait for the process."""


@contextmanager
def mounted(served: Served, mountpoint: Path) -> Iterator[Path]:
    """The top of a tree, mounted for the length of the block."""
    top = served.mount(mountpoint)
    try:
        yield top
    finally:
        served.umount(mountpoint)


@contextmanager
def empty_file(mountpoint: Path, size: int) -> Iterator[Path]:
    """The file of `scripts.empty_fs`, mounted on an empty directory for the length of the block."""
    command = [sys.executable, "-m", "scripts.empty_fs", str(mountpoint), str(size)]
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise subprocess.CalledProcessError(process.wait(), command)
        try:
            yield mountpoint / "zeros"
        finally:
            run("fusermount3", "-u", mountpoint)


def _wait_for(top: Path) -> Path:
    end = time.monotonic() + ANSWER_LIMIT_S
    while not (top.is_dir() and os.listdir(top)):
        if time.monotonic() > end:
            raise TimeoutError(f"nothing appeared at {top} within {ANSWER_LIMIT_S:.0f} s")
        time.sleep(POLL_S)
    return top


def _take_away(mountpoint: Path) -> None:
    run("fusermount3", "-u", mountpoint)
    with open("/proc/self/mountinfo", "rb") as mounts:
        assert os.fsencode(mountpoint) not in mounts.read().split(b" ")


class Dtafs:
    """One version of one dataset in a lake of its own, put in by `dtafsctl put --commit`."""

    name = "dtafs"

    def __init__(self, directory: Path, *sources: str) -> None:
        self.lake = directory / "lake"
        run(BIN / "dtafsctl", "--lake", self.lake, "init")
        run(BIN / "dtafsctl", "--lake", self.lake, "create", DATASET)
        words = ("put", DATASET, *sources, "--commit", "measured")
        run(BIN / "dtafsctl", "--lake", self.lake, *words)

    def mount(self, mountpoint: Path) -> Path:
        run(BIN / "dtafs", "mount", self.lake, mountpoint)
        return mountpoint / DATASET / "v1"

    def umount(self, mountpoint: Path) -> None:
        run(BIN / "dtafs", "umount", mountpoint)

    def daemon_pid(self) -> int:
        """The process that serves the mount."""
        return int(json.loads((self.lake / "run" / "daemon.json").read_text())["pid"])


class BorgMount:
    """`borg mount` of an archive that is compressed by `zstd,1` and not encrypted."""

    name = "borg mount"

    def __init__(self, directory: Path, tree: Path) -> None:
        self._archive = f"{directory / 'borg'}::v1"
        self._env = {
            "BORG_BASE_DIR": str(directory / "borg-home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        run("borg", "init", "--encryption", "none", directory / "borg", env=self._env)
        command = ("borg", "create", "--compression", "zstd,1", self._archive, ".")
        run(*command, env=self._env, cwd=tree)

    def mount(self, mountpoint: Path) -> Path:
        run("borg", "mount", self._archive, mountpoint, env=self._env)
        return _wait_for(mountpoint)

    def umount(self, mountpoint: Path) -> None:
        run("borg", "umount", mountpoint, env=self._env)


class ResticMount:
    """`restic mount`; restic always encrypts."""

    name = "restic mount"

    def __init__(self, directory: Path, tree: Path) -> None:
        self._env = {
            "RESTIC_REPOSITORY": str(directory / "restic"),
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(directory / "restic-cache"),
        }
        run("restic", "init", env=self._env)
        run("restic", "backup", ".", env=self._env, cwd=tree)
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self, mountpoint: Path) -> Path:
        self._process = subprocess.Popen(
            ["restic", "mount", str(mountpoint)],
            env={**os.environ, **self._env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return _wait_for(mountpoint / "snapshots" / "latest").resolve()

    def umount(self, mountpoint: Path) -> None:
        _take_away(mountpoint)
        assert self._process is not None
        self._process.wait(ANSWER_LIMIT_S)


class Squashfuse:
    """An image that is compressed by zstd at level 1, served by one of squashfuse's two programs."""

    def __init__(self, directory: Path, tree: Path, program: str) -> None:
        self.name = self._program = program
        self._image = directory / "tree.squashfs"
        if not self._image.exists():
            options = ("-comp", "zstd", "-Xcompression-level", "1", "-quiet", "-no-progress")
            run("mksquashfs", tree, self._image, *options)

    def mount(self, mountpoint: Path) -> Path:
        run(self._program, self._image, mountpoint)
        return _wait_for(mountpoint)

    def umount(self, mountpoint: Path) -> None:
        _take_away(mountpoint)
