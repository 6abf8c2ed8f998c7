"""Scenarios of packs on their way between tiers: the tiers lie in the lake's directory, so that the
simulated disk crashes them with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from dtafs.core.format import PackKind
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import move_packs
from dtafs.store.placement.stubs import doomed_packs, stubbed_packs, tiers_of
from dtafs.store.session import Session
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed

DATASET = "WF-2024-07"
TIERS = ("near", "second")
PLACE = "tiers"


def content_packs(lake: Lake) -> list[bytes]:
    """The packs of content that the log names."""
    return [pack for pack, row in lake.index.packs() if row.kind == PackKind.CONTENT]


def add_tiers(path: Path, *names: str, more: str = "") -> None:
    """Give a lake empty tiers in its own directory; `more` goes into the table of each."""
    tables = []
    for name in names:
        place = path / PLACE / name
        place.mkdir(parents=True)
        shutil.copy(path / "lake.json", place)
        tables.append(f'[tiers.{name}]\nurl = "file://{place}"\n{more}')
    (path / "config.toml").write_text("".join(tables))


def hot(path: Path, scratch: Path) -> None:
    """Two versions, all of it hot, and two empty tiers."""
    with Lake.create(path) as lake:
        lake.create_dataset(DATASET, ACTOR, ("raw",))
        for seed in (1, 2):
            put_tree(lake, DATASET, tree_of_seed(seed), scratch)
            commit(lake, DATASET, str(seed))
    add_tiers(path, *TIERS)


def away(path: Path, scratch: Path) -> None:
    """The same, with all content in the first tier."""
    hot(path, scratch)
    with Lake.open(path) as lake:
        assert not move_packs(lake, content_packs(lake), "near").left


def send_away(path: Path) -> None:
    """Move all content of a lake without tiers to one."""
    add_tiers(path, *TIERS)
    with Lake.open(path) as lake:
        assert not move_packs(lake, content_packs(lake), "near").left


def garbage(path: Path, scratch: Path) -> None:
    """The same, with packs in the tier that nothing needs, one of them named by the log."""
    hot(path, scratch)
    with Lake.open(path) as lake:
        lake.create_dataset("gone", ACTOR)
        put_tree(lake, "gone", tree_of_seed(7), scratch)
        session = Session(lake, ACTOR)
        assert lake.pending is not None
        staged = [pack for pack, _dataset in lake.pending.all_packs()]
        session.discard("gone")
        move_packs(lake, [*content_packs(lake), *staged], "near")


def move(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """All content to the first tier."""
    with Lake.open(path) as lake:
        assert not move_packs(lake, content_packs(lake), "near").left
        reached("moved")


def recall(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """All content back."""
    with Lake.open(path) as lake:
        assert lake.recalls is not None
        lake.recalls.ask(content_packs(lake))
        reached("asked")
        while lake.recalls.step():
            continue
        assert not lake.recalls.left(content_packs(lake))
        reached("recalled")


def move_on(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """All content from the first tier to the second."""
    with Lake.open(path) as lake:
        assert not move_packs(lake, content_packs(lake), "second").left
        reached("moved on")


def collect(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """Garbage goes, from the tier too."""
    with Lake.open(path) as lake:
        Session(lake, ACTOR).collect(grace_s=0)
        reached("collected")


# What was promised holds, and what was interrupted can be finished


def finish_move(lake: Lake, reached: tuple[str, ...]) -> None:
    packs = content_packs(lake)
    assert "moved" not in reached or not any(map(lake.placed.is_hot, packs))
    assert not move_packs(lake, packs, "near").left
    assert all(tiers_of(lake.path, pack).keys() == {"near"} for pack in packs)


def finish_recall(lake: Lake, reached: tuple[str, ...]) -> None:
    packs = content_packs(lake)
    assert lake.recalls is not None
    if "asked" in reached:
        while lake.recalls.step():
            continue
        assert all(map(lake.placed.is_hot, packs))
    lake.recalls.ask(packs)
    while lake.recalls.step():
        continue
    assert all(map(lake.placed.is_hot, packs))


def finish_move_on(lake: Lake, _reached: tuple[str, ...]) -> None:
    packs = content_packs(lake)
    assert not move_packs(lake, packs, "second").left
    assert all("second" in tiers_of(lake.path, pack) for pack in packs)


def collect_again(lake: Lake, reached: tuple[str, ...]) -> None:
    """Nothing stays in the tier that no stub tells of."""
    facts = Session(lake, ACTOR).collect(grace_s=0)
    assert "collected" not in reached or not facts["packs"], facts
    assert not doomed_packs(lake.path)
    there = {bytes.fromhex(p.name) for p in (lake.path / PLACE / "near/packs").glob("*/*")}
    assert there == set(stubbed_packs(lake.path)) <= set(content_packs(lake))
