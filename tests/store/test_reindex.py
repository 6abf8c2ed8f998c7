"""Rebuilding the index: row for row what it was, from the log and the packs alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dtafs.errors import BusyError, IntegrityError, NotFoundError
from dtafs.store.lake import Lake
from dtafs.store.progress import Progress
from dtafs.store.reindex import dump, reindex, reindex_at
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version, tree_of_seed


@pytest.fixture
def filled(lake: Lake, tmp_path: Path) -> Lake:
    """Two datasets whose commits alternate, so that the order of serials matters."""
    for name in ("b", "a"):
        lake.create_dataset(name, ACTOR)
    for seed in range(4):
        name = "ab"[seed % 2]
        put_tree(lake, name, tree_of_seed(seed), tmp_path / "scratch")
        commit(lake, name, tags=(f"seed{seed}",))
    lake.set_tags("a", 1, ACTOR, add=("x", "y"), remove=("seed0",))
    return lake


def test_row_for_row_the_same(filled: Lake) -> None:
    before = list(dump(filled.index.database))
    assert {table for table, _key, _value in before} == {
        *("meta", "dataset", "version", "serial", "tag", "pack", "chunk")
    }
    facts = reindex(filled)
    assert list(dump(filled.index.database)) == before
    assert (facts["added"], facts["removed"], facts["changed"]) == (0, 0, 0)
    assert facts["entries"] == 8
    assert sum(facts["rows"].values()) == len(before)
    assert not (filled.path / "index.new").exists() and not (filled.path / "index.old").exists()


def test_the_lake_goes_on_working(filled: Lake, tmp_path: Path) -> None:
    reindex(filled)
    tree = tree_of_seed(9)
    put_tree(filled, "a", tree, tmp_path / "scratch")
    assert read_version(filled, commit(filled, "a")) == tree
    assert reindex(filled)["changed"] == 0


def test_differences_are_counted(filled: Lake) -> None:
    def damage(txn) -> None:  # type: ignore[no-untyped-def]
        txn.delete("tag", next(iter(txn.scan("tag")))[0])
        txn.put("tag", b"nothing", b"")
        key, value = next(iter(txn.scan("chunk")))
        txn.put("chunk", key, value[:-1] + b"x")

    filled.index.database.write(damage)
    facts = reindex(filled)
    assert (facts["added"], facts["removed"], facts["changed"]) == (1, 1, 1)


def test_progress_is_told(filled: Lake) -> None:
    told: list[Progress] = []
    reindex(filled, told.append)
    assert told[-1].files == told[-1].files_total == 8


def test_a_damaged_log_leaves_the_old_index(filled: Lake) -> None:
    before = list(dump(filled.index.database))
    entry = filled.log.path("a", 2)
    data = entry.read_bytes()
    entry.unlink()
    entry.write_bytes(data[:-9])
    with pytest.raises(IntegrityError):
        reindex(filled)
    assert list(dump(filled.index.database)) == before
    entry.write_bytes(data)


@pytest.mark.parametrize("sequence", [1, 2, 5])
def test_a_log_with_a_gap_leaves_the_old_index(filled: Lake, sequence: int) -> None:
    """The index may be the last that knows of the entry: neither way of reindexing forgets it."""
    before = list(dump(filled.index.database))
    entry = filled.log.path("a", sequence)
    data = entry.read_bytes()
    entry.unlink()
    with pytest.raises(IntegrityError, match="missing from the log"):
        reindex(filled)
    filled.close()
    with pytest.raises(IntegrityError, match="missing from the log"):
        reindex_at(filled.path)
    entry.write_bytes(data)
    with Lake.open(filled.path) as again:
        assert list(dump(again.index.database)) == before


def test_nothing_is_appended_after_a_lost_entry(filled: Lake) -> None:
    newest = filled.log.path("a", filled.dataset("a").sequence)
    data = newest.read_bytes()
    for damage in (None, data[:-1], b""):
        newest.unlink()
        if damage is not None:
            newest.write_bytes(damage)
        with pytest.raises(IntegrityError, match="gone or altered"):
            filled.set_tags("a", 1, ACTOR, add=("z",))
        newest.touch()
    newest.write_bytes(data)
    filled.set_tags("a", 1, ACTOR, add=("z",))


def test_leftovers_of_a_crash_do_not_matter(filled: Lake) -> None:
    for name in ("index.new", "index.old"):
        (filled.path / name).mkdir()
        (filled.path / name / "data.mdb").write_bytes(b"half")
    assert reindex(filled)["changed"] == 0


def test_rebuilt_without_opening(filled: Lake) -> None:
    before = list(dump(filled.index.database))
    with pytest.raises(BusyError):
        reindex_at(filled.path)
    filled.close()
    shutil.rmtree(filled.path / "index")
    facts = reindex_at(filled.path)
    assert facts["entries"] == 8 and facts["changed"] is None
    with Lake.open(filled.path) as again:
        assert list(dump(again.index.database)) == before


def test_no_lake_to_reindex(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        reindex_at(tmp_path)


def test_an_index_cut_anywhere_never_ends_the_process(filled: Lake) -> None:
    """Opening and reading a truncated file is an error or is right, and never a signal."""
    filled.close()
    file = filled.path / "index" / "data.mdb"
    data = file.read_bytes()
    code = (
        "import sys; from pathlib import Path\n"
        "from dtafs.errors import DtafsError; from dtafs.store.lake import Lake\n"
        "from dtafs.store.check import check\n"
        "try:\n"
        "  with Lake.open(Path(sys.argv[1])) as lake: sys.exit(9 if check(lake) else 0)\n"
        "except DtafsError: sys.exit(6)\n"
    )
    pages = range(4096, len(data), 4096)
    outcomes = set()
    for end in [*pages[:: max(1, len(pages) // 12)], len(data) - 100]:
        file.write_bytes(data[:end])
        done = subprocess.run(
            [sys.executable, "-c", code, filled.path],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        assert done.returncode in (0, 6, 9), done.stderr.decode()
        outcomes.add(done.returncode)
    assert 6 in outcomes
    reindex_at(filled.path)
