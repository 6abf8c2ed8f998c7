"""Several who move, delete, and take tiers away at once: no pack is ever without a readable home."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dtafs.errors import RefusedError, StorageError
from dtafs.store.check import check
from dtafs.store.config import TierSettings
from dtafs.store.lake import Lake
from dtafs.store.placement.copies import ArchivedError
from dtafs.store.placement.moves import move_pack, move_packs
from dtafs.store.placement.removal import doom, finish_removals
from dtafs.store.placement.stubs import doomed_packs
from dtafs.store.tiers.attach import attach, detach
from tests.support.small_lakes import read_version
from tests.support.tiered import (
    DATASET,
    TroubledTier,
    content_packs,
    fill,
    garbage,
    objects_in,
    random_tree,
    troubled,
)

TREE = random_tree(1)
LIMIT_S = 30.0
PAUSE_S = 0.2
"""Long enough for a thread that does not wait to be over."""


class HaltedTier(TroubledTier):
    """A tier that halts in one kind of call until it may go on."""

    def __init__(self, lake: Lake, name: str, halted: str) -> None:
        archive = lake.tier(name).needs_recall
        super().__init__(name, lake.path.parent / name, archive=archive)
        self._halted = halted
        self.reached, self.goes_on = threading.Event(), threading.Event()
        lake.tiers.use(name, self)

    def _meet(self, call: str, key: str, size: int = 0) -> None:
        super()._meet(call, key, size)
        if call == self._halted and not self.reached.is_set():
            self.reached.set()
            assert self.goes_on.wait(LIMIT_S)

    def count(self, call: str) -> int:
        """How often it was asked for that."""
        return sum(made == call for made, *_ in self.calls)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def is_over(future: Future[Any]) -> bool:
    """Whether a call has ended within a moment."""
    try:
        future.exception(PAUSE_S)
    except TimeoutError:
        return False
    return True


def assert_whole(lake: Lake) -> None:
    lake.objects.clear()
    assert read_version(lake, lake.resolve(f"{DATASET}:v1")) == TREE
    assert check(lake, read_data=True) == []


def test_two_who_move_a_pack_move_it_once(tiered: Lake, threads: ThreadPoolExecutor) -> None:
    (pack,) = content_packs(tiered)
    tier = HaltedTier(tiered, "warm", "put")
    first = threads.submit(move_pack, tiered, pack, "warm")
    assert tier.reached.wait(LIMIT_S)
    second = threads.submit(move_packs, tiered, [pack], "warm")
    assert not is_over(second)
    tier.goes_on.set()
    assert first.result(LIMIT_S) > 0
    assert second.result(LIMIT_S).left == {} and tier.count("put") == 1
    assert_whole(tiered)


def test_a_copy_that_goes_is_not_counted_on(
    tiered: Lake, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    """One moves a pack from `other` to `warm`, one the other way round, at the same time."""
    attach(tiered, "other", TierSettings(f"file://{tmp_path}/other"))
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "other")
    tier = HaltedTier(tiered, "other", "delete")
    away = threads.submit(move_pack, tiered, pack, "warm")
    assert tier.reached.wait(LIMIT_S)
    back = threads.submit(move_pack, tiered, pack, "other")
    assert not is_over(back)
    tier.goes_on.set()
    away.result(LIMIT_S)
    back.result(LIMIT_S)
    assert objects_in(tmp_path / "other") == {pack.hex()} and not objects_in(tmp_path / "warm")
    assert_whole(tiered)


def test_what_is_written_again_is_not_deleted_by_who_comes_late(
    tiered: Lake, tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    """Two delete a pack from a tier; it is written again, and moved there, as soon as one has finished."""
    pack = garbage(tiered, tmp_path / "scratch")
    tier = HaltedTier(tiered, "warm", "delete")
    doom(tiered, pack)
    late = threads.submit(finish_removals, tiered)
    assert tier.reached.wait(LIMIT_S)
    early = threads.submit(finish_removals, tiered)
    assert not is_over(early)
    tier.goes_on.set()
    assert late.result(LIMIT_S).gone == {"warm": [pack]}
    assert early.result(LIMIT_S).gone == {} and tier.count("delete") == 2  # the pack and its footer
    assert not doomed_packs(tiered.path)


def test_a_tier_is_taken_away_while_a_pack_moves_there(
    tiered: Lake, threads: ThreadPoolExecutor
) -> None:
    (pack,) = content_packs(tiered)
    tier = HaltedTier(tiered, "warm", "facts")
    move = threads.submit(move_pack, tiered, pack, "warm")
    assert tier.reached.wait(LIMIT_S), "it is copied and verified, and about to leave the disk"
    detach(tiered, "warm")
    tier.goes_on.set()
    with pytest.raises(RefusedError, match="no tier has a verified copy"):
        move.result(LIMIT_S)
    assert tiered.placed.is_hot(pack)
    assert_whole(tiered)


def test_a_reader_follows_what_moves_on(tiered: Lake, threads: ThreadPoolExecutor) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    tier = HaltedTier(tiered, "warm", "read")
    reader = threads.submit(tiered.far.read, pack, 100, 50)
    assert tier.reached.wait(LIMIT_S)
    move_pack(tiered, pack, "cold")
    tier.goes_on.set()
    with pytest.raises(ArchivedError):  # not that it is lost
        reader.result(LIMIT_S)


def test_a_tier_that_is_gone_is_met_once(tiered: Lake, tmp_path: Path) -> None:
    """However many packs are to be moved there, or to be deleted from it."""
    fill(tiered, tmp_path / "scratch", random_tree(2), random_tree(3), dataset="other")
    packs = content_packs(tiered)
    tier = troubled(tiered, "warm")
    (tmp_path / "warm").rename(tmp_path / "unmounted")
    moved = move_packs(tiered, packs, "warm")
    assert moved.packs == 0 and set(moved.left) == set(packs)
    assert all("is gone: bring it back" in why for why in moved.left.values())
    assert len(tier.calls) == 1
    (tmp_path / "unmounted").rename(tmp_path / "warm")
    assert move_packs(tiered, packs, "warm").packs == len(packs)


def test_what_is_to_be_deleted_asks_a_dead_tier_once(tiered: Lake, tmp_path: Path) -> None:
    small = [garbage(tiered, tmp_path / "scratch", seed) for seed in (2, 3, 4)]
    for pack in small:
        doom(tiered, pack)
    tier = troubled(tiered, "warm")
    tier.failure = StorageError("it does not answer")
    (tmp_path / "warm").rename(tmp_path / "unmounted")
    removal = finish_removals(tiered)
    assert set(removal.left) == set(small) and len(tier.calls) == 1
    (tmp_path / "unmounted").rename(tmp_path / "warm")
    tier.failure = None
    assert set(finish_removals(tiered).gone["warm"]) == set(small)
