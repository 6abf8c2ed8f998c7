"""Collection: what nothing reaches goes, and nothing else, whoever works meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.core.values import Kind
from dtafs.errors import BusyError, IntegrityError
from dtafs.store.lake import Lake
from dtafs.store.packs import read_footer
from dtafs.store.sealing import Sealer
from dtafs.store.session import Session
from tests.support.collecting import LATER, assert_whole, big, packs_of, run
from tests.support.small_lakes import (
    ACTOR,
    Item,
    Tree,
    commit,
    put_tree,
    read_version,
    tree_of_seed,
)

D = "D"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def put(lake: Lake, scratch: Path) -> Callable[..., None]:
    """Make staging of a dataset, which is created if need be, a tree."""

    def put(tree: Tree, dataset: str = D) -> None:
        if lake.index.dataset(dataset) is None:
            lake.create_dataset(dataset, ACTOR)
        put_tree(lake, dataset, tree, scratch)

    return put


@pytest.fixture(autouse=True)
def sound_after(lake: Lake) -> Iterator[None]:
    """At the end every version reads, the checker is silent, and a new index is the same."""
    yield
    assert_whole(lake)


def test_nothing_to_collect(lake: Lake, put: Callable[..., None]) -> None:
    put(tree_of_seed(1))
    commit(lake, D)
    put(tree_of_seed(2))
    before = packs_of(lake)
    facts = run(lake)
    assert facts["packs"] == [] and packs_of(lake) == before
    assert lake.dataset(D).sequence == 2


def test_discarded_staging_goes_in_two_phases(lake: Lake, put: Callable[..., None]) -> None:
    put({b"a": big(1)})
    commit(lake, D)
    kept = packs_of(lake)
    put({b"a": big(2)})
    Session(lake, ACTOR).discard(D)
    doomed = packs_of(lake) - kept
    assert doomed
    facts = run(lake, LATER)
    assert {p["action"] for p in facts["packs"]} == {"condemn"}
    assert {p["reason"] for p in facts["packs"]} == {"staged, and written over or discarded since"}
    assert lake.condemned.packs == doomed and packs_of(lake) == kept | doomed
    assert {p["action"] for p in run(lake, LATER)["packs"]} == {"wait"}
    assert run(lake)["removed"]["packs"] == len(doomed)
    assert packs_of(lake) == kept and not lake.condemned.packs
    assert lake.dataset(D).sequence == 2, "no entry is needed for what no entry named"


def test_a_logged_pack_goes_by_an_entry(lake: Lake, put: Callable[..., None]) -> None:
    put({b"a": big(1)})
    put({b"a": big(2)})
    row = commit(lake, D)
    manifest = {bytes.fromhex(pack) for pack in row.manifest.packs}
    assert manifest == packs_of(lake)
    facts = run(lake)
    entry = lake.log.read(D, 3).entry
    assert entry.kind == "collected" and "unreached" in entry.body["removed"].values()
    assert facts["removed"]["packs"] >= 1
    assert read_version(lake, row) == {b"a": big(2)}
    assert packs_of(lake) == {pack for pack, _row in lake.index.packs()} < manifest | packs_of(lake)
    assert run(lake)["packs"] == [], "a second collection finds nothing"


def test_a_pack_with_much_garbage_is_rewritten(lake: Lake, put: Callable[..., None]) -> None:
    put({b"a": big(1), b"b": big(2, 50_000), b"small": Item(Kind.FILE, 0o644, b"x")})
    put({b"b": big(2, 50_000), b"small": Item(Kind.FILE, 0o644, b"x")})
    row = commit(lake, D)
    before = packs_of(lake)
    facts = run(lake, LATER)
    assert facts["rewritten"]["packs"] >= 1
    assert facts["written"]["size_bytes"] < facts["rewritten"]["size_bytes"]
    assert before <= packs_of(lake), "the old bytes wait for the grace period"
    tree = read_version(lake, row)
    due = facts["rewritten"]["packs"] + facts["condemned"]["packs"]
    assert run(lake)["removed"]["packs"] == due
    lake.objects.clear()
    assert read_version(lake, row) == tree
    assert sum((lake.path / pack_key(p)).stat().st_size for p in packs_of(lake)) < 60_000


def test_dry_run_changes_nothing(lake: Lake, put: Callable[..., None]) -> None:
    put({b"a": big(1), b"b": big(2, 50_000)})
    put({b"b": big(2, 50_000)})
    put({b"b": big(2, 50_000), b"c": big(3)})
    put({b"b": big(2, 50_000)})
    commit(lake, D)
    before, sequence = packs_of(lake), lake.dataset(D).sequence
    facts = run(lake, dry_run=True)
    assert facts["removed"]["packs"] >= 1 and facts["rewritten"]["packs"] >= 1
    assert all(p["reason"] for p in facts["packs"])
    assert packs_of(lake) == before and lake.dataset(D).sequence == sequence
    assert not lake.condemned.packs and not (lake.path / "upkeep").exists()
    done = run(lake)
    assert done["removed"] == facts["removed"] and done["rewritten"] == facts["rewritten"]


def test_a_condemned_pack_is_not_trusted_and_comes_back(
    lake: Lake, put: Callable[..., None]
) -> None:
    """I8: the same bytes, put again, are stored again; the old copy goes, and the version stands."""
    put({b"a": big(1)})
    put({b"a": big(2)})
    commit(lake, D)
    run(lake, LATER)
    condemned = lake.condemned.packs
    assert condemned
    tree = {b"a": big(1), b"more": big(3, 20_000)}
    put(tree)
    row = commit(lake, D)
    assert any(lake.index.copies(chunk) for chunk in _chunks(lake, D))
    run(lake)
    lake.objects.clear()
    assert read_version(lake, row) == tree
    assert not condemned & packs_of(lake) or not lake.condemned.packs


def test_the_same_pack_again(lake: Lake, put: Callable[..., None]) -> None:
    """Bytes that make up the very pack that is condemned spare it."""
    put({b"a": big(1, 90_000)})
    Session(lake, ACTOR).discard(D)
    run(lake, LATER)
    assert lake.condemned.packs
    put({b"a": big(1, 90_000)})
    assert not lake.condemned.packs
    run(lake)
    assert read_version(lake, commit(lake, D)) == {b"a": big(1, 90_000)}


def test_a_commit_spares_what_it_names(lake: Lake, put: Callable[..., None]) -> None:
    """I1: what is in a manifest is not about to be deleted, garbage or not."""
    put({b"a": big(1)})
    Session(lake, ACTOR).discard(D)
    run(lake, LATER)
    condemned = lake.condemned.packs
    put({b"b": big(2)})
    row = commit(lake, D)
    assert condemned <= {bytes.fromhex(pack) for pack in row.manifest.packs}
    assert not lake.condemned.packs
    run(lake)
    assert not condemned & packs_of(lake)


@pytest.mark.parametrize("owner", ["E", D])
def test_staging_alone_keeps_what_it_relies_on(
    lake: Lake, put: Callable[..., None], owner: str
) -> None:
    """A logged pack that no version needs, but another dataset's uncommitted work."""
    put({b"a": big(1)})
    put({b"a": big(2)})
    commit(lake, D)
    put({b"x": big(1)}, owner)
    run(lake)
    run(lake)
    assert read_version(lake, commit(lake, owner)) == {b"x": big(1)}


