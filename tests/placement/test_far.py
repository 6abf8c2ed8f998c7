"""Reading through a tier: few requests, a bounded cache, and other copies where one is wrong."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.errors import IntegrityError, StorageError
from dtafs.store.config import load_config
from dtafs.store.lake import Lake
from dtafs.store.objects import Objects
from dtafs.store.packfiles import FarFrame
from dtafs.store.placement.cachefile import CacheFile
from dtafs.store.placement.far import (
    AHEAD_THREADS,
    FETCH_BYTES,
    FIRST_BYTES,
    HELD_BYTES,
    NEARBY_BYTES,
    Far,
)
from dtafs.store.placement.moves import copy_pack, drop_pack, move_pack
from dtafs.store.placement.pieces import SEGMENT_BYTES
from tests.support.tiered import (
    DATASET,
    TroubledTier,
    add_tiers,
    configure,
    content_of,
    content_packs,
    fill,
    object_path,
    random_tree,
    troubled,
)

LARGE = random_tree(7, 1, 40 << 20)
BYTES = LARGE[b"file 0"].content


@pytest.fixture
def large(lake_path: Path) -> Path:
    """A lake with one file of two packs, both moved to `warm`."""
    add_tiers(lake_path)
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", LARGE)
        for pack in content_packs(lake):
            move_pack(lake, pack, "warm")
    return lake_path


def test_a_lookup_costs_one_small_request(large: Path) -> None:
    with Lake.open(large) as lake:
        tier = troubled(lake, "warm")
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        assert lake.objects.read(content, 20 << 20, 1000) == BYTES[20 << 20 :][:1000]
        ((call, _key, size),) = tier.calls
        assert call == "read" and size <= 2 * 256 * 1024 + SEGMENT_BYTES
        lake.objects.clear()
        assert lake.objects.read(content, 20 << 20, 1000) == BYTES[20 << 20 :][:1000]
        assert len(tier.calls) == 1, "the second time it is in the cache"


def test_reading_straight_on_takes_few_requests_and_each_byte_once(large: Path) -> None:
    with Lake.open(large) as lake:
        tier = troubled(lake, "warm")
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        assert b"".join(lake.objects.stream(content)) == BYTES
        sizes = [size for _call, _key, size in tier.calls]
        packs = sum(lake.index.pack(p).size for p in content_packs(lake))  # type: ignore[union-attr]
        assert sum(sizes) == packs == lake.far.fetched_bytes
        assert len(sizes) <= 10 + packs // FETCH_BYTES and max(sizes) == FETCH_BYTES
        assert lake.far.cached_bytes >= packs


def test_the_cache_is_bounded(large: Path) -> None:
    configure(large, "[cache]\nfar_mib = 20\n")
    with Lake.open(large) as lake:
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        for _ in range(2):
            lake.objects.clear()
            assert b"".join(lake.objects.stream(content)) == BYTES
            assert lake.far.cached_bytes <= 20 << 20
        before = len(os.listdir("/proc/self/fd"))
        lake.far.close()
        assert len(os.listdir("/proc/self/fd")) < before and lake.far.cached_bytes == 0


def test_without_a_cache_it_reads_all_the_same(large: Path) -> None:
    configure(large, "[cache]\nfar_mib = 0\n")
    with Lake.open(large) as lake:
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        assert lake.objects.read(content, 9 << 20, 1 << 20) == BYTES[9 << 20 : 10 << 20]
        assert lake.far.cached_bytes == 0


def test_many_threads_read_the_same(large: Path) -> None:
    configure(large, "[cache]\nfar_mib = 16\n")
    with Lake.open(large) as lake:
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        wrong: list[int] = []

        def read(start: int) -> None:
            for offset in range(start, len(BYTES), 5 << 20):
                data = lake.objects.read(content, offset, 300_000)
                if data != BYTES[offset : offset + 300_000]:
                    wrong.append(offset)

        threads = [threading.Thread(target=read, args=(n << 20,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and lake.far.cached_bytes <= 16 << 20


def test_who_wants_only_what_is_near_is_told(large: Path) -> None:
    with Lake.open(large) as lake:
        tier = troubled(lake, "warm")
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        with pytest.raises(FarFrame):
            lake.objects.read(content, 0, 1000, near=True)
        assert not tier.calls
        lake.objects.read(content, 0, 1000)
        assert lake.objects.read(content, 0, 1000, near=True) == BYTES[:1000]
        lake.objects.clear()
        assert lake.objects.read(content, 0, 1000, near=True) == BYTES[:1000], "from the cache"


class WaitingFar(Far):
    """Answers when it is told to."""

    def __init__(self, lake: Lake) -> None:
        super().__init__(lake.path, lake.disk, lake.placed, lake.tier, 1 << 30)
        self.asked, self.answer = threading.Event(), threading.Event()

    def read(self, pack: bytes, offset: int, size: int) -> bytes:
        self.asked.set()
        assert self.answer.wait(60)
        return super().read(pack, offset, size)


def test_a_near_reader_does_not_wait_for_one_of_a_tier(large: Path) -> None:
    from dtafs.store.packfiles import PackFiles

    with Lake.open(large) as lake:
        far = WaitingFar(lake)
        objects = Objects(PackFiles(lake.path, far), lake.locate)
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        got: list[bytes] = []
        thread = threading.Thread(target=lambda: got.append(objects.read(content, 0, 1000)))
        thread.start()
        assert far.asked.wait(60)
        with pytest.raises(FarFrame):
            objects.read(content, 0, 1000, near=True)
        far.answer.set()
        thread.join(60)
        assert got == [BYTES[:1000]]
        far.close()


class NotedTier(TroubledTier):
    """Notes the first and the last byte of each request."""

    def __init__(self, lake: Lake) -> None:
        super().__init__("warm", lake.path.parent / "warm")
        lake.tiers.use("warm", self)
        self.ranges: list[tuple[int, int]] = []

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        data = super().read(key, offset, size)
        self.ranges.append((offset, offset + len(data) - 1))
        return data


def test_no_request_needs_two_parts_of_what_a_store_has_in_parts(large: Path) -> None:
    with Lake.open(large) as lake:
        tier = NotedTier(lake)
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        for offset in (5 << 20, 7 << 20, 39 << 20, 30 << 20):
            lake.objects.read(content, offset, 2 << 20)
        assert b"".join(lake.objects.stream(content)) == BYTES
        assert len(tier.ranges) > 10
        assert all(first // FETCH_BYTES == last // FETCH_BYTES for first, last in tier.ranges)


def test_what_a_reader_goes_on_through_is_not_read_back_from_the_cache(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.open(large) as lake:
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        back: list[int] = []
        read = CacheFile.read

        def noted(file: CacheFile, offset: int, size: int) -> bytes:
            back.append(size)
            return read(file, offset, size)

        monkeypatch.setattr(CacheFile, "read", noted)
        assert b"".join(lake.objects.stream(content)) == BYTES
        assert sum(back) < 2 << 20, "but for what was read before it was known that it goes on"
        lake.objects.clear()
        assert b"".join(lake.objects.stream(content)) == BYTES
        assert sum(back) > 20 << 20, "the second time it is"


class AheadTier(TroubledTier):
    """Answers requests that are made ahead when it is told to, or fails them."""

    def __init__(self, lake: Lake) -> None:
        super().__init__("warm", lake.path.parent / "warm")
        lake.tiers.use("warm", self)
        self.asked, self.answer = threading.Event(), threading.Event()
        self.ahead_failure: Exception | None = None
        self.ahead: list[str] = []

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        thread = threading.current_thread().name
        if thread.startswith("dtafs-far-ahead"):
            self.ahead.append(thread)
            self.asked.set()
            assert self.answer.wait(60)
            if self.ahead_failure is not None:
                raise self.ahead_failure
        return super().read(key, offset, size)


def ahead_threads() -> list[str]:
    """Threads that fetch ahead."""
    return [t.name for t in threading.enumerate() if t.name.startswith("dtafs-far-ahead")]


def read_until_asked(tier: AheadTier, far: Far, pack: bytes) -> int:
    """Go straight on through a pack until something is fetched ahead; where the next read begins."""
    offset = 16
    while not tier.asked.is_set():
        assert offset < FETCH_BYTES
        far.read(pack, offset, 256 * 1024)
        offset += 256 * 1024
        if far.at_work:
            assert tier.asked.wait(60)
    return offset


def largest(lake: Lake) -> tuple[bytes, bytes]:
    """The largest content pack, and what it is."""
    tier = lake.path.parent / "warm"
    pack = max(content_packs(lake), key=lambda p: (tier / pack_key(p)).stat().st_size)
    return pack, (tier / pack_key(pack)).read_bytes()


def test_what_comes_next_is_fetched_before_anybody_needs_it(large: Path) -> None:
    with Lake.open(large) as lake:
        tier, (pack, whole) = AheadTier(lake), largest(lake)
        at = read_until_asked(tier, lake.far, pack)
        # What is there already is read while the request goes on.
        assert lake.far.is_near(pack, 16, at - 16)
        assert lake.far.read(pack, 16, at - 16) == whole[16:at]
        tier.answer.set()
        assert lake.far.read(pack, at, len(whole) - at) == whole[at:]
        assert lake.far.fetched_bytes == len(whole)
    assert not ahead_threads(), "nothing is left when the lake is closed"


def test_a_failure_ahead_is_nobodys(large: Path) -> None:
    with Lake.open(large) as lake:
        tier, (pack, whole) = AheadTier(lake), largest(lake)
        tier.ahead_failure = StorageError("it does not answer")
        at = read_until_asked(tier, lake.far, pack)
        tier.answer.set()
        assert lake.far.read(pack, at, len(whole) - at) == whole[at:]
        assert len(tier.ahead) <= AHEAD_THREADS, "and not tried again and again"


@pytest.mark.parametrize("cache_mib", [0, 1024])
def test_what_is_held_in_memory_is_bounded(large: Path, cache_mib: int) -> None:
    configure(large, f"[cache]\nfar_mib = {cache_mib}\n")
    with Lake.open(large) as lake:
        content = content_of(lake, f"{DATASET}:v1", b"file 0")
        for part in range(0, len(BYTES), 1 << 20):
            data = lake.objects.read(content, part, 1 << 20)
            assert data == BYTES[part : part + (1 << 20)]
            assert lake.far.held_bytes <= HELD_BYTES
        for pack in content_packs(lake):
            lake.far.forget(pack)
        assert lake.far.held_bytes == 0


def test_wrong_bytes_are_never_given_and_another_tier_is_asked(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    second = tiered.path.parent / "second"
    second.mkdir()
    place = f'\n[tiers.zweite]\nurl = "file://{second}"\n'
    configure(tiered.path, place)
    shutil.copy(tiered.path / "lake.json", second)
    tiered.tiers.renew(load_config(tiered.path / "config.toml").tiers, tiered.disk)
    copy_pack(tiered, pack, "warm")
    copy_pack(tiered, pack, "zweite")
    drop_pack(tiered, pack)
    path = object_path(tiered.tier("warm"), tiered, pack)
    sound = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(sound[:16] + bytes(len(sound) - 16))
    content = content_of(tiered, f"{DATASET}:v1", b"file 0")
    expected = random_tree(1)[b"file 0"].content
    assert tiered.objects.read(content, 0, content.size) == expected
    gone = (second / pack_key(pack)).rename(second / "gone")
    tiered.objects.clear()
    tiered.far.close()
    with pytest.raises((IntegrityError, StorageError)):
        tiered.objects.read(content, 0, content.size)
    path.write_bytes(sound)
    gone.rename(second / pack_key(pack))
    tiered.far.close()
    assert tiered.objects.read(content, 0, content.size) == expected


def test_a_tier_that_does_not_answer_is_an_error_of_what_lies_there(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    tier = troubled(tiered, "warm")
    tier.failure = StorageError("it does not answer")
    content = content_of(tiered, f"{DATASET}:v1", b"file 0")
    with pytest.raises(StorageError, match="does not answer"):
        tiered.objects.read(content, 0, 1000)
    tier.failure = None
    assert tiered.objects.read(content, 0, 1000) == random_tree(1)[b"file 0"].content[:1000]


def test_without_a_thread_nothing_is_fetched_ahead_for_a_while_only(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise RuntimeError("can't start new thread")

    with Lake.open(large) as lake:
        pack, data = largest(lake)
        monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
        for offset in range(16, 12 << 20, 256 << 10):
            assert lake.far.read(pack, offset, 256 << 10) == data[offset:][: 256 << 10]
            assert lake.far.at_work == 0
            assert lake.far.held_bytes <= NEARBY_BYTES + 2 * FIRST_BYTES, "around the reader"
