"""Many programs at once: writers, readers and commits, none of which may see a half of another."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.mounts import Mount
from tests.support.programs import ctl, ctl_json
from tests.support.trees import tree_of

LOAD_S = 4.0
WRITERS = 2
FILES = 20


class Load:
    """Threads that work until `stop`; what went wrong in them is in `failures`."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, step: Callable[[], None]) -> None:
        """Repeat a step in a thread."""

        def run() -> None:
            try:
                while not self.stop.is_set():
                    step()
            except BaseException as error:
                self.failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)

    def end(self) -> None:
        """Stop all threads."""
        self.stop.set()
        for thread in self._threads:
            thread.join(60)


def writer(directory: Path, seed: int) -> Callable[[], None]:
    """Writes whole files, each with the hash of its bytes in front, renames and removes them."""
    chaos = random.Random(seed)
    directory.mkdir()

    def step() -> None:
        path = directory / f"f{chaos.randrange(FILES)}"
        choice = chaos.randrange(5)
        if choice == 0 and path.exists():
            path.unlink()
        elif choice == 1 and path.exists():
            path.rename(directory / f"f{chaos.randrange(FILES)}")
        else:
            data = chaos.randbytes(chaos.randrange(150_000))
            path.write_bytes(hashlib.sha256(data).digest() + data)
        time.sleep(0.002)  # a commit finds a moment in which nothing is open

    return step


def assert_whole(version: Path) -> int:
    """Every file of a version is what one writer wrote, and what the lake says it is."""
    count = 0
    for directory, _, names in os.walk(version):
        for name in names:
            path = os.path.join(directory, name)
            data = Path(path).read_bytes()
            assert hashlib.sha256(data[32:]).digest() == data[:32], f"{path} is no whole file"
            said = os.getxattr(path, "user.dtafs.sha256").decode()
            assert hashlib.sha256(data).hexdigest() == said
            count += 1
    return count


def test_commits_while_others_write_and_read(mounted_lake: Mount, tmp_path: Path) -> None:
    """And while versions are compared and exported."""
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    load = Load()
    committed = [0]

    def read() -> None:
        if committed[0]:
            assert_whole(mounted_lake / f"D/v{random.randrange(committed[0]) + 1}")
        else:
            time.sleep(0.01)

    def hand_out() -> None:
        newest = committed[0]
        if newest < 2:
            time.sleep(0.01)
            return
        changes = ctl_json(mounted_lake.lake, "diff", "D:v1", f"D:v{newest}")["changes"]
        assert changes
        out = tmp_path / f"{newest}"
        ctl(mounted_lake.lake, "export", f"D:v{newest}", "--to", "dir", out)
        assert tree_of(out / "data") == tree_of(mounted_lake / f"D/v{newest}")
        shutil.rmtree(out)

    for seed in range(WRITERS):
        load.start(writer(staging / f"w{seed}", seed))
    load.start(read)
    load.start(hand_out)
    deadline = time.monotonic() + LOAD_S
    try:
        while time.monotonic() < deadline and not load.failures:
            time.sleep(0.2)
            try:
                os.rename(staging, mounted_lake / f"D/v{committed[0] + 1}")
                committed[0] += 1
            except OSError as error:
                assert error.errno in (errno.EBUSY, errno.EPERM), error
    finally:
        load.end()
    assert not load.failures, load.failures
    os.rename(staging, mounted_lake / f"D/v{committed[0] + 1}")
    assert sum(assert_whole(mounted_lake / f"D/v{n + 1}") for n in range(committed[0] + 1))