def test_who_began_before_the_mark_is_waited_for(lake: Lake, put: Callable[..., None]) -> None:
    """A sealer has found chunks in a pack, and has not said so in staging yet."""
    put({b"a": big(1)})
    put({b"a": big(2)})
    commit(lake, D)
    before = packs_of(lake)
    with Sealer(lake, D) as sealer:
        facts = run(lake)
        assert facts["removed"]["packs"] == 0 and packs_of(lake) == before
        assert all("is running" in p["reason"] for p in facts["packs"])
        sealer.flush()
    assert run(lake)["removed"]["packs"] >= 1


def test_who_begins_after_the_mark_is_not(lake: Lake, put: Callable[..., None]) -> None:
    put({b"a": big(1)})
    Session(lake, ACTOR).discard(D)
    run(lake, LATER)
    with Sealer(lake, D):
        assert run(lake)["removed"]["packs"] >= 1


def test_a_handle_keeps_an_unlinked_file(lake: Lake, put: Callable[..., None]) -> None:
    """A staged file that was removed while somebody has it open reads to its end."""
    put({b"a": big(1)})
    session, staging = Session(lake, ACTOR), lake.staging(D)
    inode = session.on_staging(lambda: staging.resolve((b"a",)))
    handle = session.on_staging(lambda: staging.open(inode.ino, False))
    session.on_staging(lambda: staging.remove_path((b"a",), lake.now_ns()))
    run(lake)
    lake.objects.clear()
    from dtafs.store.staging import execute_read

    plan = session.on_staging(lambda: staging.plan_read(inode.ino, 0, 400_000))
    assert execute_read(plan, lake.objects) == big(1).content
    session.on_staging(lambda: staging.close(handle))
    session.on_staging(lambda: staging.forget(inode.ino, 0))
    while session.on_staging(lake.area.tidy):
        pass


