"""Untouched inodes that are too many for memory get rows, and nobody can tell the difference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from dtafs.core.tree import seal_root
from dtafs.core.values import Kind
from dtafs.store.staging import spilling
from dtafs.store.staging.rows import TABLES, Inode
from tests.staging.fakes import Bench
from tests.staging.test_model import History

FEW = 1


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilling, "VIRTUALS_MAX", FEW)
    monkeypatch.setattr(spilling, "SPILLED_AT_ONCE", 70)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Staging that was just opened over a version of 400 names, some of them of one file."""
    bench = Bench(tmp_path)
    staging = bench.staging
    for n in range(40):
        directory = staging.make(staging.root_ino, b"d%02d" % n, Kind.DIRECTORY, 0o755, 1, 2, 10)
        for i in range(8):
            ino = staging.make(directory.ino, b"f%d" % i, Kind.FILE, 0o644, 1, 2, 10).ino
            bench.write(ino, 0, b"%d %d" % (n, i))
        staging.link(ino, staging.root_ino, b"l%02d" % n, 10)
    bench.commit()
    tidy(bench)
    bench.reopen()
    yield bench
    bench.area.close()


def tidy(bench: Bench) -> None:
    while bench.area.tidy():
        pass
    bench.area.flush()


def look(bench: Bench) -> dict[bytes, Inode]:
    """Everything as `ls -lR` sees it, each number remembered once."""
    found: dict[bytes, Inode] = {}
    pending = [(b"", bench.staging.root_ino)]
    while pending:
        path, ino = pending.pop()
        handle = bench.staging.open_directory(ino)
        for name, _, inode in bench.staging.list(handle):
            bench.staging.remember(inode.ino)
            found[path + b"/" + name] = inode
            if inode.kind == Kind.DIRECTORY:
                pending.append((path + b"/" + name, inode.ino))
        bench.staging.close_directory(handle)
    return found


def test_numbers_and_attributes_stay(bench: Bench) -> None:
    before, root = look(bench), bench.staging.base.root
    assert len(before) == 400
    assert len(bench.staging._overlay.virtuals) <= FEW + 2 * 64
    assert look(bench) == before
    for path, inode in before.items():
        assert bench.staging.inode(inode.ino) == inode
        parts = tuple(path[1:].split(b"/"))
        found = bench.staging.resolve(parts)
        assert found == inode
    assert bench.read(before[b"/d07/f3"].ino) == b"7 3"
    assert bench.staging.is_clean()
    assert seal_root(bench.staging.build(bench.objects.node).top)[0] == root


def test_they_go_when_nobody_holds_them(bench: Bench) -> None:
    before = look(bench)
    bench.write(before[b"/d07/f3"].ino, 0, b"changed")
    bench.staging.unlink(bench.staging.root_ino, b"l08", 20)
    bench.commit()
    assert bench.staging.resolve((b"d07", b"f3")) == bench.staging.inode(before[b"/d07/f3"].ino)
    assert bench.read(before[b"/l09"].ino) == b"9 7"
    for path, inode in before.items():
        if path != b"/l08":
            bench.staging.forget(inode.ino)
    bench.reopen()
    tidy(bench)
    with bench.area.database.read() as txn:
        left = {table: txn.count(table) for table in TABLES if table not in ("area", "dataset")}
    assert left == {table: int(table == "inode") for table in left}
    assert len(look(bench)) == 399


class FewInMemory(History):
    """The random histories of `test_model`, with rows for nearly everything that is known."""


FewInMemory.TestCase.settings = settings(settings.default, max_examples=50, stateful_step_count=40)
TestFewInMemory = FewInMemory.TestCase
