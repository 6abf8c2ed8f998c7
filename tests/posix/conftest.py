"""Fixtures of the conformance tests: a directory in staging, and its twin on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from tests.support.lakes import assert_sound
from tests.support.mounts import Mount, mounted
from tests.support.twins import Twins


@pytest.fixture(scope="module")
def module_mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """A mounted lake with an empty dataset D, for all tests of a module."""
    place = tmp_path_factory.mktemp("posix")
    for above in (place, *place.parents[:2]):
        above.chmod(0o755)  # other users have to get there
    Lake.create(place / "lake").close()
    with mounted(place / "lake", place / "mnt", "--allow-other") as mount:
        (mount / "D").mkdir()
        yield mount
    assert_sound(place / "lake")


@pytest.fixture
def twins(module_mount: Mount, tmp_path: Path) -> Iterator[Twins]:
    """A new directory in staging and one on this machine, both open to everybody."""
    model, tested = tmp_path / "model", module_mount / "D/staging" / tmp_path.name
    before = os.umask(0o022)
    try:
        for top in (model, tested):
            top.mkdir()
            top.chmod(0o777)
        with closing(Twins(model, tested)) as pair:
            yield pair
    finally:
        os.umask(before)
