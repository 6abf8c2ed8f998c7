"""What goes wrong below and around a mount: each call gets an errno that says so, none hangs, and
what was there before is there afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.lakes import assert_sound
from tests.support.mounts import Mount
from tests.support.programs import CTL, ctl, run

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make such a disk")

SOON_S = 20.0
MIB = 1 << 20
FILES = 300


@pytest.fixture
def dataset(mounted_lake: Mount) -> Mount:
    """A mounted lake with a dataset D: v1 holds the file `sealed`, staging `staged` as well."""
    (mounted_lake / "D").mkdir()
    (mounted_lake / "D/staging/sealed").write_bytes(b"sealed" * 50_000)
    os.rename(mounted_lake / "D/staging", mounted_lake / "D/v1")
    (mounted_lake / "D/staging/staged").write_bytes(b"staged")
    return mounted_lake


def errno_of(call: Callable[[], object]) -> int:
    """The errno that a call fails with; 0 when it does not."""
    try:
        call()
    except OSError as error:
        assert error.errno
        return error.errno
    return 0


# Inodes that are no more.


def test_what_is_open_while_staging_is_discarded(dataset: Mount) -> None:
    staging = dataset / "D/staging"
    (staging / "d").mkdir()
    (staging / "d/f").write_bytes(b"gone")
    file = os.open(staging / "d/f", os.O_RDONLY)
    directory = os.open(staging / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        ctl(dataset.lake, "discard", "D")
        calls: list[Callable[[], object]] = [
            lambda: os.fstat(file),
            lambda: os.fchmod(file, 0o600),
            lambda: os.listxattr(file),
            lambda: os.open(f"/proc/self/fd/{file}", os.O_RDONLY),
            lambda: os.listdir(directory),
            lambda: os.stat("f", dir_fd=directory),
            lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=directory),
            lambda: os.mkdir("new", dir_fd=directory),
            lambda: os.unlink("f", dir_fd=directory),
            lambda: os.rename("f", "g", src_dir_fd=directory, dst_dir_fd=directory),
        ]
        assert [errno_of(call) for call in calls] == [errno.ESTALE] * len(calls)
        os.fsync(file)  # nothing is left that could be lost
        assert os.listdir(staging) == ["sealed"]
    finally:
        os.close(file)
        os.close(directory)
    (staging / "d").mkdir()
    (staging / "d/f").write_bytes(b"new")
    assert (staging / "d/f").read_bytes() == b"new"


def test_what_is_open_while_staging_is_committed_stays(dataset: Mount) -> None:
    staging = dataset / "D/staging"
    directory = os.open(staging, os.O_RDONLY | os.O_DIRECTORY)
    file = os.open(staging / "staged", os.O_RDONLY)
    try:
        ctl(dataset.lake, "commit", "D", "-m", "m")
        assert os.pread(file, 10, 0) == b"staged" and os.fstat(file).st_size == 6
        assert sorted(os.listdir(directory)) == ["sealed", "staged"]
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        os.unlink("staged", dir_fd=directory)
        assert os.pread(file, 10, 0) == b"staged" and os.fstat(file).st_nlink == 0
    finally:
        os.close(file)
        os.close(directory)


def directory_entries(directory: Path, offset: int) -> int:
    """The bytes of entries that getdents64(2) gives from an offset on that nobody handed out."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(1 << 16)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.lseek(fd, offset, os.SEEK_SET)
        size = libc.getdents64(fd, buffer, len(buffer))
        assert size >= 0, f"{directory} at {offset}: {os.strerror(ctypes.get_errno())}"
        return int(size)
    finally:
        os.close(fd)


def test_offsets_from_another_life(dataset: Mount) -> None:
    staging = dataset / "D/staging"
    (staging / "many").mkdir()
    for i in range(FILES):
        (staging / f"many/f{i}").touch()
    ctl(dataset.lake, "commit", "D", "-m", "m")
    for i in range(FILES):
        (staging / f"many/g{i}").touch()
    directories = ["", "D", ".dtafs", ".dtafs/provenance", "D/v2/many", "D/staging/many"]
    offsets = [1, 2, 3, FILES + 1, FILES + 2, FILES + 3, 10_000]
    offsets += [1 << bits for bits in (31, 32, 40, 48, 52, 61, 62)] + [(1 << 62) + 7, (1 << 63) - 1]
    for name in directories:
        for offset in offsets:
            directory_entries(dataset / name if name else dataset.mountpoint, offset)
        assert directory_entries(dataset / name if name else dataset.mountpoint, 0)
    assert len(os.listdir(staging / "many")) == 2 * FILES


