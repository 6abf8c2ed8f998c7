"""Ordinary programs on a real mount: what they write, what they read back."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.mounts import Mount
from tests.support.trees import assert_same_tree, tree_of

TIDY_LIMIT_S = 20.0
"""How long the daemon may take to drop the data of files that a version holds."""

STAMP_NS = 1_600_000_000_123_456_789


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with everything that a version can hold, names and modes out of the ordinary."""
    top = tmp_path / "source"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    chaos = random.Random(3)
    (top / "big.bin").write_bytes(chaos.randbytes(2_500_000))
    (top / "nothing").touch()
    (top / "deep" / "er" / "text").write_text("deep\n" * 1_000)
    (top / "deep" / "run").write_text("#!/bin/sh\n")
    (top / "deep" / "run").chmod(0o4755)
    os.link(top / "deep" / "run", top / "twin")
    os.symlink("../nowhere", top / "deep" / "dangling")
    os.mkfifo(top / "pipe", 0o640)
    for i in range(300):
        (top / "deep" / f"f{i}").write_bytes(b"%d" % i)
    with open(os.fsencode(top) + b"/\xff\xfename\n", "wb") as stream:
        stream.write(b"bytes")
    with open(top / "sparse", "wb") as stream:
        stream.truncate(5_000_000)
        stream.seek(3_000_000)
        stream.write(b"in the middle")
    os.setxattr(top / "deep", b"user.colour", b"blue")
    os.setxattr(top / "twin", b"user.colour", bytes(range(256)))
    for name in ("nothing", "deep/er/text", "empty", "deep/er"):
        os.utime(top / name, ns=(STAMP_NS, STAMP_NS))
    return top


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", f"{source}/.", target], check=True)


def local_bytes(mount: Mount) -> int:
    """What the data files of staging take on the disk."""
    files = (path for path in mount.lake.glob("staging/data/**/*") if path.is_file())
    return sum(path.stat().st_blocks for path in files) * 512


def commit(mount: Mount, dataset: str, number: int) -> Path:
    """`mv staging vN`; the version."""
    version = mount / f"{dataset}/v{number}"
    os.rename(mount / f"{dataset}/staging", version)
    return version


def test_a_tree_comes_back_from_staging_and_from_the_version(
    mounted_lake: Mount, source: Path
) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    copy(source, staging)
    expected = tree_of(source, xattrs=True)
    assert_same_tree(expected, tree_of(staging, xattrs=True))
    version = commit(mounted_lake, "D", 1)
    assert_same_tree(expected, tree_of(version, xattrs=True))
    assert_same_tree(expected, tree_of(staging, xattrs=True))
    assert (version / "twin").stat().st_ino == (version / "deep/run").stat().st_ino
    assert (version / "twin").stat().st_nlink == 2


def test_rsync_turns_one_version_into_the_next(mounted_lake: Mount, source: Path) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    copy(source, staging)
    first = tree_of(source)
    commit(mounted_lake, "D", 1)
    shutil.rmtree(source / "deep" / "er")
    (source / "deep" / "f7").write_bytes(b"changed")
    (source / "new").write_bytes(b"new")
    (source / "nothing").unlink()
    (source / "nothing").mkdir()
    for name in ("deep", "nothing"):  # rsync lets a directory's time be that is right to a second
        os.utime(source / name, ns=(STAMP_NS, STAMP_NS))
    subprocess.run(["rsync", "-aH", "--delete", f"{source}/", f"{staging}/"], check=True)
    second = tree_of(source)
    assert_same_tree(second, tree_of(commit(mounted_lake, "D", 2)))
    assert_same_tree(first, tree_of(mounted_lake / "D/v1"))


