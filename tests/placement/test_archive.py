"""Archiving by rules: what only old versions need moves, and what newer ones share with them stays."""

from __future__ import annotations

from pathlib import Path

from dtafs.core.records import Cutoff, Rule, Ruled
from dtafs.core.retention_plan import Item
from dtafs.store.archive import archive
from dtafs.store.lake import Lake
from dtafs.store.placement.stubs import is_away
from dtafs.store.session import Session
from tests.support.records import record
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version
from tests.support.tiered import DATASET, content_packs, random_tree

V1 = random_tree(1)
SHARED = {b"file 0": V1[b"file 0"]}


def item(lake: Lake, number: int) -> Item:
    row = lake.resolve(f"{DATASET}:v{number}")
    manifest = row.manifest_sha256.hex()
    return Item("archive", DATASET, number, manifest, "old", "0" * 64, "GRS", 0, "warm")


def away(lake: Lake) -> int:
    """How many packs of content only a tier has."""
    return sum(is_away(lake.path, pack) for pack in content_packs(lake))


def test_what_is_shared_waits_for_the_newer_version(tiered: Lake, tmp_path: Path) -> None:
    put_tree(tiered, DATASET, SHARED, tmp_path / "scratch")
    commit(tiered, DATASET)
    put_tree(tiered, DATASET, random_tree(3), tmp_path / "scratch")
    commit(tiered, DATASET)
    done, left = archive(tiered, ACTOR, [item(tiered, 1)])
    assert len(done) == 1 and not left
    assert away(tiered) == 0, "the second version needs a part of the pack"
    assert [row.number for row in tiered.index.archived_to("warm")] == [1]
    archive(tiered, ACTOR, [item(tiered, 2)])
    assert away(tiered) == 1, "with the second version all of it is old"
    tiered.objects.clear()
    assert read_version(tiered, tiered.resolve(f"{DATASET}:v1")) == V1


def test_what_an_earlier_process_has_left_in_staging_keeps_nothing(tiered: Lake) -> None:
    """Rows of staging that say what the newest version says are no uncommitted work."""
    rule = Rule(Cutoff("committed", "0d"), "archive", "GRS", DATASET, tier="warm")
    tiered.close()
    with Lake.open(tiered.path) as lake:
        record(lake, Ruled("old", rule))
        assert lake.area.unopened() == [DATASET]
        facts = Session(lake, ACTOR).apply()
        assert [item["version"] for item in facts["archived"]] == [1] and not facts["not_archived"]
        assert away(lake) == len(content_packs(lake)) > 0


def test_what_is_staged_again_stays(tiered: Lake, tmp_path: Path) -> None:
    put_tree(tiered, DATASET, random_tree(3), tmp_path / "scratch")
    commit(tiered, DATASET)
    tiered.create_dataset("other", ACTOR)
    put_tree(tiered, "other", V1, tmp_path / "scratch")
    archive(tiered, ACTOR, [item(tiered, 1)])
    assert away(tiered) == 0
    commit(tiered, "other")
    assert read_version(tiered, tiered.resolve("other:v1")) == V1
