"""What the kernel keeps of a mount, and what it must not: after a change of any kind, and whoever
made it, everybody sees what is there now, also who has it open."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from dtafs.services.client import RemoteSession, connect_to_daemon
from tests.posix import acts
from tests.support.actors import Actor, acting
from tests.support.mounts import Mount

PATIENCE_S = 20.0

NAMES = ("v1", "v2", "v3", "latest", "raw", "clean", "staging")


@pytest.fixture
def dataset(mounted_lake: Mount) -> Path:
    """The directory of a dataset that has one staged file."""
    (mounted_lake / "D").mkdir()
    (mounted_lake / "D/staging/x").write_bytes(b"one")
    return mounted_lake / "D"


@pytest.fixture
def session(mounted_lake: Mount, dataset: Path) -> Iterator[RemoteSession]:
    """A command that talks to the daemon of `dataset`, without the kernel."""
    connected = connect_to_daemon(mounted_lake.lake, "tests 1.0")
    assert connected is not None
    with connected:
        yield connected


@pytest.fixture
def watcher(dataset: Path) -> Iterator[Actor]:
    """A process that works in the directory of the dataset."""
    with acting() as actor:
        actor.do(acts.enter, str(dataset), "/")
        yield actor


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor for reading."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def files(dataset: Path) -> Iterator[ExitStack]:
    """What is open until the test is over."""
    with ExitStack() as stack:
        yield stack


def seen(actor: Actor) -> dict[str, str]:
    """What a process finds by name in its directory."""
    found = {}
    for name in NAMES:
        try:
            kind = actor.do(acts.lstat_of, name, "kind")
            found[name] = kind if kind == "dir" else actor.do(acts.readlink, name)
        except FileNotFoundError:
            found[name] = ""
    return {name: what for name, what in found.items() if what}


Commit = Callable[[Path, RemoteSession, int], object]
COMMITS: dict[str, Commit] = {
    "by mv": lambda top, _, number: os.rename(top / "staging", top / f"v{number}"),
    "by a command": lambda top, session, number: session.commit("D", f"version {number}"),
}


@pytest.mark.parametrize("how", COMMITS)
def test_a_new_version_is_seen_at_once(
    dataset: Path, session: RemoteSession, watcher: Actor, files: ExitStack, how: str
) -> None:
    times = []
    listing = files.enter_context(opened(dataset))
    for number in (1, 2, 3):
        before = {"staging": "dir", **{f"v{n}": "dir" for n in range(1, number)}}
        before |= {"latest": f"v{number - 1}"} if number > 1 else {}
        for _ in range(2):  # what it did not find it may keep, too
            assert seen(watcher) == before
            assert sorted(os.listdir(listing)) == sorted(before)
        times.append(watcher.do(acts.times, "."))
        (dataset / "staging/x").write_bytes(b"%d" % number)
        COMMITS[how](dataset, session, number)
        assert watcher.do(acts.times, ".") > times[-1], "the directory has changed"
        assert seen(watcher) == {**before, f"v{number}": "dir", "latest": f"v{number}"}
        assert watcher.do(acts.get, "latest/x") == str(number)
        assert sorted(os.listdir(listing)) == sorted({*before, f"v{number}", "latest"})


def test_a_listing_that_has_begun_goes_on(dataset: Path, session: RemoteSession) -> None:
    for name in range(2_000):
        (dataset / f"staging/{name}").touch()
    with os.scandir(dataset / "staging") as staged:
        names = [next(staged).name for _ in range(10)]
        session.commit("D", "while it is listed")
        (dataset / "staging/later").touch()
        session.commit("D", "and once more")
        names += [entry.name for entry in staged]
    assert len(names) == len(set(names))
    assert {*names} - {"later"} == {"x", *map(str, range(2_000))}


def test_tags_are_seen_at_once(dataset: Path, session: RemoteSession, watcher: Actor) -> None:
    session.commit("D", "first")
    (dataset / "staging/x").write_bytes(b"two")
    session.commit("D", "second")
    there = {"staging": "dir", "v1": "dir", "v2": "dir", "latest": "v2"}
    assert seen(watcher) == there
    session.set_tags("D", 1, add=["raw"])
    assert seen(watcher) == {**there, "raw": "v1"} and watcher.do(acts.get, "raw/x") == "one"
    session.set_tags("D", 2, add=["raw"], remove=[])
    session.set_tags("D", 1, remove=["raw"])
    assert seen(watcher)["raw"] == "v2" and watcher.do(acts.get, "raw/x") == "two"
    os.symlink("v1", dataset / "clean")
    assert seen(watcher) == {**there, "raw": "v2", "clean": "v1"}
    os.unlink(dataset / "clean")
    session.set_tags("D", 2, remove=["raw"])
    assert seen(watcher) == there


def test_a_new_dataset_is_seen_at_once(
    mounted_lake: Mount, session: RemoteSession, watcher: Actor
) -> None:
    watcher.do(acts.enter, "..", str(mounted_lake / "D"))
    before = watcher.do(acts.times, ".")
    with pytest.raises(FileNotFoundError):
        watcher.do(acts.lstat_of, "E", "kind")
    session.create("E")
    assert watcher.do(acts.lstat_of, "E", "kind") == "dir"
    assert watcher.do(acts.times, ".") > before
    assert sorted(os.listdir(mounted_lake.mountpoint)) == [".dtafs", "D", "E"]


def test_staging_after_a_commit_is_what_it_was(
    dataset: Path, session: RemoteSession, watcher: Actor, files: ExitStack
) -> None:
    watcher.do(acts.enter, "staging", str(dataset))
    fd = files.enter_context(opened(dataset / "staging/x"))
    before = os.fstat(fd)
    session.commit("D", "first")
    assert os.fstat(fd).st_ino == before.st_ino == (dataset / "staging/x").stat().st_ino
    watcher.do(acts.put, "y", "new")
    watcher.do(acts.put, "x", "changed")
    assert os.pread(fd, 100, 0) == b"changed"
    assert sorted(os.listdir(dataset / "staging")) == ["x", "y"]
    assert os.listdir(dataset / "v1") == ["x"]
    assert (dataset / "v1/x").read_bytes() == b"one"


def test_what_put_replaces_is_seen_by_who_has_it_open(
    dataset: Path, session: RemoteSession, watcher: Actor, files: ExitStack, tmp_path: Path
) -> None:
    """A name in use stays in the kernel, unless it is told."""
    (dataset / "staging/sub").mkdir()
    (dataset / "staging/sub/x").write_bytes(b"old")
    (dataset / "staging/sub/gone").write_bytes(b"old")
    (dataset / "staging/sub/kind").write_bytes(b"old")
    session.commit("D", "first")
    watcher.do(acts.enter, "staging/sub", str(dataset))
    sub = dataset / "staging/sub"
    held = [files.enter_context(opened(sub / name)) for name in ("x", "gone", "kind")]
    with pytest.raises(FileNotFoundError):
        watcher.do(acts.get, "new")
    before = watcher.do(acts.times, ".")
    source = tmp_path / "sub"
    (source / "kind").mkdir(parents=True)
    (source / "x").write_bytes(b"replaced")
    (source / "new").write_bytes(b"new")
    session.put("D", [str(source)], delete=True)
    assert watcher.do(acts.get, "x") == "replaced" and watcher.do(acts.get, "new") == "new"
    assert (dataset / "staging/sub/x").stat().st_size == len("replaced")
    assert not (dataset / "staging/sub/gone").exists()
    assert watcher.do(acts.lstat_of, "kind", "kind") == "dir"
    assert sorted(os.listdir(dataset / "staging/sub")) == ["kind", "new", "x"]
    assert watcher.do(acts.times, ".") != before
    assert watcher.do(os.getcwd) == str(dataset / "staging/sub")
    assert [os.pread(fd, 10, 0) for fd in held] == [b"old"] * 3
    assert [os.fstat(fd).st_nlink for fd in held] == [0] * 3


def test_discard_is_seen_by_who_works_there(
    dataset: Path, session: RemoteSession, watcher: Actor, files: ExitStack
) -> None:
    (dataset / "staging/sub").mkdir()
    (dataset / "staging/sub/x").write_bytes(b"sealed")
    session.commit("D", "first")
    watcher.do(acts.enter, "staging", str(dataset))
    (dataset / "staging/x").write_bytes(b"changed")
    (dataset / "staging/sub/x").write_bytes(b"changed, too")
    (dataset / "staging/new").write_bytes(b"new")
    os.chmod(dataset / "staging", 0o700)
    for name in ("x", "sub/x", "new"):
        files.enter_context(opened(dataset / "staging" / name))
    session.discard("D")
    assert watcher.do(os.getcwd) == str(dataset / "staging")
    assert watcher.do(acts.lstat_of, ".", "mode") != "0700"
    assert watcher.do(acts.lstat_of, "x", "size") == "3"
    assert (watcher.do(acts.get, "x"), watcher.do(acts.get, "sub/x")) == ("one", "sealed")
    with pytest.raises(FileNotFoundError):
        watcher.do(acts.lstat_of, "new", "kind")
    assert sorted(os.listdir(dataset / "staging")) == ["sub", "x"]
    watcher.do(acts.put, "x", "anew")
    assert (dataset / "staging/x").read_bytes() == b"anew"


def test_sealed_negative_entries_stay_true(dataset: Path, session: RemoteSession) -> None:
    session.commit("D", "first")
    version = dataset / "v1"
    for _ in range(2):
        assert not (version / "y").exists()
    (dataset / "staging/y").write_bytes(b"y")
    session.commit("D", "second")
    assert not (version / "y").exists() and (dataset / "v2/y").read_bytes() == b"y"
    with pytest.raises(OSError) as caught:
        os.rename(dataset / "staging", dataset / "v9")
    assert caught.value.errno != errno.EROFS
    assert not (dataset / "v9").exists()


def test_who_writes_a_little_at_a_time_waits_for_no_answer(
    mounted_lake: Mount, dataset: Path, watcher: Actor
) -> None:
    """Nor does the kernel ask whether the file has set-id bits or capabilities."""
    watcher.do(acts.keep_writing, "staging/x")
    watcher.do(acts.write_kept, b"first", 1)
    os.kill(mounted_lake.pid, signal.SIGSTOP)
    try:
        watcher.begin(acts.write_kept, b"more" * 100, 1_000)
        assert watcher.ends_within(PATIENCE_S), "the kernel asked"
        watcher.end()
    finally:
        os.kill(mounted_lake.pid, signal.SIGCONT)
    written = b"onefirst" + b"more" * 100_000
    assert (dataset / "staging/x").read_bytes() == written
