"""The mirror: what is committed is in the tier warm, in the right order, and how far it lags is shown."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from dtafs.core.format import PackKind, pack_key
from dtafs.core.placed import Stub
from dtafs.errors import ConflictError, RefusedError, StorageFullError
from dtafs.store.check import check
from dtafs.store.collect import collect
from dtafs.store.collect_plan import Rule
from dtafs.store.findings import WARNING
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import move_pack
from dtafs.store.placement.removal import footer_key
from dtafs.store.repair import repair
from dtafs.store.tiers.mirror import is_behind, lacking, mirror, mirror_facts, read_mirrored
from dtafs.store.tiers.state import Capabilities, TierState, write_state
from tests.support import kernel
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.mirrors import expected, fill, objects
from tests.support.mounts import Mount
from tests.support.object_stores import ObjectStore
from tests.support.programs import ctl, ctl_json
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed
from tests.support.tiered import configure

CAUGHT_UP_S = 60.0
ENDED_S = 30.0
"""Less than the two minutes for which a tier is asked again."""

POLL_S = 0.2


@pytest.fixture
def lake(lake_path: Path, warm: Path) -> Iterator[Lake]:
    with Lake.open(lake_path) as opened:
        yield opened


def test_after_each_command(lake_path: Path, warm: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    ctl(lake_path, "create", "d")
    ctl(lake_path, "put", "d", tmp_path / "file", "--commit", "first")
    ctl(lake_path, "tag", "d:v1", "raw")
    with Lake.open(lake_path, write=False) as lake:
        assert objects(warm) == expected(lake)
        facts = mirror_facts(lake)
    assert (facts["entries_behind"], facts["behind_s"], facts["problem"]) == (0, 0.0, None)
    assert "has the log and the metadata" in ctl(lake_path, "tier", "list").stdout.decode()
    assert "has the log and the metadata" in ctl(lake_path, "stats").stdout.decode()


def test_only_what_is_new_is_sent(lake: Lake, tmp_path: Path, warm: Path) -> None:
    fill(lake, tmp_path / "tree", 1, 2)
    assert is_behind(lake) and mirror_facts(lake)["entries_behind"] == 3
    mirror(lake)
    assert objects(warm) == expected(lake) and not is_behind(lake)
    before = {key: (warm / key).stat().st_mtime_ns for key in objects(warm)}
    fill(lake, tmp_path / "tree", 3)
    mirror(lake)
    assert objects(warm) == expected(lake)
    assert all((warm / key).stat().st_mtime_ns == was for key, was in before.items())


def test_how_far_it_is_can_be_forgotten(lake: Lake, tmp_path: Path, warm: Path) -> None:
    fill(lake, tmp_path / "tree", 1, 2)
    mirror(lake)
    (lake.path / "upkeep" / "mirror.json").unlink()
    fill(lake, tmp_path / "tree", 3)
    assert mirror(lake)["entries_behind"] == 0
    assert objects(warm) == expected(lake)


def test_what_is_collected_goes_from_the_mirror(lake: Lake, tmp_path: Path, warm: Path) -> None:
    """Garbage that was committed with a version, its metadata included, and nothing else."""
    lake.create_dataset("d", ACTOR)
    put_tree(lake, "d", tree_of_seed(1), tmp_path / "tree")
    put_tree(lake, "d", tree_of_seed(2), tmp_path / "tree")
    commit(lake, "d")
    fill(lake, tmp_path / "tree", 3)
    mirror(lake)
    rule = Rule(0, 0.01)
    for _ in range(3):
        collect(lake, ACTOR, rule)
    mirror(lake)
    assert objects(warm) == expected(lake)


def test_a_mirror_that_cannot_be_reached(lake_path: Path, warm: Path) -> None:
    """The command succeeds, and says so; the lag is shown, and the next command catches up."""
    warm.rename(warm.with_name("unmounted"))
    done = ctl(lake_path, "create", "d")
    assert b"does not mirror the log yet" in done.stderr and b"is gone" in done.stderr
    facts = ctl_json(lake_path, "tier", "list")["mirror"]
    assert facts["entries_behind"] == 1 and facts["behind_s"] > 0
    assert "is gone" in facts["problem"]
    assert "lacks 1 of its last entries" in ctl(lake_path, "stats").stdout.decode()
    warm.with_name("unmounted").rename(warm)
    assert ctl(lake_path, "create", "e").stderr == b""
    assert ctl_json(lake_path, "tier", "list")["mirror"]["entries_behind"] == 0


def test_a_store_that_ignores_conditions_gets_no_log(lake: Lake, warm: Path) -> None:
    url = lake.tiers.settings["warm"].url
    write_state(lake.disk, "warm", TierState(url, "now", Capabilities(conditional_put="ignored")))
    lake.create_dataset("d", ACTOR)
    with pytest.raises(RefusedError, match="does not honour conditions"):
        mirror(lake)
    assert "does not honour conditions" in mirror_facts(lake)["problem"]
    assert objects(warm) == {"lake.json"}


def test_an_entry_of_somebody_else_stops_it(lake: Lake, warm: Path) -> None:
    """Two machines went on from one state: one that was restored, and one that was thought lost."""
    (warm / "log" / "d").mkdir(parents=True)
    (warm / "log" / "d" / "0000000001").write_bytes(b"another history")
    read = read_mirrored(lake)
    assert read.sequences is not None
    lake.create_dataset("d", ACTOR)
    with pytest.raises(ConflictError, match="log/d/0000000001 is there already with other bytes"):
        mirror(lake)
    assert mirror_facts(lake)["entries_behind"] == 1


@pytest.mark.damages_lake
def test_a_pack_that_cannot_be_read_is_left_out(lake: Lake, tmp_path: Path, warm: Path) -> None:
    """And everything else is mirrored; once it is mended, it is, too."""
    fill(lake, tmp_path / "tree", 1)
    pack = next(p for p, row in lake.index.packs() if row.kind == PackKind.METADATA)
    path = lake.path / pack_key(pack)
    path.rename(tmp_path / "kept")
    facts = mirror(lake)
    assert list(facts["left_out"]) == [pack.hex()] and facts["entries_behind"] == 0
    assert objects(warm) == expected(lake) - {pack_key(pack)}
    (tmp_path / "kept").rename(path)
    assert is_behind(lake) and not mirror(lake)["left_out"]
    assert objects(warm) == expected(lake)


@pytest.mark.parametrize("what", ["log/d/0000000002", "packs", "footers"])
@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_what_the_mirror_has_lost_is_found_and_put_again(
    lake: Lake, tmp_path: Path, warm: Path, what: str, harm: str
) -> None:
    fill(lake, tmp_path / "tree", 1, 2)
    mirror(lake)
    whole = {key: (warm / key).read_bytes() for key in objects(warm)}
    key = min(key for key in whole if key.startswith(what))
    (warm / key).unlink()
    if harm == "cut":
        if what != "packs":
            return  # the listing does not show it; a restore does
        (warm / key).write_bytes(whole[key][:-1])
    assert mirror_facts(lake)["entries_behind"] == 0 and not is_behind(lake)
    assert lacking(lake) == [key]
    (finding,) = check(lake, read_data=True)
    assert finding.severity == WARNING
    assert f"has lost 1 object, such as {key}" in str(finding)
    assert repair(lake, ACTOR, dry_run=True)["tiers"]["mirrored"] == 1
    assert repair(lake, ACTOR)["tiers"]["mirrored"] == 1
    assert {key: (warm / key).read_bytes() for key in objects(warm)} == whole


def test_a_bucket_that_was_emptied_is_filled_again(
    lake_path: Path, warm: Path, tmp_path: Path
) -> None:
    """Nothing goes there before it is attached once more; then everything does, content as well."""
    config = lake_path / "config.toml"
    config.write_text(config.read_text() + "mirror_content = true\n")
    (tmp_path / "file").write_bytes(b"content")
    ctl(lake_path, "create", "d")
    ctl(lake_path, "put", "d", tmp_path / "file", "--commit", "first")
    before = objects(warm)
    assert any(key.startswith("packs/") for key in before)
    for key in before - {"log/d/0000000001"}:
        (warm / key).unlink()
    done = ctl(lake_path, "tag", "d:v1", "raw")
    assert b"was not attached to a lake yet: dtafsctl tier add warm" in done.stderr
    assert objects(warm) == {"log/d/0000000001"}
    assert ctl_json(lake_path, "tier", "add", "warm")["missing_packs"] == 0
    with Lake.open(lake_path) as lake:
        mirror(lake)
    assert objects(warm) == before | {"log/d/0000000003"}


@pytest.mark.damages_lake
def test_what_had_its_only_copy_in_an_emptied_bucket_is_told(
    lake_path: Path, warm: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    ctl(lake_path, "create", "d")
    ctl(lake_path, "put", "d", tmp_path / "file", "--commit", "first")
    ctl(lake_path, "tier", "move", "d", "--to", "warm")
    warm.rename(tmp_path / "elsewhere")
    warm.mkdir()
    text = ctl(lake_path, "tier", "add", "warm").stdout.decode()
    assert "the only copy of 1 pack was in this tier, which is empty" in text
    ctl(lake_path, "tier", "remove", "warm", exit_code=5)
    # What was there is brought back.
    shutil.rmtree(warm)
    (tmp_path / "elsewhere").rename(warm)
    assert ctl(lake_path, "cat", "d:v1", "file").stdout == b"content"


@pytest.mark.damages_lake
def test_a_pack_that_was_altered_here_does_not_reach_the_mirror(
    lake: Lake, tmp_path: Path, warm: Path
) -> None:
    fill(lake, tmp_path / "tree", 1)
    pack = next(p for p, row in lake.index.packs() if row.kind == PackKind.METADATA)
    path = lake.path / pack_key(pack)
    kept = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(kept[:50] + bytes([kept[50] ^ 1]) + kept[51:])
    assert "is damaged" in mirror(lake)["left_out"][pack.hex()]
    assert objects(warm) == expected(lake) - {pack_key(pack)}


def test_content_in_an_archive_holds_up_nothing(lake: Lake, tmp_path: Path, warm: Path) -> None:
    lake.close()
    configure(lake.path, "mirror_content = true\n")
    ctl(lake.path, "tier", "add", "cold", f"file://{tmp_path}/cold")
    with Lake.open(lake.path) as again:
        fill(again, tmp_path / "tree", 1, 2)
        first, second = (p for p, row in again.index.packs() if row.kind == PackKind.CONTENT)
        move_pack(again, first, "cold")
        facts = mirror(again)
        assert list(facts["left_out"]) == [first.hex()] and facts["problem"] is None
        assert "must be recalled first" in facts["left_out"][first.hex()]
        assert (warm / pack_key(second)).exists()
        assert is_behind(again) and not is_behind(again, again=False)


def test_an_interrupted_pass_leaves_no_entry_without_its_packs(
    lake: Lake, tmp_path: Path, seaweed_store: ObjectStore, prefix: str
) -> None:
    """Whatever request fails for good, what is in the mirror can be restored, and the next pass finishes."""
    from tests.support.tiers import opened

    fill(lake, tmp_path / "tree", 1, 2)
    with fault_proxy(seaweed_store) as proxy:
        behind = opened(proxy.store, prefix).tier
        behind.put("lake.json", (lake.path / "lake.json").read_bytes())
        lake.tiers.use("warm", behind)
        number = 0
        while True:
            proxy.calm()
            proxy.plan(*[Fault.NONE] * number, *[Fault.FULL] * 99, method="PUT", path="packs/")
            number += 2
            try:
                mirror(lake)
                break
            except StorageFullError:
                there = {key for key, _size in behind.keys("")}
                entries = {key for key in there if key.startswith("log/d/") and key[-1] != "1"}
                for key in entries:
                    entry = lake.log.read("d", int(key[-10:])).entry
                    for name in entry.body["packs"]:
                        pack = bytes.fromhex(name)
                        assert {pack_key(pack), footer_key(pack)} & there
        proxy.calm()
        assert {key for key, _size in behind.keys("")} == expected(lake)


def test_a_daemon_mirrors_by_itself(
    lake_path: Path, warm: Path, mount: Callable[..., Mount]
) -> None:
    mounted = mount(lake_path)
    (mounted.mountpoint / "d").mkdir()
    (mounted.mountpoint / "d" / "staging" / "file").write_bytes(b"content")
    ctl(lake_path, "commit", "d", "-m", "first")
    await_mirror(lake_path)
    with Lake.open(lake_path, write=False) as lake:
        assert objects(warm) == expected(lake)
    # A mirror that goes away costs nobody anything, and catches up when it is back.
    warm.rename(warm.with_name("unmounted"))
    (mounted.mountpoint / "d" / "staging" / "more").write_bytes(b"more")
    ctl(lake_path, "commit", "d", "-m", "second")
    assert (mounted.mountpoint / "d" / "v2" / "more").read_bytes() == b"more"
    shutil.move(warm.with_name("unmounted"), warm)
    await_mirror(lake_path)


def await_mirror(lake_path: Path) -> None:
    """Return once the daemon says that nothing is behind."""
    until_s = time.monotonic() + CAUGHT_UP_S
    while True:
        facts = ctl_json(lake_path, "tier", "list")["mirror"]
        if facts["entries_behind"] == 0 and facts["last"] is not None and not facts["problem"]:
            return
        assert time.monotonic() < until_s, facts
        time.sleep(POLL_S)


@pytest.mark.parametrize("fault", [Fault.INTERNAL, Fault.STALL], ids=lambda fault: fault.name)
def test_a_mount_does_not_depend_on_its_mirror(
    lake_path: Path,
    mount: Callable[..., Mount],
    seaweed_store: ObjectStore,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    """The store fails, or says nothing at all: reading, writing and ending are as ever, and it shows."""
    with fault_proxy(seaweed_store) as proxy:
        for name, value in proxy.store.environment().items():
            monkeypatch.setenv(name, value)
        ctl(lake_path, "tier", "add", "warm", proxy.store.url(prefix))
        config = lake_path / "config.toml"
        config.write_text(config.read_text() + "timeout_s = 3.0\n")
        proxy.choose(lambda *_: fault)
        mounted = mount(lake_path)
        (mounted.mountpoint / "d").mkdir()
        (mounted.mountpoint / "d" / "staging" / "file").write_bytes(b"content")
        ctl(lake_path, "commit", "d", "-m", "first")
        assert (mounted.mountpoint / "d" / "v1" / "file").read_bytes() == b"content"
        assert ctl_json(lake_path, "stats")["mirror"]["entries_behind"] == 2
        until_s = time.monotonic() + CAUGHT_UP_S
        while all(seen.fault is not fault for seen in proxy.seen):
            assert time.monotonic() < until_s
            time.sleep(POLL_S)
        (found,) = ctl_json(lake_path, "tier", "list")["tiers"]
        assert not found["answers"]
        began_s = time.monotonic()
        assert not kernel.unmount_patiently(mounted.mountpoint, ENDED_S)
        mounted.process.wait(ENDED_S)
        assert time.monotonic() - began_s < ENDED_S
        counters = ctl_json(lake_path, "stats")["tiers"][0]["counters"]
        assert counters["server_errors" if fault is Fault.INTERNAL else "timeouts"] > 0
        proxy.calm()
        ctl(lake_path, "create", "e")
        assert ctl_json(lake_path, "stats")["mirror"]["entries_behind"] == 0


def doom_one(lake: Lake, *tiers: str) -> bytes:
    """Have a metadata pack, and one that is not there, be still to be deleted from some tiers."""
    again = next(pack for pack, row in lake.index.packs() if row.kind == PackKind.METADATA)
    with lake.placed.lock:
        for pack in (again, b"\xff" * 32):
            lake.placed.note_doomed(Stub(pack, 0, b"", dict.fromkeys(tiers, 0)))
    return again


def test_who_puts_a_pack_waits_for_no_other_pack(
    lake: Lake, tmp_path: Path, warm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two packs that are here again, while each is still to be deleted there, were waited for for ever."""
    fill(lake, tmp_path / "tree", 1)
    mirror(lake)
    held: dict[int, list[bytes]] = {}
    both: set[tuple[bytes, ...]] = set()
    alone: Callable[[bytes], AbstractContextManager[None]] = lake.placed.alone

    @contextmanager
    def watched(pack: bytes) -> Iterator[None]:
        mine = held.setdefault(threading.get_ident(), [])
        both.update((other, pack) for other in mine if other != pack)
        mine.append(pack)
        with alone(pack):
            yield
        mine.pop()

    monkeypatch.setattr(lake.placed, "alone", watched)
    again = doom_one(lake, "warm")
    mirror(lake, anew=True)
    assert not lake.placed.is_doomed(again)
    assert objects(warm) == expected(lake)
    assert not both


def test_another_tier_that_does_not_let_a_pack_go_holds_up_no_other(
    lake: Lake, tmp_path: Path, warm: Path
) -> None:
    fill(lake, tmp_path / "tree", 1)
    again = doom_one(lake, "cold", "warm")
    facts = mirror(lake)
    assert facts["problem"] is None and list(facts["left_out"]) == [again.hex()]
    assert "still being deleted from a tier" in facts["left_out"][again.hex()]
    assert lake.placed.is_doomed(again) and not (warm / pack_key(again)).exists()
    lake.placed.gone(again)
    mirror(lake)
    assert objects(warm) == expected(lake)
