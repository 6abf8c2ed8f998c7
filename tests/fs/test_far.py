"""The mount and other tiers: what is cold is brought back, and nobody else waits for it."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from msgspec import structs

from dtafs.core.format import pack_key
from dtafs.core.values import Content
from dtafs.errors import DtafsError, RecallError, StorageError, outcome_of
from dtafs.fs import far
from dtafs.fs.attributes import Attributes
from dtafs.services.tiering import Recaller
from dtafs.store.lake import Lake
from dtafs.store.placement import recalls
from dtafs.store.placement.moves import drop_pack, move_pack
from dtafs.store.tiers.base import ObjectFacts, State
from tests.fs.conftest import World
from tests.support.tiered import (
    DATASET,
    TroubledTier,
    add_tiers,
    configure,
    content_packs,
    fill,
    random_tree,
)

V1 = f"{DATASET}/v1"
LARGE = random_tree(1)
SMALL = {name: item._replace(content=item.content[:9_000]) for name, item in LARGE.items()}


class Slow(TroubledTier):
    """A tier that answers when it is told to; an archive has nothing ready before."""

    def __init__(self, lake: Lake, name: str) -> None:
        tier = lake.tiers[name]
        super().__init__(name, lake.path.parent / name, archive=tier.needs_recall)
        self.answers = threading.Event()

    def facts(self, key: str) -> ObjectFacts | None:
        found = super().facts(key)
        ready = self.answers.is_set() or not self.needs_recall
        return found if ready else found and found._replace(state=State.RECALLING)

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        assert self.answers.wait(60)
        return super().read(key, offset, size)


def use(lake: Lake, name: str, kind: type[Slow] = Slow) -> Slow:
    """Put such a tier in the place of a lake's own."""
    tier = kind(lake, name)
    lake.tiers.use(name, tier)
    return tier


