"""What POSIX says beyond single calls: owners, sticky and set-id bits, links, times, open files."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from itertools import product

import pytest

from tests.posix import calls
from tests.support.twins import ALICE, BOB, ROOT, Twins, User

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

CREATE = os.O_CREAT | os.O_EXCL
MODES = (0o000, 0o400, 0o200, 0o600, 0o040, 0o004, 0o666, 0o750, 0o1755, 0o2750, 0o4755, 0o6777)


def owned(twins: Twins, path: str, uid: int, gid: int, mode: int, kind: str = "file") -> None:
    """Make a file or a directory with an owner and a mode, as root."""
    user, twins.user = twins.user, ROOT
    twins.do(*((calls.put_file, path, b"content") if kind == "file" else (calls.mkdir, path)))
    twins.do(calls.chown, path, uid, gid)
    twins.do(calls.chmod, path, mode)
    twins.user = user


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_chmod_and_chown_by_owner_and_others(twins: Twins, kind: str) -> None:
    for number, (user, mode) in enumerate(product((ALICE, BOB), MODES)):
        twins.enter(f"case{number}")
        owned(twins, "o", ALICE.uid, ALICE.gid, 0o644, kind)
        owned(twins, "g", BOB.uid, 65_533, 0o664, kind)
        owned(twins, "s", ALICE.uid, 65_533, mode, kind)
        twins.user = user
        for path in "og":
            twins.do(calls.chmod, path, mode)
        twins.do(calls.lchown, "s", -1, 65_533)
        twins.do(calls.lchown, "s", -1, ALICE.gid)
        twins.do(calls.lchown, "g", -1, 65_533)
        twins.do(calls.lchown, "o", ALICE.uid, -1)
        twins.do(calls.lchown, "o", BOB.uid, -1)
        twins.user = ROOT
        twins.do(calls.lchown, "s", 1, 2)
        twins.do(calls.lchown, "g", -1, -1)


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_sticky_directories(twins: Twins, kind: str) -> None:
    owners = (0, ALICE.uid, BOB.uid)
    for number, (top, inside, mode) in enumerate(product(owners, owners, (0o1777, 0o777))):
        twins.enter(f"case{number}")
        owned(twins, "d", top, 0, mode, "directory")
        owned(twins, "e", top, 0, mode, "directory")
        for path in ("d/a", "d/b", "d/c", "e/b"):
            owned(twins, path, inside, 0, 0o755, kind)
        twins.user = ALICE
        twins.do(calls.rename, "d/a", "d/a2")
        twins.do(calls.rename, "d/b", "e/b")
        twins.do(calls.rename, "d/c", "e/c")
        twins.do(calls.exchange, "d/a2", "e/b")
        twins.do(calls.rmdir if kind == "directory" else calls.unlink, "e/b")
        if kind == "file":
            twins.do(calls.link, "d/c", "e/link")


def test_permissions_of_directories(twins: Twins) -> None:
    for mode in (0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o700, 0o070, 0o007):
        twins.user = ROOT
        twins.enter(f"case{mode:o}")
        owned(twins, "d", ALICE.uid, ALICE.gid, 0o777, "directory")
        owned(twins, "d/x", ALICE.uid, ALICE.gid, 0o644)
        twins.do(calls.chmod, "d", mode)
        for user in (ALICE, BOB):
            twins.user = user
            twins.do(calls.access, "d", os.R_OK | os.X_OK)
            twins.do(calls.listdir, "d")
            twins.do(calls.stat_of, "d/x")
            twins.do(calls.try_open, f"d/{user.uid}", os.O_WRONLY | CREATE)
            twins.do(calls.symlink, "x", f"d/link{user.uid}")
            twins.do(calls.rename, "d/x", f"d/x{user.uid}")
            twins.do(calls.unlink, f"d/link{user.uid}")


def test_opening_by_mode_and_user(twins: Twins) -> None:
    modes = sorted({bits << shift for bits in range(8) for shift in (0, 3, 6)})
    for mode in modes:
        twins.enter(f"{mode:o}")
        owned(twins, "a", ALICE.uid, 65_533, mode)
        for user, how in product((ALICE, BOB, User(7, 7)), (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)):
            twins.user = user
            twins.do(calls.try_open, "a", how)
        twins.do(calls.access, "a", os.X_OK)


def test_groups_of_what_is_made(twins: Twins) -> None:
    for mode, gid in product((0o777, 0o2777), (0, ALICE.gid, 65_533)):
        twins.user = ROOT
        twins.enter(f"{mode:o} {gid}")
        owned(twins, "d", 0, gid, mode, "directory")
        for number, (user, wanted) in enumerate(
            product((ROOT, ALICE, BOB), (0o755, 0o2775, 0o6755))
        ):
            twins.user = user
            twins.do(calls.mkdir, f"d/dir{number}", wanted)
            twins.do(calls.try_open, f"d/file{number}", os.O_RDWR | CREATE, wanted)
            twins.do(calls.mkfifo, f"d/fifo{number}", wanted)
            twins.do(calls.symlink, "x", f"d/link{number}")
            twins.do(calls.chmod, f"d/file{number}", wanted)
            twins.do(calls.chmod, f"d/dir{number}", wanted)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_the_umask(twins: Twins, umask: int) -> None:
    twins.user = ALICE
    for number, mode in enumerate((0o777, 0o644, 0o1777, 0o4755, 0)):
        twins.do(calls.with_umask, umask, calls.mkdir, f"d{number}", mode)
        twins.do(calls.with_umask, umask, calls.mkfifo, f"p{number}", mode)
        twins.do(calls.with_umask, umask, calls.try_open, f"f{number}", os.O_RDWR | CREATE, mode)
        twins.do(calls.with_umask, umask, calls.mknod, f"n{number}", stat.S_IFREG | mode)
        twins.do(calls.with_umask, umask, calls.bind, f"s{number}")


@pytest.mark.parametrize("mode", [0o4777, 0o2777, 0o6777, 0o6666, 0o2766])
def test_who_changes_bytes_takes_the_set_id_bits_away(twins: Twins, mode: int) -> None:
    changes: list[Callable[[], object]] = [
        lambda: twins.do(calls.write, "f", b"new"),
        lambda: twins.do(calls.ftruncate, "f", 3),
        lambda: twins.do(calls.truncate, "x", 3),
        lambda: twins.do(calls.put_file, "x", b""),
        lambda: twins.do(calls.try_open, "x", os.O_WRONLY | os.O_TRUNC),
        lambda: twins.do(calls.fallocate, "f", 0, 100),
    ]
    for number, (user, change) in enumerate(product((ROOT, ALICE), changes)):
        twins.user = ROOT
        twins.enter(f"case{number}")
        owned(twins, "x", ALICE.uid, ALICE.gid, mode)
        twins.user = user
        twins.do(calls.open_as, "f", "x", os.O_RDWR)
        change()
        twins.do(calls.fstat, "f")


def test_hard_links(twins: Twins) -> None:
    twins.do(calls.put_file, "a", b"1")
    for number in range(6):
        twins.do(calls.link, "a", f"b{number}")
    twins.do(calls.chmod, "b3", 0o640)
    twins.do(calls.put_file, "b2", b"more")
    twins.do(calls.rename, "b1", "b2")  # two names of one file: nothing happens
    twins.do(calls.rename, "b1", "c")
    twins.do(calls.open_as, "f", "a", os.O_RDWR)
    for path in ("a", "b2", "b3", "b4", "b5", "b0", "c", "b1"):
        twins.do(calls.unlink, path)
        twins.do(calls.fstat, "f")
    twins.do(calls.mkdir, "d")
    twins.do(calls.link, "d", "e")


def test_names_without_a_file_and_files_without_a_name(twins: Twins) -> None:
    twins.do(calls.open_as, "f", "x", os.O_RDWR | CREATE, 0o600)
    twins.do(calls.write, "f", b"kept")
    twins.do(calls.unlink, "x")
    twins.do(calls.fstat, "f")
    twins.do(calls.put_file, "x", b"another")
    twins.do(calls.pwrite, "f", b"!", 9)
    twins.do(calls.fchmod, "f", 0o644)
    twins.do(calls.ftruncate, "f", 7)
    twins.do(calls.pread, "f", 100, 0)
    twins.do(calls.fsync, "f")
    twins.do(calls.fstat, "f")
    twins.do(calls.put_file, "y", b"over")
    twins.do(calls.open_as, "g", "y", os.O_RDONLY)
    twins.do(calls.rename, "x", "y")
    twins.do(calls.pread, "g", 100, 0)
    twins.do(calls.fstat, "g")
    twins.do(calls.mkdir, "d")
    twins.do(calls.open_as, "d", "d", os.O_RDONLY | os.O_DIRECTORY)
    twins.do(calls.rmdir, "d")
    twins.do(calls.fstat, "d")
    twins.do(calls.fchmod, "d", 0o700)


def test_links_of_directories(twins: Twins) -> None:
    for path in ("a", "a/b", "a/c", "d", "d/e", "d/e/f"):
        twins.do(calls.mkdir, path)
    twins.do(calls.rename, "a/b", "d/b")
    twins.do(calls.rename, "d/e", "a/e")
    twins.do(calls.stat_of, "a/e/f/../..")
    twins.do(calls.rename, "a/c", "d/b")
    twins.do(calls.put_file, "file", b"")
    twins.do(calls.exchange, "file", "a/e")
    twins.do(calls.exchange, "d", "e")
    twins.do(calls.exchange, "d", "d/b")
    twins.do(calls.exchange, "d/b", "e")
    twins.do(calls.rename, "d", "d/b/d")
    twins.do(calls.rename, "d", "d")
    twins.do(calls.rmdir, "e/f")


def test_a_moved_directory_has_another_parent(twins: Twins) -> None:
    for side in twins.sides:
        os.chdir(side.here)
        os.makedirs("a/b")
        os.mkdir("c")
        os.chdir("a/b")
        os.rename("../../a/b", "../../c/b")
        assert os.stat("..").st_ino == os.stat("../../c").st_ino
        with os.scandir(".") as names:
            assert not list(names)
        inos = {name: os.stat(f"../{name}").st_ino for name in ("b", ".", "..")}
        assert inos["b"] == os.stat(".").st_ino


def test_times_that_are_set(twins: Twins) -> None:
    second = 10**9
    twins.do(calls.put_file, "f", b"")
    twins.do(calls.symlink, "f", "l")
    for when in (
        0,
        1,
        999_999_999,
        2**31 * second,
        2**32 * second + 5,
        2**33 * second,
        -second,
        -1,
    ):
        twins.do(calls.utime, "f", when, when)
        twins.do(calls.lutime, "l", when, when // 2)
        twins.do(calls.utime, "l", when // 3, when)
    owned(twins, "alice", ALICE.uid, ALICE.gid, 0o600)
    owned(twins, "open", 0, 0, 0o666)
    for user in (ALICE, BOB):
        twins.user = user
        for path in ("alice", "open", "f"):
            twins.do(calls.touch, path)
            twins.do(calls.utime, path, second, second)


def test_extended_attributes(twins: Twins) -> None:
    create, replace = os.XATTR_CREATE, os.XATTR_REPLACE
    twins.do(calls.put_file, "f", b"")
    twins.do(calls.mkdir, "d")
    for path in "fd":
        twins.do(calls.set_xattr, path, "user.a", b"1", replace)
        twins.do(calls.set_xattr, path, "user.a", b"1", create)
        twins.do(calls.set_xattr, path, "user.a", b"2", create)
        twins.do(calls.set_xattr, path, "user.a", b"", replace)
        twins.do(calls.set_xattr, path, "user." + "n" * 250, b"v" * 1_000)
        twins.do(calls.set_xattr, path, "user." + "n" * 251, b"v")
        twins.do(calls.get_xattr, path, "user.a")
        twins.do(calls.list_xattrs, path)
        twins.do(calls.set_xattr, path, "nonsense", b"")
        twins.do(calls.set_xattr, path, "user.", b"")
        twins.do(calls.remove_xattr, path, "user.a")
        twins.do(calls.get_xattr, path, "user.a")
        twins.do(calls.list_xattrs, path)


def test_open_files(twins: Twins) -> None:
    twins.do(calls.open_as, "a", "x", os.O_WRONLY | os.O_APPEND | CREATE)
    twins.do(calls.open_as, "b", "x", os.O_RDWR)
    twins.do(calls.write, "a", b"one")
    twins.do(calls.pwrite, "b", b"---", 10)
    twins.do(calls.write, "a", b"two")
    twins.do(calls.ftruncate, "b", 5)
    twins.do(calls.write, "a", b"three")
    twins.do(calls.pread, "b", 100, 0)
    twins.do(calls.pread, "a", 1, 0)
    twins.do(calls.ftruncate, "a", 2)
    twins.do(calls.open_as, "r", "x", os.O_RDONLY)
    twins.do(calls.ftruncate, "r", 1)
    twins.do(calls.pwrite, "r", b"x", 0)
    twins.do(calls.ftruncate, "b", 3_000_000_000)
    twins.do(calls.pread, "b", 10, 2_999_999_995)
    twins.do(calls.pwrite, "b", b"far", 5_000_000_000)
    twins.do(calls.fallocate, "b", 100, 20_000)
    twins.do(calls.ftruncate, "b", -1)
    twins.do(calls.fallocate, "b", 0, 0)
    twins.do(calls.try_open, "x", os.O_WRONLY | os.O_TRUNC)
    twins.do(calls.fstat, "b")


def test_a_read_only_mode_counts_for_the_next_open_only(twins: Twins) -> None:
    twins.user = ALICE
    twins.do(calls.open_as, "f", "x", os.O_RDWR | CREATE, 0o000)
    twins.do(calls.write, "f", b"allowed")
    twins.do(calls.ftruncate, "f", 3)
    twins.do(calls.try_open, "x", os.O_RDONLY)
    twins.do(calls.truncate, "x", 1)


def test_a_program_that_runs_is_not_written_to(twins: Twins) -> None:
    for side in twins.sides:
        shutil.copy("/bin/sleep", side.here / "prog")
    running = [subprocess.Popen([side.here / "prog", "60"]) for side in twins.sides]
    try:
        twins.enter(".")
        twins.do(calls.try_open, "prog", os.O_WRONLY)
        twins.do(calls.try_open, "prog", os.O_RDWR | os.O_TRUNC)
        twins.do(calls.truncate, "prog", 10)
        twins.do(calls.chmod, "prog", 0o700)
        twins.do(calls.rename, "prog", "other")
        twins.do(calls.unlink, "other")
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_names_and_paths_as_long_as_they_may_be(twins: Twins) -> None:
    name = "ü" * 127 + "x"
    twins.do(calls.mkdir, name)
    twins.do(calls.put_file, f"{name}/{name}", b"long")
    twins.do(calls.rename, f"{name}/{name}", name[:-1])
    twins.do(calls.mkdir, name + "y")
    path = name
    while len(os.fsencode(path)) + 256 < 4_095:
        path = f"{path}/{name}"
        twins.do(calls.mkdir, path)
    path += "/" + "z" * (4_094 - len(os.fsencode(path)))
    twins.do(calls.put_file, path, b"deep")
    twins.do(calls.put_file, path + "z", b"deeper")
    twins.do(calls.symlink, path, "link")
    twins.do(calls.content, "link")
    twins.do(calls.symlink, "t" * 4_095, "full")
    twins.do(calls.symlink, "t" * 4_096, "over")


def test_a_file_has_as_many_names_as_it_may(twins: Twins) -> None:
    for side in twins.sides[1:]:
        os.chdir(side.here)
        (side.here / "f").touch()
        for number in range(1_000):
            os.link("f", f"name{number}")
        assert os.stat("f").st_nlink == 1_001
        for number in range(1_000):
            os.unlink(f"name{number}")
        assert os.stat("f").st_nlink == 1
