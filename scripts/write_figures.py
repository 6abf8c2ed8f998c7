"""The benchmark's figures of writing: staging against a local disk, other programs and the binding.

In each round everything is measured once, so that what else the machine does meets all of them, and
medians over the rounds are shown. Before each measurement the dirty pages of earlier ones are on the
disk, and the daemon has finished what it does in the background.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from scripts.contenders import Mounted, run
from scripts.figures import MIB, NOTHING, Figure, seconds, write_large_csv, write_small_files
from scripts.served import empty_file

MEMORY = Path("/dev/shm")
"""A tmpfs on every Linux."""

BLOCK_BYTES = 4096
ANSWER_LIMIT_S = 30.0
POLL_S = 0.05
IDLE_S = 1.0
"""A daemon that has used next to no processor for so long has finished."""
IDLE_SHARE = 0.05

Times = dict[str, list[float]]


def writing(
    directory: Path, rounds: int, large_mib: int, files: int, say: Callable[[str], None]
) -> list[Figure]:
    """All figures, measured in a scratch directory that the caller removes."""
    large = directory / "large.csv"
    write_large_csv(large, large_mib * MIB)
    with tempfile.TemporaryDirectory(prefix="dtafs-bench-", dir=MEMORY) as memory:
        archive = _archive(Path(memory), files)
        example = _example(directory)
        times: Times = {}
        for number in range(1, rounds + 1):
            say(f"writing, round {number}")
            _round(directory / str(number), Path(memory), large, archive, example, times)
            shutil.rmtree(directory / str(number))
        median = {name: statistics.median(values) for name, values in times.items()}
        megabytes = large_mib * 2**20 / MIB
        for name in ("ext4 1m", "nothing 1m", "dtafs 1m", "ext4 4k", "dtafs 4k"):
            median[name] = megabytes / median[name]
        size = f"{large_mib} MiB"
        return [
            Figure(f"write of {size}, 1 MiB each, and fsync", "the local disk",
                   median["ext4 1m"], median["dtafs 1m"], "MiB/s", 0.7),
            Figure("the same", NOTHING, median["nothing 1m"], median["dtafs 1m"], "MiB/s"),
            Figure(f"write of {size}, 4 KiB each, and close", "the local disk",
                   median["ext4 4k"], median["dtafs 4k"], "MiB/s", 0.5),
            Figure(f"`tar x` of {files} small files", "pyfuse3's pass-through over tmpfs",
                   median["pass-through"], median["tar"], "s", 1.0, more_is_better=False),
            Figure(f"`cp` and commit of {size} of fresh CSV", "`sha256sum`, `zstd -1 -T2`, fsync",
                   median["hash and compress"], median["cp and commit"], "s", 1.3,
                   more_is_better=False),
        ]  # fmt: skip


def _round(
    here: Path, memory: Path, large: Path, archive: Path, example: Path, times: Times
) -> None:
    """Measure everything once; seconds are added to `times`."""
    size = large.stat().st_size
    here.mkdir()

    def note(name: str, call: Callable[[], object]) -> None:
        os.sync()
        times.setdefault(name, []).append(seconds(call))

    local, mounted = here / "local", Mounted(here)
    try:
        staged = mounted.staging / "written"
        for key, block, sync in (("1m", MIB, True), ("4k", BLOCK_BYTES, False)):
            note(f"ext4 {key}", lambda b=block, s=sync: _write(local, size, b, s))  # type: ignore[misc]
            local.unlink()
            note(f"dtafs {key}", lambda b=block, s=sync: _write(staged, size, b, s))  # type: ignore[misc]
            staged.unlink()
            _wait_until_idle(mounted.daemon_pid())
        (here / "empty").mkdir()
        with empty_file(here / "empty", size) as zeros:
            note("nothing 1m", lambda: _write(zeros, size, MIB, sync=True))
        with _pass_through(example, memory) as top:
            note("pass-through", lambda: _unpack(archive, top))
        _wait_until_idle(mounted.daemon_pid())
        note("tar", lambda: _unpack(archive, mounted.staging))
    finally:
        mounted.close()
    note("hash and compress", lambda: _hash_and_compress(large, local))
    (here / "fresh").mkdir()
    fresh = Mounted(here / "fresh")
    try:
        note("cp and commit", lambda: (run("cp", large, fresh.staging), fresh.commit()))
    finally:
        fresh.close()


def _write(path: Path, size: int, block: int, sync: bool) -> None:
    """Write a file in blocks of some size, one after the other."""
    data = os.urandom(MIB)[:block]
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for _ in range(size // block):
            os.write(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def _unpack(archive: Path, top: Path) -> None:
    run("tar", "xf", archive, "-C", top)


def _hash_and_compress(source: Path, target: Path) -> None:
    """What a commit cannot do without, by the usual programs."""
    run("sha256sum", source)
    run("zstd", "-1", "-T2", "-q", "-f", source, "-o", target)
    fd = os.open(target, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _archive(memory: Path, files: int) -> Path:
    """A tar archive of small files, in memory."""
    tree, archive = memory / "tree", memory / "small.tar"
    write_small_files(tree, files)
    run("tar", "cf", archive, "-C", tree, ".")
    shutil.rmtree(tree)
    return archive


def _example(directory: Path) -> Path:
    """The pass-through file system among the examples of the pyfuse3 that dtafs runs on: they come
    with its sources, not with what is installed."""
    options = ["--disable-pip-version-check", "--no-deps", "--no-binary", "pyfuse3"]
    wanted = f"pyfuse3=={version('pyfuse3')}"
    run(sys.executable, "-m", "pip", "download", "-q", *options, "--dest", directory, wanted)
    [sources] = directory.glob("pyfuse3-*.tar.gz")
    with tarfile.open(sources) as opened:
        opened.extractall(directory, filter="data")
    [example] = directory.glob("pyfuse3-*/examples/passthroughfs.py")
    return example


@contextmanager
def _pass_through(example: Path, memory: Path) -> Iterator[Path]:
    """The example, mounted over an empty directory of a tmpfs, for the length of the block."""
    source, mountpoint = memory / "source", memory / "mnt"
    source.mkdir()
    mountpoint.mkdir()
    with subprocess.Popen([sys.executable, example, source, mountpoint]):
        try:
            _wait_for(mountpoint)
            yield mountpoint
        finally:
            run("fusermount3", "-u", mountpoint)
    shutil.rmtree(source)
    mountpoint.rmdir()


def _wait_for(mountpoint: Path) -> None:
    end = time.monotonic() + ANSWER_LIMIT_S
    while not mountpoint.is_mount():
        if time.monotonic() > end:
            raise TimeoutError(f"nothing was mounted on {mountpoint} in {ANSWER_LIMIT_S:.0f} s")
        time.sleep(POLL_S)


def _wait_until_idle(pid: int) -> None:
    """Return once a process has had nothing to do for a while."""
    while True:
        before = _processor_s(pid)
        time.sleep(IDLE_S)
        if _processor_s(pid) - before < IDLE_SHARE * IDLE_S:
            return


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
