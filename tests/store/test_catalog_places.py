"""The catalog's tables of what the host knows: where packs lie, when they were read, what is pinned."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.format import pack_key
from dtafs.core.placed import stub_key
from dtafs.store import catalog_places
from dtafs.store.catalog import Catalog
from dtafs.store.lake import Lake
from dtafs.store.placement import survey as survey_module
from dtafs.store.placement.moves import copy_pack, drop_pack, fetch_pack, move_pack
from dtafs.store.placement.survey import Survey
from dtafs.store.session import Session
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version
from tests.support.tiered import DATASET, add_tiers, content_packs, fill, random_tree

PLACES = (
    "SELECT tier, kind, ds_id, ver, size_bytes FROM placement WHERE kind = 'content' ORDER BY tier"
)


@pytest.fixture
def tiered(lake_path: Path) -> Any:
    """A lake with the tiers `warm` and `cold` and one version of one pack of content."""
    add_tiers(lake_path)
    with Lake.open(lake_path) as lake:
        fill(lake, lake_path.parent / "scratch", random_tree(1))
        yield lake


def ask(catalog: Catalog, sql: str) -> list[tuple[Any, ...]]:
    path, _generation = catalog.snapshot()
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def test_where_a_pack_lies_as_it_moves(tiered: Lake) -> None:
    catalog, [pack] = Catalog(tiered), content_packs(tiered)
    size = next(row.size for found, row in tiered.index.packs() if found == pack)
    about = ("content", DATASET, "v1", size)
    assert ask(catalog, PLACES) == [("hot", *about)]
    ts = ask(catalog, "SELECT since = ts FROM placement p JOIN versions v USING (ds_id, ver)")
    assert set(ts) == {(1,)}, "what never moved is there since its version"
    copy_pack(tiered, pack, "warm")
    assert ask(catalog, PLACES) == [("hot", *about), ("warm", *about)]
    drop_pack(tiered, pack)
    assert ask(catalog, PLACES) == [("warm", *about)]
    fetch_pack(tiered, pack, 0)
    assert ask(catalog, PLACES) == [("hot", *about), ("warm", *about)]
    move_pack(tiered, pack, "cold")
    assert ask(catalog, PLACES) == ask(Catalog(tiered), PLACES) == [("cold", *about)]
    assert ask(catalog, "SELECT COUNT(*) FROM placement WHERE since IS NULL") == [(0,)]


def test_one_query_says_where_versions_lie(tiered: Lake, tmp_path: Path) -> None:
    [first] = content_packs(tiered)
    put_tree(tiered, DATASET, random_tree(2), tmp_path / "scratch")
    commit(tiered, DATASET)
    commit(tiered, DATASET, "brings nothing")
    move_pack(tiered, first, "warm")
    read_version(tiered, tiered.resolve(f"{DATASET}:v1"))
    tiered.heat.save(tiered.disk)
    Session(tiered, ACTOR).tier_pin(f"{DATASET}:v2")
    catalog = Catalog(tiered)
    found = ask(
        catalog,
        "SELECT ver, tier, packs, bytes > 0, last_access IS NOT NULL, count > 0, pinned "
        "FROM whereabouts ORDER BY ver",
    )
    assert [row[:3] for row in found] == [("v1", "warm", 1), ("v2", "hot", 1), ("v3", None, 0)]
    assert [row[3:] for row in found[::2]] == [(1, 1, 1, 0), (0, 0, 0, 0)]
    assert found[1][6] == 1
    pins = "SELECT ds_id, ver, path, user, since IS NOT NULL FROM pins"
    assert ask(catalog, pins) == [(DATASET, "v2", None, ACTOR.user, 1)]
    last = "SELECT last_access = datetime(last_access) FROM access"
    assert set(ask(catalog, last)) == {(1,)}


def test_a_state_is_made_once(tiered: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor by a second process; and what changes without the log makes another."""
    [pack] = content_packs(tiered)
    catalog = Catalog(tiered)
    seen = [catalog.snapshot()[0]]
    copy_pack(tiered, pack, "warm")
    seen.append(catalog.snapshot()[0])
    Session(tiered, ACTOR).tier_pin(DATASET)
    seen.append(catalog.snapshot()[0])
    tiered.heat.note(pack)
    assert catalog.snapshot()[0] == seen[-1], "reads that are not written down change nothing"
    tiered.heat.save(tiered.disk)
    seen.append(catalog.snapshot()[0])
    assert sorted(set(seen)) == seen, "each has a name of its own, later ones a larger one"
    monkeypatch.setattr(catalog_places, "PLACE", "a second making fails")
    assert catalog.snapshot()[0] == Catalog(tiered).snapshot()[0] == seen[-1]


def test_without_tiers_all_is_hot_and_reads_count(lake: Lake, tmp_path: Path) -> None:
    fill(lake, tmp_path / "scratch", random_tree(1))
    read_version(lake, lake.resolve(f"{DATASET}:v1"))
    catalog = Catalog(lake)
    assert ask(catalog, "SELECT DISTINCT tier FROM placement") == [("hot",)]
    assert ask(catalog, "SELECT COUNT(*) FROM placement") == [(len(lake.index.packs()),)]
    assert ask(catalog, "SELECT COUNT(*) FROM access WHERE count > 0") != [(0,)]
    assert not (lake.path / "placed").exists()


@pytest.mark.damages_lake
def test_what_is_lost_or_damaged_is_said(tiered: Lake, caplog: pytest.LogCaptureFixture) -> None:
    [pack] = content_packs(tiered)
    move_pack(tiered, pack, "warm")
    catalog = Catalog(tiered)
    assert ask(catalog, PLACES)[0][0] == "warm"
    stub = tiered.path / stub_key(pack)
    stub.unlink()
    stub.write_bytes(b"garbage")
    (tiered.path / "upkeep").mkdir(exist_ok=True)
    (tiered.path / "upkeep/pins").write_bytes(b"[{")
    reads = f'{{"{pack.hex()}": [{10**30}, {2**63}]}}'
    (tiered.path / "upkeep/heat").write_text(reads)
    assert ask(catalog, PLACES)[0][0] == "missing"
    assert ask(catalog, "SELECT * FROM pins") == []
    assert "the catalog shows no pins" in caplog.text
    assert ask(catalog, "SELECT last_access FROM access") in ([], [(None,)])
    assert not (tiered.path / pack_key(pack)).exists()


def test_only_changed_folders_are_read_again(
    tiered: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(2, 6):
        put_tree(tiered, DATASET, random_tree(seed), tmp_path / "scratch")
        commit(tiered, DATASET)
    packs = content_packs(tiered)
    for pack in packs:
        copy_pack(tiered, pack, "warm")
    survey, read = Survey(tiered.path), []
    original = survey._read
    monkeypatch.setattr(survey, "_read", lambda name: read.append(name) or original(name))
    folders = sorted({pack.hex()[:2] for pack in packs})
    for folder in folders:  # long enough ago to be sure that nothing has changed since
        for top in ("placed", "packs"):
            os.utime(tiered.path / top / folder, (1, 1))
    digest = survey.look()
    assert survey.look() == digest and read == folders
    drop_pack(tiered, packs[0])
    assert survey.look() != digest and read == [*folders, packs[0].hex()[:2]]
    survey.look()
    assert len(read) == len(folders) + 2, "it has changed a moment ago, and may have changed again"
    monkeypatch.setattr(survey_module, "SETTLED_NS", -(10**9))
    survey.look()
    survey.look()
    assert len(read) == len(folders) + 3
    assert survey.lies(packs[0]) is not None and survey.lies(bytes(32)) is None
