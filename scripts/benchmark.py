"""Measures dtafs beside other programs, in one run, and prints Markdown tables (scripts/bench).

The contenders take turns version by version, so that what else the machine does meets all of them.
Inputs of what is stored are read once before, so that all find them in the page cache.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from scripts import sample_data
from scripts.contenders import Borg, Contender, Mounted, Put, PutOnce, Restic, run
from scripts.disposal_figures import disposing as measure_disposing
from scripts.figures import HEAD
from scripts.mount_figures import large_tree, many_versions, small_changes, watching_memory
from scripts.read_figures import reading as measure_reading
from scripts.records_figures import records as measure_records
from scripts.scale_figures import scaling as measure_scaling
from scripts.tier_figures import tiering as measure_tiering
from scripts.write_figures import writing as measure_writing

Row = tuple[str, ...]

MIB = 1 << 20

PLAIN_HEAD = ("figure", "value")

COMMIT_ALONE = "dtafs mount, commit alone"
OTHERS_STORED = ("restic", "borg zstd,3")
OTHERS_TIMED = ("restic", "borg zstd,1")
NOTE = (
    "Stored: after all versions, without dtafs's index. Seconds: medians where there are several "
    f"versions. In brackets: share of the best of {' and '.join(OTHERS_STORED)} (stored) or of "
    f"{' and '.join(OTHERS_TIMED)} (time)."
)


def main() -> None:
    """The command: measure what was asked for, print as it goes, the tables at the end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", nargs="*", choices=sample_data.SETS, default=sample_data.SETS)
    parser.add_argument("--newest", type=int, help="only the last so many versions of each set")
    parser.add_argument("--versions", type=int, default=1_000, help="of the lake that is mounted")
    parser.add_argument("--files", type=int, default=300_000, help="of the directory for memory")
    parser.add_argument("--large", type=int, default=1_024, help="MiB of the large file")
    parser.add_argument(
        "--storing",
        action="store_true",
        help="only what versions of the sets take, in bytes and time",
    )
    parser.add_argument(
        "--mounting", action="store_true", help="only the start of a mount, and the daemon's memory"
    )
    parser.add_argument("--reading", action="store_true", help="only reading from a mount (root)")
    parser.add_argument("--writing", action="store_true", help="only writing to a mount")
    parser.add_argument("--scaling", action="store_true", help="only very large and very many")
    parser.add_argument("--disposing", action="store_true", help="only dispositions")
    parser.add_argument("--tiering", action="store_true", help="only tiers, against SeaweedFS")
    parser.add_argument(
        "--records", action="store_true", help="only plans of retention over many versions"
    )
    parser.add_argument(
        "--portion", type=float, default=1.0, help="of the sizes of --scaling and --records"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="of which reading and writing show the median"
    )
    parser.add_argument(
        "--small", type=int, default=75_000, help="small files to read, list and create"
    )
    parser.add_argument("--scratch", type=Path, help="where to work (default: the temporary one)")
    chosen = parser.parse_args()
    parts = [name for name in PARTS if getattr(chosen, name)] or PARTS
    if "reading" in parts and os.geteuid() != 0:
        parser.error(
            "reading is measured with a cold page cache, which takes root: use sudo, or --storing"
        )
    print(machine(), flush=True)
    for part in parts:
        PARTS[part](chosen)


def storing(chosen: argparse.Namespace) -> None:
    """The sets, version by version: what they take on disk and in time."""
    ingest: list[Row] = []
    memory: list[Row] = []
    for name in chosen.sets:
        say(f"{name}: fetching")
        trees = sample_data.fetch(name, newest=chosen.newest)
        with scratch(chosen.scratch) as directory:
            rows, figures = measure_set(name, trees, directory)
            ingest += rows
            memory += figures
    head = ("set", "program", "stored MiB", "first version s", "following versions s")
    print(f"\n{NOTE}\n\n{markdown(head, ingest)}\n\n{markdown(PLAIN_HEAD, memory)}", flush=True)


def mounting(chosen: argparse.Namespace) -> None:
    """How long a mount takes to answer, and the memory of its daemon."""
    rows: list[Row] = []
    with scratch(chosen.scratch) as directory:
        say(f"a lake with {chosen.versions} versions")
        rows += many_versions(directory, chosen.versions)
    with scratch(chosen.scratch) as directory:
        say(f"a file of {chosen.large} MiB and a directory of {chosen.files} files")
        rows += large_tree(directory, chosen.large, chosen.files)
    print("\n" + markdown(PLAIN_HEAD, rows), flush=True)


def reading(chosen: argparse.Namespace) -> None:
    """What a mount reads, held against what the kernel interface and other programs reach."""
    with scratch(chosen.scratch) as directory:
        figures = measure_reading(directory, chosen.rounds, chosen.large, chosen.small, say)
    print("\n" + markdown(HEAD, [figure.row() for figure in figures]), flush=True)


