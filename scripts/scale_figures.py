"""The benchmark's figures of scale: huge files, huge directories, very many files and versions.

What has a limit is held against a program that does the least that could be done, or against the
same in small. Versions of very many files are made of metadata alone (`scripts.generated`).
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from dtafs.store.lake import Lake
from scripts.contenders import BIN, DATASET, bytes_below, run, timed
from scripts.figures import MIB, Figure, seconds, write_large_csv
from scripts.generated import Generated
from scripts.mount_figures import make_versions, watching_memory
from scripts.served import Dtafs

APPENDED_MIB = 4_096
NAMES, FEW_NAMES = 1_000_000, 1_000
FILES, FILES_PER_DIRECTORY = 5_000_000, 1_000
VERSIONS = 10_000
SPARSE_MIB = 100 * 1_024
PATCHES = 5
LOOKUPS = 200


def scaling(
    directory: Path, rounds: int, portion: float, say: Callable[[str], None]
) -> list[Figure]:
    """All figures, with `portion` of each size, in a directory that the caller removes."""
    figures: list[Figure] = []
    parts: list[tuple[str, Callable[[Path], list[Figure]]]] = [
        ("an append to a large file", lambda d: appending(d, rounds, int(APPENDED_MIB * portion))),
        ("a large directory", lambda d: one_directory(d, rounds, int(NAMES * portion))),
        ("many files", lambda d: many_files(d, int(FILES * portion))),
        ("many versions", lambda d: many_versions(d, rounds, int(VERSIONS * portion))),
        ("a sparse file", lambda d: sparse(d, int(SPARSE_MIB * portion))),
    ]
    for what, measure in parts:
        say(what)
        place = directory / what.replace(" ", "-")
        place.mkdir()
        figures += measure(place)
        shutil.rmtree(place)
    return figures


class Serving(Dtafs):
    """A lake that was made before, and its mount."""

    def __init__(self, lake: Path) -> None:
        self.lake = lake
        self.mountpoint = lake.with_name(lake.name + "-mnt")
        self.mountpoint.mkdir(exist_ok=True)

    def __enter__(self) -> Serving:
        self.mount(self.mountpoint)
        return self

    def __exit__(self, *_exc: object) -> None:
        self.umount(self.mountpoint)

    @property
    def top(self) -> Path:
        """The directory of the dataset."""
        return self.mountpoint / DATASET

    def commit(self) -> float:
        """Commit staging; seconds."""
        words = ("--lake", self.lake, "commit", DATASET, "-m", "measured")
        return seconds(lambda: run(BIN / "dtafsctl", *words))


def appending(directory: Path, rounds: int, size_mib: int) -> list[Figure]:
    """Commit after 1 MiB was appended to a sealed file, against sha256sum of the file."""
    source = directory / "large.csv"
    write_large_csv(source, size_mib * MIB)
    lake = Dtafs(directory, os.fspath(source)).lake
    hashing: list[float] = []
    anew: list[float] = []
    going_on: list[float] = []
    stored = 0
    for number in range(rounds):
        with Serving(lake) as serving:
            for times in (anew, going_on):
                data = random.Random(number).randbytes(MIB)
                for path in (source, serving.top / "staging" / source.name):
                    with path.open("ab") as stream:
                        stream.write(data)
                before = bytes_below(lake / "packs")
                times.append(serving.commit())
                stored = max(stored, bytes_below(lake / "packs") - before)
        hashing.append(timed(lambda: run("sha256sum", source)))
    limit = statistics.median(hashing)
    what = f"commit after 1 MiB was appended to {size_mib} MiB"
    against = "sha256sum of the file"
    return [
        _within(f"{what}, fresh daemon", against, limit, statistics.median(anew), 1.5),
        _within(f"{what}, again", against, limit, statistics.median(going_on), 1.5),
        Figure("new stored bytes of that", "-", None, stored / MIB, "MiB"),
    ]


def one_directory(directory: Path, rounds: int, names: int) -> list[Figure]:
    """Commit of one changed file, listing and lookup in one directory, against a small one."""
    commits: dict[int, float] = {}
    figures: list[Figure] = []
    for count in (FEW_NAMES, names):
        lake = directory / str(count)
        with Lake.create(lake) as made:
            generated = Generated(made, DATASET)
            files = (generated.file(b"%012d.csv" % number, number) for number in range(count))
            generated.commit(files)
        with Serving(lake) as serving:
            times = []
            for number in range(max(3, rounds)):
                (serving.top / f"staging/{count // 2 + number:012}.csv").write_bytes(b"changed")
                times.append(serving.commit())
            commits[count] = statistics.median(times)
            sealed = serving.top / "v1"
            first = seconds(partial(_first_name, sealed))
            with watching_memory(serving.daemon_pid()) as memory:
                whole = seconds(partial(os.listdir, sealed))
            looked = seconds(partial(_look_up, sealed, count))
        figures += [
            Figure(f"first name of {count}", "-", None, first * 1e3, "ms"),
            Figure(f"all names of {count}", "-", None, whole, "s"),
            Figure(f"lookup among {count}", "-", None, looked / LOOKUPS * 1e6, "us"),
        ]
    listed = f"daemon's memory, {names} listed"  # the last one; a short listing is over unsampled
    figures.append(Figure(listed, "-", None, memory.peak_bytes / MIB, "MiB"))
    work = f"commit of one changed file among {names}"
    small = f"the same among {FEW_NAMES}"
    return [_within(work, small, commits[FEW_NAMES], commits[names], 2.0), *figures]


def many_files(directory: Path, files: int) -> list[Figure]:
    """What a file of a version costs in bytes, and the daemon in memory for all of them."""
    lake = directory / "lake"
    with Lake.create(lake) as made:
        generated = Generated(made, DATASET, distinct=True)
        generated.commit(
            generated.directory(
                b"%012d" % first,
                (
                    generated.file(b"%012d.csv" % n, n)
                    for n in range(first, first + FILES_PER_DIRECTORY)
                ),
            )
            for first in range(0, files, FILES_PER_DIRECTORY)
        )
    stored = bytes_below(lake / "packs")
    with Serving(lake) as serving, watching_memory(serving.daemon_pid()) as memory:
        walking = seconds(lambda: run("find", serving.top / "v1", "-size", "+1G"))
        (serving.top / "staging" / "added").write_bytes(b"one more")
        commit = serving.commit()
    return [
        Figure(
            f"metadata of a version of {files} files", "-", None, stored / files, "bytes a file"
        ),
        Figure(f"`find -size` over {files} files", "-", None, walking, "s"),
        Figure("commit of one file more", "-", None, commit, "s"),
        Figure("daemon's memory for both", "-", None, memory.peak_bytes / MIB, "MiB"),
    ]


def many_versions(directory: Path, rounds: int, versions: int) -> list[Figure]:
    """What is done to a dataset with very many versions."""
    lake = directory / "lake"
    make_versions(lake, versions)
    serving = Serving(lake)
    figures = [
        Figure(
            f"`dtafs mount`, {versions} versions",
            "-",
            None,
            seconds(lambda: serving.mount(serving.mountpoint)),
            "s",
        )
    ]
    try:
        commits = []
        for number in range(rounds):
            (serving.top / "staging" / "more").write_bytes(b"%d" % number)
            commits.append(serving.commit())
        figures += [
            Figure("commit", "-", None, statistics.median(commits), "s"),
            Figure("`ls` of the dataset", "-", None, seconds(lambda: run("ls", serving.top)), "s"),
        ]
    finally:
        serving.umount(serving.mountpoint)
    for words in (
        ("log", DATASET),
        ("show", f"{DATASET}:v{versions // 2}"),
        ("diff", f"{DATASET}:v1", f"{DATASET}:v{versions}"),
        ("check",),
        ("reindex",),
    ):
        taken = seconds(partial(run, BIN / "dtafsctl", "--lake", lake, *words))
        figures.append(Figure(f"`dtafsctl {words[0]}`", "-", None, taken, "s"))
    return figures


def sparse(directory: Path, size_mib: int) -> list[Figure]:
    """Commit of a file of holes with a few patches, against hashing as many zeros."""
    lake = directory / "lake"
    for words in (("init",), ("create", DATASET)):
        run(BIN / "dtafsctl", "--lake", lake, *words)
    zeros = bytes(8 * MIB)
    whole = hashlib.sha256()

    def hash_zeros() -> None:
        for _ in range(size_mib * MIB // len(zeros)):
            whole.update(zeros)

    with Serving(lake) as serving:
        path = serving.top / "staging" / "sparse"
        with path.open("wb") as stream:
            stream.truncate(size_mib * MIB)
            for number in range(PATCHES):
                stream.seek(size_mib * MIB // PATCHES * number + number)
                stream.write(random.Random(number).randbytes(MIB))
        with watching_memory(serving.daemon_pid()) as memory:
            first = serving.commit()
    what = f"commit of a sparse file of {size_mib} MiB"
    return [
        _within(what, "SHA-256 of as many zeros", seconds(hash_zeros), first, None),
        Figure("daemon's memory for that", "-", None, memory.peak_bytes / MIB, "MiB"),
    ]


def _first_name(directory: Path) -> None:
    with os.scandir(directory) as names:
        next(names)


def _look_up(directory: Path, count: int) -> None:
    """Ask for names that the kernel does not know, and that are not there."""
    for number in random.Random(1).sample(range(count), LOOKUPS):
        assert not os.path.lexists(directory / f"{number:012}.txt")


def _within(work: str, limit: str, limit_s: float, value_s: float, reach: float | None) -> Figure:
    return Figure(work, limit, limit_s, value_s, "s", reach, more_is_better=False)
