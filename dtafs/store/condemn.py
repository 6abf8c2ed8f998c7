"""Condemned packs, and who may still rely on one: what keeps a collection from taking too much.

A condemned pack is one that is going to be deleted. The mark says since when and why; it lies in
`upkeep/condemned`, JSON that is replaced as a whole, and losing it only begins the grace period
again. Three rules make deletion safe while everybody goes on working:

1. Deduplication does not trust a condemned pack (I8): what begins after the mark cannot come to
   rely on it.
2. Who stores or reads uncommitted work says so from its first look at the index until what it
   relies on stands in staging's rows or in the log (`Users`). A pack is deleted only when everybody
   who began before its mark has ended, and when staging and versions, looked at after that, need
   nothing of it.
3. Who needs a condemned pack after all spares it. Sparing and each step of deleting exclude each
   other by `lock`: whoever comes first wins, and a deleter that comes second finds no mark.

The process that has the lake open for writing is the only one that deduplicates or deletes, so the
lock and the users live in its memory. Order of locks: `Lake.append_lock`, then `lock`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from dtafs.core.values import HASH_BYTES
from dtafs.errors import BusyError, DtafsError, NotFoundError, StorageFullError
from dtafs.store.durable import Disk, read_file

log = logging.getLogger(__name__)

FOLDER = "upkeep"
FILE = "condemned"
STILL_S = 0.5
"""How long packs that are to leave the hot disk wait for each other."""

MARKS_LIMIT_BYTES = 1 << 30


class Mark(Struct, frozen=True):
    """Since when, by the host's clock, a pack is condemned, and why."""

    since_ns: int
    reason: str


def read_marks(lake: Path) -> dict[bytes, Mark]:
    """The marks of a lake, none where the file is missing or damaged: then the grace begins anew."""
    path = lake / FOLDER / FILE
    try:
        data = read_file(path, MARKS_LIMIT_BYTES)
        found = msgspec.json.decode(data, type=dict[str, Mark])
        marks = {bytes.fromhex(name): mark for name, mark in found.items()}
        if any(len(pack) != HASH_BYTES for pack in marks):
            raise ValueError("a name is not that of a pack")
    except NotFoundError:
        return {}
    except (msgspec.MsgspecError, ValueError, RecursionError, DtafsError) as error:
        log.warning("%s is damaged (%s): condemned packs get a new grace period", path, error)
        return {}
    return marks


class Users:
    """Who is at work, each with the moment (a count) at which it began. Thread-safe, never blocks."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._now = 0
        self._began: set[int] = set()

    def enter(self) -> int:
        """Somebody begins; the token for `leave`."""
        with self._changed:
            self._now += 1
            self._began.add(self._now)
            return self._now

    def leave(self, token: int) -> None:
        """Somebody has ended; once is enough, twice is harmless."""
        with self._changed:
            self._began.discard(token)
            self._changed.notify_all()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Be at work while the block lasts; it may end on another thread."""
        token = self.enter()
        try:
            yield
        finally:
            self.leave(token)

    def moment(self) -> int:
        """Now: everybody who is at work began before it, everybody who comes begins after it."""
        with self._changed:
            self._now += 1
            return self._now

    def await_older(self, moment: int, limit_s: float) -> bool:
        """Wait until all who began before a moment have ended; False when some have not in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: all(began > moment for began in self._began), limit_s
            )


class Condemned:
    """The condemned packs of a lake that is open for writing. Thread-safe."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk, self._path = disk, path
        self._marks = read_marks(path)
        self._packs = frozenset(self._marks)
        self._moments: dict[bytes, int] = {}
        """When each was marked, of those that this process has marked."""
        self._collecting = threading.Lock()
        self._still = threading.Lock()
        self.users = Users()
        self.lock = threading.RLock()
        """Held while a pack is spared, and by whoever deletes, over the look at its mark too."""

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Be the only collection; BusyError when there is one."""
        if not self._collecting.acquire(blocking=False):
            raise BusyError("a collection is running already; try again when it is done")
        try:
            with self._still:
                yield
        finally:
            self._collecting.release()

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Keep collections and repairs from beginning, for a moment, which they wait for; BusyError
        while one runs."""
        if not self._still.acquire(timeout=STILL_S):
            raise BusyError("a collection or a repair is running; try again when it is done")
        try:
            yield
        finally:
            self._still.release()

    @property
    def packs(self) -> frozenset[bytes]:
        """The condemned packs, as they are now. Who asks the index where something lies has to ask
        for this *before*: a pack whose mark came later waits for whoever was at work by then, while
        one that was marked may be gone, and its mark with it, by the time of the answer."""
        return self._packs

    def marks(self) -> dict[bytes, Mark]:
        """All marks, as they are now."""
        with self.lock:
            return dict(self._marks)

    def condemn(self, reasons: Mapping[bytes, str], now_ns: int | None = None) -> None:
        """Mark packs, durably; those that are marked already keep their time.

        With `now_ns`, the time begins anew.
        """
        if not reasons:
            return
        with self.lock:
            since_ns = time.time_ns() if now_ns is None else now_ns
            fresh = [pack for pack in reasons if now_ns is not None or pack not in self._marks]
            self._marks |= {pack: Mark(since_ns, reasons[pack]) for pack in fresh}
            self._packs = frozenset(self._marks)
            moment = self.users.moment()  # after the marks: who begins from here on sees them
            self._moments |= dict.fromkeys(fresh, moment)
            self._write()

    def spare(self, packs: Iterable[bytes]) -> set[bytes]:
        """Take the marks off packs that are needed after all; those that had one.

        A mark that a full disk keeps is harmless: what is needed is looked at again before a pack
        is deleted.
        """
        with self.lock:
            spared = {pack for pack in packs if self._drop(pack)}
            if spared:
                self._packs = frozenset(self._marks)
                with contextlib.suppress(StorageFullError):
                    self._write()
            return spared

    def forget(self, packs: Iterable[bytes]) -> None:
        """Drop the marks of packs that are deleted."""
        with self.lock:
            gone = [pack for pack in packs if self._drop(pack)]
            if gone:
                self._packs = frozenset(self._marks)
                self._write()

    def settled(self, packs: Iterable[bytes], limit_s: float) -> set[bytes]:
        """Those packs of which everybody who began before the mark has ended, waiting for a while."""
        deadline_s = time.monotonic() + limit_s
        by_moment: dict[int, set[bytes]] = {}
        for pack in packs:
            by_moment.setdefault(self._moments.get(pack, 0), set()).add(pack)
        settled: set[bytes] = set()
        for moment in sorted(by_moment):
            if not self.users.await_older(moment, max(0.0, deadline_s - time.monotonic())):
                break
            settled |= by_moment[moment]
        return settled

    def _drop(self, pack: bytes) -> bool:
        self._moments.pop(pack, None)
        return self._marks.pop(pack, None) is not None

    def _write(self) -> None:
        facts = {pack.hex(): mark for pack, mark in self._marks.items()}
        self._disk.make_directory(self._path / FOLDER)
        self._disk.replace(self._path / FOLDER / FILE, msgspec.json.encode(facts, order="sorted"))
