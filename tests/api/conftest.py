"""Lakes through the API, and a tree to fill them with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs import Dataset, Lake
from tests.support.evidence import make_tree


@pytest.fixture(params=["alone", "daemon"])
def api(request: pytest.FixtureRequest, lake_path: Path) -> Iterator[Lake]:
    """A new lake through the API: without a daemon, and with one that has it mounted."""
    if request.param == "daemon":
        request.getfixturevalue("mount")(lake_path)
    with Lake(lake_path) as lake:
        yield lake


@pytest.fixture
def alone(lake_path: Path) -> Iterator[Lake]:
    """A new lake through the API, without a daemon."""
    with Lake(lake_path) as lake:
        yield lake


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    make_tree(tmp_path / "tree")
    return tmp_path / "tree"


def filled(lake: Lake, tree: Path) -> Dataset:
    """D with one version of `tree`."""
    dataset = lake.create_dataset("D", ["raw"])
    dataset.put([f"{tree}/."])
    dataset.commit("First")
    return dataset