def test_patching_a_sealed_file_copies_nothing_of_it(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    data = bytearray(random.Random(5).randbytes(20_000_000))
    (staging / "big").write_bytes(data)
    commit(mounted_lake, "D", 1)
    deadline = time.monotonic() + TIDY_LIMIT_S
    while local_bytes(mounted_lake) and time.monotonic() < deadline:
        time.sleep(0.05)
    with (staging / "big").open("r+b") as stream:
        stream.seek(7_000_000)
        stream.write(b"patched")
        stream.seek(0, os.SEEK_END)
        stream.write(b"appended")
    data[7_000_000:7_000_007] = b"patched"
    data += b"appended"
    assert 0 < local_bytes(mounted_lake) < 1_000_000, "the file was copied"
    assert (staging / "big").read_bytes() == data
    commit(mounted_lake, "D", 2)
    assert (mounted_lake / "D/v2/big").read_bytes() == data
    os.truncate(staging / "big", 100)
    assert (staging / "big").read_bytes() == data[:100]


def test_memory_maps(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    path = mounted_lake / "D/staging/mapped"
    path.write_bytes(bytes(100_000))
    with path.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        mapped[50_000:50_005] = b"hello"
        mapped.flush()
        assert os.pread(stream.fileno(), 5, 50_000) == b"hello"
    version = commit(mounted_lake, "D", 1)
    with (
        (version / "mapped").open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert mapped[50_000:50_005] == b"hello"


def test_a_database_works_in_staging(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    for mode in ("DELETE", "WAL"):
        connection = sqlite3.connect(mounted_lake / f"D/staging/{mode}.db")
        connection.execute(f"PRAGMA journal_mode={mode}")
        with connection:
            connection.execute("CREATE TABLE t (x)")
            connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(1_000)])
        connection.close()
    version = commit(mounted_lake, "D", 1)
    connection = sqlite3.connect(f"file:{version}/DELETE.db?mode=ro", uri=True)
    assert connection.execute("SELECT sum(x) FROM t").fetchone() == (499_500,)
    connection.close()


def test_appending_by_many_processes(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    log = mounted_lake / "D/staging/log"
    script = 'i=0; while [ $i -lt 100 ]; do echo "$1 $i" >> "$2"; i=$((i+1)); done'
    writers = [subprocess.Popen(["sh", "-c", script, "sh", str(n), str(log)]) for n in range(4)]
    for writer in writers:
        assert writer.wait(60) == 0
    lines = log.read_text().splitlines()
    assert sorted(lines) == sorted(f"{n} {i}" for n in range(4) for i in range(100))


def test_an_open_file_outlives_its_name(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    path = mounted_lake / "D/staging/x"
    with path.open("w+b") as stream:
        stream.write(b"still here")
        path.unlink()
        stream.flush()
        stream.seek(0)
        assert stream.read() == b"still here"
    assert not path.exists()


def test_sealed_files_refuse_every_change(mounted_lake: Mount, source: Path) -> None:
    (mounted_lake / "D").mkdir()
    copy(source, mounted_lake / "D/staging")
    version = commit(mounted_lake, "D", 1)
    file, directory = version / "deep/f1", version / "deep"
    changes = [
        lambda: file.write_bytes(b"x"),
        lambda: os.truncate(file, 0),
        lambda: file.unlink(),
        lambda: file.chmod(0o600),
        lambda: os.chown(file, 1, 1),
        lambda: os.utime(file),
        lambda: file.rename(directory / "other"),
        lambda: file.rename(mounted_lake / "D/staging/stolen"),
        lambda: os.link(file, directory / "other"),
        lambda: os.symlink("x", directory / "other"),
        lambda: (directory / "other").mkdir(),
        lambda: (directory / "other").touch(),
        lambda: os.rmdir(version / "empty"),
        lambda: os.setxattr(file, b"user.x", b"1"),
    ]
    for change in changes:
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS


def test_names_that_are_as_long_as_linux_allows(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    (staging / ("x" * 255)).touch()
    with pytest.raises(OSError) as caught:
        (staging / ("x" * 256)).touch()
    assert caught.value.errno == errno.ENAMETOOLONG
    assert os.statvfs(staging).f_namemax == 255


def test_a_directory_of_many_names(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    names = {f"name-{i:05d}" for i in range(3_000)}
    for name in names:
        os.close(os.open(staging / name, os.O_CREAT | os.O_WRONLY, 0o644))
    assert set(os.listdir(staging)) == names
    version = commit(mounted_lake, "D", 1)
    assert set(os.listdir(version)) == names
    for entry in list(os.scandir(staging))[::2]:
        os.unlink(entry)
    assert len(os.listdir(staging)) == 1_500
    shutil.rmtree(staging / ".", ignore_errors=True)
    assert os.listdir(staging) == []
