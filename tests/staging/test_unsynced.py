"""What a start of the machine finds of patches whose bytes never reached the disk."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.core.values import Kind
from dtafs.store.staging import unsynced
from dtafs.store.staging.datafiles import DataFiles
from tests.staging.fakes import Bench

PAGE = 4096
BELOW = b"below" * PAGE


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """One sealed file `f`."""
    bench = Bench(tmp_path)
    f = bench.staging.make(bench.staging.root_ino, b"f", Kind.FILE, 0o644, 1, 2, 10)
    bench.write(f.ino, 0, BELOW)
    bench.commit()
    while bench.area.tidy():
        pass
    bench.reopen()
    yield bench
    bench.area.close()


def ino(bench: Bench) -> int:
    found = bench.staging.lookup(bench.staging.root_ino, b"f")
    assert found is not None
    return found.ino


def power_failure(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lost: list[tuple[int, int]], boot: str = "next"
) -> None:
    """The rows are on the disk, the bytes in these ranges of the data file are not."""
    file = bench.area.data.path(ino(bench))
    bench.area.flush()
    data = file.read_bytes()
    with file.open("r+b") as handle:
        handle.truncate(0)
        for at in range(0, len(data), PAGE):
            if not any(start <= at < end for start, end in lost):
                os.pwrite(handle.fileno(), data[at : at + PAGE], at)
        handle.truncate(len(data))
    monkeypatch.setattr(unsynced, "this_boot", lambda: boot)
    bench.kill()


def test_a_patch_that_was_lost_shows_what_is_below(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    f = ino(bench)
    bench.write(f, 0, b"a" * PAGE)
    bench.write(f, PAGE, b"b" * PAGE)  # one range with the first
    bench.write(f, 3 * PAGE, bytes(PAGE))
    generation = bench.staging.generation(f)
    with caplog.at_level(logging.WARNING):
        power_failure(bench, monkeypatch, [(PAGE, 2 * PAGE)])
    assert "D: the machine went down" in caplog.text
    expected = b"a" * PAGE + BELOW[PAGE : 3 * PAGE] + bytes(PAGE) + BELOW[4 * PAGE :]
    assert bench.read(ino(bench)) == expected
    assert bench.staging.generation(f) != generation
    bench.write(f, PAGE, b"c" * PAGE)
    bench.commit()
    assert bench.read(ino(bench)) == expected[:PAGE] + b"c" * PAGE + expected[2 * PAGE :]


def test_held_bytes_show_below_a_patch_that_was_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.staging.unlink(bench.staging.root_ino, b"f", 20)
    n = bench.staging.make(bench.staging.root_ino, b"f", Kind.FILE, 0o644, 1, 2, 30).ino
    bench.write(n, 0, b"h" * PAGE)
    bench.write(n, 0, b"p" * 2 * PAGE)
    power_failure(bench, monkeypatch, [(0, PAGE)])
    assert bench.read(n) == b"h" * PAGE + b"p" * PAGE
    bench.area.data.path(n).unlink()
    monkeypatch.setattr(unsynced, "this_boot", lambda: "third")
    bench.kill()
    assert bench.read(n) == b"h" * PAGE + bytes(PAGE)


@pytest.mark.parametrize("why", ["same boot", "copy", "holes of zeros", "sealed"])
def test_holes_that_are_no_loss_stay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    f = ino(bench)
    bench.write(f, 0, bytes(PAGE))
    boot = "next"
    if why == "same boot":
        boot = unsynced.this_boot()
    elif why == "copy":
        monkeypatch.setattr(unsynced, "this_place", lambda directory: "elsewhere")
    elif why == "holes of zeros":
        monkeypatch.setattr(DataFiles, "keeps_zeros", lambda data: False)
    else:
        bench.seal()
    power_failure(bench, monkeypatch, [(0, PAGE)], boot)
    assert bench.read(ino(bench)) == bytes(PAGE) + BELOW[PAGE:]


def test_a_copy_of_a_directory_has_another_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert unsynced.this_place(tmp_path / "a") != unsynced.this_place(tmp_path / "b")
    assert unsynced.this_boot()


def test_zeros_that_were_written_are_no_hole(bench: Bench) -> None:
    assert bench.area.data.keeps_zeros()
    assert "zeros" not in os.listdir(bench.area.data.directory)
