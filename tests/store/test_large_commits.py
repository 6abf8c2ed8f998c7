"""Commits of which one txn should not take all, and whose nodes should not all be in memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.nodes import node_id
from dtafs.core.values import Actor
from dtafs.errors import IntegrityError, StorageFullError
from dtafs.store import index as index_module
from dtafs.store import spool as spool_module
from dtafs.store.commit import commit
from dtafs.store.database import Database, Txn
from dtafs.store.durable import Disk
from dtafs.store.index import Index
from dtafs.store.lake import Lake
from dtafs.store.reindex import dump, reindex
from dtafs.store.replay import replay
from dtafs.store.spool import Spool
from tests.crash.promises import assert_no_errors
from tests.support.small_lakes import ACTOR, Tree, put_tree, read_version, tree_of_seed

ANN = Actor("ann", 1000, "host", "test")
ROWS, GATHERED = 4, 11


class Stop(BaseException):
    """The process ends here."""


@pytest.fixture
def small_txns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a commit of twenty files goes beyond."""
    monkeypatch.setattr(index_module, "ROWS_AT_ONCE", ROWS)
    monkeypatch.setattr(index_module, "GATHERED_ROWS", GATHERED)


def two_commits(lake: Lake, scratch: Path) -> dict[int, Tree]:
    """Staged work over a version with which it shares chunks; what the versions hold."""
    lake.create_dataset("D", ANN)
    trees = {1: tree_of_seed(1), 2: tree_of_seed(2)}
    put_tree(lake, "D", trees[1], scratch)
    commit(lake, "D", "first", ANN)
    put_tree(lake, "D", trees[2], scratch)
    return trees


def written_by(lake: Lake, monkeypatch: pytest.MonkeyPatch, call: Callable[[Txn], None]) -> None:
    """Have `call` made at the end of each write txn of the index."""
    write = Database.write

    def watched(database: Database, function: Callable[[Txn], Any]) -> Any:
        def and_call(txn: Txn) -> Any:
            result = function(txn)
            if database is lake.index.database:
                call(txn)
            return result

        return write(database, and_call)

    monkeypatch.setattr(Database, "write", watched)


