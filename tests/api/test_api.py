"""The Python API: what the commands can do, from a program."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtafs import Dataset, Lake, Transform
from dtafs.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    RefusedError,
    SealedError,
    UsageError,
)
from dtafs.store.handle import handle_of
from tests.support.evidence import MTIME_NS, make_tree
from tests.support.programs import environment


@pytest.fixture(params=["alone", "daemon"])
def api(request: pytest.FixtureRequest, lake_path: Path) -> Iterator[Lake]:
    """A new lake through the API: without a daemon, and with one that has it mounted."""
    if request.param == "daemon":
        request.getfixturevalue("mount")(lake_path)
    with Lake(lake_path) as lake:
        yield lake


@pytest.fixture
def alone(lake_path: Path) -> Iterator[Lake]:
    """A new lake through the API, without a daemon."""
    with Lake(lake_path) as lake:
        yield lake


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of everything."""
    make_tree(tmp_path / "tree")
    return tmp_path / "tree"


def filled(lake: Lake, tree: Path) -> Dataset:
    """D with one version of `tree`."""
    dataset = lake.create_dataset("D", ["raw"])
    dataset.put([f"{tree}/."])
    dataset.commit("First")
    return dataset


def forked(work: Callable[[], int]) -> int:
    """The pid of a child that ends with what `work` returns, or with 99 when it raises."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def test_the_way_of_a_dataset(api: Lake, tree: Path) -> None:
    dataset = filled(api, tree)
    assert dataset.version_id == "D:v1"
    (tree / "a.csv").write_text("x,y\n5,6\n")
    dataset.put_file(tree / "a.csv", chunk=1024)
    dataset.put_file(tree / "sub" / "hard", into="more/below")
    assert dataset.status()["totals"]["changed"] >= 1
    second = dataset.commit("Second", tags=["clean"])
    assert (second.id, dataset.version_id, second.message) == ("D:v2", "D:v2", "Second")
    assert [version.id for version in dataset.versions] == ["D:v1", "D:v2"]
    assert {tag: version.id for tag, version in dataset.tags.items()} == {
        "raw": "D:v1",
        "clean": "D:v2",
    }
    assert (dataset["raw"], dataset[2], dataset["v1"]) == (
        dataset.versions[0],
        second,
        api.version("D:v1"),
    )
    assert (dataset / "a.csv").read_text() == "x,y\n5,6\n"
    assert (dataset["raw"] / "a.csv").read_text() == "x,y\n1,2\n"
    assert (dataset / "more" / "below" / "hard").read_bytes() == b"two names"
    second.add_tags("best")
    second.remove_tags("clean")
    assert second.tags == ("best",)
    dataset.put_file(tree / "empty", into="x")
    dataset.discard()
    with pytest.raises(RefusedError, match="nothing to commit"):
        dataset.commit("again")
    assert [d.name for d in api.datasets()] == ["D"]
    assert api.stats()["versions"] == 2
    assert second.files == 12 and second.size_bytes > 0 and len(second.sha256) == 64


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


def test_a_version_stays_readable_while_the_next_is_made(api: Lake, tree: Path) -> None:
    """LMDB opens once in a process: reading and changing share, also inside an open file."""
    dataset = filled(api, tree)
    with (dataset.latest / "sub" / "large").open("rb") as file:
        first = file.read(10)
        dataset.put_file(tree / "a.csv", into="again")
        dataset.commit("Second")
        file.seek(0)
        assert file.read(10) == first
    assert [version.id for version in Lake(api.path).dataset("D").versions] == ["D:v1", "D:v2"]


def test_threads_read_and_change_at_once(alone: Lake, tree: Path, tmp_path: Path) -> None:
    dataset = filled(alone, tree)
    problems: list[BaseException] = []
    data = (tree / "sub" / "large").read_bytes()

    def guarded(work: Callable[[], Any]) -> threading.Thread:
        def call() -> None:
            try:
                work()
            except BaseException as error:
                problems.append(error)

        return threading.Thread(target=call)

    def read() -> None:
        for _ in range(20):
            assert (dataset["v1"] / "sub" / "large").read_bytes() == data

    def change(number: int) -> None:
        path = tmp_path / f"file{number}"
        path.write_text(str(number))
        for _ in range(3):
            Dataset.open("D", lake=Lake(alone.path)).put_file(path)

    threads = [guarded(read), guarded(read), *(guarded(lambda n=n: change(n)) for n in range(3))]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert len(dataset.status()["changes"]) >= 3


def test_a_child_process_reads_too(alone: Lake, tree: Path) -> None:
    """After a fork the environment of the parent is not used."""
    dataset = filled(alone, tree)
    path = dataset.latest / "a.csv"
    expected = path.read_bytes()

    def read() -> int:
        return 0 if path.read_bytes() == expected else 1

    child = forked(read)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == expected


def test_the_lock_of_another_is_respected(alone: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtafs.api.WRITER_WAIT_S", 0.0)
    code = (
        "import sys; from pathlib import Path; from dtafs.store.lake import Lake\n"
        "with Lake.open(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, alone.path],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        other.stdout.readline()
        with pytest.raises(BusyError, match=f"process {other.pid} "):
            alone.create_dataset("D")
        assert alone.datasets() == []
        other.stdin.close()
    alone.create_dataset("D")


def test_sessions_nest_in_one_thread(alone: Lake) -> None:
    handle = handle_of(alone.path)
    with handle.writing(0) as outer, handle.writing(0) as inner:
        assert inner is outer
        with handle.reading() as reading:
            assert reading is outer


def test_csv_trim(api: Lake, tmp_path: Path) -> None:
    top = tmp_path / "csv"
    (top / "sub").mkdir(parents=True)
    (top / "a.csv").write_text('t,station,temp\n1,"A, b",20\n2,"say ""x""",21\n')
    (top / "sub" / "B.CSV").write_bytes(b"\xef\xbb\xbftemp,t,z\r\n3,4,5\r\n\r\n")
    (top / "notes.txt").write_text("kept")
    (top / "a.csv").chmod(0o640)
    dataset = filled(api, top)
    trimmed = Transform.csv_trim(dataset, cols=["temp", "t"])
    version = trimmed.commit("Trimmed", tags=["clean"])
    assert (version / "a.csv").read_text() == "temp,t\n20,1\n21,2\n"
    assert (version / "sub" / "B.CSV").read_text() == "temp,t\n3,4\n"
    assert (version / "notes.txt").read_text() == "kept"
    assert (version / "a.csv").stat().st_mode & 0o777 == 0o640
    manifest = version.row.manifest
    assert [(s.dataset, s.version, s.manifest) for s in manifest.sources] == [
        ("D", 1, dataset["v1"].sha256)
    ]
    assert manifest.transform is not None
    assert (manifest.transform.name, manifest.transform.parameters) == (
        "csv_trim",
        {"cols": "temp,t"},
    )
    assert len(manifest.transform.program_sha256) == 64


