"""Directories listed with telldir and seekdir while they change, as NFS servers and `rm -r` do."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from dtafs.store.session import Session, actor_here
from tests.support.lakes import assert_sound
from tests.support.mounts import mounted
from tests.support.twins import LIBC

NAMES, SEALED, DIRECTORIES = 2_000, 900, 10

LIBC.opendir.restype = LIBC.readdir.restype = ctypes.c_void_p
LIBC.telldir.restype = ctypes.c_long
NAME_OFFSET = 19
"""Of `d_name` in a `struct dirent` on 64 bits: d_ino, d_off, d_reclen and d_type come before."""


class Directory:
    """An open directory of the C library."""

    def __init__(self, path: Path) -> None:
        self._dir = ctypes.c_void_p(LIBC.opendir(os.fsencode(path)))
        assert self._dir.value, path

    def next(self) -> str:
        """The next name, "" at the end."""
        entry = LIBC.readdir(self._dir)
        return os.fsdecode(ctypes.string_at(entry + NAME_OFFSET)) if entry else ""

    def rest(self) -> list[str]:
        """All the names that follow, but `.` and `..`."""
        names = iter(self.next, "")
        return [name for name in names if name not in (".", "..")]

    def tell(self) -> int:
        return int(LIBC.telldir(self._dir))

    def seek(self, position: int) -> None:
        LIBC.seekdir(self._dir, ctypes.c_long(position))

    def rewind(self) -> None:
        LIBC.rewinddir(self._dir)

    def close(self) -> None:
        LIBC.closedir(self._dir)


@contextmanager
def listing(path: Path) -> Iterator[Directory]:
    """An open directory for the length of a block."""
    opened = Directory(path)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    """Directories of a mounted staging with `SEALED` names each, one for each test."""
    place = tmp_path_factory.mktemp("listing")
    Lake.create(place / "lake").close()
    for number in range(DIRECTORIES):
        (place / f"tree/big{number}").mkdir(parents=True)
        for name in range(SEALED):
            (place / f"tree/big{number}/n{name}").touch()
    with Lake.open(place / "lake", write=True) as lake:
        session = Session(lake, actor_here("tests", 0))
        session.create("D")
        session.put("D", [str(place / "tree")])
        session.commit("D", "what is sealed")
    with mounted(place / "lake", place / "mnt") as mount:
        yield iter([mount / f"D/staging/tree/big{number}" for number in range(DIRECTORIES)])
    assert_sound(place / "lake")


@pytest.fixture
def directory(places: Iterator[Path]) -> Path:
    """A directory of which one part was sealed and the other is new."""
    top = next(places)
    for number in range(SEALED, NAMES):
        (top / f"n{number}").touch()
    return top


ALL = {f"n{number}" for number in range(NAMES)}


def test_every_position_leads_back_to_its_name(directory: Path) -> None:
    with listing(directory) as opened:
        places = []
        while True:
            at = opened.tell()
            name = opened.next()
            if not name:
                break
            places.append((at, name))
        assert len(places) == NAMES + 2 == len({at for at, _ in places})
        for at, name in places[::-37]:
            opened.seek(at)
            assert opened.tell() == at and opened.next() == name
        opened.seek(places[100][0])
        assert set(opened.rest()) == {name for _, name in places[100:]} - {".", ".."}
        opened.rewind()
        assert set(opened.rest()) == ALL


CHANGES: dict[str, Callable[[Path], None]] = {
    "removed": lambda top: [os.unlink(top / f"n{n}") for n in range(0, NAMES, 2)] and None,
    "made": lambda top: [(top / f"m{n}").touch() for n in range(300)] and None,
    "moved away": lambda top: (
        [os.rename(top / f"n{n}", top.parent / f"n{n}") for n in range(700)] and None
    ),
    "sealed": lambda top: os.rename(top.parents[1], top.parents[2] / "v2"),
    "replaced": lambda top: (
        [os.replace(_new(top), top / f"n{n}") for n in range(0, NAMES, 9)] and None
    ),
}


def _new(top: Path) -> Path:
    (top.parent / "new").touch()
    return top.parent / "new"


@pytest.mark.parametrize("change", CHANGES)
def test_what_stays_is_listed_once(directory: Path, change: str) -> None:
    with listing(directory) as opened:
        first = [opened.next() for _ in range(600)]
        at = opened.tell()
        CHANGES[change](directory)
        rest = opened.rest()
        names = [name for name in first if name not in (".", "..")] + rest
        assert len(names) == len(set(names)), "nothing is listed twice"
        stayed = ALL & {*os.listdir(directory)}
        assert stayed <= {*names}, "what was there all the time is listed"
        opened.seek(at)
        again = opened.rest()
        assert set(again) & stayed == set(rest) & stayed, "a position stays where it was"
        assert not {*again} - {*os.listdir(directory)}
        opened.rewind()
        assert set(opened.rest()) == {*os.listdir(directory)}


def test_renaming_to_and_fro_comes_to_an_end(directory: Path) -> None:
    listed = 0
    with listing(directory) as opened:
        while name := opened.next():
            listed += 1
            assert listed < 2 * NAMES, "files that come back are listed again and again"
            if name not in (".", ".."):
                os.rename(directory / name, directory / "elsewhere")
                os.rename(directory / "elsewhere", directory / name)
    assert {*os.listdir(directory)} == ALL


def test_the_kinds_of_a_listing_are_those_of_stat(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    os.symlink("fifo", directory / "link")
    os.mkdir(directory / "dir")
    with os.scandir(directory) as found:
        kinds = {
            entry.name: (entry.is_dir(follow_symlinks=False), entry.is_symlink(), entry.is_file())
            for entry in found
        }
    assert [kinds[name] for name in ("fifo", "link", "dir", "n0", f"n{NAMES - 1}")] == [
        (False, False, False),
        (False, True, False),
        (True, False, False),
        (False, False, True),
        (False, False, True),
    ]


def test_the_numbers_of_a_listing_are_those_of_stat(directory: Path) -> None:
    with os.scandir(directory) as found:
        numbers = {entry.name: entry.inode() for entry in found}
    assert numbers == {name: os.lstat(directory / name).st_ino for name in ALL}
    assert len({*numbers.values()}) == NAMES


def test_a_directory_is_emptied_while_it_is_walked(directory: Path) -> None:
    with listing(directory) as opened:
        while name := opened.next():
            if name not in (".", ".."):
                os.unlink(directory / name)
        assert not os.listdir(directory)
        os.rmdir(directory)
        opened.rewind()
        assert opened.next() in ("", ".")
