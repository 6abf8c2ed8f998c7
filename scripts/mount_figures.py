"""The benchmark's figures of a mount: start, first byte, small commits, memory of the daemon."""

from __future__ import annotations

import os
import random
import re
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


def many_versions(directory: Path, versions: int) -> list[Row]:
    """How long it takes to mount a lake with so many versions, and to the first byte of a file."""
    path = directory / "lake"
    source = directory / "reading.csv"
    with Lake.create(path) as lake:
        dataset = Dataset.create(DATASET, lake=lake)
        for number in range(versions):
            source.write_text(f"version,{number}\n" * 100)
            dataset.put_file(source)
            dataset.commit(f"version {number}")
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
    """The daemon's memory over one large file and one large directory, written, sealed and read."""
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
        with watching_memory(mounted.daemon_pid()) as memory:
            start = time.perf_counter()
            (mounted.staging / "many").mkdir()
            for number in range(files):
                (mounted.staging / "many" / f"file-{number:07d}").write_bytes(b"%d\n" % number)
            created = time.perf_counter() - start
            seconds = mounted.commit()
            listed = len(os.listdir(mounted.mountpoint / DATASET / "v2" / "many"))
        rows += [
            (f"daemon's memory, directory of {listed} files", f"{memory.peak_bytes / MIB:.0f} MiB"),
            (f"{files} small files: create", f"{created:.1f} s"),
            (f"{files} small files: commit", f"{seconds:.1f} s"),
        ]
    finally:
        mounted.close()
    return rows
