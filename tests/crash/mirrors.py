"""Scenarios of the mirror, and of a lake that is made again from it. In those of the mirror its directory
lies in the lake's, so that the simulated disk crashes both."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from dtafs.errors import ConflictError, DtafsError
from dtafs.store.config import TierSettings
from dtafs.store.lake import Lake
from dtafs.store.tiers.mirror import is_behind, mirror
from dtafs.store.tiers.restore import restore
from tests.crash.moves import PLACE, add_tiers
from tests.support.small_lakes import ACTOR, Tree, commit, put_tree, read_version, tree_of_seed

DATASET = "WF-2024-07"
TREES = {number: tree_of_seed(number) for number in (1, 2)}


def _add_version(lake: Lake, number: int, scratch: Path) -> None:
    put_tree(lake, DATASET, TREES[number], scratch)
    commit(lake, DATASET, str(number))


def hot(path: Path, scratch: Path, *numbers: int) -> None:
    """Versions, only the first unless more are said, and an empty mirror, content included."""
    with Lake.create(path) as lake:
        lake.create_dataset(DATASET, ACTOR)
        for number in numbers or (1,):
            _add_version(lake, number, scratch)
    add_tiers(path, "warm", more="mirror_content = true\n")


def mirrored(path: Path, scratch: Path) -> None:
    """One version that is mirrored, and one that is not yet."""
    hot(path, scratch)
    with Lake.open(path) as lake:
        mirror(lake)
        _add_version(lake, 2, scratch)


def act(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """A pass of the mirror."""
    with Lake.open(path) as lake:
        assert mirror(lake)["entries_behind"] == 0
        reached("mirrored")


def finish(lake: Lake, reached: tuple[str, ...]) -> None:
    """What the mirror has is a lake that is what it looks like; the next pass makes it whole."""
    assert "mirrored" not in reached or not is_behind(lake)
    place, number = lake.path / PLACE / "warm", lake.dataset(DATASET).newest
    versions = _versions_in(lake, place)
    if "mirrored" in reached:
        assert versions == {n: TREES[n] for n in range(1, number + 1)}
    mirror(lake)
    assert not is_behind(lake)
    assert _versions_in(lake, place) == {n: TREES[n] for n in range(1, number + 1)}


SEEN: dict[bytes, dict[int, Tree]] = {}
"""What was restored, by a hash of what the directory had: most crashes leave one of a few mirrors."""


def _versions_in(lake: Lake, place: Path) -> dict[int, Tree]:
    """The versions of what is restored from a directory; each is right, or what it lacks was said."""
    objects = (file for file in sorted(place.rglob("*")) if file.is_file())
    mark = sha256()
    for file in objects:
        mark.update(bytes(file) + b"\0" + sha256(file.read_bytes()).digest())
    if mark.digest() not in SEEN:
        SEEN[mark.digest()] = _restored_versions(lake.path.parent / "restored", place)
    return SEEN[mark.digest()]


def _restored_versions(target: Path, place: Path) -> dict[int, Tree]:
    shutil.rmtree(target, ignore_errors=True)
    facts = _restore(target, place)
    found = {}
    with Lake.open(target, write=False) as made:
        for row in made.versions(DATASET) if made.index.dataset(DATASET) else ():
            try:
                found[row.number] = read_version(made, row)
                assert found[row.number] == TREES[row.number]
            except DtafsError as error:
                assert facts["problems"], error
    return found


def _restore(target: Path, place: Path) -> dict[str, Any]:
    return restore(target, TierSettings(f"file://{place}"), {}, {})


# A lake that is made again


def lost(path: Path, scratch: Path) -> None:
    """A lake of which only the mirror and the key are left, and an empty directory in its place."""
    origin = path.parent / "origin"
    hot(origin, scratch, 1, 2)
    with Lake.open(origin) as lake:
        mirror(lake)
    path.mkdir()


def restoring(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """All of it is restored."""
    _restore_with_key(path)
    reached("restored")


def recover(path: Path, reached: tuple[str, ...]) -> None:
    """The same command again: it begins anew where there is no lake yet, and refuses where there is one."""
    try:
        _restore_with_key(path)
    except ConflictError as error:
        assert (path / "lake.json").exists(), error
    else:
        assert "restored" not in reached


def _restore_with_key(path: Path) -> None:
    origin = path.parent / "origin"
    source = TierSettings(f"file://{origin / PLACE / 'warm'}")
    key = origin / "keys" / "signing.pem"
    facts = restore(path, source, {}, {}, key_file=key)
    assert not facts["problems"] and facts["writable"]
