"""The benchmark's figures of retention: planning, and explaining, in a lake of very many versions and rules.

The rows of its index are generated: versions have a manifest and no files, and their entries are in no
log. What is measured reads nothing but these rows, so it takes as long as in a lake that was filled by a
million commits.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dtafs.core.records import ACTIONS, ARCHIVE, Cutoff, Held, Rule, Scope
from dtafs.core.retention_plan import Tally
from dtafs.core.values import Actor, Manifest, Source
from dtafs.store.database import Txn
from dtafs.store.index_records import HoldRow, RuleRow, put_children
from dtafs.store.index_rows import NUMBER, TIME, DatasetRow, VersionRow, encode_row, version_key
from dtafs.store.lake import Lake
from dtafs.store.retention import explain, plan_items
from dtafs.store.retention_facts import Standing
from scripts.figures import Figure

REPOSITORY = Path(__file__).resolve().parent.parent
"""Where `-m scripts…` is found from, wherever the benchmark was started."""
VERSIONS, RULES, HOLDS = 1_000_000, 10_000, 1_000
PER_DATASET = 200
AGENCIES = 500
DAY_NS = 86_400 * 10**9
NOW_NS = 20_000 * DAY_NS
AGE_DAYS = 7 * 365 + 30
"""A little more than the commonest period: what is older was archived or disposed of on other nights."""
ROWS_AT_ONCE = 8_192
ACTOR = Actor("bench", 0, "host", "bench")
PLANNED_S, EXPLAINED_S = 10.0, 0.1
EXPLANATIONS = 50


def dataset_name(number: int) -> str:
    """A name as agencies give them."""
    return f"agency-{number % AGENCIES:03d}-series-{number // AGENCIES:03d}-{number:06d}"


def rules(count: int, datasets: int) -> Iterator[tuple[str, Rule]]:
    """Rules for single datasets, for agencies, by ending, by tags, and some for all."""
    periods = ("7y", "10y", "25y", "75y")
    for number in range(count):
        kind = number % 10
        pattern = dataset_name(number % datasets)
        tags: tuple[str, ...] = ()
        if kind in (5, 6):
            pattern = f"agency-{number % AGENCIES:03d}-series-*"
        elif kind == 7:
            pattern = f"*-series-{number % 97:03d}-*"
        elif kind == 8:
            pattern = f"*-??{number % 10_000:04d}"
        elif kind == 9:
            pattern, tags = ("*" if number % 100 == 9 else "agency-*"), (f"tag{number}",)
        action = ARCHIVE if kind in (5, 6, 7) else ACTIONS[number % 3]
        start = ("committed", "superseded", "event:closed")[number // 10 % 3]
        tier = "cold" if action == ARCHIVE else ""
        cutoff = Cutoff(start, periods[number % len(periods)])
        yield f"rule-{number:06d}", Rule(cutoff, action, "GRS 3.1", pattern, tags, tier=tier)


def holds(count: int, datasets: int) -> Iterator[Held]:
    """Holds on versions and on agencies; a tenth of them follows lineage."""
    for number in range(count):
        scope = Scope(dataset_name(number * 7 % datasets), (number % PER_DATASET + 1,))
        if number % 50 == 0:
            scope = Scope(f"agency-{number % AGENCIES:03d}-*")
        name = f"hold-{number:05d}"
        yield Held(name, "ann", "Doe v. Roe", "subpoena", scope, number % 10 == 1)


def versions(count: int) -> Iterator[VersionRow]:
    """Versions over ten years; every tenth was made from one of another dataset."""
    for serial in range(1, count + 1):
        number, dataset = divmod(serial - 1, max(1, count // PER_DATASET))
        name, before = dataset_name(dataset), max(1, number)
        sources: tuple[Source, ...] = ()
        if serial % 10 == 0 and dataset and number:
            sources = (Source(dataset_name(dataset - 1), before, "ab" * 32),)
        manifest = Manifest(
            name, number + 1, "cd" * 32, None, 3, 10_000, "nightly", sources=sources
        )
        time_ns = NOW_NS - AGE_DAYS * DAY_NS + serial * (AGE_DAYS * DAY_NS // (count + 1))
        tags = (f"tag{serial % 1_000}",) if serial % 3 == 0 else ()
        digest = serial.to_bytes(32, "big")
        yield VersionRow(name, number + 1, serial, manifest, digest, time_ns, 1, ACTOR, tags)


def fill(lake: Lake, count: int, rule_count: int, hold_count: int) -> None:
    """Put the rows into the index of an empty lake."""
    database, datasets = lake.index.database, max(1, count // PER_DATASET)

    def write(rows: list[VersionRow]) -> None:
        def put(txn: Txn) -> None:
            for row in rows:
                key = version_key(row.dataset, row.number)
                txn.put("version", key, encode_row(row))
                txn.put("serial", NUMBER.pack(row.serial), key)
                put_children(txn, row)

        database.write(put)

    batch: list[VersionRow] = []
    for row in versions(count):
        batch.append(row)
        if len(batch) == ROWS_AT_ONCE:
            write(batch)
            batch = []
    write(batch)

    def finish(txn: Txn) -> None:
        for number in range(datasets):
            name = dataset_name(number)
            row = DatasetRow(name, 1, (), PER_DATASET, PER_DATASET + 1, bytes(32))
            txn.put("dataset", name.encode(), encode_row(row))
        for number, (name, rule) in enumerate(rules(rule_count, datasets), 1):
            row_of_rule = RuleRow(name, rule, 1, number, ACTOR, "")
            txn.put("rule", name.encode(), encode_row(row_of_rule))
        for number, held in enumerate(holds(hold_count, datasets), 1):
            txn.put("hold", held.name.encode(), encode_row(HoldRow(held, 1, number, ACTOR)))
        txn.put("meta", b"time", TIME.pack(NOW_NS))

    database.write(finish)


def anonymous_kib() -> int:
    """Memory of this process, without the pages of files that it has mapped: those are a cache."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def measure(path: Path) -> dict[str, Any]:
    """Plan over a lake and explain some versions, in this process."""
    with Lake.open(path, write=False) as lake:
        before = largest = anonymous_kib()
        tally, start = Tally(), (time.process_time(), time.perf_counter())
        for _item in plan_items(lake, NOW_NS, tally):
            largest = max(largest, anonymous_kib()) if tally.versions % 4_096 < 8 else largest
        planned = time.process_time() - start[0], time.perf_counter() - start[1]
        memory = max(largest, anonymous_kib()) - before
        names = [
            lake.index.version_by_serial(n * 7_919 % tally.versions + 1)
            for n in range(EXPLANATIONS)
        ]
        start = (time.process_time(), time.perf_counter())
        for row in names:
            assert row is not None
            explain(lake, row, NOW_NS)
        alone = (time.process_time() - start[0]) / EXPLANATIONS
        standing = Standing(lake.index)
        start = (time.process_time(), time.perf_counter())
        for row in names:
            assert row is not None
            explain(lake, row, NOW_NS, standing)
        known = (time.process_time() - start[0]) / EXPLANATIONS
    return {
        "planned_s": planned[0],
        "planned_wall_s": planned[1],
        "memory_kib": memory,
        "explained_s": alone,
        "explained_again_s": known,
        "versions": tally.versions,
        "counts": tally.counts,
    }


def records(directory: Path, portion: float, say: Callable[[str], None]) -> list[Figure]:
    """All figures, with `portion` of the versions and rules, in a directory that the caller removes."""
    import json

    path = directory / "lake"
    count, rule_count = int(VERSIONS * portion), int(RULES * portion)
    say(f"a lake of {count:,} versions and {rule_count:,} rules")
    with Lake.create(path) as lake:
        fill(lake, count, rule_count, int(HOLDS * portion))
    say("planning")
    command = [sys.executable, "-m", "scripts.records_figures", str(path.absolute())]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    say(f"planned: {found['counts']}")
    what = f"{count:,} versions, {rule_count:,} rules: "
    return [
        Figure(
            what + "planning, processor", "10 s", PLANNED_S, found["planned_s"], "s", 1.0, False
        ),
        Figure(what + "planning, memory", "", None, found["memory_kib"] / 1024, "MiB"),
        Figure(
            what + "`retain explain`", "0.1 s", EXPLAINED_S, found["explained_s"], "s", 1.0, False
        ),
        Figure(what + "the same with rules at hand", "", None, found["explained_again_s"], "s"),
    ]


if __name__ == "__main__":
    import json

    print(json.dumps(measure(Path(sys.argv[1]))))
