"""Recalls: a queue that outlives the process, and ends with the pack or with the reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.format import pack_key
from dtafs.errors import IntegrityError, RefusedError, StorageError, StorageFullError
from dtafs.store.condemn import FOLDER
from dtafs.store.durable import Disk
from dtafs.store.lake import Lake
from dtafs.store.placement import recalls
from dtafs.store.placement.calls import tier_recall
from dtafs.store.placement.moves import move_pack
from dtafs.store.placement.recalls import Recalls
from dtafs.store.placement.removal import remove_packs
from dtafs.store.tiers.base import ObjectFacts, State
from tests.support.tiered import (
    DATASET,
    TroubledTier,
    add_tiers,
    configure,
    content_packs,
    fill,
    garbage,
    object_path,
    random_tree,
    troubled,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives are looked at again at once."""
    monkeypatch.setattr(recalls, "LOOK_AGAIN_MIN_S", 0.0)
    monkeypatch.setattr(recalls, "LOOK_AGAIN_SHARE", 0.0)


def queue_of(lake: Lake) -> Recalls:
    assert lake.recalls is not None
    return lake.recalls


def archived(lake: Lake) -> bytes:
    """The pack of the lake's version, in the archive."""
    (pack,) = content_packs(lake)
    move_pack(lake, pack, "cold")
    return pack


def work_off(queue: Recalls, steps: int = 20) -> None:
    for _ in range(steps):
        if not queue.step():
            return


def test_a_pack_is_asked_for_and_comes(tiered: Lake) -> None:
    pack, queue = archived(tiered), queue_of(tiered)
    news: list[int] = []
    queue.on_news = lambda: news.append(1)
    assert queue.ask([pack]) == {pack} and news == [1]
    assert queue.ask([pack]) == {pack} and news == [1], "it was asked for already"
    assert [fact["state"] for fact in queue.facts()] == ["queued"]
    assert queue.step(), "the archive is asked"
    assert [fact["state"] for fact in queue.facts()] == ["recalling"]
    assert queue.left([pack]) == {pack}
    work_off(queue)
    assert queue.left([pack]) == set() and tiered.placed.is_hot(pack) and not queue.facts()
    stub = tiered.placed.stub(pack)
    assert stub is not None and stub.hot_until_ns > tiered.now_ns() + 6 * 86_400 * 10**9
    assert queue.ask([pack]) == set() and not queue.step() and queue.next_look_s() is None


def test_it_comes_from_where_it_can_be_read(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    queue = queue_of(tiered)
    queue.ask([pack])
    assert queue.step() and tiered.placed.is_hot(pack)
    assert queue.done_packs == 1 and queue.done_bytes > 900_000


def test_what_was_asked_for_is_asked_for_by_the_next_process(tiered_path: Path) -> None:
    with Lake.open(tiered_path) as lake:
        fill(lake, tiered_path.parent / "scratch", random_tree(1))
        pack = archived(lake)
        queue_of(lake).ask([pack])
    with Lake.open(tiered_path) as lake:
        work_off(queue_of(lake))
        assert lake.placed.is_hot(pack)
    with Lake.open(tiered_path) as lake:
        assert not queue_of(lake).facts()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"ab": 1}', b'{"zz": 1}', b"[1]"])
def test_a_damaged_queue_is_an_empty_one(
    tiered_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tiered_path / FOLDER).mkdir(exist_ok=True)
    (tiered_path / FOLDER / "recalls").write_bytes(damage)
    with Lake.open(tiered_path) as lake:
        assert not queue_of(lake).facts()
    assert "recalls is damaged" in caplog.text


def test_credentials_that_expire_end_no_recall(tiered: Lake) -> None:
    """Nor does a bucket that is gone for a while: what fails is not the pack but its tier."""
    pack, queue = archived(tiered), queue_of(tiered)
    tier = troubled(tiered, "cold")
    place, kept = tiered.path.parent / "cold", tiered.path.parent / "kept"
    place.rename(kept)
    tier.failure = RefusedError("the store does not accept the credentials, which have expired")
    queue.ask([pack])
    assert queue.step()
    assert [fact["state"] for fact in queue.facts()] == ["waiting"]
    assert "have expired" in queue.facts()[0]["problem"]
    kept.rename(place)
    tier.failure = None
    work_off(queue)
    assert tiered.placed.is_hot(pack)


def test_what_was_ready_and_is_so_no_longer_is_asked_for_again(tiered: Lake) -> None:
    pack, queue = archived(tiered), queue_of(tiered)

    class Forgetful(TroubledTier):
        def fetch(self, key: str, sink: Any) -> None:
            (tiered.path.parent / "cold" / "recalled" / key).unlink()
            tiered.tiers.use("cold", tier)
            super().fetch(key, sink)

    tier = troubled(tiered, "cold")
    tier.recall(pack_key(pack))
    tiered.tiers.use("cold", Forgetful("cold", tiered.path.parent / "cold", archive=True))
    queue.ask([pack])
    assert queue.step() and [fact["state"] for fact in queue.facts()] == ["queued"]
    work_off(queue)
    assert tiered.placed.is_hot(pack)


