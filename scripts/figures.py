"""What the figures of the mount share: one row of their table, their inputs, cold page caches.

The inputs are the same bytes on every machine: readings of `scripts.firesensor`, moved on by a year
with each repetition, so that no chunk of one repetition is in another.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scripts import firesensor

MIB = 1 << 20
STATIONS, DAYS = 60, 16
FIRST_YEAR = firesensor.FIRST_DAY.year
ROWS_PER_HOUR = 60
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
PAGES_ENTRIES_AND_INODES = "3"

NOTHING = "pyfuse3 without work"
"""The limit that `scripts.empty_fs` shows."""

HEAD = ("work", "limit", "limit's value", "dtafs", "ratio", "reach")


class Figure(NamedTuple):
    """One row: what was done, what it is held against, both in `unit`, and the ratio to reach.

    Ratios are dtafs / limit. `more_is_better` says whether `reach` is the least or the most that
    the ratio may be; a figure without a limit has `limit_value` None and is shown alone.
    """

    work: str
    limit: str
    limit_value: float | None
    value: float
    unit: str
    reach: float | None = None
    more_is_better: bool = True

    def row(self) -> tuple[str, ...]:
        """The cells, in the order of `HEAD`."""
        if self.limit_value is None:
            return (self.work, self.limit, "-", self._shown(self.value), "-", "-")
        ratio = self.value / self.limit_value
        reach = "-"
        if self.reach is not None:
            met = ratio >= self.reach if self.more_is_better else ratio <= self.reach
            bound = "at least" if self.more_is_better else "at most"
            reach = f"{bound} {self.reach:g}: {'reached' if met else 'not reached'}"
        cells = (self._shown(self.limit_value), self._shown(self.value), f"{ratio:.2f}")
        return (self.work, self.limit, *cells, reach)

    def _shown(self, value: float) -> str:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
        return f"{value:.{digits}f} {self.unit}"


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes on the wall clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def median_seconds(rounds: int, call: Callable[[], object], before: Callable[[], object]) -> float:
    """The median of so many calls, each after an untimed `before`."""
    taken = []
    for _ in range(rounds):
        before()
        taken.append(seconds(call))
    return statistics.median(taken)


def drop_page_cache() -> None:
    """Write out and forget all cached pages, names and inodes of the machine; PermissionError
    unless root."""
    os.sync()
    DROP_CACHES.write_text(PAGES_ENTRIES_AND_INODES)


def set_read_ahead(mountpoint: Path, kib: int) -> None:
    """Set how far the kernel reads ahead in the file system mounted on a directory."""
    device = mountpoint.stat().st_dev
    switch = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    switch.write_text(str(kib))


def read_whole(path: Path) -> int:
    """Read a file from start to end in pieces of 1 MiB; its length in bytes."""
    buffer = memoryview(bytearray(MIB))
    total = 0
    with path.open("rb", buffering=0) as stream:
        while got := stream.readinto(buffer):
            total += got
    return total


def read_tree(top: Path) -> None:
    """Read every file below a directory, as a shell would: `find | xargs cat`."""
    command = "find . -type f -print0 | xargs -0 cat >/dev/null"
    subprocess.run(["sh", "-c", command], cwd=top, check=True)


def list_tree(top: Path) -> None:
    """`find -ls` of a directory."""
    subprocess.run(["find", ".", "-ls"], cwd=top, check=True, stdout=subprocess.DEVNULL)


@cache
def _days() -> tuple[tuple[int, int, bytes], ...]:
    """(station, day, rows) of the first year: 88 MB, and about ten seconds to make."""
    return tuple(
        (station, day, firesensor.readings(station, day).encode())
        for station in range(STATIONS)
        for day in range(DAYS)
    )


def repeated_days() -> Iterator[tuple[int, int, int, bytes]]:
    """(year, station, day, rows) without end, each year once more the same with another date."""
    year = FIRST_YEAR
    while True:
        for station, day, rows in _days():
            yield year, station, day, rows.replace(b"%d-" % FIRST_YEAR, b"%d-" % year)
        year += 1


def write_large_csv(path: Path, size: int) -> None:
    """Write a CSV file of exactly `size` bytes."""
    left = size
    with path.open("wb") as stream:
        for _year, _station, _day, rows in repeated_days():
            left -= stream.write(rows[:left])
            if not left:
                return


def write_small_files(top: Path, count: int) -> None:
    """Write `count` CSV files of an hour each, 3.8 KB, below YEAR/STATION/DAY directories."""
    made = 0
    for year, station, day, rows in repeated_days():
        directory = top / str(year) / f"station-{station:03d}" / f"day-{day:02d}"
        directory.mkdir(parents=True)
        lines = rows.splitlines(keepends=True)
        for hour in range(len(lines) // ROWS_PER_HOUR):
            part = lines[hour * ROWS_PER_HOUR : (hour + 1) * ROWS_PER_HOUR]
            (directory / f"{hour:02d}.csv").write_bytes(b"".join(part))
            made += 1
            if made == count:
                return
