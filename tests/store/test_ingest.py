"""`put` without a mount: what of a tree arrives, what is refused, what a second call changes."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dtafs.core.tree import walk
from dtafs.core.values import Actor, Entry, Kind
from dtafs.errors import BusyError, ConflictError, NotFoundError, RefusedError, UsageError
from dtafs.store import ingest, sources
from dtafs.store.lake import Lake
from dtafs.store.progress import Progress
from dtafs.store.session import Session

ACTOR = Actor("tester", 1000, "here", "pytest")
MTIME_NS = 1_720_094_400_123_456_789


@pytest.fixture
def session(lake: Lake) -> Session:
    """A session on a lake with the empty dataset D."""
    session = Session(lake, ACTOR)
    session.create("D")
    return session


def commit(session: Session) -> dict[bytes, Entry]:
    """Commit, and everything that the version holds by its path."""
    session.commit("D", "a version")
    top = session.lake.objects.top(session.lake.resolve("D"))
    return {b"/".join(path): entry for path, entry in walk(session.lake.objects.node, top)}


def content(session: Session, entry: Entry) -> bytes:
    return b"".join(session.lake.objects.stream(entry.content))


def changes(session: Session) -> dict[str, str]:
    """Path and letter of what staging changes, times of directories left out."""
    return {
        change["path"]: change["change"]
        for change in session.status("D")["changes"]
        if change.get("aspects") != ["mtime_ns"]
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of everything that can be sealed."""
    top = tmp_path / "tree"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "a.csv").write_text("x,y\n1,2\n")
    (top / "empty").touch()
    (top / "sub" / "large").write_bytes(os.urandom(3_000_000))
    (top / "sub" / "hard").write_text("two names")
    os.link(top / "sub" / "hard", top / "sub" / "deep" / "harder")
    (top / "link").symlink_to("sub/large")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "fifo")
    os.close(os.open(os.fsencode(top) + b"/\xff\n", os.O_CREAT | os.O_WRONLY))
    os.setxattr(top / "a.csv", "user.unit", b"degree\0s")
    (top / "a.csv").chmod(0o4751)
    (top / "sub").chmod(0o2750)
    for name in ("a.csv", "sub/deep", "sub", "."):
        os.utime(top / name, ns=(0, MTIME_NS))
    os.utime(top / "link", ns=(0, MTIME_NS), follow_symlinks=False)
    return top


def test_a_tree_arrives_whole(session: Session, tree: Path) -> None:
    done = session.put("D", [str(tree)])
    assert (done["files"], done["directories"], done["others"]) == (6, 3, 3)
    found = commit(session)
    for path in [tree, *tree.rglob("*")]:
        status = path.lstat()
        entry = found[os.fsencode(path.relative_to(tree.parent))]
        assert (entry.mode, entry.uid, entry.gid) == (
            status.st_mode & 0o7777,
            status.st_uid,
            status.st_gid,
        )
        assert entry.mtime_ns == status.st_mtime_ns
        if path.is_symlink():
            assert entry.ref == os.readlink(os.fsencode(path))
        elif path.is_file():
            assert content(session, entry) == path.read_bytes()
    assert found[b"tree/a.csv"].xattrs == ((b"user.unit", b"degree\0s"),)
    assert found[b"tree/sub/hard"].link == found[b"tree/sub/deep/harder"].link != 0
    assert found[b"tree/sub/hard"].nlink == 2
    assert found[b"tree/fifo"].kind == Kind.FIFO


def test_contents_of_a_directory_land_at_the_top(session: Session, tree: Path) -> None:
    session.put("D", [f"{tree}/."])
    found = commit(session)
    assert b"a.csv" in found and b"tree" not in found
    assert found[b""].mtime_ns == MTIME_NS
    assert found[b""].mode == tree.stat().st_mode & 0o7777


def test_into_a_directory_that_is_made(session: Session, tree: Path) -> None:
    session.put("D", [f"{tree}/a.csv", f"{tree}/link"], into="year/2024/")
    assert {b"year/2024/a.csv", b"year/2024/link"} <= commit(session).keys()


def test_a_second_put_of_the_same_changes_nothing(session: Session, tree: Path) -> None:
    session.put("D", [f"{tree}/."])
    commit(session)
    session.put("D", [f"{tree}/."])
    assert session.status("D")["changes"] == []
    with pytest.raises(RefusedError, match="nothing to commit"):
        session.commit("D", "again")


def test_put_replaces_what_changed_and_keeps_the_rest(session: Session, tree: Path) -> None:
    session.put("D", [f"{tree}/."])
    commit(session)
    (tree / "a.csv").write_text("other\n")
    (tree / "empty").unlink()
    session.put("D", [f"{tree}/."])
    assert changes(session) == {"a.csv": "changed"}
    session.put("D", [f"{tree}/."], delete=True)
    assert changes(session) == {"a.csv": "changed", "empty": "removed"}


