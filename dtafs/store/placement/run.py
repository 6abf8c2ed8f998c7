"""Carrying out the plan of the policy, a bounded batch at a time.

Each step is one of `dtafs.store.placement.moves`, so that a crash at any point leaves every pack readable,
and the next plan goes on. A pack that cannot be moved is told once, and left alone for a while. A tier that
does not answer is left alone until the next round, so that neither a thousand packs wait for it one after the
other, nor any of them for longer than the tier itself needs to come back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dtafs.core.placement import Step
from dtafs.errors import BusyError, DtafsError
from dtafs.store.placement.facts import Planner
from dtafs.store.placement.moves import drop_pack, move_pack
from dtafs.store.placement.removal import finish_removals

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

log = logging.getLogger(__name__)

BATCH_BYTES = 1 << 30
BATCH_STEPS = 256
"""After so much it is planned anew: what was read meanwhile stays."""

LEAVE_S = 600.0
"""For how long a pack that could not be moved is left alone."""


class Pacer:
    """Keeps moves to a rate, in bytes a second; 0 is no limit. Called with bytes that were moved."""

    def __init__(self, rate_bytes: float, stop: Callable[[int], object]) -> None:
        self._rate_bytes, self._stop = rate_bytes, stop
        self._next_s = time.monotonic()

    def __call__(self, size: int) -> None:
        """Wait until so many bytes are due; raises what `stop` raises."""
        self._stop(size)
        if self._rate_bytes:
            now_s = time.monotonic()
            self._next_s = max(self._next_s, now_s) + size / self._rate_bytes
            while (wait_s := self._next_s - time.monotonic()) > 0:
                time.sleep(min(wait_s, 0.2))
                self._stop(0)


class Tiering:
    """The policy at work on one lake. Used by one thread at a time."""

    def __init__(self, lake: Lake, stop: Callable[[int], object] = lambda size: None) -> None:
        self._lake, self._stop = lake, stop
        self._planner = Planner(lake)
        self._left: dict[bytes, float] = {}
        self.moved_bytes = self.moved_packs = self.failures = 0

    def plan(self) -> list[Step]:
        """What is to be done now, but for what could not be done a moment ago."""
        now_s = time.monotonic()
        self._left = {pack: until for pack, until in self._left.items() if until > now_s}
        return [step for step in self._planner.plan() if step.pack not in self._left]

    def round(self) -> bool:
        """Plan, and do a batch of it; whether there is more to do at once."""
        lake = self._lake
        finish_removals(lake)
        lake.heat.save(lake.disk)
        steps = self.plan()
        pace = Pacer(lake.config.tiering.rate_mib * (1 << 20), self._stop)
        size_bytes = 0
        silent: set[str] = set()
        for done, step in enumerate(steps):
            if done >= BATCH_STEPS or size_bytes >= BATCH_BYTES:
                return not silent
            if step.tier in silent:
                self.failures += 1
                continue
            try:
                size_bytes += self._do(step, pace)
            except DtafsError as error:
                self._stop(0)  # the daemon ends: nothing went wrong with the pack
                self.failures += 1
                if self._note(step, error):
                    silent.add(step.tier)
        return False

    def _note(self, step: Step, error: DtafsError) -> bool:
        """Note what kept a pack where it is; whether it is the tier that does not answer."""
        text = "pack %s stays where it is for now (%s to %s): %s"
        log.info(text, step.pack.hex(), step.action, step.tier, error)
        if isinstance(error, BusyError):  # a collection, say, which is over soon
            return False
        if step.action != "recall" and self._lake.tiers.trouble(step.tier) is not None:
            return True
        self._left[step.pack] = time.monotonic() + LEAVE_S
        return False

    def _do(self, step: Step, pace: Pacer) -> int:
        lake = self._lake
        if step.action == "recall":
            assert lake.recalls is not None
            lake.recalls.ask([step.pack])
            return 0
        if step.action == "drop":
            drop_pack(lake, step.pack)
            return 0
        size = move_pack(lake, step.pack, step.tier, pace)
        self.moved_bytes += size
        self.moved_packs += 1
        return size
