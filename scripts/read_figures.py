"""The benchmark's figures of reading: sealed versions against the kernel interface and other programs.

Every round starts with fresh daemons and a cold page cache, the limits are measured in the same
round as dtafs, and medians over the rounds are shown. Needs root, for the page cache and the
read-ahead.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from dtafs.core.tree import find
from dtafs.store.config import Mount
from dtafs.store.lake import Lake
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import Place
from scripts.contenders import DATASET
from scripts.figures import (
    MIB,
    NOTHING,
    Figure,
    drop_page_cache,
    list_tree,
    read_tree,
    read_whole,
    seconds,
    set_read_ahead,
    write_large_csv,
    write_small_files,
)
from scripts.mount_figures import watching_memory
from scripts.served import BorgMount, Dtafs, ResticMount, Served, Squashfuse, empty_file, mounted

LARGE = "large.csv"
TREE = "small"
READERS = 4
BLOCK_BYTES = 64 * 1024
BLOCKS_EACH = 2_000
THREADS = "decoding in a thread pool"
RANDOM = f"random reads of {BLOCK_BYTES // 1024} KiB, {READERS} readers"

Times = dict[str, list[float]]
Frame = list[tuple[bytes, Place]]


def reading(
    directory: Path, rounds: int, large_mib: int, files: int, say: Callable[[str], None]
) -> list[Figure]:
    """All figures, measured in a scratch directory that the caller removes."""
    large, tree = directory / LARGE, directory / TREE
    write_large_csv(large, large_mib * MIB)
    write_small_files(tree, files)
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    say("storing the inputs")
    dtafs = Dtafs(directory, os.fspath(large), os.fspath(tree))
    figures = _large(dtafs, large, mountpoint, rounds, say)
    others: list[Served] = [
        Squashfuse(directory, tree, "squashfuse"),
        Squashfuse(directory, tree, "squashfuse_ll"),
        BorgMount(directory, tree),
        ResticMount(directory, tree),
    ]
    return figures + _small(dtafs, others, tree, mountpoint, rounds, say)


def _large(
    dtafs: Dtafs, large: Path, mountpoint: Path, rounds: int, say: Callable[[str], None]
) -> list[Figure]:
    speeds: Times = {}
    memory_mib = 0.0
    for number in range(rounds):
        measured, memory_bytes = _large_round(dtafs, large, mountpoint, number)
        memory_mib = max(memory_mib, memory_bytes / MIB)
        for name, speed in measured.items():
            speeds.setdefault(name, []).append(speed)
        said = ", ".join(f"{name} {speed:.0f}" for name, speed in measured.items())
        say(f"large file, round {number + 1}, MiB/s: {said}")
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    memory = Figure("daemon's memory over these", "", None, memory_mib, "MiB")
    return [*_large_rows(medians), memory]


def _large_round(
    dtafs: Dtafs, large: Path, mountpoint: Path, number: int
) -> tuple[dict[str, float], int]:
    """Speeds in MiB/s by what was read, and the most memory of the daemon in bytes."""
    size_mib = large.stat().st_size / MIB
    blocks = _blocks(large.stat().st_size, number)
    blocks_mib = sum(map(len, blocks)) * BLOCK_BYTES / MIB
    speeds: dict[str, float] = {}
    first, second = _empty(mountpoint, large.stat().st_size)
    speeds["nothing"], speeds["nothing again"] = size_mib / first, size_mib / second
    speeds["decoding"] = size_mib / _decoding(dtafs.lake)
    drop_page_cache()
    with mounted(dtafs, mountpoint) as top, watching_memory(dtafs.daemon_pid()) as whole:
        speeds["dtafs"] = size_mib / seconds(lambda: read_whole(top / LARGE))
        speeds["dtafs again"] = size_mib / seconds(lambda: read_whole(top / LARGE))
    read_whole(large)
    speeds["ext4 again"] = size_mib / seconds(lambda: read_whole(large))
    speeds["decoding blocks"] = blocks_mib / _decoding(dtafs.lake, blocks)
    drop_page_cache()
    with mounted(dtafs, mountpoint) as top, watching_memory(dtafs.daemon_pid()) as parts:
        speeds["dtafs blocks"] = blocks_mib / _at_random(top / LARGE, blocks)
    return speeds, max(whole.peak_bytes, parts.peak_bytes)


def _large_rows(speeds: dict[str, float]) -> list[Figure]:
    """The rows of the medians; of two limits the lower one is to be reached."""
    lower = min("nothing", "decoding", key=lambda name: speeds[name])

    def row(work: str, limit: str, of: str, value: str, reach: float | None) -> Figure:
        return Figure(work, limit, speeds[of], speeds[value], "MiB/s", reach)

    def cold(limit: str, of: str) -> Figure:
        reach = 0.7 if of == lower else None
        return row("sequential read, cold", limit, of, "dtafs", reach)

    again = "sequential read, again"
    return [
        cold(NOTHING, "nothing"),
        cold(THREADS, "decoding"),
        row(again, "ext4, page cache", "ext4 again", "dtafs again", 0.9),
        row(again, f"{NOTHING}, page cache", "nothing again", "dtafs again", None),
        row(RANDOM, THREADS, "decoding blocks", "dtafs blocks", 0.5),
    ]


def _empty(mountpoint: Path, size: int) -> tuple[float, float]:
    """Seconds for a file of zeros from a file system that does no work, with dtafs's read-ahead,
    and for the same a second time, from the page cache."""
    with empty_file(mountpoint, size) as zeros:
        set_read_ahead(mountpoint, Mount().read_ahead_kib)
        return seconds(lambda: read_whole(zeros)), seconds(lambda: read_whole(zeros))


def _decoding(lake: Path, blocks: Sequence[Sequence[int]] | None = None) -> float:
    """Seconds to read, decode and check the chunks of the large file in one thread a core; of all
    of it frame by frame, or of the blocks at some offsets. The page cache is cold."""
    with Lake.open(lake, write=False) as opened:
        objects = opened.objects
        [version] = opened.index.versions(DATASET)
        found = find(objects.node, objects.top(version).ref, LARGE.encode())
        assert found is not None
        content = found.entry.content

        def frames_of(offset: int, size: int) -> list[Frame]:
            frames: dict[tuple[bytes, int], Frame] = {}
            for piece in objects.pieces(content, offset, size):
                place = opened.locate(piece.id)
                assert place is not None
                frames.setdefault((place.pack, place.offset), []).append((piece.id, place))
            return list(frames.values())

        if blocks is None:
            jobs = frames_of(0, content.size)
        else:
            offsets = [offset for reader in blocks for offset in reader]
            jobs = [frame for offset in offsets for frame in frames_of(offset, BLOCK_BYTES)]
        drop_page_cache()
        return seconds(lambda: _decode_all(PackFiles(lake), jobs))


def _decode_all(files: PackFiles, jobs: Iterable[Frame]) -> None:
    def decode(frame: Frame) -> None:
        plain = memoryview(files.read_frame(frame[0][1]))
        for chunk, place in frame:
            data = plain[place.start : place.start + place.size]
            assert hashlib.sha256(data).digest() == chunk

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for _ in threads.map(decode, jobs):
            pass
    files.close()


def _blocks(size: int, seed: int) -> list[list[int]]:
    """Offsets for each reader; no block is read twice."""
    count = min(BLOCKS_EACH, size // BLOCK_BYTES // READERS)
    chosen = random.Random(seed).sample(range(size // BLOCK_BYTES), count * READERS)
    return [
        [number * BLOCK_BYTES for number in chosen[reader::READERS]] for reader in range(READERS)
    ]


def _at_random(path: Path, blocks: Sequence[Sequence[int]]) -> float:
    """Seconds until as many processes have read their blocks; starting them is not counted."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(READERS, mp_context=context) as readers:
        list(readers.map(_read_blocks, [os.devnull] * READERS, [[]] * READERS))
        return seconds(lambda: list(readers.map(_read_blocks, [str(path)] * READERS, blocks)))


