"""The tiers that the contract suite runs on, and prefixes that no other test uses."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from dtafs.store.tiers.base import Tier
from dtafs.store.tiers.directory import DirectoryTier
from tests.support.programs import ctl
from tests.support.tiers import tier_at

KINDS = {
    "directory": "a directory",
    "tape": "a directory that stands for a tape library",
    "seaweedfs": "a bucket of SeaweedFS",
    "moto": "a bucket of moto",
    "glacier": "a bucket of moto whose packs are archived",
}

_numbers = itertools.count()


@pytest.fixture
def prefix() -> str:
    """A part of a bucket for one test."""
    return f"lakes/test {next(_numbers)}"


@pytest.fixture(params=KINDS)
def tier(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Tier:
    """An empty tier of each kind."""
    kind = request.param
    if kind in ("directory", "tape"):
        root = tmp_path / "tier"
        root.mkdir()
        return DirectoryTier("cold", root, archive=kind == "tape")
    store = request.getfixturevalue("seaweed_store" if kind == "seaweedfs" else "moto_store")
    return tier_at(store, prefix, "GLACIER" if kind == "glacier" else None)


@pytest.fixture
def warm(lake_path: Path, tmp_path: Path) -> Path:
    """The directory that is the tier warm of the lake."""
    ctl(lake_path, "tier", "add", "warm", f"file://{tmp_path}/warm")
    return tmp_path / "warm"
