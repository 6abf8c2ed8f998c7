"""The programs that the benchmark compares, each behind the same few calls.

A contender stores the versions of a set one after the other and is asked what the storage weighs.
Everything is called as a user would call it, by its command, at its defaults except where its name
says otherwise.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

DATASET = "measured"
BIN = Path(sys.executable).parent


def run(*command: object, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command to its end and return its stdout; raises CalledProcessError, stderr shown."""
    words = [os.fspath(word) if isinstance(word, Path) else str(word) for word in command]
    inherited = dict(os.environ)
    inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # installed programs have their bytecode
    done = subprocess.run(
        words,
        env={**inherited, **(env or {})},
        cwd=cwd,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, words)
    return done.stdout


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes, with no dirty page of an earlier one in its way."""
    os.sync()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bytes_below(path: Path) -> int:
    """Sum of the sizes of all files below a directory."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


class Contender(Protocol):
    """One way to keep versions."""

    name: str

    def add(self, tree: Path) -> dict[str, float]:
        """Store the next version; returns seconds by step, the whole under "ingest"."""

    def stored_bytes(self) -> int:
        """What lies on the disk for all versions so far."""

    def close(self) -> None:
        """End what runs in the background."""


class Borg:
    """borg, without encryption, with the given compression."""

    def __init__(self, directory: Path, compression: str) -> None:
        self.name = f"borg {compression}"
        self._repository = directory / f"borg-{compression.replace(',', '-')}"
        self._compression = compression
        self._count = 0
        self._env = {
            "BORG_BASE_DIR": str(directory / "borg-home"),
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
        }
        run("borg", "init", "--encryption", "none", self._repository, env=self._env)

    def add(self, tree: Path) -> dict[str, float]:
        self._count += 1
        archive = f"{self._repository}::v{self._count}"
        command = ("borg", "create", "--compression", self._compression, archive, ".")
        return {"ingest": timed(lambda: run(*command, env=self._env, cwd=tree))}

    def stored_bytes(self) -> int:
        return bytes_below(self._repository / "data")

    def close(self) -> None:
        """Nothing runs in the background."""


class Restic:
    """restic at its defaults; it always encrypts."""

    name = "restic"

    def __init__(self, directory: Path) -> None:
        self._repository = directory / "restic"
        self._env = {
            "RESTIC_REPOSITORY": str(self._repository),
            "RESTIC_PASSWORD": "benchmark",
            "RESTIC_CACHE_DIR": str(directory / "restic-cache"),
        }
        run("restic", "init", env=self._env)

    def add(self, tree: Path) -> dict[str, float]:
        return {"ingest": timed(lambda: run("restic", "backup", ".", env=self._env, cwd=tree))}

    def stored_bytes(self) -> int:
        return bytes_below(self._repository / "data")

    def close(self) -> None:
        """Nothing runs in the background."""


class Put:
    """dtafs without a mount: `dtafsctl put`, then `dtafsctl commit`."""

    name = "dtafs put"

    def __init__(self, directory: Path) -> None:
        self.lake = directory / "lake-put"
        self._count = 0
        self.ctl("init")
        self.ctl("create", DATASET)

    def ctl(self, *arguments: object) -> str:
        return run(BIN / "dtafsctl", "--lake", self.lake, *arguments)

    def add(self, tree: Path) -> dict[str, float]:
        self._count += 1
        put = timed(lambda: self.ctl("put", DATASET, f"{tree}/.", "--delete"))
        commit = timed(lambda: self.ctl("commit", DATASET, "-m", f"v{self._count}"))
        return {"ingest": put + commit, "put": put, "commit": commit}

    def stored_bytes(self) -> int:
        return stored_without_index(self.lake)

    def close(self) -> None:
        """Nothing runs in the background."""


class PutOnce(Put):
    """dtafs without a mount, in one process: `dtafsctl put --commit`."""

    name = "dtafs put --commit"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "once")

    def add(self, tree: Path) -> dict[str, float]:
        self._count += 1
        words = ("put", DATASET, f"{tree}/.", "--delete", "--commit", f"v{self._count}")
        seconds = timed(lambda: self.ctl(*words))
        return {"ingest": seconds}


class Mounted:
    """dtafs through its mount: `cp -a` into staging, then `dtafsctl commit`."""

    name = "dtafs mount"

    def __init__(self, directory: Path) -> None:
        self.lake = directory / "lake-mount"
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        self._count = 0
        self.ctl("init")
        run(BIN / "dtafs", "mount", self.lake, self.mountpoint)
        (self.mountpoint / DATASET).mkdir()
        self.staging = self.mountpoint / DATASET / "staging"

    def ctl(self, *arguments: object) -> str:
        return run(BIN / "dtafsctl", "--lake", self.lake, *arguments)

    def commit(self) -> float:
        """Seconds that a commit of what is staged takes."""
        self._count += 1
        start = time.perf_counter()  # no sync before it: what is dirty is the commit's to wait for
        self.ctl("commit", DATASET, "-m", f"v{self._count}")
        return time.perf_counter() - start

    def add(self, tree: Path) -> dict[str, float]:
        remove_what_is_gone(tree, self.staging)
        copy = timed(lambda: run("cp", "-a", f"{tree}/.", f"{self.staging}/"))
        commit = self.commit()
        return {"ingest": copy + commit, "copy": copy, "commit": commit}

    def stored_bytes(self) -> int:
        return stored_without_index(self.lake)

    def daemon_pid(self) -> int:
        """The process that serves the mount."""
        return int(json.loads((self.lake / "run" / "daemon.json").read_text())["pid"])

    def close(self) -> None:
        run(BIN / "dtafs", "umount", self.mountpoint)


def stored_without_index(lake: Path) -> int:
    """Packs, log and superblock: what the lake is; the index can be rebuilt from them."""
    whole = bytes_below(lake / "packs") + bytes_below(lake / "log")
    return whole + (lake / "lake.json").stat().st_size


def remove_what_is_gone(tree: Path, staging: Path) -> None:
    """Remove from staging what the next version has not, as `rsync --delete` would."""
    for name in sorted(os.listdir(staging)):
        old, new = staging / name, tree / name
        if old.is_dir() and not old.is_symlink() and new.is_dir():
            remove_what_is_gone(new, old)
        elif old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif not new.exists():
            old.unlink()