@pytest.mark.parametrize(
    ("text", "cols", "said"),
    [
        ("a,b\n1,2\n", ["c"], "'x.csv' has no column 'c'; it has a, b"),
        ("a,b\n1\n", ["b"], "row that is shorter"),
        ("a,b\n1,2\n", [], "needs the names of columns"),
        ("a,b\n1,2\n", ["a", "a"], "each once"),
        ("", ["a"], "has no column 'a'"),
        ("a\xff\n", ["a"], "not a CSV file in UTF-8"),
    ],
)
def test_csv_trim_refuses_and_stages_nothing(
    alone: Lake, tmp_path: Path, text: str, cols: list[str], said: str
) -> None:
    top = tmp_path / "csv"
    top.mkdir()
    (top / "good.csv").write_text("a,b,c\n1,2,3\n")
    (top / "x.csv").write_bytes(text.encode("latin-1"))
    dataset = filled(alone, top)
    with pytest.raises(UsageError, match=said):
        Transform.csv_trim(dataset, cols=cols)
    assert dataset.status()["changes"] == []


def test_csv_trim_does_not_mix_with_staged_work(alone: Lake, tree: Path) -> None:
    dataset = filled(alone, tree)
    dataset.put_file(tree / "empty", into="x")
    with pytest.raises(ConflictError, match="has work staged"):
        Transform.csv_trim(dataset, cols=["x"])


def test_lineage_by_hand(alone: Lake, tree: Path) -> None:
    dataset = filled(alone, tree)
    other = alone.create_dataset("E")
    other.put_file(tree / "a.csv")
    version = other.commit("Joined", sources=[dataset.latest], transform={"name": "join"})
    assert version.row.manifest.sources[0].dataset == "D"
    with pytest.raises(UsageError, match="does not describe a transform"):
        other.commit("x", transform={"parameters": {}}, allow_empty=True)


def test_the_default_lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DTAFS_LAKE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with pytest.raises(NotFoundError, match="does not exist"):
        Dataset.open("D")
    assert not (tmp_path / "data").exists()
    with pytest.raises(UsageError):
        Dataset.create("a/b")
    assert not (tmp_path / "data").exists()
    Dataset.create("D")
    assert (tmp_path / "data" / "dtafs" / "lake" / "lake.json").exists()
    assert Dataset.open("D").name == "D"
    with pytest.raises(ConflictError, match="exists already"):
        Dataset.create("D")
    monkeypatch.setenv("DTAFS_LAKE", str(tmp_path / "other"))
    Dataset.create("E")
    assert [dataset.name for dataset in Lake.open(tmp_path / "other").datasets()] == ["E"]


def test_create_and_close(tmp_path: Path) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        assert len(lake.id) == 32 and len(lake.public_key) == 64
        assert repr(lake) == f"Lake({str(tmp_path / 'lake')!r})"
    with pytest.raises(UsageError, match="is closed"):
        lake.datasets()
    with pytest.raises(ConflictError, match="is a lake already"):
        Lake.create(tmp_path / "lake")


def test_wrong_arguments(alone: Lake, tree: Path) -> None:
    dataset = filled(alone, tree)
    with pytest.raises(UsageError, match="stage it with put"):
        dataset.put_file(tree)
    with pytest.raises(NotFoundError, match="there is no file"):
        dataset.put_file(tree / "nothing")
    with pytest.raises(UsageError, match="at least one byte"):
        dataset.put_file(tree / "a.csv", chunk=0)
    with pytest.raises(NotFoundError, match="did you mean 'D'"):
        alone.dataset("d")
    with pytest.raises(NotFoundError, match="newest is v1"):
        dataset[7]
    with pytest.raises(NotFoundError, match=r"did you mean 'a\.csv'"):
        (dataset / "a.cs").read_bytes()
    with pytest.raises(UsageError, match="is a directory, not a file"):
        (dataset / "sub").read_bytes()
    with pytest.raises(UsageError, match="is not a directory"):
        list((dataset / "a.csv").iterdir())
    with pytest.raises(NotFoundError, match="no version yet"):
        alone.create_dataset("E").latest  # noqa: B018
