"""Disposition: what a version alone held is gone from every object, and nothing else is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.core.record_checks import decode_disposed
from dtafs.core.values import Kind
from dtafs.errors import BusyError, DisposedError, IntegrityError
from dtafs.store.apply import freed
from dtafs.store.audit import verify_lake
from dtafs.store.lake import Lake
from dtafs.store.sealing import Sealer
from dtafs.store.session import Session
from tests.support.collecting import LATER, assert_whole, big, packs_of, run
from tests.support.disposing import assert_gone, dispose_of, names_of, needles_of, order_of
from tests.support.small_lakes import (
    ACTOR,
    Item,
    Tree,
    commit,
    put_tree,
    read_version,
    tree_of_seed,
)
from tests.support.traces import traces

D = "D"
Put = Callable[..., None]


@pytest.fixture
def put(lake: Lake, tmp_path: Path) -> Put:
    """Make staging of a dataset, which is created if need be, a tree."""

    def put(tree: Tree, dataset: str = D) -> None:
        if lake.index.dataset(dataset) is None:
            lake.create_dataset(dataset, ACTOR)
        put_tree(lake, dataset, tree, tmp_path / "scratch")

    return put


@pytest.fixture(autouse=True)
def sound_after(lake: Lake) -> Iterator[None]:
    """At the end every version that is kept reads, and a new index is the same."""
    yield
    assert_whole(lake)


def small(text: bytes) -> Item:
    return Item(Kind.FILE, 0o644, text * 8)


def test_what_a_version_alone_held_is_gone(lake: Lake, put: Put) -> None:
    for seed in (1, 2, 3):
        put(tree_of_seed(seed))
        commit(lake, D, f"number {seed}")
    before = lake.resolve("D:v2")
    done = dispose_of(lake, order_of(D, 2))
    assert [ref.version for ref in done.disposed] == [2] and not done.left and not done.refused
    kept = tree_of_seed(1) | {b"3 " + name: item for name, item in tree_of_seed(3).items()}
    assert needles_of(tree_of_seed(2), kept)
    assert_gone(lake, tree_of_seed(2), kept)
    after = lake.resolve("D:v2")
    assert after.manifest == before.manifest and after.manifest_sha256 == before.manifest_sha256
    assert names_of(lake.versions(D)) == ["D:v1", "D:v2 disposed", "D:v3"]
    with pytest.raises(DisposedError, match="was disposed of by entry 5"):
        read_version(lake, after)
    assert read_version(lake, lake.resolve("D:v1")) == tree_of_seed(1)
    assert read_version(lake, lake.resolve("D:v3")) == tree_of_seed(3)
    assert verify_lake(lake).findings == []


def test_the_entry_says_what_goes_and_what_survives(lake: Lake, put: Put) -> None:
    put({b"own": big(1, 100_000), b"shared": big(2, 50_000)})
    commit(lake, D)
    put({b"shared": big(2, 50_000)})
    commit(lake, D)
    before = lake.index.chunk_count()
    dispose_of(lake, order_of(D, 1, approvers=(ACTOR,), reason="due"))
    entry = lake.log.read(D, 4).entry
    body = decode_disposed(entry.body)
    assert entry.kind == "disposed" and (body.rule, body.authority) == (
        "seven years",
        "GRS 3.1 item 020",
    )
    assert body.approvers == (ACTOR,) and body.reason == "due" and body.plan == "1" * 64
    assert set(body.destroyed) == {"hot"}
    assert body.destroyed["hot"].size_bytes > 100_000 and body.destroyed["hot"].chunks >= 4
    assert [(s.because.version, s.size_bytes) for s in body.survives] == [(2, 50_000)]
    assert body.before.chunks == before
    assert body.after.chunks == before - body.destroyed["hot"].chunks == lake.index.chunk_count()
    plain = sum(row.plain for _pack, row in lake.index.packs())
    assert body.after.size_bytes == plain
    kinds = [lake.log.read(D, n).entry.kind for n in range(1, lake.index.head(D)[0] + 1)]
    assert kinds[3] == "disposed" and kinds[-1] == "destroyed" and "collected" in kinds[4:-1]


def test_a_version_that_shares_everything(lake: Lake, put: Put) -> None:
    put(tree_of_seed(1))
    commit(lake, D)
    commit(lake, D, "the same again")
    put(tree_of_seed(1), "other")
    commit(lake, "other")
    before = packs_of(lake)
    dispose_of(lake, order_of(D, 1))
    assert packs_of(lake) == before
    assert decode_disposed(lake.log.read(D, 4).entry.body).destroyed["hot"].chunks == 0
    assert read_version(lake, lake.resolve("D:v2")) == tree_of_seed(1)
    dispose_of(lake, order_of(D, 2))
    assert read_version(lake, lake.resolve("other:v1")) == tree_of_seed(1), (
        "the other dataset has it"
    )


def test_every_version_of_every_dataset(lake: Lake, put: Put) -> None:
    for seed in (1, 2):
        put(tree_of_seed(seed))
        commit(lake, D)
        put(tree_of_seed(seed + 10), "other")
        commit(lake, "other")
    done = dispose_of(lake, order_of(D, 1, 2), order_of("other", 1, 2))
    assert len(done.disposed) == 4
    assert packs_of(lake) == set() and lake.index.chunk_count() == 0
    with pytest.raises(DisposedError, match="every version of 'D' was disposed of"):
        lake.resolve("D:latest")
    put(tree_of_seed(3))
    assert commit(lake, D).number == 3
    assert read_version(lake, lake.resolve("D:latest")) == tree_of_seed(3)


def test_latest_and_tags_lead_to_what_is_kept(lake: Lake, put: Put) -> None:
    for seed in (1, 2):
        put(tree_of_seed(seed))
        commit(lake, D, tags=("raw",))
    dispose_of(lake, order_of(D, 2))
    for spec in ("D", "D:latest", "D:raw"):
        assert lake.resolve(spec).number == 1
    assert lake.resolve("D:v2").disposed
    dispose_of(lake, order_of(D, 1))
    with pytest.raises(DisposedError, match="tag 'raw' was disposed of"):
        lake.resolve("D:raw")


def test_staging_over_the_newest_version_starts_empty(lake: Lake, put: Put) -> None:
    put(tree_of_seed(1))
    commit(lake, D)
    dispose_of(lake, order_of(D, 1))
    assert lake.staging(D).is_clean() and not lake.staging(D).base.root
    assert Session(lake, ACTOR).status(D)["changes"] == []
    put({b"new": small(b"fresh")})
    row = commit(lake, D)
    assert row.number == 2 and row.manifest.parent == lake.resolve("D:v1").manifest_sha256.hex()
    assert read_version(lake, row) == {b"new": small(b"fresh")}


def test_uncommitted_changes_keep_the_version_below(lake: Lake, put: Put) -> None:
    put(tree_of_seed(1))
    commit(lake, D)
    put(tree_of_seed(2))
    done = dispose_of(lake, order_of(D, 1))
    assert done.refused == {
        "D:v1": "staging has uncommitted changes over it: commit or discard them"
    }
    assert not lake.resolve("D:v1").disposed
    Session(lake, ACTOR).discard(D)
    assert not dispose_of(lake, order_of(D, 1)).refused
    assert_gone(lake, tree_of_seed(1), tree_of_seed(2))  # of which collect takes what is left


def test_what_is_staged_again_survives_until_it_is_discarded(lake: Lake, put: Put) -> None:
    """The same content pending in staging of another dataset is a record of its own."""
    put({b"a": big(1), b"b": big(2)})
    commit(lake, D)
    put({b"again": big(1)}, "other")
    dispose_of(lake, order_of(D, 1))
    assert_gone(lake, {b"b": big(2)}, {})
    assert traces([lake.path], needles_of({b"a": big(1)}, {})) != []
    Session(lake, ACTOR).discard("other")
    dispose_of(lake)
    assert_gone(lake, {b"a": big(1)}, {})


def test_what_is_staged_again_and_committed_stays(lake: Lake, put: Put) -> None:
    put({b"a": big(1), b"b": big(2)})
    commit(lake, D)
    put({b"again": big(1)}, "other")
    dispose_of(lake, order_of(D, 1))
    row = commit(lake, "other")
    dispose_of(lake)
    assert read_version(lake, row) == {b"again": big(1)}


def test_garbage_of_what_was_staged_goes_as_well(lake: Lake, put: Put) -> None:
    """A pending pack of which staging needs another part, and a copy that was written over."""
    put({b"a": big(1)})
    commit(lake, D)
    put({b"a": big(1), b"mine": big(3, 100_000)}, "other")
    put({b"mine": big(3, 100_000)}, "other")
    dispose_of(lake, order_of(D, 1))
    assert_gone(lake, {b"a": big(1)}, {b"mine": big(3, 100_000)})
    assert read_version(lake, commit(lake, "other")) == {b"mine": big(3, 100_000)}


def test_packs_that_wait_for_their_grace_period_go_too(lake: Lake, put: Put) -> None:
    put({b"a": big(1), b"waste": big(2, 900_000)})
    put({b"a": big(1)})
    commit(lake, D)
    assert run(lake, LATER)["rewritten"]["packs"]
    put({b"b": big(3)})
    commit(lake, D)
    assert len(packs_of(lake)) > len(lake.index.packs())
    dispose_of(lake, order_of(D, 1))
    assert_gone(lake, {b"a": big(1)}, {b"b": big(3)})


def test_a_pack_that_nothing_names_goes_too(lake: Lake, put: Put) -> None:
    """As a process leaves it that was killed before it had noted the pack."""
    put({b"a": big(1)}, "other")
    assert lake.pending is not None
    left = [
        (pack, (lake.path / pack_key(pack)).read_bytes()) for pack in lake.pending.packs("other")
    ]
    Session(lake, ACTOR).discard("other")
    run(lake)
    put({b"a": big(1), b"b": big(2)})
    commit(lake, D)
    for pack, data in left:
        if lake.index.pack(pack) is None:
            lake.disk.make_directory((lake.path / pack_key(pack)).parent)
            lake.disk.put_new(lake.path / pack_key(pack), data)
    dispose_of(lake, order_of(D, 1))
    assert_gone(lake, {b"a": big(1)}, {})


def test_what_is_quarantined_goes_too(lake: Lake, put: Put) -> None:
    put({b"a": big(1)})
    row = commit(lake, D)
    pack = next(p for p in map(bytes.fromhex, row.manifest.packs) if lake.index.pack(p).kind == 1)
    aside = lake.path / "quarantine" / "packs" / pack.hex()
    lake.disk.make_directory(aside.parent)
    lake.disk.put_new(aside, (lake.path / pack_key(pack)).read_bytes())
    unknown = aside.with_name(bytes(32).hex())
    lake.disk.put_new(unknown, b"nobody knows what this was")
    done = dispose_of(lake, order_of(D, 1))
    assert list(done.left) == [f"quarantine/packs/{unknown.name}"]
    assert not aside.exists()
    assert lake.log.read(D, lake.index.head(D)[0]).entry.kind != "destroyed", (
        "it may still be there"
    )
    unknown.unlink()
    assert not dispose_of(lake).left
    assert lake.log.read(D, lake.index.head(D)[0]).entry.kind == "destroyed"


def test_a_put_under_way_is_waited_for(lake: Lake, put: Put) -> None:
    put({b"a": big(1)})
    commit(lake, D)
    with Sealer(lake, D):
        done = dispose_of(lake, order_of(D, 1))
        assert set(done.left.values()) == {"a put or commit that may need it is running"}
        assert lake.resolve("D:v1").disposed
    assert not dispose_of(lake).left
    assert_gone(lake, {b"a": big(1)}, {})


def test_a_damaged_pack_with_something_that_must_live_is_left(lake: Lake, put: Put) -> None:
    put({b"a": big(1, 40_000), b"b": big(2, 40_000)})
    commit(lake, D)
    put({b"b": big(2, 40_000)})
    row = commit(lake, D)
    place = lake.index.place(hashlib.sha256(big(2, 40_000).content).digest())
    assert place is not None
    path, at = lake.path / pack_key(place.pack), place.offset + place.start + 100
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    lake.objects.clear()
    done = dispose_of(lake, order_of(D, 1))
    assert "repair it first" in done.left[pack_key(place.pack)]
    path.write_bytes(whole)
    assert not dispose_of(lake).left
    assert read_version(lake, row) == {b"b": big(2, 40_000)}
    assert_gone(lake, {b"a": big(1, 40_000)}, {b"b": big(2, 40_000)})


def test_what_no_longer_stands_is_left(lake: Lake, put: Put) -> None:
    for seed in (1, 2, 3):
        put(tree_of_seed(seed))
        commit(lake, D)
    done = dispose_of(
        lake, order_of(D, 1, 2), still=lambda order: [n for n in order.versions if n == 2]
    )
    assert [ref.version for ref in done.disposed] == [2]
    assert names_of(lake.versions(D)) == ["D:v1", "D:v2 disposed", "D:v3"]


def test_one_at_a_time(lake: Lake, put: Put) -> None:
    put(tree_of_seed(1))
    commit(lake, D)
    with lake.condemned.collecting(), pytest.raises(BusyError):
        dispose_of(lake, order_of(D, 1))
    assert not lake.resolve("D:v1").disposed


def test_twice_is_once(lake: Lake, put: Put) -> None:
    put(tree_of_seed(1))
    commit(lake, D)
    dispose_of(lake, order_of(D, 1))
    head = lake.index.head(D)
    done = dispose_of(lake, order_of(D, 1))
    assert not done.disposed and lake.index.head(D) == head


def test_a_log_with_a_gap_stops_it(lake: Lake, put: Put) -> None:
    put(tree_of_seed(1))
    commit(lake, D)
    entry = lake.log.path(D, 1)
    kept = entry.read_bytes()
    entry.unlink()
    with pytest.raises(IntegrityError, match="dtafsctl check"):
        dispose_of(lake, order_of(D, 1))
    entry.write_bytes(kept)
    assert not lake.resolve("D:v1").disposed


def test_nothing_disposed_of_frees_nothing(lake: Lake, put: Put) -> None:
    put(tree_of_seed(1))
    commit(lake, D, "first")
    nothing = {"chunks": 0, "size_bytes": 0, "stored_bytes": 0}
    assert freed(lake, []) == freed(lake, [(D, 7)]) == nothing
    assert freed(lake, [(D, 1)])["chunks"]