def writing(chosen: argparse.Namespace) -> None:
    """What a mount takes in, held against a local disk, the usual programs and the binding."""
    with scratch(chosen.scratch) as directory:
        figures = measure_writing(directory, chosen.rounds, chosen.large, chosen.small, say)
    print("\n" + markdown(HEAD, [figure.row() for figure in figures]), flush=True)


def scaling(chosen: argparse.Namespace) -> None:
    """Huge files and directories, very many files and versions."""
    with scratch(chosen.scratch) as directory:
        figures = measure_scaling(directory, chosen.rounds, chosen.portion, say)
    print("\n" + markdown(HEAD, [figure.row() for figure in figures]), flush=True)


def disposing(chosen: argparse.Namespace) -> None:
    """Disposing of one of many versions."""
    with scratch(chosen.scratch) as directory:
        figures = measure_disposing(directory, chosen.versions, say)
    print("\n" + markdown(HEAD, [figure.row() for figure in figures]), flush=True)


def tiering(chosen: argparse.Namespace) -> None:
    """Moving packs to a bucket, and a lake on an empty machine; needs no root."""
    with scratch(chosen.scratch) as directory:
        say(f"packs to a bucket, and a lake with {chosen.versions} versions from one")
        figures = list(measure_tiering(directory, 4, chosen.versions, chosen.rounds))
    print("\n" + markdown(HEAD, [figure.row() for figure in figures]), flush=True)


def records(chosen: argparse.Namespace) -> None:
    """Plans of retention."""
    with scratch(chosen.scratch) as directory:
        figures = measure_records(directory, chosen.portion, say)
    print("\n" + markdown(HEAD, [figure.row() for figure in figures]), flush=True)


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "storing": storing,
    "mounting": mounting,
    "reading": reading,
    "writing": writing,
    "scaling": scaling,
    "disposing": disposing,
    "tiering": tiering,
    "records": records,
}


def measure_set(name: str, trees: list[Path], directory: Path) -> tuple[list[Row], list[Row]]:
    """All contenders over all versions of one set; rows for the two tables."""
    for tree in trees:
        warm(tree)
    mounted = Mounted(directory)
    contenders: list[Contender] = [
        Put(directory),
        PutOnce(directory),
        mounted,
        Restic(directory),
        Borg(directory, "zstd,1"),
        Borg(directory, "zstd,3"),
    ]
    times: dict[str, list[dict[str, float]]] = {one.name: [] for one in contenders}
    try:
        with watching_memory(mounted.daemon_pid()) as memory:
            for number, tree in enumerate(trees, 1):
                for contender in contenders:
                    times[contender.name].append(contender.add(tree))
                latest = " ".join(
                    f"{key} {steps[-1]['ingest']:.2f}" for key, steps in times.items()
                )
                say(f"{name} v{number}: {latest}")
            figures = small_changes(name, mounted)
        stored = {one.name: one.stored_bytes() for one in contenders}
    finally:
        for contender in contenders:
            contender.close()
    figures.append(
        (f"daemon's memory while taking in {name}", f"{memory.peak_bytes / MIB:.0f} MiB")
    )
    return rows_of(name, stored, times), figures


def rows_of(
    name: str, stored: dict[str, int], times: dict[str, list[dict[str, float]]]
) -> list[Row]:
    """A line for each contender, and one for the commit alone after a copy into the mount."""
    timed = {key: [step["ingest"] for step in steps] for key, steps in times.items()}
    timed[COMMIT_ALONE] = [step["commit"] for step in times[Mounted.name]]
    stored = {**stored, COMMIT_ALONE: stored[Mounted.name]}
    smallest = min(stored[key] for key in OTHERS_STORED)
    first = min(timed[key][0] for key in OTHERS_TIMED)
    later = min(statistics.median(timed[key][1:] or [0.0]) for key in OTHERS_TIMED)
    rows: list[Row] = []
    for key, seconds in timed.items():
        following = statistics.median(seconds[1:] or [0.0])
        rows.append(
            (
                name,
                key,
                f"{stored[key] / MIB:.1f} ({stored[key] / smallest:.2f})",
                f"{seconds[0]:.2f} ({seconds[0] / first:.2f})",
                f"{following:.2f} ({following / later:.2f})" if later else "-",
            )
        )
    return rows


def machine() -> str:
    """What the figures were measured on and with."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    programs = ", ".join(
        [
            f"dtafs {version('dtafs')}",
            f"Python {platform.python_version()}",
            run("borg", "--version").strip(),
            " ".join(run("restic", "version").split()[:2]),
        ]
    )
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}; {programs}."


def markdown(head: Row, rows: list[Row]) -> str:
    """A table in Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def warm(tree: Path) -> None:
    """Read every file of a tree, so that it lies in the page cache."""
    for path in tree.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                while stream.read(MIB):
                    pass


@contextmanager
def scratch(where: Path | None) -> Iterator[Path]:
    """A directory for one part of the run, removed after it."""
    directory = Path(tempfile.mkdtemp(prefix="dtafs-bench-", dir=where))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def say(text: str) -> None:
    """Progress, on stderr: stdout is the tables."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
