"""Trees that change at random, and what differs between two of them by `lstat` and `read` alone."""

from __future__ import annotations

import os
import random
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SIZES = (0, 10, 5_000, 90_000, 600_000)
"""From no chunk to a list of many."""

Facts = tuple[object, ...]
Differences = set[tuple[str, str]]


def change_something(top: Path, dice: random.Random) -> None:
    """Make, replace, move or remove one thing."""
    directories = [
        top,
        *(path for path in sorted(top.rglob("*")) if path.is_dir() and not path.is_symlink()),
    ]
    path = dice.choice(directories) / f"n{dice.randrange(6)}"
    kind = dice.choice(("file", "file", "symlink", "fifo", "directory", "move", "nothing"))
    others = [other for other in sorted(top.rglob("*")) if other not in (path, *path.parents)]
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
    for path in sorted(top.rglob("*")):
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

    def differing() -> Iterator[tuple[str, str]]:
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

    return set(differing())


def told(changes: Iterable[Mapping[str, object]]) -> Differences:
    """The same of what `status` or `diff` say, but for the top directory."""
    return {(str(fact["change"]), str(fact["path"])) for fact in changes if fact["path"]}
