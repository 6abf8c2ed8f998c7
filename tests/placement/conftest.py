"""Lakes with tiers; checked, every copy read, when the test is over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from tests.support.tiered import add_tiers, fill, random_tree


@pytest.fixture
def tiered_path(lake_path: Path) -> Path:
    """A new lake with the tiers `warm` and `cold`."""
    add_tiers(lake_path)
    return lake_path


@pytest.fixture
def tiered(tiered_path: Path) -> Iterator[Lake]:
    """A lake with tiers and one version, open for writing."""
    with Lake.open(tiered_path) as lake:
        fill(lake, tiered_path.parent / "scratch", random_tree(1))
        lake.objects.clear()
        yield lake
