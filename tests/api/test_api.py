"""The Python API: what the commands can do, from a program."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtafs import Dataset, Lake, Transform
from dtafs.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from dtafs.store.handle import handle_of
from tests.api.conftest import filled
from tests.support.programs import environment


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
