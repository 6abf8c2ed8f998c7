"""The scenarios of a disposition: of one of two versions, and what must hold wherever it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dtafs.store.lake import Lake
from tests.support.disposing import dispose_of, needles_of, order_of
from tests.support.small_lakes import Tree
from tests.support.traces import traces

DATASET = "WF-2024-07"
Act = Callable[[Path, Path, Callable[[str], None]], None]


def disposing(number: int) -> Act:
    """Dispose of a version."""

    def act(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
        with Lake.open(path) as lake:
            done = dispose_of(lake, order_of(DATASET, number))
            assert not done.left and not done.refused
        reached("disposed")

    return act


def verify(lake: Lake, number: int, trees: dict[int, Tree], promised: bool) -> None:
    """Another run finishes it; then nothing that the version alone had is anywhere, which is so already
    where the first run had come back."""
    kept = {
        b"%d " % other + name: item
        for other, tree in trees.items()
        if other != number
        for name, item in tree.items()
    }
    needles = needles_of(trees[number], kept)
    assert needles
    if promised:
        assert lake.resolve(f"{DATASET}:v{number}").disposed
        assert traces([lake.path], needles) == []
    before = lake.index.head(DATASET)
    done = dispose_of(lake, order_of(DATASET, number))
    assert not done.left and not done.refused
    assert not promised or lake.index.head(DATASET) == before
    assert traces([lake.path], needles) == []
    head = lake.index.head(DATASET)
    assert head is not None
    kinds = [lake.log.read(DATASET, n).entry.kind for n in range(1, head[0] + 1)]
    assert kinds.count("disposed") == kinds.count("destroyed") == 1