def test_no_txn_adds_many_rows(
    lake: Lake, tmp_path: Path, small_txns: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = two_commits(lake, tmp_path / "scratch")
    counts = [sum(1 for _ in lake.index.places())]
    written_by(lake, monkeypatch, lambda txn: counts.append(txn.count("chunk")))
    row = commit(lake, "D", "second", ANN)
    steps = [later - before for before, later in pairwise(counts)]
    assert len(steps) > 2 and max(steps) <= ROWS and sum(steps) > GATHERED
    assert read_version(lake, row) == trees[2]


def test_the_rows_are_those_of_one_txn(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_commits(lake, tmp_path / "scratch")
    commit(lake, "D", "second", ANN)
    before = list(dump(lake.index.database))
    for rows, gathered in ((1, 1), (ROWS, GATHERED), (GATHERED, ROWS), (1000, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(index_module, "ROWS_AT_ONCE", rows)
            patch.setattr(index_module, "GATHERED_ROWS", gathered)
            facts = reindex(lake)
        assert (facts["added"], facts["removed"], facts["changed"]) == (0, 0, 0)
        assert list(dump(lake.index.database)) == before


@pytest.mark.parametrize("txns", range(5))
def test_a_crash_between_txns_is_made_up_for(
    lake_path: Path, tmp_path: Path, small_txns: None, txns: int
) -> None:
    """Wherever the index stops, the next opening has the version, and staging lies on it."""
    lake = Lake.open(lake_path)
    trees = two_commits(lake, tmp_path / "scratch")
    done: list[Txn] = []

    def stop(txn: Txn) -> None:
        if len(done) == txns:
            raise Stop
        done.append(txn)

    with pytest.MonkeyPatch.context() as patch:
        written_by(lake, patch, stop)
        with pytest.raises(Stop):
            commit(lake, "D", "second", ANN)
    assert len(lake.versions("D")) == 1
    lake.close()
    with Lake.open(lake_path) as lake:
        assert {row.number: read_version(lake, row) for row in lake.versions("D")} == trees
        assert lake.staging("D").is_clean()
        assert_no_errors(lake)
        before = list(dump(lake.index.database))
        reindex(lake)
        assert list(dump(lake.index.database)) == before


def test_a_full_disk_between_txns_is_made_up_for(
    lake: Lake, tmp_path: Path, small_txns: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = two_commits(lake, tmp_path / "scratch")
    room = [None] * 3

    def fill(_txn: Txn) -> None:
        if not room:
            raise StorageFullError("no room")
        room.pop()

    with monkeypatch.context() as patch:
        written_by(lake, patch, fill)
        with pytest.raises(StorageFullError, match="safe, but the index could not follow"):
            commit(lake, "D", "second", ANN)
    assert len(lake.versions("D")) == 1
    lake.set_tags("D", 1, ACTOR, add=("old",))  # which catches up first
    assert read_version(lake, lake.versions("D")[1]) == trees[2]
    assert reindex(lake)["changed"] == 0


def test_an_entry_that_does_not_follow_brings_no_rows(
    lake: Lake, tmp_path: Path, small_txns: None
) -> None:
    two_commits(lake, tmp_path / "scratch")
    commit(lake, "D", "second", ANN)
    (lake.path / "other").mkdir()
    other = Index(lake.path / "other", write=True)

    class WithoutTheFirst:
        """A log that has lost the entry of the first version."""

        def __getattr__(self, name: str) -> Any:
            return getattr(lake.log, name)

        def read_from(self, dataset: str, first: int) -> Any:
            return (one for one in lake.log.read_from(dataset, first) if one.entry.sequence != 2)

    with pytest.raises(IntegrityError, match="does not follow"):
        replay(lake.path, WithoutTheFirst(), other)  # type: ignore[arg-type]
    assert not any(table in ("chunk", "copy", "pack") for table, _, _ in dump(other.database))
    other.close()


# The nodes of a version on their way


@pytest.mark.parametrize("held", [1, 300, 1 << 20])
def test_a_spool_gives_back_what_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(spool_module, "HELD_BYTES", held)
    (tmp_path / "tmp").mkdir()
    nodes = {node_id(data): data for data in (b"%d" % n * n for n in range(60))}
    with Spool(Disk(tmp_path)) as spool:
        for _ in range(2):
            for node, data in [*nodes.items(), *nodes.items()]:
                spool.add(node, data)
            assert dict(spool.items()) == nodes and list(spool.items()) == list(nodes.items())
            assert all(node in spool for node in nodes) and node_id(b"other") not in spool
            spool.clear()
            assert not list(spool.items()) and not any(node in spool for node in nodes)
        spool.add(b"n" * 32, b"x" * 1000)
        assert len(list((tmp_path / "tmp").iterdir())) == (held <= 1000)
    assert not list((tmp_path / "tmp").iterdir())


def test_a_commit_by_way_of_the_disk_is_the_same(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = two_commits(lake, tmp_path / "scratch")
    monkeypatch.setattr(spool_module, "HELD_BYTES", 1)
    assert read_version(lake, commit(lake, "D", "second", ANN)) == trees[2]
    assert not list((lake.path / "tmp").iterdir())


def test_no_room_for_the_nodes_leaves_all_as_it_was(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = two_commits(lake, tmp_path / "scratch")
    with monkeypatch.context() as patch:
        patch.setattr(spool_module, "HELD_BYTES", 1)

        def full(*_: object) -> None:
            raise StorageFullError("no room")

        patch.setattr(Disk, "write_content", full)
        with pytest.raises(StorageFullError):
            commit(lake, "D", "second", ANN)
    assert not list((lake.path / "tmp").iterdir())
    assert read_version(lake, commit(lake, "D", "second", ANN)) == trees[2]