def test_what_nothing_needs_any_more_is_forgotten(
    tiered: Lake, caplog: pytest.LogCaptureFixture
) -> None:
    """A collection deletes it: that is nothing to be told of in the log of the daemon."""
    pack, queue = garbage(tiered, tiered.path.parent / "scratch"), queue_of(tiered)
    queue.ask([pack])
    remove_packs(tiered, [pack])
    work_off(queue)
    assert not queue.facts() and queue.left([pack]) == {pack}
    assert not caplog.text


def test_a_command_that_waits_is_told_what_it_waits_for(
    tiered: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack = archived(tiered)
    monkeypatch.setattr(recalls, "TROUBLE_S", 0.0)
    full = StorageFullError("writing: no space left on device; free some space")
    with monkeypatch.context() as patch:
        patch.setattr(Disk, "check_room", lambda *_a: (_ for _ in ()).throw(full))
        with pytest.raises(StorageFullError, match=r"no space left .*it stays asked for"):
            tier_recall(tiered, [DATASET], True, None)
    assert len(queue_of(tiered).facts()) == 1
    assert tier_recall(tiered, [DATASET], True, None)["left"] == 0
    assert tiered.placed.is_hot(pack)


class SlowArchive(TroubledTier):
    """An archive that has nothing ready."""

    def facts(self, key: str) -> ObjectFacts | None:
        found = super().facts(key)
        return found and found._replace(state=State.RECALLING)


def test_a_recall_that_never_ends_is_given_up(
    tiered_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configure(tiered_path, "\n[tiering]\nrecall_limit_hours = 0\n")
    with Lake.open(tiered_path) as lake:
        fill(lake, tiered_path.parent / "scratch", random_tree(1))
        pack, queue = archived(lake), queue_of(lake)
        slow = SlowArchive("cold", tiered_path.parent / "cold", archive=True)
        lake.tiers.use("cold", slow)
        queue.ask([pack])
        work_off(queue)
        assert not queue.facts()
        with pytest.raises(StorageError, match="'cold' and has not come for 0 hours; ask its"):
            queue.left([pack])
        assert queue.ask([pack]) == {pack} == queue.left([pack]), "somebody asks anew"
        queue.cancel([pack])
    assert "could not be recalled" in caplog.text


def test_no_room_and_no_answer_are_waited_for(
    tiered: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack, queue = archived(tiered), queue_of(tiered)
    tier = troubled(tiered, "cold")
    tier.failure = StorageError("it does not answer")
    queue.ask([pack])
    assert queue.step()
    ((state, problem),) = [(f["state"], f["problem"]) for f in queue.facts()]
    assert state == "waiting" and problem == "it does not answer"
    tier.failure = None
    assert queue.step()
    with monkeypatch.context() as patch:
        full = StorageFullError("writing: no space left on device; free some space")
        patch.setattr(Disk, "check_room", lambda *_a: (_ for _ in ()).throw(full))
        assert queue.step()
        assert "no space left" in queue.facts()[0]["problem"]
        assert not os.listdir(tiered.path / "tmp")
    work_off(queue)
    assert tiered.placed.is_hot(pack)


@pytest.mark.parametrize("harm", ["gone", "altered"])
@pytest.mark.damages_lake
def test_a_cold_object_that_is_gone_or_altered_is_named(
    tiered: Lake, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    pack, queue = archived(tiered), queue_of(tiered)
    path = object_path(tiered.tier("cold"), tiered, pack)
    path.chmod(0o644)
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size))
    queue.ask([pack])
    work_off(queue)
    with pytest.raises(IntegrityError, match=f"'cold' .*{pack.hex()}.*; run dtafsctl"):
        queue.left([pack])
    assert not tiered.placed.is_hot(pack) and not os.listdir(tiered.path / "tmp")
    assert pack.hex() in caplog.text


class GarblingTier(TroubledTier):
    """Gives a wrong byte so often on the way to who fetches."""

    times = 1

    def fetch(self, key: str, sink: Any) -> None:
        if self.times == 0:
            super().fetch(key, sink)
            return
        self.times -= 1
        super().fetch(key, lambda part: sink(part[:-1] + bytes([part[-1] ^ 1])))


@pytest.mark.parametrize("times", [1, 2])
def test_wrong_bytes_on_the_way_are_fetched_once_more(
    tiered: Lake, times: int, caplog: pytest.LogCaptureFixture
) -> None:
    pack, queue = archived(tiered), queue_of(tiered)
    tier = GarblingTier("cold", tiered.path.parent / "cold", archive=True)
    tier.times = times
    tiered.tiers.use("cold", tier)
    queue.ask([pack])
    work_off(queue)
    assert tiered.placed.is_hot(pack) == (times == 1) and tier.times == 0
    assert not os.listdir(tiered.path / "tmp")
    assert ("gives other bytes" in caplog.text) == (times == 2)


def test_several_threads_share_the_work(lake_path: Path) -> None:
    import threading

    add_tiers(lake_path)
    with Lake.open(lake_path) as lake:
        for number in range(4):
            fill(lake, lake_path.parent / "s", random_tree(number, 1), dataset=f"D{number}")
        packs = content_packs(lake)
        for pack in packs:
            move_pack(lake, pack, "cold")
            lake.tier("cold").recall(pack_key(pack))
        queue = queue_of(lake)
        queue.ask(packs)
        threads = [threading.Thread(target=work_off, args=(queue,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        work_off(queue)
        assert queue.done_packs == 4 and not queue.left(packs)