# Disks and descriptors that run out.


@pytest.fixture
def small_ext4(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of 64 MiB in a file: unlike a tmpfs it learns only when it writes that it is full."""
    image, disk = tmp_path / "image", tmp_path / "ext4"
    disk.mkdir()
    with image.open("wb") as stream:
        stream.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@root_only
def test_a_disk_that_is_full(small_ext4: Path, mount: Callable[..., Mount]) -> None:
    from dtafs.store.lake import Lake

    lake = small_ext4 / "lake"
    Lake.create(lake).close()
    mounted = mount(lake)
    (mounted / "D").mkdir()
    (mounted / "E").mkdir()
    staging = mounted / "D/staging"
    (staging / "kept").write_bytes(b"kept" * 1000)
    ctl(lake, "commit", "D", "-m", "m")
    written = 0

    def fill() -> None:
        nonlocal written
        with (staging / "large").open("wb", buffering=0) as stream:
            for _ in range(100):
                stream.write(os.urandom(MIB))
                os.fsync(stream.fileno())
                written += 1

    assert errno_of(fill) == errno.ENOSPC
    assert 10 < written < 64 and (staging / "large").stat().st_size >= written * MIB
    # All that needs no room goes on, here and in the other dataset.
    assert (mounted / "D/v1/kept").read_bytes() == (staging / "kept").read_bytes() == b"kept" * 1000
    assert sorted(os.listdir(staging)) == ["kept", "large"]
    (staging / "kept").rename(staging / "moved")
    refused = run(CTL, "--lake", lake, "commit", "D", "-m", "m")
    assert refused.returncode == 1 and b"free some space" in refused.stderr
    (staging / "large").unlink()
    (mounted / "E/staging/after").write_bytes(b"room again")
    deadline = time.monotonic() + SOON_S  # whoever was just sealing the file has it open yet
    while errno_of(lambda: (staging / "small").write_bytes(b"s" * MIB)) == errno.ENOSPC:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.rename(staging, mounted / "D/v2")
    assert sorted(os.listdir(mounted / "D/v2")) == ["moved", "small"]
    os.rename(mounted / "E/staging", mounted / "E/v1")
    assert (mounted / "E/v1/after").read_bytes() == b"room again"


def test_no_descriptor_left(lake_path: Path, mount: Callable[..., Mount]) -> None:
    """The daemon says so, to the mount with ENFILE and to commands in words, and lives on."""
    mounted = mount(lake_path, allow=rb"staging is kept in its journal until it can be written")
    (mounted / "D").mkdir()
    staging = mounted / "D/staging"
    soft, hard = resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE)
    assert soft == hard
    (staging / "sealed").write_bytes(b"sealed" * 50_000)
    ctl(lake_path, "commit", "D", "-m", "m")
    (staging / "staged").write_bytes(b"staged")
    used = len(os.listdir(f"/proc/{mounted.pid}/fd"))
    resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, (used + 8, hard))
    opened = []

    def use_them_up() -> None:
        for i in range(50):
            opened.append((staging / f"f{i}").open("wb", buffering=0))
            opened[-1].write(b"x" * 300_000)
            os.fsync(opened[-1].fileno())

    try:
        assert errno_of(use_them_up) == errno.ENFILE
        assert len(os.listdir(staging)) == len(opened) + 2
        assert (staging / "staged").stat().st_size == 6
        said = run(CTL, "--lake", lake_path, "status", "D", limit_s=SOON_S)
        assert said.returncode == 4 and b"Too many open files; close some" in said.stderr
    finally:
        for stream in opened[:-1]:
            stream.close()
        errno_of(opened[-1].close)
    (staging / "after").write_bytes(b"after")
    resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, (soft, hard))
    ctl(lake_path, "commit", "D", "-m", "m", "--wait")
    assert (mounted / "D/v2/after").read_bytes() == b"after"
    for i in range(len(opened) - 1):
        assert (mounted / f"D/v2/f{i}").read_bytes() == b"x" * 300_000


# Processes that go away, or do not.

READER = "import sys\nwhile True:\n for path in sys.argv[1:]:\n  open(path, 'rb').read()"
HOLDER = "import sys, time\nf = open(sys.argv[1], 'ab')\nprint('open', flush=True)\ntime.sleep(600)"


def test_killed_readers(dataset: Mount) -> None:
    large = dataset / "D/staging/large"
    large.write_bytes(os.urandom(8 * MIB))
    ctl(dataset.lake, "commit", "D", "-m", "m")
    paths = [dataset / "D/v2/large", dataset / "D/v1/sealed", large]
    for _ in range(3):
        readers = [subprocess.Popen([sys.executable, "-c", READER, *paths]) for _ in range(4)]
        time.sleep(0.3)
        for reader in readers:
            reader.send_signal(signal.SIGKILL)
        for reader in readers:
            assert reader.wait(SOON_S) == -signal.SIGKILL
    assert (dataset / "D/v2/large").read_bytes() == large.read_bytes()
    ctl(dataset.lake, "discard", "D")


def test_a_stopped_process_that_has_a_file_open(dataset: Mount) -> None:
    """It is named, nobody waits for it, and once it is gone the commit holds what it wrote."""
    staged = dataset / "D/staging/staged"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, staged], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        holder.send_signal(signal.SIGSTOP)
        refused = run(CTL, "--lake", dataset.lake, "commit", "D", "-m", "m", limit_s=SOON_S)
        assert refused.returncode == 4
        assert f"staged is open for writing by process {holder.pid} (".encode() in refused.stderr
        assert errno_of(lambda: os.rename(dataset / "D/staging", dataset / "D/v2")) == errno.EBUSY
        (dataset / "D/staging/other").write_bytes(b"nobody is held up")
        assert (dataset / "D/v1/sealed").read_bytes() == b"sealed" * 50_000
    finally:
        holder.kill()
        holder.communicate()
    ctl(dataset.lake, "commit", "D", "-m", "m", "--wait")
    assert sorted(os.listdir(dataset / "D/v2")) == ["other", "sealed", "staged"]


def test_a_commit_among_writers_that_follow_each_other(dataset: Mount) -> None:
    """At no moment is no file open for writing, and yet no commit waits for ever."""
    staging, ended = dataset / "D/staging", threading.Event()
    failures: list[BaseException] = []

    def write(name: str) -> None:
        try:
            while not ended.is_set():
                with (staging / name).open("wb") as stream:
                    stream.write(os.urandom(1000))
                    time.sleep(0.02)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for writer in writers:
        writer.start()
    try:
        ctl(dataset.lake, "commit", "D", "-m", "m", "--wait", limit_s=60)
        ctl(dataset.lake, "commit", "D", "-m", "m", "--wait", limit_s=60)
    finally:
        ended.set()
        for writer in writers:
            writer.join(SOON_S)
    assert not failures
    assert (dataset / "D/v3/staged").read_bytes() == b"staged"


# A lake that goes away below its mount.


@pytest.mark.damages_lake
@pytest.mark.parametrize("removed", [False, True])
def test_a_lake_that_goes_away(lake_path: Path, mount: Callable[..., Mount], removed: bool) -> None:
    """What is in memory is there to the end, anything else is EIO; and the mount can be ended."""
    mounted = mount(
        lake_path, allow=rb" is missing from | is gone: |staging is kept in its journal"
    )
    (mounted / "D").mkdir()
    staging = mounted / "D/staging"
    (staging / "sealed").write_bytes(os.urandom(300_000))
    os.rename(staging, mounted / "D/v1")
    (staging / "staged").write_bytes(b"staged")
    away = lake_path.with_name("away")
    if removed:
        shutil.rmtree(lake_path)
    else:
        lake_path.rename(away)
    calls: list[Callable[[], object]] = [
        (mounted / "D/v1/sealed").read_bytes,
        (staging / "new").touch,
        (staging / "new").mkdir,
        (mounted / "E").mkdir,
        lambda: os.statvfs(mounted.mountpoint),
        lambda: os.rename(staging, mounted / "D/v2"),
        (mounted / ".dtafs/catalog.sqlite").stat,
    ]
    assert [errno_of(call) for call in calls] == [errno.EIO] * len(calls)
    assert sorted(os.listdir(staging)) == ["sealed", "staged"]
    said = run(CTL, "--lake", lake_path, "status", "D", limit_s=SOON_S)
    assert said.returncode == 3 and b"does not exist" in said.stderr
    programs.run("dtafs.cli.daemon", "umount", mounted.mountpoint, limit_s=60)
    assert mounted.process.wait(SOON_S) in (0, 3)
    mounted.crashed = True
    assert b"Traceback" not in mounted.said()
    if not removed:
        assert_sound(away)
