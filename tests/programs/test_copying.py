"""rsync, tar, cp, dd, find, du, grep: trees that go in, come out and are searched."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.programs.conftest import Place
from tests.support.trees import assert_same_tree, tree_of

STAMP_NS = 1_600_000_000_123_456_789


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What copying tools find hard: links, holes, sets of modes, odd names, attributes, times."""
    top = tmp_path / "tree"
    (top / "deep/er").mkdir(parents=True)
    dice = random.Random(5)
    (top / "deep/random").write_bytes(dice.randbytes(700_000))
    (top / "deep/er/text").write_text("a needle in hay\n" * 3_000)
    os.link(top / "deep/random", top / "deep/er/twin")
    os.symlink("../deep/random", top / "deep/link")
    os.symlink("nowhere", top / "dangling")
    os.mkfifo(top / "pipe", 0o640)
    with open(top / "sparse", "wb") as stream:
        stream.truncate(9_000_000)
        stream.seek(4_000_000)
        stream.write(b"an island")
    with open(os.fsencode(top) + b"/odd \xff\n name", "wb") as odd:
        odd.write(b"odd")
    for number in range(200):
        (top / f"deep/f{number}").write_text(f"{number}\n")
    (top / "deep/er/text").chmod(0o4751)
    (top / "deep/er").chmod(0o2750)
    os.setxattr(top / "deep/random", "user.unit", b"\0\xff")
    os.setxattr(top / "deep", "user.note", b"directory")
    for path in sorted(top.rglob("*"), reverse=True):
        os.utime(path, ns=(STAMP_NS, STAMP_NS + len(path.name)), follow_symlinks=False)
    return top


def test_rsync_both_ways(place: Place, tree: Path, tmp_path: Path) -> None:
    expected = tree_of(tree, xattrs=True)
    staged = place.staging / "copy"
    command = ("rsync", "-aHAX", "--checksum", "--delete")
    place.run(*command, f"{tree}/", f"{staged}/")
    assert_same_tree(expected, tree_of(staged, xattrs=True))
    again = place.run(*command, "--itemize-changes", f"{tree}/", f"{staged}/")
    assert again == "", "a second run finds nothing to do"
    (tree / "deep/f7").write_text("changed\n")
    (tree / "deep/f8").unlink()
    os.utime(tree / "deep", ns=(STAMP_NS, STAMP_NS))  # rsync may take a change just now for none
    place.run(*command, "--inplace", f"{tree}/", f"{staged}/")
    assert_same_tree(tree_of(tree, xattrs=True), tree_of(staged, xattrs=True))
    version = place.commit()
    back = tmp_path / "back"
    for source in (staged, version / "copy"):
        place.run(*command, f"{source}/", f"{back}/")
        assert_same_tree(tree_of(tree, xattrs=True), without_ours(back))
    assert (back / "deep/er/twin").stat().st_ino == (back / "deep/random").stat().st_ino


def without_ours(top: Path) -> dict[bytes, object]:
    """A tree that was copied from a version: what the lake said of it was copied along."""
    for path in [top, *top.rglob("*")]:
        if not path.is_symlink():
            for name in os.listxattr(path):
                if name.startswith("user.dtafs."):
                    os.removexattr(path, name)
    return dict(tree_of(top, xattrs=True))


def test_tar_out_and_in(place: Place, tree: Path, tmp_path: Path) -> None:
    expected = tree_of(tree, xattrs=True)
    first, second = tmp_path / "first.tar", place.staging / "second.tar"
    flags = ("--xattrs", "--xattrs-include=user.*", "--xattrs-exclude=user.dtafs.*")
    place.run("tar", "cf", first, *flags, "--sparse", "-C", tree, ".")
    (place.staging / "copy").mkdir()
    place.run("tar", "xpf", first, *flags, "-C", place.staging / "copy")
    assert_same_tree(expected, tree_of(place.staging / "copy", xattrs=True))
    place.run("tar", "df", first, "-C", place.staging / "copy")
    place.run("tar", "cf", second, *flags, "-C", place.staging / "copy", ".")
    version = place.commit()
    (tmp_path / "back").mkdir()
    place.run("tar", "xpf", version / "second.tar", *flags, "-C", tmp_path / "back")
    assert_same_tree(expected, tree_of(tmp_path / "back", xattrs=True))
    place.run("tar", "df", first, "-C", version / "copy")


