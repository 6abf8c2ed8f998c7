"""The catalog: the seed's tables, kept current, each state in a file that never changes."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dtafs.core.values import Source, Transform
from dtafs.errors import StorageError
from dtafs.store import catalog as catalog_module
from dtafs.store.catalog import GENERATIONS_KEPT, Catalog
from dtafs.store.lake import Lake
from dtafs.store.session import Session
from tests.support.small_lakes import ACTOR, Tree, commit, put_tree, tree_of_seed

SEED_SCHEDULER = "SELECT ds_id, ver FROM versions WHERE ts < date('now', '-7 years')"
"""The query of the retention scheduler in the user's own description, word for word."""


def query(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute(sql, values).fetchall()


@pytest.fixture
def versions(lake: Lake, tmp_path: Path) -> Lake:
    """A dataset with two versions and a second dataset made from the first."""
    lake.create_dataset("raw-data", ACTOR, ("raw",))
    for seed in (1, 2):
        put_tree(lake, "raw-data", tree_of_seed(seed), tmp_path / "scratch")
        commit(lake, "raw-data", f"seed {seed}")
    lake.create_dataset("clean-data", ACTOR)
    put_tree(lake, "clean-data", tree_of_seed(3), tmp_path / "scratch")
    row = lake.resolve("raw-data:v2")
    Session(lake, ACTOR).commit(
        "clean-data",
        "cleaned",
        ["clean", "phi"],
        sources=[msgspec.to_builtins(Source("raw-data", 2, row.manifest_sha256.hex()))],
        transform=msgspec.to_builtins(Transform("csv_trim", {"cols": "a,b"}, "ab" * 32)),
    )
    return lake


def test_the_seeds_tables_have_exactly_its_columns(versions: Lake) -> None:
    path, _generation = Catalog(versions).snapshot()
    for table, columns in {
        "datasets": ["id", "created_at"],
        "versions": ["ds_id", "ver", "ts", "comment", "hash", "tags"],
        "lineage": ["ds_id", "ver", "source_ver", "transform"],
    }.items():
        assert [row[1] for row in query(path, f"PRAGMA table_info({table})")] == columns


def test_rows_say_what_the_log_says(versions: Lake) -> None:
    path, generation = Catalog(versions).snapshot()
    assert generation == 5
    rows = query(path, "SELECT ds_id, ver, comment, hash, tags FROM versions ORDER BY ds_id, ver")
    expected = [
        (name, f"v{n}", comment, versions.resolve(f"{name}:v{n}").manifest_sha256.hex(), tags)
        for name, n, comment, tags in (
            ("clean-data", 1, "cleaned", "clean,phi"),
            ("raw-data", 1, "seed 1", "raw"),
            ("raw-data", 2, "seed 2", ""),
        )
    ]
    assert rows == expected
    assert query(path, "SELECT * FROM lineage") == [("clean-data", "v1", "raw-data:v2", "csv_trim")]
    details = "SELECT source_ds_id, source_ver, parameters, program_sha256 FROM sources"
    assert query(path, details) == [("raw-data", "v2", '{"cols": "a,b"}', "ab" * 32)]
    files = versions.resolve("raw-data:v2").manifest.files
    assert query(path, "SELECT files FROM history WHERE ds_id = 'raw-data' AND number = 2") == [
        (files,)
    ]
    kinds = query(path, "SELECT kind, COUNT(*) FROM entries GROUP BY kind ORDER BY kind")
    assert kinds == [("committed", 3), ("created", 2)]


def test_times_work_with_the_schedulers_query(versions: Lake) -> None:
    path, _generation = Catalog(versions).snapshot()
    assert query(path, SEED_SCHEDULER) == []
    later = SEED_SCHEDULER.replace("-7 years", "+1 day")
    assert len(query(path, later)) == 3
    assert query(path, "SELECT ts = datetime(ts) FROM versions LIMIT 1") == [(1,)]


def test_tags_follow_the_log(versions: Lake) -> None:
    catalog = Catalog(versions)
    before, _generation = catalog.snapshot()
    versions.set_tags("raw-data", 2, ACTOR, add=("raw", "checked"))
    versions.set_tags("raw-data", 1, ACTOR, remove=("raw",))
    after, _generation = catalog.snapshot()
    sql = "SELECT ver, tags FROM versions WHERE ds_id = 'raw-data' ORDER BY ver"
    assert query(before, sql) == [("v1", "raw"), ("v2", "")]
    assert query(after, sql) == [("v1", ""), ("v2", "checked,raw")]
    listed = query(after, "SELECT ver, tag FROM tags WHERE ds_id = 'raw-data' ORDER BY tag")
    assert listed == [("v2", "checked"), ("v2", "raw")]


def test_a_generation_never_changes(versions: Lake) -> None:
    catalog = Catalog(versions)
    path, generation = catalog.snapshot()
    content = path.read_bytes()
    assert catalog.snapshot() == (path, generation)
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as reader:
        assert reader.execute("SELECT COUNT(*) FROM versions").fetchone() == (3,)
        for _ in range(GENERATIONS_KEPT + 2):
            commit(versions, "raw-data", "again")
            newest, number = catalog.snapshot()
            assert number > generation and newest != path
        assert reader.execute("SELECT COUNT(*) FROM versions").fetchone() == (3,)
    assert not path.exists() or path.read_bytes() == content
    assert len(list(newest.parent.iterdir())) == GENERATIONS_KEPT
    assert os.stat(newest).st_mode & 0o222 == 0


def test_increments_and_a_fresh_build_say_the_same(versions: Lake) -> None:
    """An old generation plus the new entries is, row for row, what reading everything gives."""
    catalog = Catalog(versions)
    catalog.snapshot()
    commit(versions, "raw-data", "more")
    versions.set_tags("raw-data", 3, ACTOR, add=("raw",))
    grown, _generation = catalog.snapshot()
    rows = _dump(grown)
    for file in grown.parent.iterdir():
        file.unlink()
    fresh, _generation = catalog.snapshot()
    assert fresh != grown and _dump(fresh) == rows, "a number is not given again"


def _dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return sorted(db.iterdump())


def test_a_damaged_or_foreign_generation_is_not_built_upon(versions: Lake) -> None:
    catalog = Catalog(versions)
    path, _generation = catalog.snapshot()
    rows = _dump(path)
    for content in (b"", b"garbage" * 1000):
        path.chmod(0o644)
        path.write_bytes(content)
        again, _generation = Catalog(versions).snapshot()
        assert _dump(again) == rows
    foreign = path.with_name("0000000009.sqlite")  # another log's, as after restoring a backup
    foreign.write_bytes(again.read_bytes())
    with contextlib.closing(sqlite3.connect(foreign)) as db, db:
        db.execute("UPDATE entries SET hash = 'ff'")
        db.execute("UPDATE versions SET comment = 'forged'")
    path.unlink()
    again.unlink()
    again, _generation = catalog.snapshot()
    assert _dump(again) == rows and again.name == "0000000010.sqlite"


def test_an_empty_lake_has_an_empty_catalog(lake: Lake) -> None:
    path, generation = Catalog(lake).snapshot()
    assert generation == 0
    assert query(path, "SELECT * FROM datasets") == []


def test_a_reader_of_the_lake_can_make_it_too(versions: Lake) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from dtafs.store.catalog import Catalog; from dtafs.store.lake import Lake\n"
        "with Lake.open(Path(sys.argv[1]), write=False) as lake: print(Catalog(lake).snapshot()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, versions.path], capture_output=True, check=True, text=True
    )
    assert int(done.stdout) == Catalog(versions).snapshot()[1]


