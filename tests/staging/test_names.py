"""Errors, counts and times of changes of names, as POSIX has them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.core.values import Kind
from dtafs.store.staging import RENAME_EXCHANGE, RENAME_NOREPLACE, Inode
from tests.staging.fakes import Bench
from tests.staging.model import errno_of


@pytest.fixture(params=["staged", "sealed"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """d/ with f and e/, g with two names, s -> f; as it was made, or as the base of new work."""
    bench = Bench(tmp_path)
    root = bench.staging.root_ino
    d = make(bench, root, b"d", Kind.DIRECTORY)
    f = make(bench, d.ino, b"f")
    make(bench, d.ino, b"e", Kind.DIRECTORY)
    bench.write(f.ino, 0, b"0123456789")
    g = make(bench, root, b"g")
    bench.staging.link(g.ino, d.ino, b"g2", 10)
    make(bench, root, b"s", Kind.SYMLINK, target=b"d/f")
    if request.param == "sealed":
        bench.commit()
        while bench.area.tidy():
            pass
        bench.reopen()
        assert not bench.staging._overlay.virtuals
    yield bench
    bench.area.close()


def make(
    bench: Bench, above: int, name: bytes, kind: Kind = Kind.FILE, target: bytes = b""
) -> Inode:
    return bench.staging.make(above, name, kind, 0o755, 1, 2, 10, target=target)


def at(bench: Bench, path: bytes) -> Inode:
    found = bench.staging.resolve(tuple(path.split(b"/")) if path else ())
    assert found is not None, path
    return found


def test_errors_of_remove(bench: Bench) -> None:
    staging, root, d = bench.staging, bench.staging.root_ino, at(bench, b"d").ino
    assert errno_of(lambda: staging.unlink(root, b"no", 20)) == errno.ENOENT
    assert errno_of(lambda: staging.unlink(root, b"d", 20)) == errno.EISDIR
    assert errno_of(lambda: staging.rmdir(root, b"g", 20)) == errno.ENOTDIR
    assert errno_of(lambda: staging.rmdir(root, b"d", 20)) == errno.ENOTEMPTY
    assert errno_of(lambda: staging.rmdir(root, b"no", 20)) == errno.ENOENT
    assert errno_of(lambda: staging.lookup(at(bench, b"g").ino, b"x")) == errno.ENOTDIR
    assert errno_of(lambda: staging.lookup(d, b"x" * 256)) == errno.ENAMETOOLONG
    assert errno_of(lambda: staging.inode(12345)) == errno.ESTALE
    assert staging.is_clean() == bool(staging.base.version)


def test_errors_of_make_and_link(bench: Bench) -> None:
    staging, root = bench.staging, bench.staging.root_ino
    for name in (b"d", b"g", b"s"):
        assert errno_of(lambda name=name: make(bench, root, name)) == errno.EEXIST
    assert errno_of(lambda: make(bench, root, b"x" * 256)) == errno.ENAMETOOLONG
    assert errno_of(lambda: make(bench, at(bench, b"g").ino, b"x")) == errno.ENOTDIR
    long = b"x" * 4096
    assert errno_of(lambda: make(bench, root, b"x", Kind.SYMLINK, long)) == errno.ENAMETOOLONG
    d, g = at(bench, b"d").ino, at(bench, b"g").ino
    assert errno_of(lambda: staging.link(d, root, b"x", 20)) == errno.EPERM
    assert errno_of(lambda: staging.link(g, root, b"s", 20)) == errno.EEXIST
    for name in (b"", b".", b"..", b"a/b", b"a\0b"):
        assert errno_of(lambda name=name: make(bench, root, name)) == errno.EINVAL


def test_errors_of_rename(bench: Bench) -> None:
    staging, root = bench.staging, bench.staging.root_ino
    d, e = at(bench, b"d").ino, at(bench, b"d/e").ino

    def rename(a: int, name: bytes, b: int, new: bytes, flags: int = 0) -> int:
        return errno_of(lambda: staging.rename(a, name, b, new, flags, 20))

    assert rename(root, b"no", root, b"x") == errno.ENOENT
    assert rename(root, b"d", e, b"x") == errno.EINVAL
    assert rename(root, b"d", d, b"x") == errno.EINVAL
    assert rename(d, b"e", root, b"d") == errno.ENOTEMPTY
    assert rename(d, b"e", root, b"g") == errno.ENOTDIR
    assert rename(root, b"g", d, b"e") == errno.EISDIR
    assert rename(root, b"g", root, b"s", RENAME_NOREPLACE) == errno.EEXIST
    assert rename(root, b"g", root, b"x", RENAME_EXCHANGE) == errno.ENOENT
    assert rename(root, b"g", root, b"x", 4) == errno.EINVAL
    assert rename(root, b"g", d, b"g2") == 0
    assert at(bench, b"g").nlink == 2, "two names of one file stay what they are"


def test_rename_over_a_file_keeps_who_has_it_open(bench: Bench) -> None:
    staging, root = bench.staging, bench.staging.root_ino
    f, s = at(bench, b"d/f"), at(bench, b"s")
    handle = staging.open(f.ino, False)
    staging.rename(root, b"s", at(bench, b"d").ino, b"f", 0, 30)
    assert at(bench, b"d/f").ino == s.ino
    assert at(bench, b"d/f").ctime_ns == 30
    assert staging.inode(f.ino).nlink == 0
    assert bench.read(f.ino) == b"0123456789"
    staging.close(handle)
    assert errno_of(lambda: staging.inode(f.ino)) == errno.ESTALE


def test_names_of_one_file_share_everything(bench: Bench) -> None:
    staging, g = bench.staging, at(bench, b"g")
    assert (g.nlink, at(bench, b"d/g2").ino) == (2, g.ino)
    bench.write(g.ino, 0, b"new")
    assert bench.read(at(bench, b"d/g2").ino) == b"new"
    staging.unlink(staging.root_ino, b"g", 40)
    left = at(bench, b"d/g2")
    assert (left.nlink, left.ctime_ns, bench.read(left.ino)) == (1, 40, b"new")
    top = bench.commit()
    assert top.below.linked == 0


def test_a_name_of_a_group_that_nobody_touched_follows_the_other(bench: Bench) -> None:
    g = at(bench, b"g")
    bench.write(g.ino, 0, b"new")
    bench.commit()
    while bench.area.tidy():
        pass
    bench.reopen()
    assert bench.read(at(bench, b"d/g2").ino) == b"new"
    assert at(bench, b"d/g2").ino == at(bench, b"g").ino == g.ino


def test_times_and_counts_of_directories(bench: Bench) -> None:
    staging, d = bench.staging, at(bench, b"d")
    counted = d.nlink > 1
    make(bench, d.ino, b"n", Kind.DIRECTORY)
    after = staging.inode(d.ino)
    assert (after.mtime_ns, after.ctime_ns) == (10, 10)
    assert after.nlink == (d.nlink + 1 if counted else 1)
    staging.rename(d.ino, b"n", staging.root_ino, b"n", 0, 50)
    after = staging.inode(d.ino)
    assert (after.mtime_ns, after.ctime_ns, after.nlink) == (50, 50, d.nlink)
    staging.rmdir(staging.root_ino, b"n", 60)
    assert staging.inode(staging.root_ino).mtime_ns == 60


def test_a_removed_directory_that_is_held(bench: Bench) -> None:
    staging, e = bench.staging, at(bench, b"d/e")
    staging.remember(e.ino)
    staging.rmdir(at(bench, b"d").ino, b"e", 70)
    assert staging.inode(e.ino).nlink == 0
    assert staging.lookup(e.ino, b"x") is None
    assert errno_of(lambda: make(bench, e.ino, b"x")) == errno.ENOENT
    staging.forget(e.ino)
    assert errno_of(lambda: staging.inode(e.ino)) == errno.ESTALE


def test_setgid_is_inherited(bench: Bench) -> None:
    staging, d = bench.staging, at(bench, b"d")
    staging.set_attributes(d.ino, now_ns=80, mode=0o2775, gid=77)
    assert make(bench, d.ino, b"file").gid == 77
    below = make(bench, d.ino, b"below", Kind.DIRECTORY)
    assert (below.gid, below.mode) == (77, 0o2755)


def test_chown_takes_set_id_bits_away(bench: Bench) -> None:
    staging, f = bench.staging, at(bench, b"d/f")
    staging.set_attributes(f.ino, now_ns=90, mode=0o6755)
    assert staging.set_attributes(f.ino, now_ns=91, uid=5).mode == 0o755
    staging.set_attributes(f.ino, now_ns=92, mode=0o2644)
    assert staging.set_attributes(f.ino, now_ns=93, gid=5).mode == 0o2644
    assert staging.set_attributes(f.ino, now_ns=94, gid=6, mode=0o6711).mode == 0o6711


def test_xattrs(bench: Bench) -> None:
    staging, f = bench.staging, at(bench, b"d/f").ino
    assert errno_of(lambda: staging.get_xattr(f, b"user.a")) == errno.ENODATA
    assert errno_of(lambda: staging.get_xattr(f, b"trusted.a")) == errno.EOPNOTSUPP
    assert errno_of(lambda: staging.set_xattr(f, b"user.a", b"", 1, flags=2)) == errno.ENODATA
    staging.set_xattr(f, b"user.b", b"2", 1)
    staging.set_xattr(f, b"user.a", b"1", 1, flags=1)
    assert errno_of(lambda: staging.set_xattr(f, b"user.a", b"", 1, flags=1)) == errno.EEXIST
    assert list(staging.list_xattr(f)) == [b"user.a", b"user.b"]
    large = b"x" * 65_536
    assert errno_of(lambda: staging.set_xattr(f, b"user.c", large, 1)) == errno.ENOSPC
    staging.remove_xattr(f, b"user.a", 2)
    assert errno_of(lambda: staging.remove_xattr(f, b"user.a", 2)) == errno.ENODATA
    bench.commit()
    bench.reopen()
    assert bench.staging.get_xattr(at(bench, b"d/f").ino, b"user.b") == b"2"