@pytest.mark.parametrize("delete", [False, True])
def test_directories_get_the_times_of_their_sources(
    session: Session, tree: Path, delete: bool
) -> None:
    """Also those in which names come, go and change, and those that a link or a file replaces."""
    session.put("D", [f"{tree}/."])
    commit(session)
    (tree / "sub" / "new").write_text("new")
    (tree / "sub" / "large").write_bytes(os.urandom(200_000))
    (tree / "sub" / "deep" / "harder").unlink()
    os.link(tree / "sub" / "large", tree / "sub" / "deep" / "larger")
    for name in ("sub/deep", "sub", "."):
        os.utime(tree / name, ns=(0, MTIME_NS + 5))
    session.put("D", [f"{tree}/."], delete=delete)
    found = commit(session)
    for name in (b"sub/deep", b"sub", b""):
        assert found[name].mtime_ns == MTIME_NS + 5
    assert found[b"sub/large"].link == found[b"sub/deep/larger"].link != 0
    assert content(session, found[b"sub/large"]) == (tree / "sub" / "large").read_bytes()
    assert (b"sub/deep/harder" in found) is not delete


def test_a_directory_that_is_not_put_moves_its_time(session: Session, tree: Path) -> None:
    session.put("D", [f"{tree}/."])
    before = commit(session)[b"sub"].mtime_ns
    session.put("D", [str(tree / "a.csv")], into="sub")
    assert commit(session)[b"sub"].mtime_ns > before


def test_a_file_put_twice_before_a_commit_is_the_last_one(session: Session, tmp_path: Path) -> None:
    """The second time in place of the first, with other bytes, then with none, then with some."""
    path = tmp_path / "file"
    for data in (b"first", os.urandom(300_000), b"", b"last", b"last"):
        path.write_bytes(data)
        os.utime(path, ns=(0, MTIME_NS))
        session.put("D", [str(path)])
        assert session.lake.staging("D").content_at((b"file",)) is not None
    entry = commit(session)[b"file"]
    assert content(session, entry) == b"last" and entry.mtime_ns == MTIME_NS
    path.write_bytes(b"later")
    session.put("D", [str(path)])
    assert content(session, commit(session)[b"file"]) == b"later"


def test_a_file_that_hides_its_size_is_refused(session: Session) -> None:
    """Files of /proc say that they are empty: what they hold is neither lost nor guessed at."""
    with pytest.raises(BusyError, match="changed each of the 3 times"):
        session.put("D", ["/proc/self/status"])
    assert session.status("D")["changes"] == []


def test_delete_keeps_to_the_directories_that_are_put(session: Session, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    session.put("D", [str(tmp_path / "one"), str(tmp_path / "two")])
    commit(session)
    (tmp_path / "one" / "file").rename(tmp_path / "one" / "renamed")
    done = session.put("D", [str(tmp_path / "one")], delete=True)
    assert done["removed"] == 1
    assert changes(session) == {"one/file": "removed", "one/renamed": "added"}


def test_delete_also_swaps_kinds(session: Session, tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "name" / "below").mkdir(parents=True)
    session.put("D", [f"{top}/."])
    commit(session)
    (top / "name" / "below").rmdir()
    (top / "name").rmdir()
    (top / "name").write_text("a file now")
    with pytest.raises(ConflictError, match="would replace a directory"):
        session.put("D", [f"{top}/."])
    session.put("D", [f"{top}/."], delete=True)
    assert content(session, commit(session)[b"name"]) == b"a file now"


def test_sockets_and_devices_are_refused_by_name(session: Session, tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tree / "socket"))
        with pytest.raises(RefusedError, match=r"socket.*is a socket.*everything else is staged"):
            session.put("D", [str(tree)])
    assert b"tree/sub/large" in commit(session)
    with pytest.raises(RefusedError, match="'/dev/null' is a char device"):
        session.put("D", ["/dev/null"])


def test_the_lake_itself_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="is the lake itself"):
        session.put("D", [str(session.lake.path.parent)])


@pytest.mark.parametrize("into", ["..", "a/../b", "x" * 256, "a\0b"])
def test_into_stays_inside(session: Session, tree: Path, into: str) -> None:
    with pytest.raises(UsageError, match="not a path inside a dataset"):
        session.put("D", [str(tree)], into=into)


