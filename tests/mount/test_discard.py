"""Discarding through a daemon: a file with several names keeps its number, and the kernel must not
take what it knows of the number from before for the file that it is afterwards."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.mounts import Mount
from tests.support.programs import ctl

BASE = b"of the base"
LONGER = b"discarded " * 1_000
NAMES = ("a", "b", "in/c")


def make_dataset(mount: Mount, name: str) -> Path:
    """A dataset with a version, in which a file has three names, one of them in a directory."""
    dataset = mount / name
    dataset.mkdir()
    staging = dataset / "staging"
    (staging / "in").mkdir()
    (staging / "a").write_bytes(BASE)
    for other in NAMES[1:]:
        os.link(staging / "a", staging / other)
    ctl(mount.lake, "commit", name, "-m", "three names")
    return dataset


@contextmanager
def standing_in(directory: Path) -> Iterator[None]:
    """So that the kernel needs what it knows of a directory."""
    before = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize("again", [False, True])
def test_a_file_of_several_names_is_the_base_again(mounted_lake: Mount, again: bool) -> None:
    """In whichever order its names are looked up, and with one of them open; `again`: in staging
    that has not even rows of those names."""
    orders = [("a", "b", "in/c"), ("b", "a"), ("in/c", "a")]
    for number, (seen, held) in enumerate(itertools.product(orders, (None, 0, 1))):
        dataset = make_dataset(mounted_lake, f"D{number}")
        with standing_in(dataset / "staging/in"):
            if again:
                ctl(mounted_lake.lake, "discard", dataset.name)
            _discard_and_go_on(mounted_lake, dataset, seen, None if held is None else seen[held])


def _discard_and_go_on(
    mount: Mount, dataset: Path, seen: tuple[str, ...], held: str | None
) -> None:
    staging = dataset / "staging"
    (staging / seen[0]).write_bytes(LONGER)
    reader = os.open(staging / held, os.O_RDONLY) if held else -1
    assert {(staging / name).read_bytes() for name in seen} == {LONGER}
    ctl(mount.lake, "discard", dataset.name)
    for name in reversed(seen):
        assert (staging / name).stat().st_size == len(BASE), name
        assert (staging / name).read_bytes() == BASE, name
    if held:
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(reader, 1, 0)
        with suppress(OSError):  # Linux has closed it, whatever it says of the file
            os.close(reader)
    fd = os.open(staging / seen[-1], os.O_WRONLY)
    os.pwrite(fd, b"OF", 0)
    os.close(fd)
    ctl(mount.lake, "commit", dataset.name, "-m", "written after it")
    for name, place in itertools.product(NAMES, ("staging", "v2")):
        assert (dataset / place / name).read_bytes() == b"OF the base", (place, name)
