"""Lakes that earlier releases wrote: read to the last byte, checked, reindexed, and committed to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dtafs.core.names import LAKE_LOG, parse_spec
from dtafs.core.records import LAKE_KINDS
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.reindex import dump, reindex, reindex_at
from dtafs.store.retention_facts import Standing
from dtafs.store.session import Session
from tests.fixtures.generate import GONE, OTHER, listing, make, tree
from tests.support.lakes import assert_sound
from tests.support.small_lakes import ACTOR
from tests.support.tried import tried

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAKES = sorted(path for path in FIXTURES.iterdir() if (path / "lake.json").exists())


@pytest.fixture(params=LAKES, ids=lambda path: path.name)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a lake, beside its listing. A checkout keeps neither modes nor empty directories."""
    path: Path = request.param
    shutil.copytree(path, tmp_path / path.name)
    shutil.copy(path.with_suffix(".json"), tmp_path)
    copy = tmp_path / path.name
    (copy / "keys" / "signing.pem").chmod(0o600)
    for folder in sorted((p for p in copy.rglob("*") if p.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    return copy


def expected(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.with_suffix(".json").read_text())
    return found


def test_there_is_a_lake() -> None:
    assert LAKES


def test_every_byte_reads_as_it_was(old: Path) -> None:
    tried("old lakes")
    with Lake.open(old, write=False) as lake:
        assert json.loads(json.dumps(listing(lake))) == expected(old)


def test_it_is_sound_and_its_index_follows_from_it(old: Path) -> None:
    assert_sound(old)
    with Lake.open(old) as lake:
        before = list(dump(lake.index.database))
        reindex(lake)
        assert list(dump(lake.index.database)) == before
        kinds = [
            lake.log.read(row.name, number).entry.kind
            for row in lake.datasets()
            for number in lake.log.sequences(row.name)
        ]
    assert {"created", "committed", "collected", "untagged", "exported"} <= set(kinds)
    shutil.rmtree(old / "index")
    reindex_at(old)
    assert_sound(old)


def test_what_was_not_committed_is_and_versions_go_on(old: Path) -> None:
    with Lake.open(old) as lake:
        assert Session(lake, ACTOR).status(OTHER)["changes"]
        facts = Session(lake, ACTOR).commit(OTHER, "On top")
        row = lake.resolve(parse_spec(facts["id"]))
        assert row.number == 2 and "uncommitted" in tree(lake, row)
        found = json.loads(json.dumps(listing(lake)))
        assert {name: found[name] for name in expected(old)} == expected(old)
        assert [f for f in check(lake, read_data=True) if f.severity == "error"] == []
    assert_sound(old)


def test_what_is_kept_and_what_is_gone_is_as_it_was(tmp_path: Path) -> None:
    """Of the lake with records of retention: the same rules and holds decide the same."""
    copy = Path(shutil.copytree(FIXTURES / "lake-2", tmp_path / "lake"))
    (copy / "keys" / "signing.pem").chmod(0o600)
    with Lake.open(copy) as lake:
        standing = Standing(lake.index)
        assert {row.name for row in standing.rules} == {"always", "archive", "gone"}
        assert [row.name for row in standing.holds] == ["case"]
        decided = {
            row.name: standing.decide(row, lake.clock()).fate
            for dataset in lake.datasets()
            for row in lake.versions(dataset.name)
        }
        kinds = {lake.log.read(LAKE_LOG, n).entry.kind for n in lake.log.sequences(LAKE_LOG)}
        others = {lake.log.read(GONE, n).entry.kind for n in lake.log.sequences(GONE)}
    assert kinds == LAKE_KINDS - {"scheduled"}, "schedules were an entry for each rule"
    assert {"disposed", "destroyed"} <= others
    assert decided["gone:v1"] == decided["gone:v2"] == "disposed"
    assert {fate for name, fate in decided.items() if not name.startswith("gone:v")} == {"kept"}


def test_the_generator_makes_what_the_fixture_holds(tmp_path: Path) -> None:
    """Trees and contents are the same; keys, times of entries and so hashes of versions are not."""
    make(tmp_path / "lake")
    with Lake.open(tmp_path / "lake", write=False) as lake:
        found = json.loads(json.dumps(listing(lake)))
    newest = json.loads(LAKES[-1].with_suffix(".json").read_text())
    assert {name: one["tags"] for name, one in found.items()} == {
        name: one["tags"] for name, one in newest.items()
    }
    for name, one in found.items():
        assert ("disposed" in one) == ("disposed" in newest[name])
        was = newest[name].get("tree", {})
        assert {path: facts[:2] + facts[3:] for path, facts in one.get("tree", {}).items()} == {
            path: facts[:2] + facts[3:] for path, facts in was.items()
        }
