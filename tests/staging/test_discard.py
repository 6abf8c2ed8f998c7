"""Starting again: names of one file in the base keep its number, and so the name of its data."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtafs.core.values import Kind
from tests.staging.fakes import Bench

BASE = b"of the base " * 1000


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Staging over a version with a file of two names, with a change to it that is discarded."""
    bench = Bench(tmp_path)
    staging = bench.staging
    ino = staging.make(staging.root_ino, b"a", Kind.FILE, 0o644, 1, 2, 10).ino
    bench.write(ino, 0, BASE)
    staging.link(ino, staging.root_ino, b"b", 10)
    bench.commit()
    bench.write(look(bench), 100, b"discarded")
    return bench


def look(bench: Bench, name: bytes = b"a") -> int:
    found = bench.staging.lookup(bench.staging.root_ino, name)
    assert found is not None
    return found.ino


def tidy(bench: Bench) -> None:
    while bench.area.tidy():
        bench.area.flush()
    bench.area.flush()


def read(bench: Bench, name: bytes = b"a") -> bytes:
    ino = look(bench, name)
    return bench.read(ino, 0, len(BASE) + 100)


def test_what_is_written_after_it_stays(bench: Bench) -> None:
    bench.staging.discard()
    bench.write(look(bench), 10, b"kept")
    tidy(bench)
    expected = BASE[:10] + b"kept" + BASE[14:]
    assert read(bench) == read(bench, b"b") == expected
    bench.kill()
    assert read(bench) == expected
    bench.area.close()


def test_what_is_written_while_it_is_tidied_stays(bench: Bench) -> None:
    bench.staging.discard()
    ino = look(bench)
    handle = bench.staging.open(ino, True)
    bench.staging.begin_write(ino)
    tidy(bench)
    bench.write(ino, 10, b"kept")
    tidy(bench)
    bench.staging.close(handle)
    assert read(bench) == BASE[:10] + b"kept" + BASE[14:]
    bench.area.close()


def test_a_file_that_was_open_reads_as_the_base(bench: Bench) -> None:
    ino = look(bench)
    handle = bench.staging.open(ino, False)
    assert bench.read(ino, 100, 9) == b"discarded"
    bench.staging.discard()
    bench.write(look(bench), 10, b"kept")
    tidy(bench)
    assert bench.read(ino, 0, 200) == BASE[:10] + b"kept" + BASE[14:200]
    bench.staging.close(handle)
    assert read(bench) == BASE[:10] + b"kept" + BASE[14:]
    bench.area.close()
