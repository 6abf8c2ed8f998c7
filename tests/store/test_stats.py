"""The numbers of `dtafsctl stats` against what was put in and what lies on the disk."""

from __future__ import annotations

from pathlib import Path

from dtafs.core.values import Kind
from dtafs.store.lake import Lake
from dtafs.store.stats import collect_stats, disk_bytes
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed


def test_an_empty_lake(lake: Lake) -> None:
    facts = collect_stats(lake)
    assert facts["datasets"] == facts["versions"] == facts["stored_bytes"] == 0
    assert facts["deduplication_ratio"] is None


def test_counts_and_sizes(lake: Lake, tmp_path: Path) -> None:
    lake.create_dataset("a", ACTOR)
    trees = [tree_of_seed(1), tree_of_seed(2)]
    for tree in trees:
        put_tree(lake, "a", tree, tmp_path / "scratch")
        commit(lake, "a")
    facts = collect_stats(lake)
    files = [item for tree in trees for item in tree.values() if item.kind == Kind.FILE]
    assert (facts["datasets"], facts["versions"]) == (1, 2)
    assert facts["files"] == len(files)
    assert facts["logical_bytes"] == sum(len(item.content) for item in files)
    on_disk = sum(f.stat().st_size for f in (lake.path / "packs").rglob("*") if f.is_file())
    assert facts["stored_bytes"] == on_disk
    assert facts["content"]["stored_bytes"] + facts["metadata"]["stored_bytes"] == on_disk
    assert facts["unique_bytes"] < facts["logical_bytes"]
    assert facts["deduplication_ratio"] > 1.3
    assert facts["content"]["average_chunk_bytes"] > 0
    assert facts["uncommitted_pack_bytes"] == 0
    assert facts["index_bytes"] > 0 and facts["log_bytes"] > 0


def test_uncommitted_packs_are_counted_apart(lake: Lake, tmp_path: Path) -> None:
    lake.create_dataset("a", ACTOR)
    put_tree(lake, "a", tree_of_seed(1), tmp_path / "scratch")
    facts = collect_stats(lake)
    assert facts["stored_bytes"] == 0
    assert facts["uncommitted_pack_bytes"] > 100_000


def test_sparse_files_count_what_they_take(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10_000_000)
    assert disk_bytes(tmp_path) < 100_000