@pytest.mark.parametrize("sparse", ["always", "never"])
def test_cp_with_holes(place: Place, tree: Path, tmp_path: Path, sparse: str) -> None:
    command = ("cp", "-a", "--reflink=auto", f"--sparse={sparse}")
    place.run(*command, tree, place.staging / "copy")
    assert_same_tree(tree_of(tree, xattrs=True), tree_of(place.staging / "copy", xattrs=True))
    blocks = (place.staging / "copy/sparse").stat().st_blocks * 512
    assert (blocks < 1_000_000) == (sparse != "never"), "holes take no room in staging"
    version = place.commit()
    place.run(*command, version / "copy", place.staging / "again")
    place.run("cmp", version / "copy/sparse", place.staging / "again/sparse")
    place.run(*command, place.staging / "again", tmp_path / "back")
    assert_same_tree(tree_of(tree, xattrs=True), without_ours(tmp_path / "back"))


def test_dd_with_direct_input_and_output(place: Place, tree: Path) -> None:
    dd = ("dd", "bs=64K", "status=none")
    place.run(*dd, f"if={tree}/deep/random", "of=out", "oflag=direct", "count=10")
    place.run(*dd, f"if={tree}/deep/random", "of=out", "skip=10", "seek=10", "conv=notrunc,fsync")
    place.run("cmp", "out", tree / "deep/random")
    place.run(*dd, "if=out", "of=twice", "iflag=direct", "oflag=append", "conv=notrunc")
    place.run(*dd, "if=/dev/zero", "of=out", "count=1", "seek=4", "oflag=direct", "conv=notrunc")
    expected = bytearray((tree / "deep/random").read_bytes())
    expected[4 << 16 : 5 << 16] = bytes(1 << 16)
    assert (place.staging / "out").read_bytes() == expected
    version = place.commit()
    place.run(*dd, f"if={version}/out", "of=third", "iflag=direct")
    place.run("cmp", "third", version / "out")


def test_mv_between_datasets_and_out(place: Place, tree: Path, tmp_path: Path) -> None:
    """A rename ends at the border of a dataset; mv(1) copies then."""
    expected = tree_of(tree, xattrs=True)
    other = place.mount / "E"
    other.mkdir()
    place.run("mv", tree, place.staging / "tree")
    assert not tree.exists()
    place.run("mv", place.staging / "tree", other / "staging/tree")
    assert os.listdir(place.staging) == []
    assert_same_tree(expected, tree_of(other / "staging/tree", xattrs=True))
    place.run("mv", other / "staging", other / "v1")
    place.run("mv", other / "staging/tree", tmp_path / "back")
    assert_same_tree(expected, without_ours(tmp_path / "back"))
    place.run("cp", "-a", other / "v1/tree", place.staging / "copy")
    place.run("cp", "-al", "copy", "links")
    assert_same_tree(tree_of(place.staging / "copy/deep"), tree_of(place.staging / "links/deep"))
    assert (place.staging / "links/deep/f7").stat().st_nlink == 2


def test_what_is_being_written_is_copied_whole(place: Place, tmp_path: Path) -> None:
    """Tools take a file without blocks for one hole; the kernel has these bytes, not the disk."""
    data = os.urandom(300_000)
    (tmp_path / "out").mkdir()
    with open(place.staging / "file", "wb", buffering=0) as stream:
        stream.write(data)
        place.run("tar", "cSf", tmp_path / "out/file.tar", "file")
        place.run("cp", "--sparse=auto", "file", tmp_path / "out/file.cp")
        place.run("rsync", "-aS", "file", tmp_path / "out/file.rsync")
        place.run("tar", "xOf", tmp_path / "out/file.tar", "--to-command=cmp - file")
    for name in ("file.cp", "file.rsync"):
        assert (tmp_path / "out" / name).read_bytes() == data


def test_find_du_and_grep(place: Place, tree: Path) -> None:
    place.run("cp", "-a", f"{tree}/.", place.staging)
    for top in (place.staging, place.commit(), place.staging):
        for command in (
            ("find", ".", "-printf", r"%P %y %m %s %l %T@\n"),
            ("find", ".", "-newermt", "2030-01-01"),
            ("find", ".", "-type", "f", "-size", "+100k", "-links", "2"),
            ("du", "--apparent-size", "--block-size=1", "deep/er/text", "sparse"),
            ("grep", "-rcF", "needle", "deep/er"),
            ("grep", "-rl", "^7$", "deep"),
        ):
            found, expected = (place.run(*command, cwd=where) for where in (top, tree))
            lines = [_without_size(line) for line in found.splitlines()]
            assert sorted(lines) == sorted(map(_without_size, expected.splitlines())), command
        assert place.run("find", ".", "-empty", "-type", "d", cwd=top) == ""
        assert len(place.run("ls", "-fa", cwd=top / "deep").splitlines()) == 205


def _without_size(line: str) -> str:
    """A line of `find -printf`: the size of a directory is each file system's own, and the top's
    times are those of the copy."""
    words = line.split(" ")
    if line.startswith(" d "):
        return " d"
    return " ".join(words[:3] + words[4:]) if len(words) > 4 and words[1] == "d" else line
