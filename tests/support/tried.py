"""How often the tests tried to break something: counted, told at the end, held against the README.

A test calls `tried(what, count)`. At the end of a run the counts are printed, and with `--record`
they are put into `tests/tried.json`, from which the table of the README comes (`tests/test_tried.py`
compares the two). The file says for each thing how often a usual run tries it, and one with `--soak`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

RECORD = Path(__file__).parents[1] / "tried.json"
USUAL, SOAK = "usual", "soak"


class Row(NamedTuple):
    """A row of the README's table: what was tried, what came of it, and which tests do."""

    what: str
    text: str
    outcome: str
    tests: str


ROWS = (
    Row(
        "power failures",
        "power failures on a simulated disk, at every durable operation of each scenario, with each "
        "fate of what was not synced",
        "every promise kept",
        "`tests/crash/test_crash_points.py`",
    ),
    Row(
        "kills of the daemon",
        "`kill -9` of the daemon under somebody who works in its mount, or who moves, recalls, disposes and "
        "collects in tiers, at random moments and named points",
        "nothing acknowledged is lost",
        "`tests/crash/test_daemon_kills.py`, `test_tier_kills.py`",
    ),
    Row(
        "kills of commands",
        "`kill -9` of `put`, `commit`, `tag`, `reindex`, `collect`, `repair`, `tier move`, `tier recall`, "
        "`retain apply`",
        "the same",
        "`tests/crash/test_kill.py`, `test_tier_kills.py`",
    ),
    Row(
        "objects damaged",
        "objects of a lake damaged: bits flipped, cut, swapped, gone",
        "found by `check`, never read",
        "`tests/store/test_corruption.py`",
    ),
    Row(
        "files damaged",
        "files of a lake damaged, each judged by a process of its own: a byte flipped, cut, swapped, "
        "noise, zeros, gone, a directory",
        "noticed, or without effect",
        "`tests/store/test_corruption_everywhere.py`",
    ),
    Row(
        "malformed inputs",
        "malformed inputs of decoders",
        "one documented error each, or a valid value",
        "`tests/fuzz`",
    ),
    Row(
        "histories",
        "random histories of a lake against a plain dict, with kills, moves between tiers, holds and "
        "dispositions, checked after each step",
        "no difference",
        "`tests/model` (`DTAFS_SOAK_S=3600`: an hour)",
    ),
    Row(
        "hours",
        "hours of that in one run",
        "the same",
        "the same",
    ),
    Row(
        "old lakes",
        "lakes kept as they were written, to be read by every later version",
        "read to the last byte, rebuilt, gone on with",
        "`tests/compat`",
    ),
)

TRIED: Counter[str] = Counter()


def tried(what: str, count: int = 1) -> None:
    """Count; `what` is one of `ROWS`."""
    assert any(row.what == what for row in ROWS), what
    TRIED[what] += count


def read_record() -> dict[str, dict[str, int]]:
    """For each thing, how often a usual run and one with `--soak` try it; 0 for not at all."""
    found: dict[str, dict[str, int]] = json.loads(RECORD.read_text())
    return found


def record(column: str) -> None:
    """Put what this run has counted into the record."""
    known = read_record()
    for what, count in TRIED.items():
        known.setdefault(what, {USUAL: 0, SOAK: 0})[column] = count
    order = {row.what: known.get(row.what, {USUAL: 0, SOAK: 0}) for row in ROWS}
    RECORD.write_text(json.dumps(order, indent=2) + "\n")


def table() -> list[str]:
    """The lines of the README's table."""
    known = read_record()
    lines = [
        "| tried | `scripts/test` | with `--soak` | what came of it | with |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in ROWS:
        usual, soak = (
            f"{known[row.what][c]:,}" if known[row.what][c] else "-" for c in (USUAL, SOAK)
        )
        lines.append(f"| {row.text} | {usual} | {soak} | {row.outcome} | {row.tests} |")
    return lines
