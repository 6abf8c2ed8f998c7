"""The policy on a real lake: the facts it gathers, and the plan carried out."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from dtafs.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StorageError,
)
from dtafs.store.condemn import FOLDER
from dtafs.store.lake import Lake
from dtafs.store.placement.facts import Planner, placement_facts
from dtafs.store.placement.heat import Heat, read_heat
from dtafs.store.placement.moves import copy_pack
from dtafs.store.placement.run import Pacer, Tiering
from dtafs.store.session import Session
from dtafs.store.tiers.attach import detach
from tests.support.small_lakes import ACTOR, read_version
from tests.support.tiered import (
    DATASET,
    add_tiers,
    content_packs,
    fill,
    objects_in,
    random_tree,
    troubled,
)

DAY_NS = 86_400 * 10**9
ONE, TWO = random_tree(1), random_tree(2)


@pytest.fixture
def two(lake_path: Path) -> Path:
    """A lake with tiers and two versions that share nothing."""
    add_tiers(lake_path)
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", ONE, TWO)
    return lake_path


def pack_of(lake: Lake, version: int) -> bytes:
    """The pack that a version brought."""
    sequences = {row.number: row.sequence for row in lake.versions(DATASET)}
    (pack,) = [
        pack
        for pack in content_packs(lake)
        if (row := lake.index.pack(pack)) and row.sequence == sequences[version]
    ]
    return pack


def tune(lake: Lake, **settings: object) -> None:
    """Go by other settings of `[tiering]`."""
    tiering = structs.replace(lake.config.tiering, **settings)  # type: ignore[arg-type]
    lake.config = structs.replace(lake.config, tiering=tiering)


def after(lake: Lake, days: float) -> list[tuple[bytes, str, str]]:
    """What is planned so many days from now."""
    steps = Planner(lake).plan(lake.now_ns() + int(days * DAY_NS))
    return [(step.pack, step.action, step.tier) for step in steps]


def test_superseded_goes_first_then_what_nobody_reads(two: Path) -> None:
    with Lake.open(two) as lake:
        first, second = pack_of(lake, 1), pack_of(lake, 2)
        assert after(lake, 13) == []
        assert after(lake, 15) == [(first, "move", "warm")]
        assert sorted(after(lake, 91)) == sorted(
            [(first, "move", "warm"), (second, "move", "warm")]
        )


def test_what_is_read_stays(two: Path) -> None:
    with Lake.open(two) as lake:
        first = pack_of(lake, 1)
        read_version(lake, lake.resolve(f"{DATASET}:v1"))
        heat = read_heat(two)
        assert lake.heat.reads()[first].frames >= 3 and first not in heat
    assert read_heat(two)[first].frames >= 3, "it is written down when the lake is closed"
    with Lake.open(two) as lake:
        assert lake.heat.reads()[first].frames >= 3
        lake.heat.note(first)
        lake.heat.save(lake.disk, there={first})
    assert read_heat(two).keys() == {first}


def test_damaged_heat_is_no_heat(two: Path, caplog: pytest.LogCaptureFixture) -> None:
    (two / FOLDER).mkdir(exist_ok=True)
    (two / FOLDER / "heat").write_bytes(b'{"ab": [1, 2]}')
    assert Heat(two).reads() == {}
    assert "counts as unread" in caplog.text


def test_pins_and_tags_hold(two: Path) -> None:
    with Lake.open(two) as lake:
        session, first, second = Session(lake, ACTOR), pack_of(lake, 1), pack_of(lake, 2)
        session.tier_pin(f"{DATASET}:v1")
        assert after(lake, 20) == []
        with pytest.raises(ConflictError, match="v1 is pinned already"):
            session.tier_pin(f"{DATASET}:v1")
        session.tier_pin(f"{DATASET}:v2/file 1")
        assert after(lake, 200) == []
        names = [pin["name"] for pin in session.tier_pin()["pins"]]
        assert names == [f"{DATASET}:v1", f"{DATASET}:v2/file 1"]
        for name in names:
            session.tier_pin(name, remove=True)
        with pytest.raises(NotFoundError, match="is not pinned"):
            session.tier_pin(DATASET, remove=True)
        with pytest.raises(NotFoundError, match="no path"):
            session.tier_pin(f"{DATASET}:v2/file 7")
        tune(lake, keep_tags=("golden",), archive_tags=("done",))
        lake.set_tags(DATASET, 1, ACTOR, add=("golden",))
        assert after(lake, 200) == [(second, "move", "warm")]
        lake.set_tags(DATASET, 1, ACTOR, add=("done",), remove=("golden",))
        assert after(lake, 0) == [(first, "move", "cold")]


def test_what_is_pinned_comes_back(two: Path) -> None:
    with Lake.open(two) as lake:
        session, first = Session(lake, ACTOR), pack_of(lake, 1)
        session.tier_move([f"{DATASET}:v1"], "cold")
        session.tier_pin(DATASET)
        assert after(lake, 0) == [(first, "recall", "hot")]
        tiering = Tiering(lake)
        tiering.round()
        assert lake.recalls is not None and lake.recalls.left([first])
        Session(lake, ACTOR).tier_recall([f"{DATASET}:v1"])
        assert lake.placed.is_hot(first) and after(lake, 0) == []


def test_damaged_pins_stop_everything(two: Path) -> None:
    with Lake.open(two) as lake:
        Session(lake, ACTOR).tier_pin(DATASET)
        (two / FOLDER / "pins").write_bytes(b"[{}]")
        with pytest.raises(IntegrityError, match="nothing leaves the hot disk; delete it"):
            Planner(lake).plan()
        with pytest.raises(IntegrityError):
            Session(lake, ACTOR).tier_pin(f"{DATASET}:v1")
        (two / FOLDER / "pins").unlink()


def test_a_small_hot_disk_drives_out_what_is_coldest(two: Path) -> None:
    with Lake.open(two) as lake:
        first, second = pack_of(lake, 1), pack_of(lake, 2)
        tune(lake, hot_gib=1_500_000 / (1 << 30), high_water=0.9, low_water=0.8)
        assert after(lake, 0) == [(first, "move", "warm")]
        tiering = Tiering(lake)
        assert not tiering.round()
        assert tiering.moved_packs == 1 and tiering.failures == 0
        assert not lake.placed.is_hot(first) and lake.placed.is_hot(second)
        assert after(lake, 0) == []
        lake.objects.clear()
        assert read_version(lake, lake.resolve(f"{DATASET}:v1")) == ONE
        facts = placement_facts(lake)
        assert facts["hot"]["packs"] == facts["away"]["packs"] == 1
        assert facts["tiers"]["warm"]["packs"] == 1 and facts["fetched_bytes"] > 0


def test_a_tier_that_fails_is_left_alone_for_a_while(two: Path) -> None:
    with Lake.open(two) as lake:
        tune(lake, superseded_after_days=0.0, settle_hours=0.0)
        tier = troubled(lake, "warm")
        tier.failure = StorageError("it does not answer")
        tiering = Tiering(lake)
        assert not tiering.round() and tiering.failures == 1
        calls = len(tier.calls)
        assert not tiering.round() and len(tier.calls) == calls
        tier.failure = None
        assert Session(lake, ACTOR).tier_plan(apply=True)["moved"]["packs"] == 1
        assert len(objects_in(two.parent / "warm")) == 1


def test_a_tier_that_is_gone_keeps_nobody_waiting_for_each_pack(two: Path) -> None:
    """It is met once in a round, and everything moves in the first round after it is back."""
    with Lake.open(two) as lake:
        tune(lake, superseded_after_days=0.0, after_days=0.0, settle_hours=0.0)
        place = two.parent / "warm"
        tier = troubled(lake, "warm")
        place.rename(two.parent / "unmounted")
        tiering = Tiering(lake)
        for round_ in (1, 2):
            tier.calls.clear()
            assert not tiering.round() and tiering.failures == 2 * round_
            assert [call for call, *_ in tier.calls] == ["put"]
        (two.parent / "unmounted").rename(place)
        assert not tiering.round() and tiering.moved_packs == 2


def test_a_copy_in_a_tier_that_was_taken_away_is_none(two: Path) -> None:
    with Lake.open(two) as lake:
        for pack in content_packs(lake):
            copy_pack(lake, pack, "cold")
        tune(lake, superseded_after_days=0.0, after_days=0.0, settle_hours=0.0)
        assert {step.action for step in Planner(lake).plan()} == {"move"}
        detach(lake, "cold")
        assert {(step.action, step.tier) for step in Planner(lake).plan()} == {("move", "warm")}
        tiering = Tiering(lake)
        assert not tiering.round() and (tiering.failures, tiering.moved_packs) == (0, 2)
        with pytest.raises(RefusedError, match="only copy of 2 packs"):
            detach(lake, "warm")


def test_moves_keep_to_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("dtafs.store.placement.run.time.monotonic", lambda: now[0])
    monkeypatch.setattr(
        "dtafs.store.placement.run.time.sleep", lambda s: now.__setitem__(0, now[0] + s)
    )
    moved: list[int] = []
    pace = Pacer(1000.0, moved.append)
    for _ in range(5):
        pace(700)
    assert 3.4 < now[0] < 3.6 and sum(moved) == 3500


def test_what_reading_takes_is_told_before(two: Path) -> None:
    with Lake.open(two) as lake:
        session = Session(lake, ACTOR)
        session.tier_move([f"{DATASET}:v1"], "cold")
        session.tier_move([f"{DATASET}:v2"], "warm")
        lake.tiers.settings = {
            name: structs.replace(settings, read_price_gib=1024.0)
            for name, settings in lake.tiers.settings.items()
        }
        facts = session.tier_plan_read([f"{DATASET}:v1/file 0", f"{DATASET}:v2/file 1"])
        warm, cold = facts["places"]
        assert (warm["tier"], warm["packs"], warm["archive"]) == ("warm", 1, False)
        assert 300_000 < warm["moved_bytes"] < 700_000 < warm["size_bytes"]
        assert (cold["tier"], cold["archive"], facts["must_recall"]) == ("cold", True, True)
        assert cold["moved_bytes"] == cold["size_bytes"] and cold["time_s"] >= 5 * 3600
        assert cold["price"] == round(cold["moved_bytes"] / (1 << 20), 4)
        assert lake.recalls is not None and not lake.recalls.facts(), "nothing is recalled"
