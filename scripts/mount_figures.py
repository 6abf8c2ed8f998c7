"""The benchmark's figures of a mount: start, first byte, small commits, memory of the daemon."""

from __future__ import annotations

import os
import random
import re
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dtafs import Dataset, Lake
from scripts.contenders import BIN, DATASET, Mounted, run

MIB = 1 << 20
MOUNTS = 5
SAMPLE_S = 0.05
PERCENT = 0.01

Row = tuple[str, ...]


class Memory:
    """The most anonymous memory that a process had: its own, neither the LMDB map nor binaries."""

    peak_bytes = 0

    def look(self, pid: int) -> None:
        """Take the value of this moment."""
        found = re.search(r"^RssAnon:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
        if found:
            self.peak_bytes = max(self.peak_bytes, int(found[1]) * 1024)


@contextmanager
def watching_memory(pid: int) -> Iterator[Memory]:
    """Sample a process for the length of the block."""
    memory, done = Memory(), threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            memory.look(pid)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def small_changes(name: str, mounted: Mounted) -> list[Row]:
    """Commits of little: a line more in 1 % of the files of the newest version, then in one."""
    files = sorted(path for path in mounted.staging.rglob("*") if path.is_file())
    rows: list[Row] = []
    some = random.Random(1).sample(files, max(1, round(len(files) * PERCENT)))
    for chosen in (some, some[:1]) if len(some) > 1 else (some,):
        for path in chosen:
            with path.open("ab") as stream:
                stream.write(b"one more line\n")
        words = f"{len(chosen)} of {len(files)} files of {name} changed"
        rows.append((f"commit with {words}", f"{mounted.commit():.2f} s"))
    return rows


def make_versions(path: Path, versions: int) -> Path:
    """Make a lake of a dataset whose versions each change its only file: the newest one's source."""
    source = path.with_name("reading.csv")
    with Lake.create(path) as lake:
        dataset = Dataset.create(DATASET, lake=lake)
        for number in range(versions):
            source.write_text(f"version,{number}\n" * 100)
            dataset.put_file(source)
            dataset.commit(f"version {number}")
    return source


def many_versions(directory: Path, versions: int) -> list[Row]:
    """How long it takes to mount a lake with so many versions, and to the first byte of a file."""
    path = directory / "lake"
    source = make_versions(path, versions)
    starts, firsts = [], []
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    for attempt in range(MOUNTS):
        start = time.perf_counter()
        run(BIN / "dtafs", "mount", path, mountpoint)
        starts.append(time.perf_counter() - start)
        number = 1 + versions * attempt // MOUNTS
        start = time.perf_counter()
        with (mountpoint / DATASET / f"v{number}" / source.name).open("rb", buffering=0) as stream:
            stream.read(1)
        firsts.append(time.perf_counter() - start)
        run(BIN / "dtafs", "umount", mountpoint)
    return [
        (f"`dtafs mount` of a lake with {versions} versions", f"{statistics.median(starts):.3f} s"),
        ("first byte of a file after that", f"{statistics.median(firsts):.3f} s"),
    ]


def large_tree(directory: Path, large_mib: int, files: int) -> list[Row]:
    """The daemon's memory over one large file and one large directory, and what the latter takes."""
    mounted = Mounted(directory)
    rows: list[Row] = []
    try:
        with watching_memory(mounted.daemon_pid()) as memory:
            block = random.Random(2).randbytes(MIB)
            with (mounted.staging / "large").open("wb") as stream:
                for number in range(large_mib):
                    stream.write(number.to_bytes(8, "big") + block[8:])
            mounted.commit()
            with (mounted.mountpoint / DATASET / "v1" / "large").open("rb") as stream:
                while stream.read(MIB):
                    pass
        rows.append(
            (f"daemon's memory, file of {large_mib} MiB", f"{memory.peak_bytes / MIB:.0f} MiB")
        )
        rows += _many_files(mounted, files)
    finally:
        mounted.close()
    return rows


def _many_files(mounted: Mounted, files: int) -> list[Row]:
    """A directory of so many small files: made, listed, committed, read in its version, removed."""
    staged = mounted.staging / "many"
    with watching_memory(mounted.daemon_pid()) as memory:
        start = time.perf_counter()
        staged.mkdir()
        for number in range(files):
            (staged / f"file-{number:07d}").write_bytes(b"%d\n" % number)
        created = time.perf_counter() - start
        _look_at_all(staged)
        committed = mounted.commit()
        listed = _look_at_all(mounted.mountpoint / DATASET / "v2" / staged.name)
        start = time.perf_counter()
        shutil.rmtree(staged)
        removed = time.perf_counter() - start
    return [
        (f"daemon's memory, directory of {listed} files", f"{memory.peak_bytes / MIB:.0f} MiB"),
        (f"{files} small files: create", f"{created:.1f} s"),
        (f"{files} small files: commit", f"{committed:.1f} s"),
        (f"{files} small files: remove", f"{removed:.1f} s"),
    ]


def _look_at_all(directory: Path) -> int:
    """What `find -ls` asks of a directory; how many names it has."""
    with os.scandir(directory) as found:
        return sum(1 for entry in found if entry.stat(follow_symlinks=False).st_size)
