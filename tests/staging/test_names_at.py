"""`names_at` says of every directory what a listing says, whatever staging lies on and has done."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dtafs.core.values import Kind
from tests.staging.fakes import Bench

MOST = 1_000


def names_listed(bench: Bench, path: tuple[bytes, ...]) -> set[bytes] | None:
    staging = bench.staging
    there = staging.resolve(path)
    if there is None or there.kind != Kind.DIRECTORY:
        return None
    handle = staging.open_directory(there.ino)
    names = {name for name, _, _ in staging.list(handle)}
    staging.close_directory(handle)
    return names


@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_of_a_listing(tmp_path: Path, seed: int) -> None:
    bench, dice = Bench(tmp_path), random.Random(seed)
    staging = bench.staging
    tops = [(b"%d" % n,) for n in range(3)]
    paths = [(), *tops, *((*top, b"below") for top in tops), (b"0", b"below", b"file 1")]
    for _ in range(6):
        for _ in range(20):
            above = dice.choice(paths[:-1])
            for depth in range(len(above)):
                inode, parent = staging.resolve(above[: depth + 1]), staging.resolve(above[:depth])
                assert parent is not None
                if inode is None:
                    staging.make(parent.ino, above[depth], Kind.DIRECTORY, 0o755, 1, 2, 10)
            path = (*above, b"file %d" % dice.randrange(5))
            directory = staging.resolve(above)
            assert directory is not None
            if dice.random() < 0.4:
                staging.remove_path(path if dice.random() < 0.8 else above or path, 10)
            elif staging.lookup(directory.ino, path[-1]) is None:
                made = staging.make(directory.ino, path[-1], Kind.FILE, 0o644, 1, 2, 10)
                bench.write(made.ino, 0, b"something")
        for path in paths:
            found, expected = staging.names_at(path, MOST), names_listed(bench, path)
            assert found is not None and set(found) == (expected or set())
            if expected and len(expected) > 1:
                assert staging.names_at(path, len(expected) // 2) is None
        if dice.random() < 0.7:
            bench.seal()
            bench.commit()
        if dice.random() < 0.5:
            bench.reopen()
            staging = bench.staging
    bench.area.close()
