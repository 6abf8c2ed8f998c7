"""Fixtures of the conformance tests: a directory in staging, and its twin on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.mounts import Mount
from tests.support.twins import Twins


@pytest.fixture
def twins(lake_path: Path, mount: Callable[..., Mount], tmp_path: Path) -> Iterator[Twins]:
    """A new directory in staging and one on this machine, both open to everybody."""
    mounted = mount(lake_path, "--allow-other")
    (mounted / "D").mkdir()
    model, tested = tmp_path / "model", mounted / "D/staging/tested"
    before = os.umask(0o022)
    try:
        for top in (model, tested):
            top.mkdir()
            top.chmod(0o777)
        pair = Twins(model, tested)
        yield pair
        pair.close()
    finally:
        os.chdir("/")
        os.umask(before)