def test_wrong_arguments_change_nothing(session: Session, tree: Path) -> None:
    with pytest.raises(NotFoundError, match="'/no/such': No such file"):
        session.put("D", [str(tree), "/no/such"])
    (tree.parent / "other").mkdir()
    (tree.parent / "other" / "a.csv").touch()
    with pytest.raises(UsageError, match="would get the same name"):
        session.put("D", [f"{tree}/a.csv", f"{tree.parent}/other/a.csv"])
    with pytest.raises(UsageError, match="cannot be empty"):
        session.put("D", [""])
    with pytest.raises(NotFoundError, match="no dataset 'E'"):
        session.put("E", [str(tree)])
    assert session.status("D")["changes"] == []


@contextmanager
def appended_while_read(path: Path, times: int) -> Iterator[list[int]]:
    """Append to a file just before each of its first `times` reads ends."""
    reads: list[int] = []
    close = sources.SteadyFile.close

    def closing(self: sources.SteadyFile) -> None:
        reads.append(1)
        if len(reads) <= times:
            with path.open("a") as file:
                file.write("more\n")
        close(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources.SteadyFile, "close", closing)
        yield reads


def test_a_file_that_changes_is_read_again(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("first\n")
    with appended_while_read(path, 2) as reads:
        session.put("D", [str(path)])
    assert len(reads) == 3
    entry = commit(session)[b"log"]
    assert content(session, entry) == path.read_bytes() == b"first\nmore\nmore\n"
    assert entry.mtime_ns == path.stat().st_mtime_ns


def test_a_file_that_goes_on_changing_is_refused(session: Session, tmp_path: Path) -> None:
    path, calm = tmp_path / "log", tmp_path / "calm"
    path.touch()
    calm.write_text("calm")
    with (
        appended_while_read(path, 100),
        pytest.raises(BusyError, match=r"log' changed each of the 3 times"),
    ):
        session.put("D", [str(path)])
    session.put("D", [str(calm)])
    assert set(commit(session)) == {b"", b"calm"}


def test_a_file_that_becomes_a_link_is_not_followed(session: Session, tmp_path: Path) -> None:
    """Between the listing and the opening, somebody swaps a file for a link to another."""
    path, secret = tmp_path / "file", tmp_path / "secret"
    path.write_text("public")
    secret.write_text("secret")
    source = sources.Source.at(os.fsencode(path), (b"file",), 0)
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        sources.SteadyFile(source)


def test_many_files_pass_several_batches(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "BATCH_FILES", 7)
    monkeypatch.setattr(ingest, "PLACED_AT_ONCE", 3)
    for i in range(50):
        (tmp_path / f"f{i:02}").write_text(str(i) * i)
    wanted = sorted(tmp_path.glob("f*"))
    session.put("D", [str(path) for path in wanted])
    found = commit(session)
    for path in wanted:
        assert content(session, found[path.name.encode()]) == path.read_bytes()


def test_progress_counts_files_and_bytes(
    session: Session, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtafs.store.progress.REPORT_EVERY_S", 0.0)
    seen: list[Progress] = []
    lock = threading.Lock()

    def report(progress: Progress) -> None:
        with lock:
            seen.append(progress)

    session.put("D", [str(tree)], progress=report)
    last = max(seen, key=lambda progress: (progress.files, progress.size_bytes))
    assert last.files_total == 6 and last.files <= last.files_total
    assert last.size_bytes <= last.size_total_bytes


def test_staging_survives_reopening(lake_path: Path, tree: Path) -> None:
    with Lake.open(lake_path) as lake:
        session = Session(lake, ACTOR)
        session.create("D")
        session.put("D", [str(tree)])
        before = session.status("D")
    with Lake.open(lake_path) as lake:
        session = Session(lake, ACTOR)
        assert session.status("D") == before
        assert b"tree/sub/large" in commit(session)


def test_discard_drops_everything(session: Session, tree: Path) -> None:
    session.put("D", [str(tree)])
    session.discard("D")
    assert session.status("D")["changes"] == []


def test_nodes_that_are_not_in_memory_are_fetched(session: Session, tree: Path) -> None:
    """Each call on staging may find a node cold; then it is made again."""
    session.put("D", [f"{tree}/."])
    commit(session)
    (tree / "sub" / "deep" / "new").write_text("new")
    session.lake.objects.clear()
    session.put("D", [f"{tree}/."], delete=True)
    assert changes(session) == {"sub/deep/new": "added"}


def test_changes_are_what_compare_says(session: Session, tree: Path) -> None:
    session.put("D", [f"{tree}/."])
    commit(session)
    (tree / "a.csv").chmod(0o600)
    session.put("D", [f"{tree}/."])
    change = next(c for c in session.status("D")["changes"] if c["path"] == "a.csv")
    assert change["aspects"] == ["mode"]
