"""A directory with more changes than a commit holds in memory is walked again, to the same tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtafs.core.values import Kind
from dtafs.errors import RefusedError
from dtafs.store.staging import sealing
from tests.staging.fakes import Bench


def fill(bench: Bench, names: range) -> None:
    """Files, every third one in a directory of its own that holds some more."""
    staging = bench.staging
    for number in names:
        name, above = b"%04d" % number, staging.root_ino
        if number % 3 == 0:
            above = staging.make(above, name, Kind.DIRECTORY, 0o755, 1, 2, 10).ino
        for inner in range(number % 5 + 1 if above != staging.root_ino else 1):
            ino = staging.make(above, b"%s-%d" % (name, inner), Kind.FILE, 0o644, 1, 2, 10).ino
            bench.write(ino, 0, name)


def change(bench: Bench, step: int) -> None:
    """Take some names away, bring some, and change what lies deeper."""
    staging = bench.staging
    for number in range(step, 60, 7):
        if number % 3:
            staging.remove_path((b"%04d-0" % number,), 20 + step)
        else:
            staging.remove_path((b"%04d" % number,), 20 + step)
    fill(bench, range(100 * step, 100 * step + 30))


@pytest.mark.parametrize("held", [0, 1, 10, 45])
def test_the_tree_is_the_same(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path)
    fill(bench, range(60))
    for step in (1, 2, 3):
        bench.seal()
        expected = bench.staging.build(bench.objects.node)
        with monkeypatch.context() as patched:
            patched.setattr(sealing, "CHANGES_HELD", held)
            assert bench.staging.build(bench.objects.node) == expected
            bench.commit()
        change(bench, step)
    bench.area.close()


def test_what_cannot_be_sealed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "CHANGES_HELD", 3)
    bench = Bench(tmp_path)
    fill(bench, range(20))
    bench.staging.make(bench.staging.root_ino, b"socket", Kind.SOCKET, 0o644, 1, 2, 10)
    with pytest.raises(RefusedError, match="is a socket"):
        bench.commit()
    bench.area.close()
