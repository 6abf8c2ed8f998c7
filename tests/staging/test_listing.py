"""Cookies: what is there all the time is listed once, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from dtafs.core.values import Kind
from dtafs.store.staging import DirectoryHandle
from tests.staging.fakes import Bench

BASE = [b"base%03d" % n for n in range(150)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A base with 150 names."""
    bench = Bench(tmp_path)
    for name in BASE:
        make(bench, name)
    bench.commit()
    while bench.area.tidy():
        pass
    bench.reopen()
    yield bench
    bench.area.close()


def make(bench: Bench, name: bytes) -> None:
    bench.staging.make(bench.staging.root_ino, name, Kind.FILE, 0o644, 1, 2, 10)


def some(
    bench: Bench, handle: DirectoryHandle, cookie: int, count: int | None = None
) -> tuple[list[bytes], int]:
    found = list(islice(bench.staging.list(handle, cookie), count))
    return [name for name, _, _ in found], found[-1][1] if found else cookie


@pytest.mark.parametrize("step", [1, 7, 64, 65, 200])
def test_in_pieces_as_in_one(bench: Bench, step: int) -> None:
    for n in range(90):
        make(bench, b"added%02d" % n)
    handle, cookie, names = bench.staging.open_directory(bench.staging.root_ino), 0, []
    while True:
        part, cookie = some(bench, handle, cookie, step)
        if not part:
            break
        names += part
    assert sorted(names) == sorted(BASE + [b"added%02d" % n for n in range(90)])
    assert len(names) == len(set(names))


def test_removing_while_listing(bench: Bench) -> None:
    """What `rm -r` does: every name is met although those before it are gone."""
    root = bench.staging.root_ino
    for n in range(90):
        make(bench, b"added%02d" % n)
    handle, cookie, met = bench.staging.open_directory(root), 0, 0
    while True:
        part, cookie = some(bench, handle, cookie, 10)
        if not part:
            break
        for name in part:
            bench.staging.unlink(root, name, 20)
            met += 1
    assert met == 240
    assert not list(bench.staging.list(bench.staging.open_directory(root)))


@pytest.mark.parametrize("at", [0, 20, 149, 150, 155, 159])
@pytest.mark.parametrize("tidy", [False, True])
def test_across_a_commit(bench: Bench, at: int, tidy: bool) -> None:
    root = bench.staging.root_ino
    for n in range(10):
        make(bench, b"added%d" % n)
    bench.staging.unlink(root, b"base100", 20)
    handle = bench.staging.open_directory(root)
    before, cookie = some(bench, handle, 0, at) if at else ([], 0)
    bench.commit()
    bench.staging.unlink(root, b"base101", 20)
    bench.staging.unlink(root, b"added9", 20)
    make(bench, b"late")
    while tidy and bench.area.tidy():
        pass
    after, _ = some(bench, handle, cookie)
    steady = set(BASE + [b"added%d" % n for n in range(9)]) - {b"base100", b"base101"}
    assert len(before + after) == len(set(before + after))
    assert steady <= set(before + after) <= steady | {b"late", b"base101", b"added9"}
    fresh, _ = some(bench, bench.staging.open_directory(root), 0)
    assert sorted(fresh) == sorted([*steady, b"late"])


def test_a_name_that_was_replaced_is_listed_once(bench: Bench) -> None:
    root = bench.staging.root_ino
    handle = bench.staging.open_directory(root)
    first, cookie = some(bench, handle, 0, 5)
    for name in (b"base001", b"base120"):
        bench.staging.unlink(root, name, 20)
        make(bench, name)
    rest, _ = some(bench, handle, cookie)
    assert sorted(first + rest) == BASE
