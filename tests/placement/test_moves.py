"""Moving packs to tiers and back, and deleting them everywhere: nothing is ever without a home."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dtafs.core.format import PackKind, pack_key
from dtafs.core.placed import doomed_key
from dtafs.errors import (
    BusyError,
    IntegrityError,
    NotFoundError,
    RecallError,
    RefusedError,
    StorageError,
)
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.placement.copies import ArchivedError
from dtafs.store.placement.moves import (
    copy_pack,
    drop_copy,
    drop_pack,
    fetch_pack,
    move_pack,
    move_packs,
    only_copies,
)
from dtafs.store.placement.removal import doom, finish_removals, remove_packs
from dtafs.store.placement.stubs import Where, doomed_packs, tiers_of
from dtafs.store.reindex import dump, reindex
from tests.support.small_lakes import commit, put_tree, read_version
from tests.support.tiered import (
    DATASET,
    content_of,
    content_packs,
    garbage,
    object_path,
    objects_in,
    random_tree,
    troubled,
)

TREE = random_tree(1)


def reads(lake: Lake) -> None:
    """The first version reads as it was written, nothing of it from memory."""
    lake.objects.clear()
    assert read_version(lake, lake.resolve(f"{DATASET}:v1")) == TREE


def test_what_is_moved_reads_from_its_tier_and_comes_back(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    size = (tiered.path / pack_key(pack)).stat().st_size
    before = list(dump(tiered.index.database))
    assert move_pack(tiered, pack, "warm") == size
    assert not (tiered.path / pack_key(pack)).exists()
    assert tiers_of(tiered.path, pack).keys() == {"warm"}
    assert tiered.placed.where(pack) == Where(False, ("warm",))
    reads(tiered)
    assert check(tiered, read_data=True) == []
    reindex(tiered)
    assert list(dump(tiered.index.database)) == before
    assert fetch_pack(tiered, pack, 0) == size and tiered.placed.is_hot(pack)
    assert tiers_of(tiered.path, pack), "dropping it again costs nothing"
    assert move_pack(tiered, pack, "warm") == 0
    assert only_copies(tiered, "warm") == (1, size)


def test_an_archive_says_that_it_must_be_asked(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "cold")
    with pytest.raises(ArchivedError, match="archive tier 'cold'") as caught:
        reads(tiered)
    assert caught.value.pack == pack and isinstance(caught.value, RecallError)
    with pytest.raises(ArchivedError):
        fetch_pack(tiered, pack, 0)
    tiered.tier("cold").recall(pack_key(pack))
    fetch_pack(tiered, pack, 0)
    reads(tiered)


def test_from_tier_to_tier(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    move_pack(tiered, pack, "cold")
    assert tiers_of(tiered.path, pack).keys() == {"cold"}
    assert not objects_in(tiered.path.parent / "warm")
    assert not tiered.placed.is_hot(pack)
    assert not os.listdir(tiered.path / "tmp")


def test_metadata_stays(tiered: Lake) -> None:
    pack = next(p for p, row in tiered.index.packs() if row.kind == PackKind.METADATA)
    with pytest.raises(RefusedError, match="holds metadata"):
        move_pack(tiered, pack, "warm")
    with pytest.raises(NotFoundError, match="no tier 'warn'; did you mean 'warm'"):
        move_pack(tiered, pack, "warn")


@pytest.mark.damages_lake
def test_a_damaged_pack_is_not_moved(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    path = tiered.path / pack_key(pack)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"damage")
    with pytest.raises(IntegrityError, match="is damaged, and not moved"):
        move_pack(tiered, pack, "warm")
    assert path.exists() and not objects_in(tiered.path.parent / "warm")


def test_other_bytes_in_the_way_are_replaced(tiered: Lake) -> None:
    """An upload that was cut short, where the store keeps what it got."""
    (pack,) = content_packs(tiered)
    tiered.tier("warm").put(pack_key(pack), b"half of it")
    move_pack(tiered, pack, "warm")
    reads(tiered)


def test_what_did_not_arrive_does_not_count(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    tier = troubled(tiered, "warm")
    tier.failure = StorageError("it does not answer")
    with pytest.raises(StorageError):
        move_pack(tiered, pack, "warm")
    assert tiers_of(tiered.path, pack) == {} and tiered.placed.is_hot(pack)
    moved = move_packs(tiered, [pack], "warm")
    assert moved.packs == 0 and moved.left == {pack: "it does not answer"}
    tier.failure = None
    assert move_packs(tiered, [pack], "warm").packs == 1


def test_the_hot_copy_stays_where_the_tier_has_lost_its_own(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    copy_pack(tiered, pack, "warm")
    tiered.tier("warm").delete(pack_key(pack))
    with pytest.raises(IntegrityError, match="has lost pack"):
        drop_pack(tiered, pack)
    assert tiered.placed.is_hot(pack) and tiers_of(tiered.path, pack) == {}
    move_pack(tiered, pack, "warm")


def test_the_only_copy_is_not_given_up(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    with pytest.raises(RefusedError, match="no other tier has"):
        drop_copy(tiered, pack, "warm")
    fetch_pack(tiered, pack, 0)
    drop_copy(tiered, pack, "warm")
    assert tiers_of(tiered.path, pack) == {} and not objects_in(tiered.path.parent / "warm")


def test_an_open_reader_keeps_what_it_reads(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    with (tiered.path / pack_key(pack)).open("rb") as file:
        move_pack(tiered, pack, "cold")
        assert file.read(6) == b"\x89dtafs"


def test_nothing_is_dropped_beside_a_collection(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    with tiered.condemned.collecting(), pytest.raises(BusyError, match="try again"):
        move_pack(tiered, pack, "warm")
    assert tiered.placed.is_hot(pack) and tiers_of(tiered.path, pack)


def test_a_pack_is_deleted_everywhere(tiered: Lake, tmp_path: Path) -> None:
    pack = garbage(tiered, tmp_path / "scratch")
    removal = remove_packs(tiered, [pack])
    assert removal.gone == {"warm": [pack]} and removal.left == {}
    assert not objects_in(tmp_path / "warm") and not doomed_packs(tiered.path)
    assert not tiered.placed.where(pack).names


def test_a_tier_that_does_not_answer_keeps_the_deletion_open(tiered: Lake, tmp_path: Path) -> None:
    pack = garbage(tiered, tmp_path / "scratch")
    tier = troubled(tiered, "warm")
    tier.failure = StorageError("it does not answer")
    removal = remove_packs(tiered, [pack])
    assert removal.gone == {} and removal.left == {pack: "it does not answer"}
    assert (tiered.path / doomed_key(pack)).exists()
    texts = [str(finding) for finding in check(tiered)]
    assert len(texts) == 1 and "what a tier may still have" in texts[0]
    tier.failure = None
    assert finish_removals(tiered).gone == {"warm": [pack]}
    assert check(tiered, read_data=True) == []


def test_the_same_bytes_may_come_back_while_the_old_ones_go(tiered: Lake, tmp_path: Path) -> None:
    pack = garbage(tiered, tmp_path / "scratch")
    doom(tiered, pack)
    put_tree(tiered, DATASET, random_tree(2, 1, 10_000), tmp_path / "scratch")
    commit(tiered, DATASET)
    assert pack in content_packs(tiered)
    with pytest.raises(BusyError, match="still being deleted"):
        move_pack(tiered, pack, "warm")
    finish_removals(tiered)
    move_pack(tiered, pack, "warm")
    content = content_of(tiered, f"{DATASET}:v2", b"file 0")
    tiered.objects.clear()
    assert (
        tiered.objects.read(content, 0, content.size)
        == random_tree(2, 1, 10_000)[b"file 0"].content
    )


def test_deduplication_relies_on_what_is_away(tiered: Lake, tmp_path: Path) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "cold")
    put_tree(tiered, DATASET, TREE | random_tree(3, 4), tmp_path / "scratch")
    commit(tiered, DATASET)
    assert len(content_packs(tiered)) == 2


@pytest.mark.damages_lake
@pytest.mark.parametrize("harm", ["gone", "altered", "cut"])
def test_the_check_names_a_copy_that_is_wrong(tiered: Lake, harm: str) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    path = object_path(tiered.tier("warm"), tiered, pack)
    path.chmod(0o644)
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        os.truncate(path, 1000)
    else:
        path.write_bytes(path.read_bytes()[:-1000] + bytes(1000))
    found = check(tiered, read_data=True)
    texts = [str(finding) for finding in found if finding.severity == "error"]
    assert any("tier 'warm'" in text and pack.hex() in text for text in texts), texts
    assert any(DATASET in text and "file " in text for text in texts), texts


def test_a_check_says_which_tiers_it_could_not_ask(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    tier = troubled(tiered, "warm")
    (tiered.path.parent / "warm").rename(tiered.path.parent / "away")
    texts = [str(finding) for finding in check(tiered, read_data=True)]
    assert any("tier 'warm' cannot be asked for its 1 pack" in text for text in texts), texts
    (tiered.path.parent / "away").rename(tiered.path.parent / "warm")
    assert tier.calls