def _read_blocks(path: str, offsets: Sequence[int]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        for offset in offsets:
            assert len(os.pread(fd, BLOCK_BYTES, offset)) == BLOCK_BYTES
    finally:
        os.close(fd)


def _small(
    dtafs: Dtafs,
    others: Sequence[Served],
    tree: Path,
    mountpoint: Path,
    rounds: int,
    say: Callable[[str], None],
) -> list[Figure]:
    files = sum(len(names) for _, _, names in os.walk(tree))
    read: Times = {}
    listed: Times = {}
    for number in range(rounds):
        say(f"small files, round {number + 1}")
        for one in (dtafs, *others):
            below = TREE if one is dtafs else "."
            drop_page_cache()
            with mounted(one, mountpoint) as top:
                taken = seconds(lambda at=top / below: read_tree(at))  # type: ignore[misc]
                read.setdefault(one.name, []).append(taken)
            drop_page_cache()
            with mounted(one, mountpoint) as top:
                taken = seconds(lambda at=top / below: list_tree(at))  # type: ignore[misc]
                listed.setdefault(one.name, []).append(taken)
            say(f"{one.name}: read {read[one.name][-1]:.1f} s, find {listed[one.name][-1]:.2f} s")
        drop_page_cache()
        read.setdefault("ext4", []).append(seconds(lambda: read_tree(tree)))
        drop_page_cache()
        listed.setdefault("ext4", []).append(seconds(lambda: list_tree(tree)))
    rates = {name: files / statistics.median(values) for name, values in read.items()}
    times = {name: statistics.median(values) for name, values in listed.items()}
    fastest = min((t, n) for n, t in times.items() if n not in ("dtafs", "ext4"))[1]
    rows = []
    for name, rate in rates.items():
        if name != "dtafs":
            reach = None if name == "ext4" else 2.0
            work = f"reading {files} small files"
            rows.append(Figure(work, name, rate, rates["dtafs"], "files/s", reach))
    for name, time_s in times.items():
        if name != "dtafs":
            reach = 1.0 if name == fastest else None
            work = f"find -ls of {files} small files"
            rows.append(Figure(work, name, time_s, times["dtafs"], "s", reach, False))
    return rows
