"""Lakes that are damaged on purpose: what is in them, and how their files are altered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dtafs.store.lake import Lake
from tests.support.collecting import big
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version, tree_of_seed

TREES = {1: tree_of_seed(1), 2: tree_of_seed(2) | {b"large": big(7, 900_000)}}


def found_lake(path: Path, scratch: Path, parity: int = 0) -> None:
    """A lake of two versions of one dataset."""
    with Lake.create(path, parity=parity) as lake:
        lake.create_dataset("D", ACTOR)
        for tree in TREES.values():
            put_tree(lake, "D", tree, scratch)
            commit(lake, "D")


def set_bytes(file: Path, data: bytes) -> None:
    """Put bytes in the place of a file, by force."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def flip(data: bytes, at: int) -> bytes:
    """Bytes with one bit of one of them changed."""
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def zeroed(data: bytes) -> bytes:
    """Bytes with a hundredth of them lost."""
    start, size = len(data) // 2, max(1, len(data) // 100)
    return data[:start] + bytes(size) + data[start + size :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda data: flip(data, len(data) // 3),
    "header": lambda data: flip(data, 9),
    "footer": lambda data: flip(data, len(data) - 60),
    "trailer": lambda data: flip(data, len(data) - 1),
    "cut": lambda data: data[: -max(1, len(data) // 100)],
    "longer": lambda data: data + b"more",
    "zeroed": zeroed,
    "empty": lambda _data: b"",
    "gone": lambda _data: None,
}


def damage(file: Path, how: str) -> None:
    """Damage a file in one of the ways of `DAMAGES`."""
    found = DAMAGES[how](file.read_bytes())
    file.unlink()
    if found is not None:
        file.write_bytes(found)


def packs_by_size(lake: Path) -> list[Path]:
    """The files of all packs, the smallest first."""
    return sorted((lake / "packs").glob("*/*"), key=lambda file: file.stat().st_size)


def assert_trees(lake: Lake) -> None:
    """Both versions of `found_lake` read as they were sealed."""
    for row in lake.versions("D"):
        assert read_version(lake, row) == TREES[row.number]
