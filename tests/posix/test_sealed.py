"""Sealed versions on a real mount: nothing in them changes, and the kernel need not ask twice."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix import acts
from tests.support.actors import Actor, acting
from tests.support.mounts import Mount, mounted

PATIENCE_S = 20.0
NAMES = tuple(f"f{number}" for number in range(12))
"""So few that one request lists them: the kernel asks for attributes only in the first, until it
finds that they are used."""
CHANGES = """
    chmod f0 0600; chmod sub 0700; chmod pipe 0600; lchown f0 1 1; lchown link 1 1; lchown f0 -1 1;
    truncate f0 0; truncate f0 100; open f0 wronly; open f0 rdwr; open f0 rdonly,trunc;
    open f0 wronly,append; open new creat,wronly; open new creat,excl,rdwr; utime f0 now now;
    utime f0 1 1; lutime link 1 1; utime sub now now; unlink f0; unlink link; unlink pipe;
    rmdir empty; mkdir new 0755; mkfifo new 0644; mknod new none 0644; mknod new char 0644;
    symlink x new; make socket new; link f0 new; link f0 sub/new; rename f0 new; rename f0 f1;
    rename sub new; rename empty sub; rename f0 sub/new; exchange f0 f1; rename_new f0 new;
    set_xattr f0 user.mine 1; set_xattr sub user.mine 1; set_xattr f0 user.unit 2;
    set_xattr f0 user.dtafs.sha256 x; remove_xattr f0 user.unit; remove_xattr f0 user.dtafs.sha256;
    rename f0 {staging}/new; rename sub {staging}/new; rename {staging}/x new; rename {staging}/x f0;
    exchange {staging}/x f0; unlink .dtafs; chmod . 0777; utime . now now; set_xattr . user.a 1
    """
ELSEWHERE = {"unlink .dtafs": errno.ENOENT, "make socket new": errno.EROFS}


def build(top: Path) -> None:
    """One of each kind that a version holds."""
    for name in NAMES:
        (top / name).write_text(name)
    (top / "sub").mkdir(mode=0o2751)
    (top / "empty").mkdir()
    os.link(top / "f1", top / "sub/twin")
    os.link(top / "f1", top / "twin")
    os.symlink("f0", top / "link")
    os.mkfifo(top / "pipe", 0o640)
    os.setxattr(top / "f0", "user.unit", b"1")
    (top / "f0").chmod(0o4755)
    (top / "x").touch()


@pytest.fixture
def served(lake_path: Path, tmp_path: Path, mount: Callable[..., Mount]) -> Mount:
    """The version D/v1, mounted by a daemon that has not seen how it came to be."""
    with mounted(lake_path, tmp_path / "first") as first:
        (first / "D").mkdir()
        build(first / "D/staging")
        os.rename(first / "D/staging", first / "D/v1")
    return mount(lake_path)


@pytest.fixture
def version(served: Mount) -> Path:
    """The directory of the version."""
    return served / "D/v1"


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    """What is known of each name, inode numbers and times included, but for `st_dev`."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = os.lstat(path)
        xattrs = [] if path.is_symlink() else sorted(os.listxattr(path))
        found[str(path.relative_to(top))] = (
            *(status.st_ino, status.st_mode, status.st_nlink, status.st_uid, status.st_gid),
            *(status.st_size, status.st_blocks, status.st_mtime_ns, status.st_ctime_ns),
            tuple((name, os.getxattr(path, name)) for name in xattrs),
        )
    return found


