"""The benchmark's figure of disposition: one of many versions costs what it alone holds.

Processor seconds, which a busy machine does not change. A lake of many versions is held against one of
a tenth as many; each version has some files of its own and shares a tree with all others.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from dtafs.core.values import Actor
from dtafs.store.dispose import Hooks, Order, dispose
from dtafs.store.lake import Lake
from dtafs.store.session import Session
from scripts.figures import Figure

VERSIONS = 1_000
SHARED_FILES, OWN_FILES, FILE_BYTES = 400, 20, 4_000
DATASET = "records"
ACTOR = Actor(user="bench", uid=0, host="bench", program="bench")


def disposing(directory: Path, versions: int, say: Callable[[str], None]) -> list[Figure]:
    """All figures, in a directory that the caller removes."""
    few = max(10, versions // 10)
    took = {}
    for count in (few, versions):
        say(f"a lake of {count} versions")
        took[count] = one_lake(directory / str(count), count)
    figures = [
        Figure(
            f"disposing of one of {versions} versions, processor time",
            f"of one of {few}",
            took[few][1],
            took[versions][1],
            "s",
            2.0,
            False,
        )
    ]
    for count, (first, _later) in took.items():
        what = f"the first disposition of a lake of {count} versions, processor time"
        figures.append(Figure(what, "", None, first, "s"))
    return figures


def one_lake(place: Path, versions: int) -> tuple[float, float]:
    """Processor seconds of the first disposition, which counts everything once, and of a later one."""
    place.mkdir(parents=True)
    dice = random.Random(versions)
    with Lake.create(place / "lake") as lake:
        lake.create_dataset(DATASET, ACTOR)
        session = Session(lake, ACTOR)
        make_files(place / "shared", SHARED_FILES, dice)
        session.put(DATASET, [str(place / "shared")])
        for number in range(versions):
            make_files(place / "own", OWN_FILES, dice)
            session.put(DATASET, [str(place / "own")])
            session.commit(DATASET, str(number))
    with Lake.open(place / "lake") as lake:
        first = dispose_of(lake, 1)
        later = min(dispose_of(lake, number) for number in (2, 4, 6))
    return first, later


def make_files(top: Path, count: int, dice: random.Random) -> None:
    """Files of new bytes, under names that stay the same."""
    top.mkdir(exist_ok=True)
    for number in range(count):
        (top / f"file {number}").write_bytes(dice.randbytes(FILE_BYTES))


def dispose_of(lake: Lake, number: int) -> float:
    """Dispose of a version; processor seconds."""
    order = Order(DATASET, (number,), "bench", "0" * 64, "none")
    hooks = Hooks(lambda order: order.versions, lambda _dataset, call: call(), lambda rows: None)
    began = time.process_time()
    done = dispose(lake, ACTOR, "0" * 64, [order], hooks)
    assert len(done.disposed) == 1 and not done.left
    return time.process_time() - began
