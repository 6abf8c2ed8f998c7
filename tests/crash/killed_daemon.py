"""The command `dtafs`, which kills itself (SIGKILL) at a chosen operation on its lake.

Two environment variables say where: `KILL_AT` is a `Point` as text, and nothing is counted before
the file `KILL_WHEN` exists. The operations are those of the only two doors to the disk: the
primitives of `Disk`, and `commit` of an LMDB environment. A killed daemon says so on stderr. What only
a commit of very much does is done by small ones here: its nodes go by the disk, and the rows of its
chunks to the index in txns of their own.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dtafs.cli.daemon import main
from dtafs.store import index, spool
from dtafs.store.database import Database
from dtafs.store.durable import Disk

PRIMITIVES = ("write", "truncate", "sync", "sync_directory", "link", "rename", "remove")
BEFORE, HALFWAY, AFTER = "before", "halfway", "after"
SAID = b"killed at"
ROWS_AT_ONCE, GATHERED_ROWS, HELD_BYTES = 3, 10, 100


class Point(NamedTuple):
    """The `count`-th `operation` on what is below `place` in the lake; `when` it dies, as above."""

    operation: str
    place: str
    when: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.operation},{self.place},{self.when},{self.count}"


def point_of(text: str) -> Point:
    """The inverse of `str(point)`."""
    operation, place, when, count = text.split(",")
    return Point(operation, place, when, int(count))


class Killer:
    """Counts the operations and kills the process at one of them. Any thread."""

    def __init__(self, point: Point, armed: Path) -> None:
        self._point, self._armed = point, armed
        self._left = point.count
        self._lock = threading.Lock()

    def is_due(self, operation: str, path: str) -> bool:
        """True for the operation to die at; only once, whatever else runs at the same time."""
        point = self._point
        if operation != point.operation or f"/lake/{point.place}" not in path:
            return False
        with self._lock:
            if self._left and self._armed.exists():
                self._left -= 1
                return not self._left
        return False

    def die(self) -> None:
        """End as a crash would."""
        os.write(2, SAID + b" " + str(self._point).encode() + b"\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, operation: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """A primitive of the disk that may be the last one."""

        def run(disk: Disk, where: int | Path, *rest: Any) -> Any:
            named = rest[0] if operation in ("link", "rename") else where
            path = os.readlink(f"/proc/self/fd/{named}") if isinstance(named, int) else str(named)
            if not self.is_due(operation, path):
                return original(disk, where, *rest)
            if self._point.when == HALFWAY:
                data, offset = rest
                original(disk, where, bytes(data)[: len(data) // 2], offset)
            elif self._point.when == AFTER:
                original(disk, where, *rest)
            self.die()
            raise AssertionError("a killed process goes on")

        return run

    def around_commit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A write txn that may be the last one."""

        def run(database: Database, function: Callable[..., Any]) -> Any:
            due = self.is_due("commit", str(database.path))
            if due and self._point.when == BEFORE:
                self.die()
            result = original(database, function)
            if due:
                self.die()
            return result

        return run


def arm() -> None:
    """Have this process kill itself where its environment says."""
    killer = Killer(point_of(os.environ["KILL_AT"]), Path(os.environ["KILL_WHEN"]))
    for primitive in PRIMITIVES:
        setattr(Disk, primitive, killer.around(primitive, getattr(Disk, primitive)))
    vars(index).update(ROWS_AT_ONCE=ROWS_AT_ONCE, GATHERED_ROWS=GATHERED_ROWS)
    vars(spool).update(HELD_BYTES=HELD_BYTES)
    Database.write = killer.around_commit(Database.write)  # type: ignore[method-assign]


if __name__ == "__main__":
    arm()
    main()
