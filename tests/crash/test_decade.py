"""A decade of a lake with three tiers: archiving, a hold, its release, disposition, and crashes between.

Real data (releases of a table of the Earth's rotation, which share most of their bytes) and files of
cases that share nothing. Once a quarter the rules are carried out, by a process that dies again and
again; afterwards each record that should exist reads back byte for byte, and of each that should not
there is nothing in the raw or decoded bytes of any object in any tier.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.core.names import format_time, parse_time
from dtafs.core.values import Kind
from dtafs.store.audit import verify_lake
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import fetch_pack
from dtafs.store.placement.stubs import is_away
from dtafs.store.session import Session
from scripts import sample_data
from tests.crash.dying_disk import Died, dying
from tests.support.collecting import assert_whole
from tests.support.small_lakes import ACTOR, Item, Tree, commit, put_tree, read_version
from tests.support.tiered import add_tiers, content_packs
from tests.support.traces import traces

YEARS = range(2015, 2026)
WEATHER, CASES = "weather", "cases"
KEPT_YEARS = 5
HELD = (CASES, 2)
TABLE_BYTES = 400_000

RULES = {
    "nearby": {
        "cutoff": {"from": "committed", "period": "1y"},
        "action": "archive",
        "tier": "warm",
    },
    "tape": {"cutoff": {"from": "committed", "period": "3y"}, "action": "archive", "tier": "cold"},
    "gone": {"cutoff": {"from": "committed", "period": f"{KEPT_YEARS}y"}, "action": "dispose"},
}


def trees() -> dict[str, list[Tree]]:
    """What each dataset holds in each year."""
    releases = sample_data.fetch("iers", newest=len(YEARS))
    weather = []
    for release in releases:
        table = (release / "astropy_iers_data" / "data" / "finals2000A.all").read_bytes()
        weather.append({b"finals2000A": Item(Kind.FILE, 0o644, table[-TABLE_BYTES:])})
    dice = random.Random(2015)
    common = dice.randbytes(30_000)
    cases = [
        {
            b"form": Item(Kind.FILE, 0o644, common),
            b"case %d" % year: Item(Kind.FILE, 0o600, dice.randbytes(120_000)),
            b"note %d" % year: Item(Kind.FILE, 0o600, f"a note of the year {year}, ".encode() * 9),
        }
        for year in YEARS
    ]
    return {WEATHER: weather, CASES: cases}


def carry_out(path: Path, at: str, dice: random.Random) -> int:
    """Have the rules carried out at a time, by processes of which all but the last die."""
    deaths = 0
    for operations in (*(dice.randrange(1, 90) for _ in range(4)), 10**9):
        try:
            with dying(path, operations) as lake:
                lake.clock = lambda: parse_time(at)
                session = Session(lake, ACTOR)
                session.confirm_clock(format_time(parse_time(at)), "by the wall clock")
                facts = session.apply()
                assert not facts["left"] and not facts["not_archived"] and not facts["refused"], (
                    facts
                )
        except Died:
            deaths += 1
    return deaths


@pytest.fixture(scope="module")
def content() -> dict[str, list[Tree]]:
    return trees()


def test_a_decade(lake_path: Path, tmp_path: Path, content: dict[str, list[Tree]]) -> None:
    dice = random.Random(7)
    add_tiers(lake_path)
    deaths = 0
    for index, year in enumerate(YEARS):
        with Lake.open(lake_path) as lake:
            lake.clock = lambda year=year: parse_time(f"{year}-01-01")  # type: ignore[misc]
            session = Session(lake, ACTOR)
            for dataset, versions in content.items():
                if index == 0:
                    lake.create_dataset(dataset, ACTOR)
                put_tree(lake, dataset, versions[index], tmp_path / "scratch")
                commit(lake, dataset, f"the year {year}")
            if index == 0:
                rules = {name: {**rule, "authority": "GRS 3.1"} for name, rule in RULES.items()}
                session.set_rules(rules, "as adopted", everything=list(RULES))
            if year == 2018:
                scope = {"datasets": CASES, "versions": [HELD[1]]}
                session.place_hold("case", "Doe v. Roe", "subpoena", scope)
            if year == 2024:
                session.release_hold("case", "settled")
        if year != 2024:  # the year in which the hold ends, nobody looks until autumn
            deaths += carry_out(lake_path, f"{year}-04-01", dice)
        if year == 2023:
            with Lake.open(lake_path) as lake:
                disposed = [v.number for v in lake.versions(CASES) if v.disposed]
                assert disposed == [1, 3, 4], "what is held stays, whatever the rule says"
        deaths += carry_out(lake_path, f"{year}-10-01", dice)
    assert deaths > 20, "the crashes came too late to interrupt anything"
    with Lake.open(lake_path) as lake:
        lake.clock = lambda: parse_time("2025-12-31")
        Session(lake, ACTOR).collect(grace_s=0)
        gone = {year - YEARS[0] + 1 for year in YEARS if year + KEPT_YEARS <= 2025}
        for dataset, versions in content.items():
            rows = lake.versions(dataset)
            assert {row.number for row in rows if row.disposed} == gone
            assert len(rows) == len(versions)
        _bring_back(lake)
        for dataset, versions in content.items():
            for row in lake.versions(dataset):
                if not row.disposed:
                    assert read_version(lake, row) == versions[row.number - 1], row.name
        tops = [lake_path, tmp_path / "warm", tmp_path / "cold"]
        needles = _needles(content, gone)
        assert len(needles) > 50
        assert traces(tops, needles) == []
        assert verify_lake(lake).findings == []
        assert_whole(lake)


def _bring_back(lake: Lake) -> None:
    """Have everything on the hot disk, as somebody would who reads it all."""
    away = [pack for pack in content_packs(lake) if is_away(lake.path, pack)]
    assert away, "something lies in a tier"
    for pack in away:
        if (lake.path.parent / "cold" / pack_key(pack)).exists():
            lake.tier("cold").recall(pack_key(pack))
        fetch_pack(lake, pack, 0)


def _needles(content: dict[str, list[Tree]], gone: set[int]) -> list[bytes]:
    """Bytes that only versions had that are gone."""
    kept, lost = [], []
    for versions in content.values():
        for number, tree in enumerate(versions, 1):
            (lost if number in gone else kept).extend(item.content for item in tree.values())
    alive = b"\0".join(kept)
    found = set()
    for body in lost:
        for start in range(0, len(body) - 48, max(1, (len(body) - 48) // 20)):
            piece = body[start : start + 48]
            if piece not in alive:
                found.add(piece)
    return sorted(found)
