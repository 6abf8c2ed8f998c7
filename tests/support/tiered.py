"""Lakes with tiers in directories: one that can be read, and one that stands for a tape library."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from dtafs.core.format import PackKind, pack_key
from dtafs.core.tree import find
from dtafs.core.values import Content, Kind
from dtafs.store.lake import Lake
from dtafs.store.packs import read_footer
from dtafs.store.placement.moves import move_pack
from dtafs.store.tiers.base import Tier
from dtafs.store.tiers.directory import DirectoryTier
from tests.support.small_lakes import ACTOR, Item, Tree, commit, put_tree

DATASET = "WF-2024-07"


def add_tiers(lake: Path, more: str = "") -> None:
    """Configure `warm` and `cold` below the directory that a lake is in, empty; `more` is added to
    `config.toml`."""
    lines = []
    for name, archive in (("warm", ""), ("cold", 'storage_class = "TAPE"\n')):
        place = lake.parent / name
        place.mkdir(exist_ok=True)
        shutil.copy(lake / "lake.json", place)
        lines.append(f'[tiers.{name}]\nurl = "file://{place}"\n{archive}')
    (lake / "config.toml").write_text("\n".join([*lines, more]))


def configure(lake: Path, more: str) -> None:
    """Add lines to the configuration of a lake."""
    path = lake / "config.toml"
    path.write_text(path.read_text() + more)


def random_tree(seed: int, files: int = 3, size: int = 300_000) -> Tree:
    """Files that share nothing and do not compress."""
    dice = random.Random(seed)
    return {b"file %d" % n: Item(Kind.FILE, 0o644, dice.randbytes(size + n)) for n in range(files)}


def fill(lake: Lake, scratch: Path, *trees: Tree, dataset: str = DATASET) -> None:
    """Commit trees as the versions of a new dataset."""
    lake.create_dataset(dataset, ACTOR)
    for tree in trees:
        put_tree(lake, dataset, tree, scratch)
        commit(lake, dataset)


def content_packs(lake: Lake) -> list[bytes]:
    """The packs of content that the log names, sorted."""
    return [pack for pack, row in lake.index.packs() if row.kind == PackKind.CONTENT]


def garbage(lake: Lake, scratch: Path, seed: int = 2) -> bytes:
    """A pack that nothing refers to, with a copy in `warm` and not on the hot disk. The dataset's staging
    has `random_tree(1)` in the end."""
    put_tree(lake, DATASET, random_tree(seed, 1, 10_000), scratch)
    assert lake.pending is not None
    (pack,) = [
        pack
        for pack, _dataset in lake.pending.all_packs()
        if read_footer(lake.path, pack).kind == PackKind.CONTENT
    ]
    put_tree(lake, DATASET, random_tree(1), scratch)
    lake.pending.drop_unreadable(DATASET, pack)
    move_pack(lake, pack, "warm")
    return pack


def content_of(lake: Lake, version: str, name: bytes) -> Content:
    """The content of a file in the top directory of a version."""
    found = find(lake.objects.node, lake.objects.top(lake.resolve(version)).ref, name)
    assert found is not None
    return found.entry.content


def objects_in(tier: Path) -> set[str]:
    """The names of the packs that lie in the directory of a tier."""
    return {path.name for path in tier.glob("packs/*/*")}


class TroubledTier(DirectoryTier):
    """A tier that fails when it is told to, and counts what it is asked for."""

    def __init__(self, name: str, root: Path, **how: Any) -> None:
        super().__init__(name, root, **how)
        self.failure: Exception | None = None
        self.calls: list[tuple[str, str, int]] = []

    def _meet(self, call: str, key: str, size: int = 0) -> None:
        self.calls.append((call, key, size))
        if self.failure is not None:
            raise self.failure

    def put(self, key: str, data: Any) -> None:
        self._meet("put", key)
        super().put(key, data)

    def facts(self, key: str) -> Any:
        self._meet("facts", key)
        return super().facts(key)

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        self._meet("read", key, size or 0)
        return super().read(key, offset, size)

    def fetch(self, key: str, sink: Any) -> None:
        self._meet("fetch", key)
        super().fetch(key, sink)

    def delete(self, key: str) -> None:
        self._meet("delete", key)
        super().delete(key)


def troubled(lake: Lake, name: str) -> TroubledTier:
    """Put a tier that fails when it is told to in the place of a lake's own."""
    root = lake.path.parent / name
    tier = TroubledTier(name, root, archive=lake.tier(name).needs_recall)
    lake.tiers.use(name, tier)
    return tier


def object_path(tier: Tier, lake: Lake, pack: bytes) -> Path:
    """Where the object of a pack lies in the directory of a tier."""
    return lake.path.parent / tier.name / pack_key(pack)
