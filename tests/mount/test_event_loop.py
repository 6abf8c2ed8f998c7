"""Nothing holds the daemon's event loop: every mount of the suite is watched, these ones work hard.

`tests.support.steps` says what counts as held; a warning of it in the log fails the test. The other
half is that whoever works meanwhile gets on: `Bystander` reads, writes and lists all the while.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.mounts import Mount
from tests.support.programs import ctl

MIB = 1 << 20
NAMES, SOAK_NAMES = 10_000, 100_000
LARGE_MIB, SOAK_LARGE_MIB = 256, 4096
SYNCS_S, SYNCERS = 3.0, 8


@contextmanager
def bystander(mount: Mount) -> Iterator[list[int]]:
    """Somebody else at work in the dataset; in the list is how many rounds they made."""
    mine, rounds = mount / "D/staging/bystander", [0]
    ended = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        mine.mkdir()
        try:
            while not ended.wait(0.005):
                path = mine / f"f{rounds[0] % 20}"
                path.write_bytes(b"x" * random.randrange(70_000))
                assert path.name in os.listdir(mine)
                os.statvfs(mount.mountpoint)
                (mount / ".dtafs/status").read_text()
                rounds[0] += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        ended.set()
        thread.join(60)
        assert not failures, failures


@pytest.fixture
def dataset(mounted_lake: Mount) -> Mount:
    """A mounted lake with a dataset D."""
    (mounted_lake / "D").mkdir()
    return mounted_lake


def work_in_a_large_directory(mount: Mount, source: Path, count: int) -> None:
    """`source` is made with so many files, staged, committed, changed in part and discarded."""
    lake, staging, large = mount.lake, mount / "D/staging", mount / "D/staging/large"
    (source / "large").mkdir(parents=True)
    for i in range(count):
        (source / "large" / f"name-{i}").write_bytes(b"%d" % i if i % 20 == 0 else b"")
    with bystander(mount) as rounds:
        ctl(lake, "put", "D", source / "large")
        assert len(os.listdir(large)) == count
        ctl(lake, "commit", "D", "-m", "m", "--wait")
        assert len(os.listdir(mount / "D/v1/large")) == count
        with os.scandir(large) as found:
            assert sum(entry.stat().st_size > 0 for entry in found) == (count + 19) // 20
        for i in range(count // 8):
            (large / f"name-{i}").unlink()
        for i in range(count // 8, count // 4):
            (large / f"name-{i}").rename(large / f"moved-{i}")
        large.rename(staging / "moved")
        assert len(os.listdir(staging / "moved")) == count - count // 8
        ctl(lake, "--json", "status", "D")
        ctl(lake, "commit", "D", "-m", "m", "--wait")
        ctl(lake, "diff", "D:v1", "D:v2")
        ctl(lake, "check")
        ctl(lake, "export", "D:v2", source.parent / "exported", "--to", "dir")
        for path in (staging / "moved").iterdir():
            path.chmod(0o600)
        assert rounds[0]
    ctl(lake, "discard", "D")
    assert len(os.listdir(staging / "moved")) == count - count // 8


def test_a_large_directory(dataset: Mount, tmp_path: Path) -> None:
    work_in_a_large_directory(dataset, tmp_path / "source", NAMES)


@pytest.mark.soak
def test_a_huge_directory(dataset: Mount, tmp_path: Path) -> None:
    work_in_a_large_directory(dataset, tmp_path / "source", SOAK_NAMES)


def test_many_small_files(dataset: Mount) -> None:
    """Each is made, committed, written anew and discarded, one call of the mount after the other."""
    staging = dataset / "D/staging"
    with bystander(dataset):
        for _ in range(2):
            for i in range(2_000):
                (staging / f"f{i}").write_bytes(b"%d" % i * 300)
            ctl(dataset.lake, "commit", "D", "-m", "m", "--wait", "--allow-empty")
        assert (dataset / "D/v2/f1999").read_bytes() == b"1999" * 300
    ctl(dataset.lake, "discard", "D")


def lose_large_files(mount: Mount, size_mib: int) -> None:
    """Every way in which a large file loses its bytes, which takes the disk some time."""
    staging, large = mount / "D/staging", mount / "D/staging/large"
    block = random.randbytes(MIB)

    def replace_it() -> None:
        (staging / "small").write_bytes(b"1")
        os.rename(staging / "small", large)

    ways: list[Callable[[], object]] = [
        large.unlink,
        lambda: os.truncate(large, 5),
        lambda: large.write_bytes(b"1"),
        replace_it,
        lambda: ctl(mount.lake, "discard", "D"),
    ]
    for lose in ways:
        with large.open("wb", buffering=0) as stream:
            for _ in range(size_mib):
                stream.write(block)
        lose()
        time.sleep(1.2)  # bytes go with the flush of the rows
        assert not large.exists() or large.stat().st_blocks * 512 < MIB


def test_large_files_that_go(dataset: Mount) -> None:
    lose_large_files(dataset, LARGE_MIB)


@pytest.mark.soak
def test_huge_files_that_go(dataset: Mount) -> None:
    lose_large_files(dataset, SOAK_LARGE_MIB)


def test_a_storm_of_syncs(dataset: Mount) -> None:
    staging, end = dataset / "D/staging", time.monotonic() + SYNCS_S
    failures: list[BaseException] = []

    def sync_again_and_again(name: str) -> None:
        try:
            while time.monotonic() < end:
                with (staging / name).open("wb", buffering=0) as stream:
                    stream.write(random.randbytes(random.choice((100, 5_000, 60_000))))
                    os.fsync(stream.fileno())
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=sync_again_and_again, args=(f"s{i}",)) for i in range(SYNCERS)
    ]
    with bystander(dataset):
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            (dataset / ".dtafs/catalog.sqlite").stat()
            ctl(dataset.lake, "--json", "status", "D")
        for thread in threads:
            thread.join(60)
    assert not failures, failures
