"""The scenarios of a disposition: of one of two versions, and what must hold wherever it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dtafs.core.format import pack_key
from dtafs.core.parity import parity_key
from dtafs.store.lake import Lake
from dtafs.store.quarantine import quarantine_pack
from tests.support.disposing import dispose_of, needles_of, order_of
from tests.support.small_lakes import ACTOR, Tree, commit, put_tree, tree_of_seed
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


def with_parity(path: Path, scratch: Path) -> None:
    """Two versions with parity, and of each pack a damaged one, with its parity, in quarantine."""
    with Lake.create(path, parity=2) as lake:
        lake.create_dataset(DATASET, ACTOR)
        for seed in (1, 2):
            put_tree(lake, DATASET, tree_of_seed(seed), scratch)
            commit(lake, DATASET)
        for pack, _row in lake.index.packs():
            whole = [
                (path / key, (path / key).read_bytes())
                for key in (pack_key(pack), parity_key(pack))
            ]
            quarantine_pack(lake.disk, path, pack)
            for file, data in whole:
                lake.disk.put_new(file, data)


def finishing(number: int, trees: dict[int, Tree]) -> Callable[[Lake, tuple[str, ...]], None]:
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

    def finish(lake: Lake, reached: tuple[str, ...]) -> None:
        promised = "disposed" in reached
        if promised:
            assert lake.resolve(f"{DATASET}:v{number}").disposed
            assert_nothing_left(lake, needles)
        before = lake.index.head(DATASET)
        done = dispose_of(lake, order_of(DATASET, number))
        assert not done.left and not done.refused
        assert not promised or lake.index.head(DATASET) == before
        assert_nothing_left(lake, needles)
        head = lake.index.head(DATASET)
        assert head is not None
        kinds = [lake.log.read(DATASET, n).entry.kind for n in range(1, head[0] + 1)]
        assert kinds.count("disposed") == kinds.count("destroyed") == 1

    return finish


def assert_nothing_left(lake: Lake, needles: list[bytes]) -> None:
    """None of it is in any object of any tier, and no parity is left of a pack that is gone, from which
    what it held might be worked out."""
    assert traces([lake.path], needles) == []
    for folder in (lake.path, lake.path / "quarantine"):
        packs = {file.name for file in (folder / "packs").rglob("*") if file.is_file()}
        parity = {file.name for file in (folder / "parity").rglob("*") if file.is_file()}
        assert parity <= packs, folder
