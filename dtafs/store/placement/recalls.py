"""Recalls: bringing packs back to the hot disk, from any tier, as a queue that outlives the process.

Who needs packs asks for them (`ask`) and goes on, or looks now and then whether they are there (`left`).
Somebody else, the daemon's workers or the command itself, works the queue off (`step`): a pack in a tier
that can be read is fetched; an archive is asked for it, then looked at again and again, less often the
longer it takes, until the object is ready. What came back stays hot for the configured time. A recall that
has not come after `tiering.recall_limit_hours`, or that cannot come, ends with the reason, which is kept
for who asked until somebody asks anew. No room, or a tier that cannot be used (it does not answer, its bucket
is gone, its credentials have expired), is tried again until then, and told to a command that waits. A pack
that nothing needs any more is forgotten.

The queue lies in `upkeep/recalls`, JSON that is replaced as a whole; losing it means to ask again.
Thread-safe; only the process that has the lake open for writing has one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from dtafs.core.format import pack_key
from dtafs.core.names import format_time
from dtafs.core.values import HASH_BYTES
from dtafs.errors import (
    BusyError,
    DtafsError,
    IntegrityError,
    NotFoundError,
    RecallError,
    StorageError,
    StorageFullError,
)
from dtafs.store.condemn import FOLDER
from dtafs.store.durable import read_file
from dtafs.store.placement.contents import nearest
from dtafs.store.placement.moves import Pace, fetch_pack, unpaced
from dtafs.store.tiers.base import State

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

log = logging.getLogger(__name__)

FILE = "recalls"
LIMIT_BYTES = 1 << 28
PROBLEMS_MAX = 4_096
"""Recalls that ended without the pack, of which the reason is kept."""

TROUBLE_S = 10.0
"""After so long of nothing but trouble, a command that waits is told of it."""

LOOK_AGAIN_SHARE, LOOK_AGAIN_MIN_S, LOOK_AGAIN_MAX_S = 0.05, 0.2, 60.0
"""An archive is asked again after this share of the time that it has had."""


class _Asked(Struct):
    """A pack that was asked for."""

    since_ns: int
    size: int = 0
    tier: str = ""
    state: str = "queued"
    """queued, recalling (the archive was asked), fetching, waiting (for room, or a tier)."""
    problem: str = ""
    trouble: DtafsError | None = None
    """What the problem is."""
    trouble_s: float = 0.0
    """Since when there is one, by the monotonic clock."""
    look_s: float = 0.0
    """When to look again, by the same."""


def read_queue(lake: Path) -> dict[bytes, int]:
    """The packs that were asked for and did not come yet, each with the time of that in ns."""
    path = lake / FOLDER / FILE
    try:
        found = msgspec.json.decode(read_file(path, LIMIT_BYTES), type=dict[str, int])
        queue = {bytes.fromhex(name): since_ns for name, since_ns in found.items()}
        if any(len(pack) != HASH_BYTES for pack in queue):
            raise ValueError("a name is not that of a pack")
        return queue
    except NotFoundError:
        return {}
    except (msgspec.MsgspecError, ValueError, DtafsError) as error:
        log.warning("%s is damaged (%s): what was asked for has to be asked for again", path, error)
        return {}


class Recalls:
    """The recalls of a lake that is open for writing."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = threading.Lock()
        self._asked = {pack: _Asked(since_ns) for pack, since_ns in read_queue(lake.path).items()}
        self._problems: dict[bytes, DtafsError] = {}
        self.on_news: Callable[[], object] = lambda: None
        """Called, in any thread, when there is something to do at once."""
        self.done_bytes = 0
        self.done_packs = 0

    def ask(self, packs: Iterable[bytes]) -> set[bytes]:
        """Have packs brought back; those that are not on the hot disk yet. Durable on return."""
        wanted = {pack for pack in packs if not self._lake.placed.is_hot(pack)}
        with self._lock:
            fresh = wanted - self._asked.keys()
            for pack in fresh:
                self._problems.pop(pack, None)
                self._asked[pack] = _Asked(time.time_ns())
            if fresh:
                self._save()
        if fresh:
            self.on_news()
        return wanted

    def left(self, packs: Iterable[bytes]) -> set[bytes]:
        """Those packs that did not come yet; raises why, when one of them cannot come."""
        wanted = {pack for pack in packs if not self._lake.placed.is_hot(pack)}
        with self._lock:
            for pack in wanted - self._asked.keys():
                if pack in self._problems:
                    raise self._problems[pack]
        return wanted

    def trouble(self, packs: Iterable[bytes]) -> DtafsError | None:
        """What keeps all of these packs from coming, for TROUBLE_S by now; None when one may be on its
        way."""
        until_s = time.monotonic() - TROUBLE_S
        with self._lock:
            asked = [self._asked[pack] for pack in packs if pack in self._asked]
            if any(one.trouble is None or one.trouble_s > until_s for one in asked):
                return None
            return asked[0].trouble if asked else None

    def cancel(self, packs: Iterable[bytes]) -> int:
        """Forget that packs were asked for; how many were."""
        with self._lock:
            gone = [pack for pack in packs if self._asked.pop(pack, None) is not None]
            if gone:
                self._save()
        return len(gone)

    def facts(self) -> list[dict[str, Any]]:
        """The queue, in plain values, the oldest first."""
        with self._lock:
            asked = sorted(self._asked.items(), key=lambda item: item[1].since_ns)
        return [
            {
                "pack": pack.hex(),
                "tier": one.tier,
                "state": one.state,
                "size_bytes": one.size,
                "asked": format_time(one.since_ns),
                "problem": one.problem,
            }
            for pack, one in asked
        ]

    # Working it off

    def step(self, pace: Pace = unpaced) -> bool:
        """Do what is next for one pack that is due; False when there is nothing to do just now.

        Any number of threads may do that at once, each for another pack.
        """
        now_s = time.monotonic()
        with self._lock:
            due = [
                (one.look_s, pack)
                for pack, one in self._asked.items()
                if one.state != "fetching" and one.look_s <= now_s
            ]
            if not due:
                return False
            _look_s, pack = min(due)
            one = self._asked[pack]
            one.state = "fetching"
        try:
            self._advance(pack, one, pace)
        except (StorageError, StorageFullError, BusyError) as error:
            self._wait(one, "waiting", error)
            self._give_up_late(pack, one, error)
        except DtafsError as error:
            if self._lake.index.pack(pack) is None:
                self.cancel([pack])
            elif one.tier and self._lake.tiers.trouble(one.tier) is not None:
                self._wait(one, "waiting", error)
                self._give_up_late(pack, one, error)
            else:
                self._end(pack, error)
        except BaseException:
            one.state = "queued"
            raise
        return True

    def next_look_s(self) -> float | None:
        """In how many seconds there is something to do again; None when nothing is asked for."""
        now_s = time.monotonic()
        with self._lock:
            looks = [one.look_s - now_s for one in self._asked.values() if one.state != "fetching"]
        return max(0.0, min(looks)) if looks else None

    def _advance(self, pack: bytes, one: _Asked, pace: Pace) -> None:
        lake = self._lake
        if not lake.placed.is_hot(pack):
            stub = lake.placed.stub(pack)
            if stub is None or not stub.tiers:
                raise NotFoundError(f"pack {pack.hex()} is in no tier; run dtafsctl check")
            one.size, one.tier = stub.size, nearest(lake, pack)
            tier = lake.tier(one.tier)
            if tier.needs_recall and not self._is_ready(pack, one):
                return
        hot_until_ns = time.time_ns() + int(lake.config.tiering.recalled_days * 86_400e9)
        try:
            size = fetch_pack(lake, pack, hot_until_ns, pace)
        except RecallError:  # it was ready, and is so no longer
            self._wait(one, "queued")
            return
        with self._lock:
            self._asked.pop(pack, None)
            self.done_bytes += size
            self.done_packs += 1
            self._save()

    def _is_ready(self, pack: bytes, one: _Asked) -> bool:
        tier, key = self._lake.tier(one.tier), pack_key(pack)
        facts = tier.facts(key)
        if facts is None:
            raise IntegrityError(
                f"tier {one.tier!r} has lost pack {pack.hex()}; run dtafsctl check --read-data"
            )
        if facts.state == State.READY:
            return True
        if facts.state == State.ARCHIVED:
            tier.recall(key)
        self._wait(one, "recalling")
        limit_h = self._lake.config.tiering.recall_limit_hours
        late = StorageError(
            f"pack {pack.hex()} was asked of the archive {one.tier!r} and has not come for "
            f"{limit_h:g} hours; ask its operator, then: dtafsctl tier recall"
        )
        self._give_up_late(pack, one, late)
        return False

    def _wait(self, one: _Asked, state: str, trouble: DtafsError | None = None) -> None:
        age_s = (time.time_ns() - one.since_ns) / 1e9
        wait_s = min(max(age_s * LOOK_AGAIN_SHARE, LOOK_AGAIN_MIN_S), LOOK_AGAIN_MAX_S)
        with self._lock:
            now_s = time.monotonic()
            if one.trouble is None:
                one.trouble_s = now_s
            one.trouble, one.problem = trouble, "" if trouble is None else str(trouble)
            one.look_s, one.state = now_s + wait_s, state

    def _give_up_late(self, pack: bytes, one: _Asked, error: DtafsError) -> None:
        limit_s = self._lake.config.tiering.recall_limit_hours * 3600
        if (time.time_ns() - one.since_ns) / 1e9 > limit_s:
            self._end(pack, error)

    def _end(self, pack: bytes, error: DtafsError) -> None:
        log.error("pack %s could not be recalled: %s", pack.hex(), error)
        with self._lock:
            self._asked.pop(pack, None)
            if len(self._problems) >= PROBLEMS_MAX:
                self._problems.clear()
            self._problems[pack] = error
            self._save()

    def _save(self) -> None:
        disk, folder = self._lake.disk, self._lake.path / FOLDER
        queue = {pack.hex(): one.since_ns for pack, one in self._asked.items()}
        disk.make_directory(folder)
        disk.replace(folder / FILE, msgspec.json.encode(queue, order="sorted"))
