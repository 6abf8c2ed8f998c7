"""The benchmark's figures of the mount: their rows, and inputs that are the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import read_figures, records_figures, write_figures
from scripts.figures import (
    HEAD,
    MIB,
    Figure,
    read_tree,
    read_whole,
    repeated_days,
    write_large_csv,
    write_small_files,
)
from scripts.served import empty_file
from scripts.tier_figures import restoring
from tests.support.object_stores import ObjectStore


@pytest.mark.parametrize(
    ("more", "limit", "value", "ratio", "judged"),
    [
        (True, 200.0, 150.0, "0.75", "at least 0.7: reached"),
        (True, 200.0, 100.0, "0.50", "at least 0.7: not reached"),
        (False, 2.0, 1.2, "0.60", "at most 0.7: reached"),
        (False, 2.0, 4.0, "2.00", "at most 0.7: not reached"),
    ],
)
def test_a_row_says_whether_it_was_reached(
    more: bool, limit: float, value: float, ratio: str, judged: str
) -> None:
    row = Figure("work", "limit", limit, value, "s", 0.7, more).row()
    assert len(row) == len(HEAD)
    assert row[-2:] == (ratio, judged)


def test_a_figure_without_a_limit_stands_alone() -> None:
    assert Figure("memory", "", None, 93.21, "MiB").row() == (
        "memory",
        "",
        "-",
        "93.2 MiB",
        "-",
        "-",
    )
    assert Figure("work", "other", 10.0, 5.0, "s").row()[-1] == "-"


def test_inputs_do_not_repeat_themselves(tmp_path: Path) -> None:
    write_large_csv(tmp_path / "large.csv", 1_000_000)
    assert read_whole(tmp_path / "large.csv") == 1_000_000
    write_small_files(tmp_path / "small", 100)
    contents = [path.read_bytes() for path in sorted((tmp_path / "small").rglob("*.csv"))]
    assert len(contents) == len(set(contents)) == 100
    assert all(content.count(b"\n") == 60 for content in contents)
    read_tree(tmp_path / "small")


def test_figures_of_retention_come_from_a_lake_in_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")  # the benchmark may be started from anywhere
    figures = records_figures.records(tmp_path, 0.001, lambda _: None)
    assert len(figures) == 4 and all(len(figure.row()) == len(HEAD) for figure in figures)
    assert figures[0].value < 10 and figures[2].value < 1


def test_a_repeated_day_has_another_year() -> None:
    days = repeated_days()
    first = next(days)
    again = next(day for day in days if day[1:3] == first[1:3])
    assert again[0] == first[0] + 1
    assert not set(first[3].splitlines()) & set(again[3].splitlines())


def test_no_block_is_read_twice() -> None:
    size = 1 << 27
    blocks = read_figures._blocks(size, seed=1)
    chosen = [offset for reader in blocks for offset in reader]
    assert len(blocks) == read_figures.READERS
    assert len(chosen) == len(set(chosen)) and max(chosen) < size
    assert blocks == read_figures._blocks(size, seed=1) != read_figures._blocks(size, seed=2)


def test_a_file_system_without_work_accepts_what_is_written(tmp_path: Path) -> None:
    with empty_file(tmp_path, 3 << 20) as zeros:
        write_figures._write(zeros, 3 << 20, MIB, sync=True)
        assert read_whole(zeros) == 3 << 20


def test_a_lake_is_restored_and_mounted(
    tmp_path: Path, seaweed_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed_store.environment().items():
        monkeypatch.setenv(name, value)
    figures = list(restoring(tmp_path, seaweed_store, 3))
    assert [figure.unit for figure in figures] == ["ms", "s", "s"]
    assert "3 versions on an empty machine" in figures[1].work
    assert all(figure.value > 0 for figure in figures)
