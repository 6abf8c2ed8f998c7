"""What repair does about tiers: another tier is another copy, and stubs can be made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.core.placed import encode_stub, stub_key
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import copy_pack, move_pack
from dtafs.store.placement.removal import footer_key
from dtafs.store.placement.stubs import FOLDER, tiers_of
from dtafs.store.repair import repair
from tests.support.small_lakes import ACTOR, read_version
from tests.support.tiered import DATASET, content_packs, object_path, objects_in, random_tree

TREE = random_tree(1)
WHAT = ("stubs", "copies", "deleted", "mirrored")


def spoil(path: Path) -> None:
    """Change bytes in the middle of a file."""
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :][:100] = bytes(100)
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def assert_mended(lake: Lake) -> None:
    lake.objects.clear()
    lake.far.close()
    assert read_version(lake, lake.resolve(f"{DATASET}:v1")) == TREE
    assert check(lake, read_data=True) == []
    assert repair(lake, ACTOR)["tiers"] == dict.fromkeys(WHAT, 0)


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_pack_comes_from_a_tier(tiered: Lake, harm: str) -> None:
    (pack,) = content_packs(tiered)
    copy_pack(tiered, pack, "warm")
    path = tiered.path / pack_key(pack)
    if harm == "damaged":
        spoil(path)
        (mended,) = repair(tiered, ACTOR)["mended"]
        assert mended == {"object": pack_key(pack), "how": "tier warm"}
        assert path.exists()
    else:
        path.unlink()
        assert repair(tiered, ACTOR)["mended"] == [], "it is not missing: a tier has it"
    assert_mended(tiered)


@pytest.mark.parametrize("harm", ["lost", "damaged"])
@pytest.mark.parametrize("tier", ["warm", "cold"])
def test_stubs_are_made_again(tiered: Lake, tier: str, harm: str) -> None:
    (pack,) = content_packs(tiered)
    copy_pack(tiered, pack, tier)
    stub = tiered.placed.stub(pack)
    assert stub is not None
    tiered.tier("warm").put(footer_key(pack), encode_stub(stub._replace(copies={})))
    move_pack(tiered, pack, tier)
    if harm == "lost":
        shutil.rmtree(tiered.path / FOLDER)
    else:
        spoil(tiered.path / stub_key(pack))
    assert any(finding.severity == "error" for finding in check(tiered))
    assert repair(tiered, ACTOR, dry_run=True)["tiers"]["stubs"] == 1
    facts = repair(tiered, ACTOR)
    assert facts["tiers"]["stubs"] == 1 and not facts["lost"]
    assert tiers_of(tiered.path, pack).keys() == {tier} and not tiered.placed.is_hot(pack)
    if tier == "warm":
        assert_mended(tiered)


@pytest.mark.parametrize("harm", ["damaged", "gone"])
def test_a_copy_is_put_again(tiered: Lake, harm: str) -> None:
    (pack,) = content_packs(tiered)
    copy_pack(tiered, pack, "warm")
    path = object_path(tiered.tier("warm"), tiered, pack)
    spoil(path) if harm == "damaged" else path.unlink()
    assert any("tier 'warm'" in str(finding) for finding in check(tiered, read_data=True))
    assert repair(tiered, ACTOR, dry_run=True)["tiers"]["copies"] == 1
    assert repair(tiered, ACTOR)["tiers"]["copies"] == 1
    assert_mended(tiered)


def test_what_no_stub_tells_of_is_taken_in_or_deleted(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    copy_pack(tiered, pack, "warm")
    shutil.rmtree(tiered.path / FOLDER)
    tiered.tier("warm").put(pack_key(bytes(32)), b"nobody needs this")
    texts = [str(finding) for finding in check(tiered, read_data=True)]
    assert sum("of which no stub tells" in text for text in texts) == 2
    facts = repair(tiered, ACTOR)["tiers"]
    assert facts == dict.fromkeys(WHAT, 0) | {"copies": 1, "deleted": 1}
    assert objects_in(tiered.path.parent / "warm") == {pack.hex()}
    assert_mended(tiered)


@pytest.mark.damages_lake
def test_the_only_copy_is_lost_and_said_to_be(tiered: Lake) -> None:
    (pack,) = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    spoil(object_path(tiered.tier("warm"), tiered, pack))
    for dry_run in (True, False):
        facts = repair(tiered, ACTOR, dry_run=dry_run)
        assert facts["tiers"]["copies"] == 0
        lost = {one["object"]: one for one in facts["lost"]}
        assert "tier 'warm' has the only copy" in lost[pack_key(pack)]["problem"]
        found = [one for loss in lost.values() for one in loss["affects"]]
        assert {one["dataset"] for one in found} == {DATASET}, lost
    errors = [str(f) for f in check(tiered, read_data=True) if f.severity == "error"]
    assert any("nothing else has it" in text for text in errors)
