"""The daemon's mirroring: what the log says is in the tier `warm` within a second or two."""

from __future__ import annotations

import logging

import trio

from dtafs.errors import DtafsError
from dtafs.store.lake import Lake
from dtafs.store.placement.removal import MIRROR
from dtafs.store.tiers.mirror import is_behind, mirror

log = logging.getLogger(__name__)

LOOK_S = 1.0
AGAIN_MAX_S = 60.0
"""How long after a failure the tier is asked again, at the most; and how often what could not be read here,
or lies in an archive, is tried again."""

COUNTS_S = 10.0
"""How often what happened on the way to the tiers is written down, for `dtafsctl stats`."""


async def mirror_always(lake: Lake) -> None:
    """Bring the mirror up to date whenever it is behind, until cancelled; then nobody waits for a tier
    any longer."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_save_counts, lake)
        nursery.start_soon(_mirror, lake)
        try:
            await trio.sleep_forever()
        finally:  # at once: the thread of a pass, which is waited for, may be waiting for the tier
            lake.tiers.stop()


async def _mirror(lake: Lake) -> None:
    pause_s, failing, again_s = LOOK_S, False, 0.0
    while True:
        await trio.sleep(pause_s)
        if MIRROR not in lake.tiers:
            continue
        try:
            again = trio.current_time() >= again_s
            if await trio.to_thread.run_sync(is_behind, lake, again):
                facts = await trio.to_thread.run_sync(mirror, lake)
                if facts["left_out"] or facts["content_packs_behind"]:
                    again_s = trio.current_time() + AGAIN_MAX_S
            if failing:
                log.info("tier %s mirrors the log again", MIRROR)
            pause_s, failing = LOOK_S, False
        except DtafsError as error:
            # Not a warning: `tier list` and `stats` show it for as long as it lasts.
            if not failing:
                log.info("tier %s does not mirror the log: %s", MIRROR, error)
            pause_s, failing = min(2 * pause_s, AGAIN_MAX_S), True


async def _save_counts(lake: Lake) -> None:
    while True:
        await trio.sleep(COUNTS_S)
        try:
            await trio.to_thread.run_sync(lake.tiers.save_counters, lake.disk)
        except DtafsError as error:
            log.info("what happened on the way to the tiers could not be noted: %s", error)
