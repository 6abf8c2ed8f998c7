"""Random trees of every kind and size: what `status` and a comparison of versions tell is what differs."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest

from dtafs.core.difference import compare
from dtafs.store.lake import Lake
from dtafs.store.session import Session, actor_here

SIZES = (0, 10, 5_000, 90_000, 600_000)
"""From no chunk to a list of many."""
STEPS, VERSIONS = 12, 5

Facts = tuple[object, ...]
Differences = set[tuple[str, str]]


def change_something(top: Path, dice: random.Random) -> None:
    """Make, replace, move or remove one thing."""
    directories = [
        top,
        *(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink()),
    ]
    path = dice.choice(directories) / f"n{dice.randrange(6)}"
    kind = dice.choice(("file", "file", "symlink", "fifo", "directory", "move", "nothing"))
    others = [other for other in top.rglob("*") if other not in (path, *path.parents)]
    if path.is_dir() and not path.is_symlink():
        others = [other for other in others if path not in other.parents]
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
    if kind == "file":
        path.write_bytes(dice.randbytes(dice.choice(SIZES)))
    elif kind == "symlink":
        path.symlink_to("none/" * dice.choice((1, 6, 60)) + "xx")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "move" and others:
        os.rename(dice.choice(others), path)


def facts(top: Path) -> dict[str, Facts]:
    """Of everything below a directory: whether it is one, and what a version says of it."""
    found: dict[str, Facts] = {}
    for path in top.rglob("*"):
        status = path.lstat()
        what: bytes | str = b""
        if path.is_symlink():
            what = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            what = path.read_bytes()
        own = (stat.S_ISDIR(status.st_mode), status.st_mode, status.st_mtime_ns, what)
        found[str(path.relative_to(top))] = own
    return found


def expected(before: dict[str, Facts], after: dict[str, Facts]) -> Differences:
    """What differs, by the two trees alone; a directory never changes into something else."""

    def told() -> Iterator[tuple[str, str]]:
        for path in before.keys() | after.keys():
            old, new = before.get(path), after.get(path)
            if old is not None and new is not None and old[0] == new[0]:
                if old != new:
                    yield "changed", path
                continue
            if old is not None:
                yield "removed", path
            if new is not None:
                yield "added", path

    return set(told())


@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_is_what_differs(lake: Lake, tmp_path: Path, seed: int) -> None:
    dice, top = random.Random(seed), tmp_path / "tree"
    top.mkdir()
    session = Session(lake, actor_here("tests"))
    session.create("D")
    trees: list[dict[str, Facts]] = [{}]
    for number in range(1, VERSIONS + 1):
        for _ in range(STEPS):
            change_something(top, dice)
        trees.append(facts(top))
        session.put("D", [f"{top}/."], delete=True)
        told = session.status("D")["changes"]
        found = {(fact["change"], fact["path"]) for fact in told if fact["path"]}
        assert found == expected(trees[number - 1], trees[number])
        session.commit("D", f"version {number}", allow_empty=True)
    for a, b in permutations(range(1, VERSIONS + 1), 2):
        tops = [lake.objects.top(lake.resolve(f"D:v{number}")) for number in (a, b)]
        changes = [change for change in compare(lake.objects.node, *tops) if change.path]
        differences = {
            (
                "changed"
                if change.before and change.after
                else "added"
                if change.after
                else "removed",
                os.fsdecode(b"/".join(change.path)),
            )
            for change in changes
        }
        assert len(differences) == len(changes)
        assert differences == expected(trees[a], trees[b])
