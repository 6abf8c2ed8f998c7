"""Buckets that keep versions, and Object Lock: what is deleted is gone, and locks follow the lattice."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.format import pack_key
from dtafs.core.names import parse_time
from dtafs.store.lake import Lake
from dtafs.store.locks import FOR_EVER_NS, follow_lattice, locked_tiers
from dtafs.store.placement.moves import move_pack
from dtafs.store.session import Session
from dtafs.store.tiers import versions
from dtafs.store.tiers.s3 import S3Tier
from dtafs.store.tiers.versions import Lock, extend_retention, read_lock, set_legal_hold
from tests.support.object_stores import ObjectStore
from tests.support.programs import ctl
from tests.support.small_lakes import ACTOR, commit, put_tree
from tests.support.tiered import content_packs, random_tree

YEAR_NS = 366 * 86_400 * 10**9


@pytest.fixture(scope="module")
def locking_store(moto_store: ObjectStore) -> ObjectStore:
    """A bucket with Object Lock, which so keeps versions."""
    request = urllib.request.Request(
        f"{moto_store.endpoint}/locked",
        data=b"",
        method="PUT",
        headers={"x-amz-bucket-object-lock-enabled": "true"},
    )
    with urllib.request.urlopen(request, timeout=30):
        return ObjectStore(moto_store.endpoint, "locked")


@pytest.fixture
def lake(
    lake_path: Path, tmp_path: Path, locking_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Lake]:
    """A lake with two versions of a dataset, the content of each in a bucket with Object Lock."""
    for name, value in locking_store.environment().items():
        monkeypatch.setenv(name, value)
    url = locking_store.url(tmp_path.name)
    ctl(lake_path, "tier", "add", "locked", url, env=locking_store.environment())
    with Lake.open(lake_path) as opened:
        opened.create_dataset("d", ACTOR)
        for seed in (1, 2):
            put_tree(opened, "d", random_tree(seed, files=1), tmp_path / "scratch")
            commit(opened, "d")
        for pack in content_packs(opened):
            move_pack(opened, pack, "locked")
        yield opened


def rule(period: str) -> dict[str, Any]:
    """Disposes of what was superseded so long ago."""
    cutoff = {"from": "superseded", "period": period}
    return {"cutoff": cutoff, "action": "dispose", "authority": "GRS", "datasets": "d"}


def bucket_tier(lake: Lake) -> S3Tier:
    tier = lake.tier("locked")
    assert isinstance(tier, S3Tier)
    return tier


def pack_of(lake: Lake, version: str) -> str:
    """The key of the pack with the content of a version."""
    brought = lake.resolve(version).manifest.packs
    (pack,) = [pack for pack in content_packs(lake) if pack.hex() in brought]
    return pack_key(pack)


def lock_of(lake: Lake, version: str) -> Lock:
    return read_lock(bucket_tier(lake).bucket, pack_of(lake, version))


def all_bytes(lake: Lake, key: str) -> str:
    """What the bucket says of all versions of an object."""
    bucket = bucket_tier(lake).bucket
    whole = f"{bucket.prefix}/{key}"
    said = bucket.request("GET", "", {"versions": "", "prefix": whole}).body
    return said if whole in said.replace(f"<Prefix>{whole}</Prefix>", "") else ""


def test_what_is_deleted_is_in_no_version(lake: Lake) -> None:
    tier, key = bucket_tier(lake), pack_of(lake, "d:v1")
    assert all_bytes(lake, key)
    other = "packs/ff/other"
    tier.put(other, b"another object")
    tier.bucket.delete(other)
    assert not all_bytes(lake, other) and all_bytes(lake, key)
    tier.delete(other)  # absent is fine


def test_more_versions_than_are_listed_at_once_are_deleted(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "PAGE_VERSIONS", 2)
    tier, other = bucket_tier(lake), "packs/ff/often"
    for number in range(5):
        tier.bucket.put(other, b"%d" % number, create=False, storage_class=None)
    assert all_bytes(lake, other).count("<VersionId>") == 5
    tier.delete(other)
    assert not all_bytes(lake, other)


def test_locks_follow_the_lattice(lake: Lake) -> None:
    assert locked_tiers(lake) == ["locked"]
    session, now_ns = Session(lake, ACTOR), lake.now_ns()
    assert follow_lattice(lake, now_ns) == {}
    assert lock_of(lake, "d:v1").until_ns >= now_ns + FOR_EVER_NS - 10**9, "no rule disposes of it"
    session.set_rules({"three": rule("3y")}, "adopted")
    session.place_hold("case", "Doe v. Roe", "subpoena", {"datasets": "d", "versions": [2]})
    assert follow_lattice(lake, now_ns) == {}
    first, second = lock_of(lake, "d:v1"), lock_of(lake, "d:v2")
    due_ns = lake.resolve("d:v2").time_ns + 3 * YEAR_NS
    assert due_ns - 3 * 86_400 * 10**9 < first.until_ns < due_ns + 86_400 * 10**9
    assert not first.held and second.held
    before = first.until_ns
    session.release_hold("case", "settled")
    session.set_rules({"three": rule("1d")}, "shorter")
    assert follow_lattice(lake, now_ns) == {}
    assert lock_of(lake, "d:v1").until_ns == before, "only ever extended"
    assert not lock_of(lake, "d:v2").held


def test_what_the_lattice_lets_go_is_gone_from_every_version(lake: Lake) -> None:
    """A lock is a second fence: who may bypasses it, and a hold comes off what was written anew."""
    tier, key = bucket_tier(lake), pack_of(lake, "d:v1")
    extend_retention(tier.bucket, key, parse_time("2099-01-01"))
    set_legal_hold(tier.bucket, key, True)
    assert read_lock(tier.bucket, key).held
    session = Session(lake, ACTOR)
    session.set_rules({"now": rule("0d")}, "adopted")
    facts = session.apply()
    assert facts["disposed"] == ["d:v1"] and not facts["left"] and not facts["not_locked"]
    assert not all_bytes(lake, key)
    assert all_bytes(lake, pack_of(lake, "d:v2"))
