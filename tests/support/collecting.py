"""What tests of collections share: files that make garbage, running one, what must hold after it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from dtafs.core.values import Kind
from dtafs.store.check import check
from dtafs.store.collect import collect
from dtafs.store.collect_plan import Rule
from dtafs.store.lake import Lake
from dtafs.store.reindex import dump, reindex
from tests.support.small_lakes import ACTOR, Item, read_version

AT_ONCE = Rule(0, 0.5)
LATER = Rule(10**18, 0.5)


def big(seed: int, size: int = 400_000) -> Item:
    """A file of random bytes."""
    return Item(Kind.FILE, 0o644, random.Random(seed).randbytes(size))


def packs_of(lake: Lake) -> set[bytes]:
    """The packs that are there."""
    return {bytes.fromhex(path.name) for path in Path(lake.path / "packs").glob("*/*")}


def run(lake: Lake, rule: Rule = AT_ONCE, **how: Any) -> dict[str, Any]:
    """Collect, without much patience for who is at work."""
    return collect(lake, ACTOR, rule, settle_s=0.05, **how)


def assert_whole(lake: Lake) -> None:
    """Every version reads, the checker is silent, and a new index is row for row the old one."""
    assert check(lake, read_data=True) == []
    before = list(dump(lake.index.database))
    reindex(lake)
    assert list(dump(lake.index.database)) == before
    for row in lake.datasets():
        for version in lake.versions(row.name):
            if not version.disposed:
                read_version(lake, version)
