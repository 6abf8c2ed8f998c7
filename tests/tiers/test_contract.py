"""What every tier promises, whatever is behind it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dtafs.errors import ConflictError, IntegrityError, NotFoundError, RecallError, UsageError
from dtafs.store.tiers.base import PART_BYTES, State, Tier

PACK = "packs/ab/" + "ab" * 32


def readable(tier: Tier, key: str) -> Tier:
    """The tier, after an object was recalled where it has to be."""
    if tier.needs_recall:
        tier.recall(key)
        facts = tier.facts(key)
        assert facts is not None and facts.state is State.READY
    return tier


def test_what_was_put_comes_back(tier: Tier, tmp_path: Path) -> None:
    whole = bytes(range(256)) * 5
    tier.put(PACK, whole)
    facts = tier.facts(PACK)
    assert facts is not None and facts.size_bytes == len(whole)
    assert facts.state is (State.ARCHIVED if tier.needs_recall else State.READY)
    readable(tier, PACK)
    assert tier.read(PACK) == whole
    assert tier.read(PACK, 3, 7) == whole[3:10]
    assert tier.read(PACK, 1_270) == whole[1_270:]
    assert tier.read(PACK, 1_270, 100) == whole[1_270:]
    assert tier.read(PACK, 5_000, 10) == b""


def test_a_file_is_put_and_fetched_in_parts(tier: Tier, tmp_path: Path) -> None:
    whole = bytes(PART_BYTES) + b"and the end"
    file = tmp_path / "file"
    file.write_bytes(whole)
    tier.put(PACK, file)
    tier.verify(PACK, file)
    parts: list[bytes] = []
    readable(tier, PACK).fetch(PACK, parts.append)
    assert b"".join(parts) == whole
    assert max(map(len, parts)) <= PART_BYTES


def test_an_empty_object(tier: Tier) -> None:
    tier.put("log/d/0000000001", b"")
    tier.verify("log/d/0000000001", b"")
    assert readable(tier, "log/d/0000000001").read("log/d/0000000001") == b""


def test_an_object_is_never_replaced(tier: Tier) -> None:
    tier.put(PACK, b"these")
    tier.put(PACK, b"these")
    for other in (b"those", b"these and more", b""):
        with pytest.raises(ConflictError, match=PACK):
            tier.put(PACK, other)
    tier.verify(PACK, b"these")
    with pytest.raises(IntegrityError, match=PACK):
        tier.verify(PACK, b"those")


def test_of_many_who_create_one_wins(tier: Tier) -> None:
    """Create-if-absent is what keeps two lakes, or two hosts, from overwriting each other."""
    outcomes: list[bytes] = []
    barrier = threading.Barrier(4)

    def create(mine: bytes) -> None:
        barrier.wait()
        try:
            tier.put(PACK, mine)
        except ConflictError:
            return
        outcomes.append(mine)

    threads = [threading.Thread(target=create, args=(b"%d" % n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = outcomes
    tier.verify(PACK, winner)


def test_what_is_not_there(tier: Tier) -> None:
    assert tier.facts(PACK) is None
    tier.delete(PACK)
    for call in (tier.read, tier.recall, lambda key: tier.fetch(key, print)):
        with pytest.raises(NotFoundError, match=PACK):
            call(PACK)
    with pytest.raises(NotFoundError, match=PACK):
        tier.verify(PACK, b"")


def test_delete(tier: Tier) -> None:
    tier.put(PACK, b"these")
    tier.delete(PACK)
    assert tier.facts(PACK) is None
    tier.put(PACK, b"those")
    tier.verify(PACK, b"those")


def test_keys_are_listed_below_a_prefix(tier: Tier) -> None:
    names = {"lake.json", "log/d/0000000001", "log/d/0000000002", "log/dd/0000000001", PACK}
    for name in names:
        tier.put(name, name.encode())
    readable(tier, PACK)
    assert {name for name, _size in tier.keys("")} == names
    assert dict(tier.keys("log/d/")) == {"log/d/0000000001": 16, "log/d/0000000002": 16}
    assert list(tier.keys("parity/")) == []


@pytest.mark.parametrize(
    "dataset", ["größe ☂", "a b", "100%", "~x", "a#b?c&d", "a\\b", "a=5Cb", "a+b", "{a}|"]
)
def test_names_of_datasets_are_kept(tier: Tier, dataset: str) -> None:
    key = f"log/{dataset}/0000000001"
    tier.put(key, b"entry")
    assert [name for name, _size in tier.keys("log/")] == [key]
    assert [name for name, _size in tier.keys(f"log/{dataset}/")] == [key]
    assert readable(tier, key).read(key) == b"entry"


@pytest.mark.parametrize("key", ["", "/lake.json", "../lake.json", "a//b", "a/./b", "a/", "a\0"])
def test_what_is_no_key(tier: Tier, key: str) -> None:
    with pytest.raises(UsageError, match="no key"):
        tier.put(key, b"")


def test_an_archived_object_must_be_recalled(tier: Tier) -> None:
    tier.put(PACK, b"these")
    if not tier.needs_recall:
        tier.recall(PACK)  # nothing to do
        assert tier.read(PACK) == b"these"
        return
    for call in (tier.read, lambda key: tier.fetch(key, print)):
        with pytest.raises(RecallError, match="recall it first"):
            call(PACK)
    tier.recall(PACK)
    tier.recall(PACK)
    assert readable(tier, PACK).read(PACK) == b"these"