def test_every_change_is_refused(version: Path) -> None:
    before = facts(version)
    staging = os.path.relpath(version.parent / "staging", version)
    with acting() as actor:
        actor.do(acts.enter, str(version), "/")
        for line in " ".join(CHANGES.split()).split(";"):
            words = line.replace("{staging}", staging).split()
            with pytest.raises(OSError) as caught:
                actor.do(getattr(acts, words[0]), *words[1:])
            assert caught.value.errno == ELSEWHERE.get(line.strip(), errno.EROFS), line
        for path, expected in (("f0", errno.EXDEV), ("pipe", errno.EXDEV)):
            with pytest.raises(OSError) as caught:
                actor.do(acts.link, path, f"{staging}/new")
            assert caught.value.errno == expected
    assert facts(version) == before
    assert sorted(os.listdir(version.parent / "staging")) == sorted(os.listdir(version))


def test_numbers_and_links_are_the_same_in_every_mount(
    version: Path, lake_path: Path, mount: Callable[..., Mount]
) -> None:
    before = facts(version)
    assert before["f1"][0] == before["twin"][0] == before["sub/twin"][0]
    assert before["f1"][2] == 3
    assert len({fact[0] for fact in before.values()}) == len(before) - 2
    again = mount(lake_path, "--read-only") / "D/v1"
    assert os.lstat(again / "sub/twin").st_ino == before["twin"][0], "by whatever name it is met"
    assert facts(again) == before
    (version.parent / "staging/x").write_text("another")
    os.rename(version.parent / "staging", version.parent / "v2")
    numbers = {fact[0] for fact in facts(version.parent / "v2").values()}
    assert facts(again) == facts(version) == before
    assert not numbers & {fact[0] for fact in before.values()}, "another version, other inodes"
    assert os.readlink(again.parent / "latest") == "v2", "and other mounts see it at once"


def answer(actor: Actor) -> object:
    """What was begun must come out although nobody answers the kernel."""
    assert actor.ends_within(PATIENCE_S), "the kernel asked"
    try:
        return actor.end()
    except OSError as error:
        return error.errno


def test_the_kernel_does_not_ask_twice(served: Mount, version: Path) -> None:
    """Names, attributes, links and bytes that were seen are there while the daemon stands still."""
    with acting() as actor:
        actor.do(acts.enter, str(version), "/")
        assert actor.do(acts.list_names, ".") >= {*NAMES}
        assert actor.do(acts.get, "f3") == "f3"
        with pytest.raises(FileNotFoundError):
            actor.do(acts.lstat_of, "gone", "kind")
        actor.do(acts.keep_open, "f3")
        os.kill(served.pid, signal.SIGSTOP)
        try:
            # Known from the listing alone; of what was read, the kernel asks for the atime again.
            for name in {*NAMES} - {"f3"}:
                actor.begin(acts.lstat_of, name, "kind,size")
                assert answer(actor) == f"regular,{len(name)}"
            actor.begin(acts.lstat_of, "gone", "kind")
            assert answer(actor) == errno.ENOENT
            actor.begin(acts.read_kept)
            assert answer(actor) == b"f3"
        finally:
            os.kill(served.pid, signal.SIGCONT)


def test_a_sealed_file_can_be_locked(version: Path) -> None:
    """Programs lock what they only read."""
    with acting() as one, acting() as two:
        for actor in (one, two):
            actor.do(acts.enter, str(version), "/")
            actor.do(acts.open_to_lock, "f0", False)
            for how in ("flock", "lockf"):
                actor.do(acts.lock, how, fcntl.LOCK_SH)
        with pytest.raises(BlockingIOError):
            two.do(acts.lock, "flock", fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_small_file_comes_with_the_answer_to_open(served: Mount, version: Path) -> None:
    """Once one of its neighbours was read, so that the daemon has their bytes in memory."""
    names = sorted({*NAMES} - {"f3"})
    with acting() as actor:
        actor.do(acts.enter, str(version), "/")
        assert actor.do(acts.get, "f3") == "f3"
        for name in names:
            actor.do(acts.keep_open, name)
            os.kill(served.pid, signal.SIGSTOP)
            try:
                actor.begin(acts.read_kept)
                assert answer(actor) == name.encode()
            finally:
                os.kill(served.pid, signal.SIGCONT)
