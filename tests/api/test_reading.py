"""Sealed versions as `pathlib`-like paths and files that can be read and sought."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
from pathlib import Path

import pytest

from dtafs import Lake
from dtafs.errors import NotFoundError, SealedError, UsageError
from tests.api.conftest import filled
from tests.support.evidence import MTIME_NS


def test_paths_are_like_those_of_pathlib(alone: Lake, tree: Path) -> None:
    top = filled(alone, tree).latest.root
    assert sorted(path.name for path in top.iterdir()) == sorted(os.listdir(tree))
    path = top / "sub/deep" / "harder"
    assert (path.name, str(path), path.parts) == (
        "harder",
        "sub/deep/harder",
        ("sub", "deep", "harder"),
    )
    assert path.parent == top / "sub" / "deep" and path.parent.parent.parent == top
    assert top.parent == top and str(top) == "." and repr(path).startswith("VersionPath('D:v1'")
    assert (top / "a.csv").suffix == ".csv" and hash(path) == hash(top / "sub/deep/harder")
    assert path.is_file() and path.exists() and not path.is_dir()
    assert (top / "sub").is_dir() and not (top / "nothing").exists()
    assert sorted([path, top / "a.csv"])[0] == top / "a.csv"
    assert {str(below) for below in top.walk()} == {
        os.fsdecode(found.relative_to(tree)) for found in tree.rglob("*")
    }


def test_stat_is_that_of_the_file(alone: Lake, tree: Path) -> None:
    top = filled(alone, tree).latest.root
    for name in ("a.csv", "sub", "sub/hard", "empty"):
        ours, theirs = (top / name).stat(), (tree / name).stat()
        assert (ours.st_mode, ours.st_uid, ours.st_gid) == (
            theirs.st_mode,
            theirs.st_uid,
            theirs.st_gid,
        )
        assert ours.st_mtime_ns == theirs.st_mtime_ns == MTIME_NS
        assert ours.st_mtime == theirs.st_mtime
        if name != "sub":
            assert (ours.st_size, ours.st_nlink) == (theirs.st_size, theirs.st_nlink)
    assert stat.S_ISLNK((top / "link").lstat().st_mode)


def test_symlinks_are_followed_inside_the_version(alone: Lake, tmp_path: Path) -> None:
    top = tmp_path / "links"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "file").write_text("here")
    links = {
        "direct": "a/file",
        "a/b/up": "../file",
        "folder": "a",
        "chain": "folder/b/up",
        "dangling": "nowhere",
        "loop": "loop",
        "outside": "/etc/passwd",
        "above": "../../../../a/file",
    }
    for name, target in links.items():
        (top / name).symlink_to(target)
    root = filled(alone, top).latest.root
    for name in ("direct", "a/b/up", "chain", "folder/file", "above"):
        assert (root / name).read_text() == "here", name
    for name in ("dangling", "loop", "outside"):
        assert not (root / name).exists() and (root / name).is_symlink()
        with pytest.raises(NotFoundError):
            (root / name).read_bytes()
    assert (root / "chain").readlink() == "folder/b/up"
    with pytest.raises(UsageError, match="not a symlink"):
        (root / "a").readlink()


def test_files_can_be_sought(alone: Lake, tree: Path) -> None:
    path = filled(alone, tree).latest / "sub" / "large"
    data = (tree / "sub" / "large").read_bytes()
    assert path.read_bytes() == data
    assert path.sha256 == hashlib.sha256(data).hexdigest()
    with path.open("rb") as file:
        assert isinstance(file, io.BufferedReader) and file.seekable() and not file.writable()
        for at in (0, 1, 999_999, 1_500_000, len(data) - 3):
            file.seek(at)
            assert file.read(70_000) == data[at : at + 70_000]
        assert file.seek(-5, os.SEEK_END) == len(data) - 5
        assert file.read() == data[-5:] and file.read() == b""
        assert file.seek(len(data) + 100) and file.read(1) == b""
        with pytest.raises(ValueError, match="before its start"):
            file.seek(-1)
        file.seek(10)
        file.seek(-4, os.SEEK_CUR)
        assert file.read(2) == data[6:8]


def test_text_files(alone: Lake, tree: Path) -> None:
    path = filled(alone, tree).latest / "a.csv"
    with path.open() as file:
        assert list(csv.reader(file)) == [["x", "y"], ["1", "2"]]
    with path.open(encoding="ascii") as file:
        assert file.readline() == "x,y\n"


@pytest.mark.parametrize("mode", ["w", "a", "r+", "rb+", "x", "wb"])
def test_nothing_opens_for_writing(alone: Lake, tree: Path, mode: str) -> None:
    path = filled(alone, tree).latest / "a.csv"
    with pytest.raises(SealedError, match="reading only"):
        path.open(mode)