def test_nothing_is_left_behind_when_it_cannot_be_written(
    versions: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(catalog_module, "add_entry", refuse)
    with pytest.raises(StorageError):
        Catalog(versions).snapshot()
    assert list((versions.path / "tmp").iterdir()) == []
    assert list((versions.path / "cache" / "catalog").iterdir()) == []


def test_many_versions_stay_quick(lake: Lake, tmp_path: Path) -> None:
    """A new generation reads only the entries that are new."""
    lake.create_dataset("many", ACTOR)
    tree: Tree = {}
    put_tree(lake, "many", tree, tmp_path / "scratch")
    for _ in range(30):
        commit(lake, "many")
    catalog = Catalog(lake)
    catalog.snapshot()
    commit(lake, "many")
    read = []
    original = lake.log.read
    lake.log.read = lambda name, sequence: read.append(sequence) or original(name, sequence)  # type: ignore[method-assign,func-returns-value]
    catalog.snapshot()
    assert read == [31, 32], "one entry to see that the old file belongs to this log, one new"


def test_two_processes_make_one_at_once(versions: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes second with a number takes the next, and leaves the first one's file alone."""
    catalog, other = Catalog(versions), Catalog(versions)
    original = Catalog._begin
    made: list[Path] = []

    def begin(self: Catalog, path: Path, heads: catalog_module.Heads) -> catalog_module.Heads:
        done = original(self, path, heads)
        if self is catalog and not made:
            made.append(other.snapshot()[0])
        return done

    monkeypatch.setattr(Catalog, "_begin", begin)
    # Nobody sees the other's number before it is too late.
    monkeypatch.setattr(Catalog, "_files", lambda self: sorted(self._directory.glob("*")))
    path, _generation = catalog.snapshot()
    assert [made[0].name, path.name] == ["0000000001.sqlite", "0000000002.sqlite"]
    assert _dump(made[0]) == _dump(path)
    assert list((versions.path / "tmp").iterdir()) == []