def test_a_copy_goes_only_when_the_other_is_sound(lake: Lake, put: Callable[..., None]) -> None:
    """Two packs hold the same chunk; the one that the index names is damaged: the copy stays."""
    put({b"x": big(1)}, "E")
    put({b"x": big(1), b"y": big(3, 1_000)}, D)
    commit(lake, "E")
    commit(lake, D)
    chunk = next(iter(lake.index.places_of(_chunks(lake, D))))
    place, copies = lake.index.place(chunk), lake.index.copies(chunk)
    assert place is not None and copies, "both datasets stored it, as neither trusts the other's"
    path = lake.path / pack_key(place.pack)
    data = bytearray(path.read_bytes())
    sound = bytes(data)
    data[place.offset + 3] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    facts = run(lake)
    assert (lake.path / pack_key(copies[0].pack)).exists()
    assert any("only sound copy" in p["reason"] for p in facts["packs"])
    path.write_bytes(sound)
    lake.files.forget(place.pack)
    run(lake)
    assert not lake.index.copies(chunk)


def _chunks(lake: Lake, dataset: str) -> list[bytes]:
    row = lake.resolve(dataset)
    packs = [read_footer(lake.path, bytes.fromhex(pack)) for pack in row.manifest.packs]
    return [chunk for pack in packs if pack.kind == 1 for chunk, _place in pack.places()]


def test_damage_stops_it(lake: Lake, put: Callable[..., None]) -> None:
    put(tree_of_seed(1))
    row = commit(lake, D)
    put(tree_of_seed(2))
    Session(lake, ACTOR).discard(D)
    before = packs_of(lake)
    path = lake.path / pack_key(bytes.fromhex(row.manifest.packs[0]))
    hidden = path.with_suffix(".hidden")
    path.rename(hidden)
    with pytest.raises(IntegrityError):
        run(lake)
    hidden.rename(path)
    entry = lake.path / "log" / D / "0000000002"
    content = entry.read_bytes()
    entry.unlink()
    with pytest.raises(IntegrityError, match="do not agree"):
        run(lake)
    entry.write_bytes(content)
    assert packs_of(lake) == before


def test_one_at_a_time(lake: Lake) -> None:
    with lake.condemned.collecting(), pytest.raises(BusyError):
        run(lake)


def test_damaged_marks_begin_the_grace_anew(
    lake: Lake, put: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    put({b"a": big(1)})
    Session(lake, ACTOR).discard(D)
    run(lake, LATER)
    (lake.path / "upkeep" / "condemned").write_bytes(b"{")
    from dtafs.store.condemn import read_marks

    assert read_marks(lake.path) == {} and "damaged" in caplog.text
    lake.condemned.spare(lake.condemned.packs)
