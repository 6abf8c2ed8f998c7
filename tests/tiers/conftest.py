"""The tiers that the contract suite runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtafs.store.tiers.base import Tier
from dtafs.store.tiers.directory import DirectoryTier


@pytest.fixture(params=["directory", "tape"])
def tier(request: pytest.FixtureRequest, tmp_path: Path) -> Tier:
    """An empty tier of each kind."""
    root = tmp_path / "tier"
    root.mkdir()
    return DirectoryTier("cold", root, archive=request.param == "tape")
