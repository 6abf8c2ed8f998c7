"""Memory maps: shared between processes, with read and write, and beyond the end of a file."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.posix import acts
from tests.support.actors import Actor, acting
from tests.support.mounts import Mount

PAGE = mmap.PAGESIZE
TOUCH = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
mapped = mmap.mmap(fd, 3 * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ)
os.close(fd)
print(mapped[0], flush=True)
input()
print(mapped[int(sys.argv[2])], flush=True)
"""


@pytest.fixture
def path(module_mount: Mount, tmp_path: Path) -> Path:
    """A staged file of three pages."""
    place = module_mount / "D/staging" / tmp_path.name
    place.mkdir()
    (place / "file").write_bytes(b"a" * PAGE + b"b" * PAGE + b"c" * PAGE)
    return place / "file"


@pytest.fixture
def other(path: Path) -> Iterator[Actor]:
    """Another process, which has the file mapped."""
    with acting() as actor:
        actor.do(acts.enter, str(path.parent), "/")
        actor.do(acts.map_shared, "file", 3 * PAGE)
        yield actor


def test_what_one_process_writes_the_other_sees(path: Path, other: Actor) -> None:
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 3 * PAGE) as mapped:
        mapped[5:8] = b"one"
        assert other.do(acts.read_mapped, 4, 5) == b"aonea"
        other.do(acts.write_mapped, PAGE, b"two")
        assert mapped[PAGE : PAGE + 4] == b"twob"
        assert os.pread(fd, 4, PAGE) == b"twob", "read(2) sees it without msync"
        os.pwrite(fd, b"three", 2 * PAGE)
        assert other.do(acts.read_mapped, 2 * PAGE, 6) == b"threec"
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.pread(fd, 8, 0) == b"aaaaaone"
    os.close(fd)


def test_truncation_under_a_map(path: Path, other: Actor) -> None:
    os.truncate(path, PAGE + 10)
    assert other.do(acts.read_mapped, PAGE, 12) == b"b" * 10 + b"\0\0", "zeros up to the page's end"
    other.do(acts.write_mapped, PAGE + 10, b"lost")
    other.do(acts.sync_mapped)  # unsynced it would appear, as on tmpfs: the kernel keeps the page
    os.truncate(path, 3 * PAGE)
    assert other.do(acts.read_mapped, PAGE + 8, 8) == b"bb" + bytes(6), "and zeros they stay"
    other.do(acts.write_mapped, 3 * PAGE - 1, b"!")
    assert path.read_bytes()[-2:] == b"\0!"


@pytest.mark.parametrize("at", [PAGE, 2 * PAGE + 5])
def test_beyond_the_end_is_a_bus_error(path: Path, at: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler=0", "-c", TOUCH, path, str(at)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"97\n"
        os.truncate(path, 10)
        process.communicate(b"\n", 30)
    assert process.returncode == -signal.SIGBUS


def test_a_private_map_keeps_its_changes(path: Path) -> None:
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
        mapped[0:4] = b"mine"
        assert mapped[0:5] == b"minea"
        assert path.read_bytes()[:5] == b"aaaaa"
        with path.open("rb+") as writer:
            writer.seek(PAGE)
            writer.write(b"theirs")
        assert mapped[0:4] == b"mine"


def test_a_map_of_a_file_that_has_lost_its_name(path: Path, other: Actor) -> None:
    path.unlink()
    other.do(acts.write_mapped, 0, b"kept")
    assert other.do(acts.read_mapped, 0, 5) == b"kepta"
    path.write_bytes(b"another")
    assert other.do(acts.read_mapped, 0, 5) == b"kepta"
    assert path.read_bytes() == b"another"
