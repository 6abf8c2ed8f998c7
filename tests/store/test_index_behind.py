"""The index cannot follow an entry that is in the log: nothing is lost, and nothing false is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtafs.errors import ConflictError, StorageError, StorageFullError
from dtafs.store import commit as commit_module
from dtafs.store import lake as lake_module
from dtafs.store.lake import Lake
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version, tree_of_seed


@pytest.mark.parametrize("more", [True, False])
def test_a_commit_that_the_index_could_not_follow(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    """The version is there, and the next one is the next one: an entry that gave its number again
    would keep the lake from opening."""
    lake.create_dataset("D", ACTOR)
    put_tree(lake, "D", tree_of_seed(1), tmp_path / "scratch")
    apply = lake_module.apply_entry

    def fail(*_arguments: object) -> None:
        raise StorageError("the disk has failed")

    monkeypatch.setattr(lake_module, "apply_entry", fail)
    with pytest.raises(StorageFullError, match="recorded in the log of 'D' and safe"):
        commit(lake, "D")
    assert lake.index.versions("D") == []
    monkeypatch.setattr(lake_module, "apply_entry", apply)
    if more:
        put_tree(lake, "D", tree_of_seed(2), tmp_path / "scratch")
    assert commit(lake, "D").number == 2
    expected = [tree_of_seed(1), tree_of_seed(2 if more else 1)]
    assert [read_version(lake, row) for row in lake.versions("D")] == expected
    assert lake.staging("D").is_clean() and not lake.pending.intents()
    assert commit(lake, "D").number == 3


def test_what_was_decided_before_the_index_caught_up_is_not_written(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.create_dataset("D", ACTOR)
    apply = lake_module.apply_entry

    def fail(*_arguments: object) -> None:
        raise StorageError("the disk has failed")

    def late(*arguments: object, **named: object) -> None:
        """Another entry, which the index cannot follow, right before the version's own."""
        monkeypatch.setattr(lake_module, "apply_entry", fail)
        with pytest.raises(StorageFullError):
            lake.record("D", "exported", {"version": 1}, ACTOR)
        monkeypatch.setattr(lake_module, "apply_entry", apply)
        require_all(*arguments, **named)

    put_tree(lake, "D", tree_of_seed(1), tmp_path / "scratch")
    require_all = commit_module.require_all
    with monkeypatch.context() as patched:
        patched.setattr(commit_module, "require_all", late)
        with pytest.raises(ConflictError, match="has just caught up"):
            commit(lake, "D")
    assert lake.versions("D") == [] and not lake.staging("D").is_clean()
    assert commit(lake, "D").number == 1
