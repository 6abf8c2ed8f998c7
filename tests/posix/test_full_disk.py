"""A disk that fills up below a mount: refused in words, nothing lost, and room can be made again."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from tests.support.lakes import assert_sound
from tests.support.mounts import mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")

MIB = 1 << 20
KEPT = bytes(range(256)) * 200


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 40 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(top: Path, size: int) -> int:
    """Make files of this size until the disk is full; how many were written to the end."""
    number = 0
    while True:
        try:
            with open(top / f"{size}.{number}", "wb", buffering=0) as stream:
                stream.write(os.urandom(size))
                os.fsync(stream.fileno())
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return number
        number += 1


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    lake = small_disk / "lake"
    Lake.create(lake).close()
    with mounted(lake, tmp_path / "mnt") as mount:
        (mount / "D").mkdir()
        staging = mount / "D/staging"
        (staging / "kept").write_bytes(KEPT)
        large = fill(staging, MIB)
        assert large > 10
        fill(staging, 4_000)
        assert os.statvfs(lake).f_bavail, "what records a removal has room yet"
        assert (staging / "kept").read_bytes() == KEPT
        os.rename(staging / "kept", staging / "here")
        os.chmod(staging / "here", 0o600)
        for path in staging.glob(f"{MIB}.*"):
            path.unlink()
        for path in staging.glob("4000.*"):
            path.unlink()
        (staging / "after").write_bytes(b"room again")
        os.rename(staging, mount / "D/v1")
        found = {path.name: path.read_bytes() for path in (mount / "D/v1").iterdir()}
        assert found == {"here": KEPT, "after": b"room again"}
    assert_sound(lake)
