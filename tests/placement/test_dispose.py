"""Disposition over tiers: what is destroyed is in no object of any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.core.record_checks import decode_destroyed, decode_disposed
from dtafs.errors import StorageError
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import move_packs
from dtafs.store.placement.stubs import tiers_of
from tests.support.disposing import dispose_of, needles_of, order_of
from tests.support.small_lakes import Tree, commit, put_tree, read_version
from tests.support.tiered import (
    DATASET,
    content_packs,
    object_path,
    objects_in,
    random_tree,
    troubled,
)
from tests.support.traces import traces

V1 = random_tree(1)
SHARED = {b"file 0": V1[b"file 0"]}
V2 = SHARED | {b"own": random_tree(2)[b"file 1"]}


def everywhere(lake: Lake) -> list[Path]:
    """The lake and its tiers."""
    return [lake.path, *(lake.path.parent / name for name in ("warm", "cold"))]


def left_of(lake: Lake, gone: Tree, kept: Tree) -> list[str]:
    return traces(everywhere(lake), needles_of(gone, kept))


def reads(lake: Lake, version: str, tree: Tree) -> None:
    lake.objects.clear()
    assert read_version(lake, lake.resolve(version)) == tree


def kinds(lake: Lake) -> list[str]:
    head = lake.index.head(DATASET)
    assert head is not None
    return [lake.log.read(DATASET, n).entry.kind for n in range(1, head[0] + 1)]


@pytest.fixture
def shared(tiered: Lake, tmp_path: Path) -> Lake:
    """A second version that has one file of the first, and another one."""
    put_tree(tiered, DATASET, V2, tmp_path / "scratch")
    commit(tiered, DATASET)
    return tiered


def move_first(lake: Lake, tier: str) -> list[bytes]:
    """Move what the first version brought to a tier."""
    brought = {bytes.fromhex(pack) for pack in lake.resolve(f"{DATASET}:v1").manifest.packs}
    packs = [pack for pack in content_packs(lake) if pack in brought]
    assert move_packs(lake, packs, tier).packs == len(packs) > 0
    return packs


def test_a_pack_that_is_all_dead_goes_unread(tiered: Lake) -> None:
    move_first(tiered, "warm")
    move_first(tiered, "cold")
    done = dispose_of(tiered, order_of(DATASET, 1))
    assert not done.left and not done.recalled
    assert (
        objects_in(tiered.path.parent / "cold") == objects_in(tiered.path.parent / "warm") == set()
    )
    assert left_of(tiered, V1, {}) == []
    body = decode_disposed(tiered.log.read(DATASET, 3).entry.body)
    assert set(body.destroyed) == {"hot", "cold"} and body.destroyed["cold"].packs == 1
    assert set(
        decode_destroyed(
            tiered.log.read(DATASET, kinds(tiered).index("destroyed") + 1).entry.body
        ).tiers
    ) == {
        "hot",
        "cold",
    }


def test_a_pack_in_a_tier_is_written_anew_and_lies_there_again(shared: Lake) -> None:
    (pack,) = move_first(shared, "warm")
    done = dispose_of(shared, order_of(DATASET, 1))
    assert not done.left
    assert pack.hex() not in objects_in(shared.path.parent / "warm")
    assert left_of(shared, V1, V2) == []
    assert any("warm" in tiers_of(shared.path, other) for other in content_packs(shared))
    reads(shared, f"{DATASET}:v2", V2)


def test_an_archive_has_to_bring_it_back_first(
    shared: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pack,) = move_first(shared, "cold")
    cold, asked = shared.tier("cold"), list[str]()
    monkeypatch.setattr(cold, "recall", asked.append)  # one that takes its time
    done = dispose_of(shared, order_of(DATASET, 1))
    monkeypatch.undo()
    assert done.recalled and pack_key(pack) in done.left
    assert shared.resolve(f"{DATASET}:v1").disposed and "destroyed" not in kinds(shared)
    assert set(asked) == {pack_key(pack)}
    cold.recall(pack_key(pack))
    assert not dispose_of(shared).left
    assert pack.hex() not in objects_in(shared.path.parent / "cold")
    assert left_of(shared, V1, V2) == [] and kinds(shared)[-1] == "destroyed"
    assert any("cold" in tiers_of(shared.path, other) for other in content_packs(shared))


def test_a_tier_that_does_not_answer_is_not_called_clean(tiered: Lake) -> None:
    (pack,) = move_first(tiered, "warm")
    warm = troubled(tiered, "warm")
    warm.failure = StorageError("the network is down")
    done = dispose_of(tiered, order_of(DATASET, 1))
    assert "the network is down" in "".join(done.left.values())
    assert "destroyed" not in kinds(tiered) and pack.hex() in objects_in(
        tiered.path.parent / "warm"
    )
    again = dispose_of(tiered)
    assert again.left and "destroyed" not in kinds(tiered)
    warm.failure = None
    assert not dispose_of(tiered).left
    assert kinds(tiered)[-1] == "destroyed" and left_of(tiered, V1, {}) == []


def test_an_object_that_somebody_else_has_deleted(tiered: Lake) -> None:
    (pack,) = move_first(tiered, "cold")
    object_path(tiered.tier("cold"), tiered, pack).unlink()
    assert not dispose_of(tiered, order_of(DATASET, 1)).left
    assert kinds(tiered)[-1] == "destroyed" and left_of(tiered, V1, {}) == []


def test_a_copy_that_no_stub_tells_of_goes_too(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    tiered.tier("warm").put(pack_key(pack), tiered.path / pack_key(pack))
    assert not dispose_of(tiered, order_of(DATASET, 1)).left
    assert left_of(tiered, V1, {}) == []
