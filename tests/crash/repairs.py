"""The scenario of a repair: a lake that is damaged in several ways, and what it is mended from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dtafs.core.format import PackKind, pack_key
from dtafs.core.parity import parity_key
from dtafs.core.values import Kind
from dtafs.store.lake import Lake
from dtafs.store.session import Session
from tests.support.small_lakes import ACTOR, Item, commit, put_tree, tree_of_seed

DATASET = "WF-2024-07"
OTHERS = ("copy", "other")


def staged(path: Path, scratch: Path) -> None:
    """A lake with parity and staged work."""
    with Lake.create(path, parity=2) as lake:
        lake.create_dataset(DATASET, ACTOR, ("raw",))
        put_tree(lake, DATASET, tree_of_seed(1), scratch)


def damaged(path: Path, scratch: Path) -> None:
    """Two versions with parity: a content pack that only has its chunks elsewhere, metadata that
    parity mends, parity that is gone, a log entry that a copy has. Beside it, two lakes to take from.
    """
    staged(path, scratch)
    with Lake.open(path) as lake:
        commit(lake, DATASET, "first")
        put_tree(lake, DATASET, tree_of_seed(2), scratch)
        commit(lake, DATASET, "second")
        found = lake.index.packs()
    copy, other = (path.parent / name for name in OTHERS)
    shutil.copytree(path, copy)
    with Lake.create(other) as lake:
        lake.create_dataset("X", ACTOR)
        put_tree(lake, "X", {b"a": Item(Kind.FILE, 0o644, b"first")} | tree_of_seed(1), scratch)
        commit(lake, "X")
    first = [(pack, row) for pack, row in found if row.sequence == 2]
    for pack, row in first:
        file = path / pack_key(pack)
        data = bytearray(file.read_bytes())
        data[len(data) // 3] ^= 1
        file.unlink()
        file.write_bytes(data)
        if row.kind == PackKind.CONTENT:
            (path / parity_key(pack)).unlink()
            (copy / pack_key(pack)).unlink()
    gone = next(pack for pack, row in found if row.sequence == 3)
    (path / parity_key(gone)).unlink()
    (path / f"log/{DATASET}/0000000001").unlink()


def repaired(path: Path) -> dict[str, Any]:
    """Repair a lake of `damaged`, as if frames could not be compressed to the same bytes again."""
    places = [str(path.parent / name) for name in OTHERS]
    encodings = "dtafs.store.repair_packs.encodings"
    with Lake.open(path) as lake, patch(encodings, lambda *_arguments: iter(())):
        return Session(lake, ACTOR).repair(places)


def act(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """The scenario: all of it is mended."""
    facts = repaired(path)
    assert len(facts["mended"]) == 3 and len(facts["replaced"]) == 1 and not facts["lost"]
    reached("repaired")


def recover(path: Path, reached: tuple[str, ...]) -> None:
    """A repair that was interrupted is repeated."""
    if "repaired" not in reached:
        assert not repaired(path)["lost"]
