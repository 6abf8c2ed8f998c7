"""One lake, shared by everything in a process that reads it, and for moments changed by it.

LMDB cannot be opened twice in one process, so reading and changing take turns: a handle has the
lake open for reading, opens it for writing while a block changes it, and reads go on through that.
Handles are found by path: two objects for one lake share theirs. After a fork, the child opens the
lake anew.

Threads: `reading` may be used by any number at once; `writing` waits until none does, and for its
turn. A thread must not begin to write inside its own `reading` block.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from dtafs.store.lake import Lake

_handles: weakref.WeakValueDictionary[str, Handle] = weakref.WeakValueDictionary()
_handles_lock = threading.Lock()


class _Slot:
    """What is open, kept apart from the handle so that it can be closed when the handle is gone."""

    def __init__(self) -> None:
        self.lake: Lake | None = None
        self.pid = os.getpid()

    def close(self) -> None:
        """Close what is open; after a fork only the child's copy of the index, since lmdb
        would not open it again otherwise."""
        lake, self.lake = self.lake, None
        if lake is None:
            return
        if self.pid == os.getpid():
            lake.close()
        else:
            lake.index.close()


class Handle:
    """The way to one lake. Get it from `handle_of`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._slot = _Slot()
        self._free = threading.Condition()
        self._users = 0
        self._switching = False
        self._turn = threading.RLock()
        self._writer: Lake | None = None
        weakref.finalize(self, self._slot.close)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Lake]:
        """The lake, open at least for reading, while the block lasts."""
        with self._free:
            while self._switching:
                self._free.wait()
            lake = self._open_lake()
            self._users += 1
        try:
            yield lake
        finally:
            with self._free:
                self._users -= 1
                self._free.notify_all()

    def _open_lake(self) -> Lake:
        slot = self._slot
        if slot.pid != os.getpid():
            slot.close()
            slot.pid, self._users, self._writer = os.getpid(), 0, None
        if slot.lake is None:
            slot.lake = Lake.open(self.path, write=False)
        return slot.lake

    @contextlib.contextmanager
    def writing(self, wait_s: float) -> Iterator[Lake]:
        """The lake, locked and open for writing; BusyError when another process has it too long.

        A block inside another one of the same thread shares its lake.
        """
        with self._turn:
            if self._writer is not None:
                yield self._writer
                return
            with self._exclusive():
                self._slot.close()
                self._slot.pid = os.getpid()
                self._writer = self._slot.lake = Lake.open(self.path, write=True, wait_s=wait_s)
            try:
                yield self._writer
            finally:
                with self._exclusive():
                    self._writer = None
                    self._slot.close()

    def rest(self) -> None:
        """Close the lake until somebody uses it again."""
        with self._turn:
            if self._writer is None:
                with self._exclusive():
                    self._slot.close()
                    self._slot.pid = os.getpid()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Nobody else uses the lake while the block lasts."""
        with self._free:
            self._switching = True
            while self._users:
                self._free.wait()
        try:
            yield
        finally:
            with self._free:
                self._switching = False
                self._free.notify_all()


def handle_of(path: Path) -> Handle:
    """The handle of the lake at `path`, which need not exist yet."""
    key = os.path.realpath(path)
    with _handles_lock:
        handle = _handles.get(key)
        if handle is None:
            handle = _handles[key] = Handle(Path(key))
        return handle