@pytest.fixture
def cold_lake(lake_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake with tiers; WF-2024-07 is of large files, S of small ones."""
    monkeypatch.setattr(recalls, "LOOK_AGAIN_MIN_S", 0.01)
    add_tiers(lake_path)
    configure(lake_path, "\n[tiering]\nrecall_wait_s = 20\n")
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", LARGE)
        fill(lake, lake_path.parent / "scratch", SMALL, dataset="S")
    return lake_path


@pytest.fixture
async def cold(cold_lake: Path) -> AsyncIterator[World]:
    """Its namespace, with recalls worked off."""
    with Lake.open(cold_lake) as lake:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Recaller(lake).run)
            yield World(lake, nursery)
            nursery.cancel_scope.cancel()


def be_impatient(lake: Lake) -> None:
    """Let opens wait for half a second."""
    tiering = structs.replace(lake.config.tiering, recall_wait_s=0.5)
    lake.config = structs.replace(lake.config, tiering=tiering)


def packs_of(lake: Lake, dataset: str) -> list[bytes]:
    return [pack for pack, row in lake.index.packs() if row.dataset == dataset and row.kind == 1]


def move(lake: Lake, tier: str, *datasets: str) -> None:
    """Move what was committed to some datasets."""
    for dataset in datasets:
        for pack in packs_of(lake, dataset):
            move_pack(lake, pack, tier)
    lake.objects.clear()


async def shown(world: World, path: str, here: bool) -> Attributes:
    """The attributes of a file once they say that it is here, or is not: within moments."""
    with trio.fail_after(30):
        while bool((found := await world.at(path)).blocks) != here:
            await trio.sleep(0.01)
    return found


async def errno_of(world: World, path: str, flags: int = os.O_RDONLY) -> int:
    """With what opening is refused, 0 if it is not."""
    try:
        await (await world.open(path, flags)).release()
    except DtafsError as error:
        return outcome_of(error).errno
    return 0


@pytest.mark.parametrize("dataset", [DATASET, "S"])
@pytest.mark.parametrize("tier", ["warm", "cold"])
async def test_what_is_away_says_so_and_reads(cold: World, dataset: str, tier: str) -> None:
    path = f"{dataset}/v1/file 0"
    assert (await cold.at(path)).blocks > 0
    assert (
        await cold.namespace.area((await cold.at(path)).ino).get_xattr(
            (await cold.at(path)).ino, b"user.dtafs.tier"
        )
        == b"hot"
    )
    move(cold.lake, tier, dataset)
    found = await shown(cold, path, here=False)
    assert found.timeout_s < 60
    assert [a.blocks for _name, a in await cold.entries(f"{dataset}/v1")] == [0, 0, 0]
    area = cold.namespace.area(found.ino)
    assert await area.get_xattr(found.ino, b"user.dtafs.tier") == tier.encode()
    tree = LARGE if dataset == DATASET else SMALL
    assert await cold.read(path) == tree[b"file 0"].content
    await shown(cold, path, here=tier == "cold")  # what was recalled is here


async def test_who_does_not_wait_is_told_at_once_and_it_comes(cold: World) -> None:
    slow = use(cold.lake, "cold")
    move(cold.lake, "cold", DATASET)
    assert await errno_of(cold, f"{V1}/file 0", os.O_RDONLY | os.O_NONBLOCK) == errno.EAGAIN
    assert cold.lake.recalls is not None and len(cold.lake.recalls.facts()) == 1
    slow.answers.set()
    with trio.fail_after(30):
        while await errno_of(cold, f"{V1}/file 0", os.O_RDONLY | os.O_NONBLOCK):
            await trio.sleep(0.01)
    assert await cold.read(f"{V1}/file 0") == LARGE[b"file 0"].content


async def test_who_waits_waits_only_so_long(cold: World) -> None:
    slow = use(cold.lake, "cold")
    move(cold.lake, "cold", DATASET)
    be_impatient(cold.lake)
    began_s = trio.current_time()
    assert await errno_of(cold, f"{V1}/file 0") == errno.EAGAIN
    assert 0.4 < trio.current_time() - began_s < 10
    slow.answers.set()


async def test_opens_that_wait_hold_up_nobody(cold: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may wait, and more than there are threads; what is hot opens and reads meanwhile."""
    monkeypatch.setattr(far, "OPENS_MAX", 6)
    slow = use(cold.lake, "cold")
    move(cold.lake, "cold", DATASET)
    results: list[int] = []

    async def wait(name: str) -> None:
        results.append(await errno_of(cold, name))

    async with trio.open_nursery() as nursery:
        for number in range(30):
            nursery.start_soon(wait, f"{V1}/file {number % 3}")
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(20):
            assert await cold.read("S/v1/file 1") == SMALL[b"file 1"].content
        assert len(results) >= 24, "those that may not wait were told so"
        slow.answers.set()
    assert set(results) <= {0, errno.EAGAIN} and len(results) == 30


async def test_reads_that_wait_for_a_tier_hold_up_nobody(
    cold: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = use(cold.lake, "warm")
    slow.answers.set()
    move(cold.lake, "warm", DATASET)
    slow.answers.clear()
    monkeypatch.setattr(far, "STUCK_S", 0.0)
    files = [await cold.open(f"{V1}/file {n % 3}") for n in range(60)]
    refused: list[Exception] = []
    read: list[int] = []

    async def wait(number: int) -> None:
        try:
            data = await files[number].read(number * 1000, 1000)
            assert data == LARGE[b"file %d" % (number % 3)].content[number * 1000 :][:1000]
            read.append(number)
        except RecallError as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(20):
            assert await cold.read("S/v1/file 1") == SMALL[b"file 1"].content
        slow.answers.set()
    assert len(refused) + len(read) == 60 and len(read) >= far.FAR_MAX
    assert refused, "of 60, as many as may wait do"


async def test_what_leaves_under_a_reader_comes_back(cold: World) -> None:
    opened = await cold.open(f"{V1}/file 0")
    move(cold.lake, "cold", DATASET)
    assert await opened.read(0, 1000) == LARGE[b"file 0"].content[:1000]
    for pack in packs_of(cold.lake, DATASET):
        drop_pack(cold.lake, pack)
        (cold.lake.path.parent / "cold/recalled" / pack_key(pack)).unlink()
    cold.lake.objects.clear()
    slow = use(cold.lake, "cold")
    be_impatient(cold.lake)
    with pytest.raises(RecallError):
        await opened.read(0, 1000)
    slow.answers.set()
    await opened.release()


async def test_staging_over_what_is_away(cold: World) -> None:
    move(cold.lake, "warm", DATASET)
    assert await cold.read(f"{DATASET}/staging/file 0") == LARGE[b"file 0"].content


async def test_a_recall_that_fails_says_why(cold: World, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Slow):
        def facts(self, key: str) -> ObjectFacts | None:
            if self.answers.is_set():
                return None
            return super().facts(key)

    failing = use(cold.lake, "cold", Failing)
    move(cold.lake, "cold", "S")
    failing.answers.set()
    assert await errno_of(cold, "S/v1/file 0") == errno.EIO
    assert "has lost pack" in caplog.text


async def test_a_read_only_mount_recalls_nothing(cold_lake: Path) -> None:
    with Lake.open(cold_lake) as lake:
        move(lake, "cold", DATASET)
        move(lake, "warm", "S")
        packs = content_packs(lake)
    with Lake.open(cold_lake, write=False) as lake:
        assert lake.recalls is None and len(packs) == 2
        async with trio.open_nursery() as nursery:
            world = World(lake, nursery, read_only=True)
            assert await errno_of(world, f"{V1}/file 0") == errno.EAGAIN
            assert await world.read("S/v1/file 2") == SMALL[b"file 2"].content
            nursery.cancel_scope.cancel()


async def test_a_tier_that_does_not_answer(cold: World) -> None:
    move(cold.lake, "warm", DATASET)
    failing = use(cold.lake, "warm", Slow)
    failing.answers.set()
    failing.failure = StorageError("it does not answer")
    opened = await cold.open(f"{V1}/file 0")
    with pytest.raises(StorageError, match="does not answer"):
        await opened.read(0, 1000)
    await opened.release()
    assert await cold.read("S/v1/file 0") == SMALL[b"file 0"].content


async def test_who_goes_on_through_what_is_far_looks_only_once_for_what_is_near(
    cold: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = random_tree(9, 1, 3 << 20)
    fill(cold.lake, cold.lake.path.parent / "scratch", tree, dataset="L")
    move(cold.lake, "warm", "L")
    near: list[bool] = []
    read = cold.lake.objects.read

    def noted(content: Content, offset: int, size: int, near_only: bool = False) -> bytes:
        near.append(near_only)
        return read(content, offset, size, near_only)

    monkeypatch.setattr(cold.lake.objects, "read", lambda *a, near=False: noted(*a, near_only=near))
    expected = tree[b"file 0"].content
    file = await cold.open("L/v1/file 0")
    for offset in range(0, len(expected), 1 << 19):
        assert bytes(await file.read(offset, 1 << 19)) == expected[offset : offset + (1 << 19)]
    assert near[:2] == [True, False] and True not in near[2:] and len(near) > 2
    await file.release()
    # Where most threads for it are in use, what is near is looked for first again.
    cold.lake.objects.clear()
    monkeypatch.setattr(far, "FAR_THREADS", 0)
    near.clear()
    file = await cold.open("L/v1/file 0")
    await file.read(0, 1 << 19)
    await file.read(1 << 20, 1 << 19)
    assert near == [True, True], "and it is in the cache, so nothing else was asked for"
    await file.release()
