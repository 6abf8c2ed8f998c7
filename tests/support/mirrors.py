"""Lakes with a mirror in a directory: filling them, and what the mirror has to have."""

from __future__ import annotations

from pathlib import Path

from dtafs.core.format import PackKind, pack_key
from dtafs.store.lake import Lake
from dtafs.store.placement.removal import footer_key
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed


def fill(lake: Lake, scratch: Path, *seeds: int) -> None:
    """Commit trees of seeds as versions of `d`."""
    if "d" not in {row.name for row in lake.datasets()}:
        lake.create_dataset("d", ACTOR)
    for seed in seeds:
        put_tree(lake, "d", tree_of_seed(seed), scratch)
        commit(lake, "d", f"version of {seed}")


def objects(top: Path) -> set[str]:
    """The keys of the objects in the directory of a tier."""
    paths = (path for path in top.rglob("*") if path.is_file())
    return {str(path.relative_to(top)) for path in paths} - {"tmp"}


def expected(lake: Lake) -> set[str]:
    """What the mirror of a lake has to have, no more and no less."""
    keys = {"lake.json"}
    keys |= {str(path.relative_to(lake.path)) for path in (lake.path / "log").rglob("0*")}
    for pack, row in lake.index.packs():
        keys.add(pack_key(pack) if row.kind == PackKind.METADATA else footer_key(pack))
    return keys
