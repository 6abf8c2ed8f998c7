"""What the stagings of a lake share: numbers, the journal, LMDB, what is cleaned up."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from dtafs.core.values import Entry, Kind
from dtafs.errors import BusyError, RefusedError, StorageError, StorageFullError
from dtafs.store.staging import Base
from dtafs.store.staging.placing import Placing
from dtafs.store.staging.rows import TABLES
from tests.staging.fakes import CREATOR, Bench
from tests.staging.model import errno_of


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def make(bench: Bench, name: bytes, kind: Kind = Kind.FILE) -> int:
    return bench.staging.make(bench.staging.root_ino, name, kind, 0o644, 1, 2, 10).ino


def rows(bench: Bench) -> dict[str, int]:
    bench.area.flush()
    with bench.area.database.read() as txn:
        return {table: txn.count(table) for table in TABLES if table not in ("area", "dataset")}


def test_numbers_are_never_given_twice(bench: Bench) -> None:
    given = set()
    for n in range(5):
        given |= {make(bench, b"%d-%d" % (n, i)) for i in range(10)}
        (bench.kill if n % 2 else bench.reopen)()
    assert len(given) == 50
    assert all(number < 1 << 61 for number in given)


def test_what_nobody_needs_goes(bench: Bench) -> None:
    """After a commit, what was staged leaves nothing but the row of the root."""
    for n in range(40):
        make(bench, b"d%d" % n, Kind.DIRECTORY)
        bench.staging.place((b"d%d" % n, b"x", b"y"), entry(Kind.FILE), 10)
        bench.write(make(bench, b"f%d" % n), 0, b"data")
    bench.commit()
    for n in range(20):
        assert bench.staging.remove_path((b"d%d" % n,), 20)
    bench.commit()
    while bench.area.tidy(7):
        pass
    assert rows(bench) == {table: int(table == "inode") for table in rows(bench)}
    assert not list(bench.area.data.numbers())
    bench.area.close()


def test_a_directory_that_a_commit_found_empty_leaves_nothing_behind(bench: Bench) -> None:
    """Removed before it was tidied: it has no base any more, but rows that speak of the one before."""
    directory = make(bench, b"d", Kind.DIRECTORY)
    bench.staging.make(directory, b"x", Kind.FIFO, 0o644, 1, 2, 10)
    bench.commit()
    bench.staging.unlink(directory, b"x", 20)
    bench.commit()
    bench.staging.rmdir(bench.staging.root_ino, b"d", 30)
    bench.commit()
    while bench.area.tidy():
        pass
    assert rows(bench) == {table: int(table == "inode") for table in rows(bench)}
    bench.area.close()


def test_discard_leaves_nothing_behind(bench: Bench) -> None:
    bench.write(make(bench, b"kept"), 0, b"data")
    bench.commit()
    bench.write(make(bench, b"dropped"), 0, b"data")
    bench.staging.unlink(bench.staging.root_ino, b"kept", 20)
    bench.staging.discard()
    assert bench.staging.is_clean()
    assert bench.staging.resolve((b"kept",)) is not None
    assert bench.staging.resolve((b"dropped",)) is None
    while bench.area.tidy(3):
        pass
    assert rows(bench)["inode"] == 1
    bench.area.close()


def test_data_that_no_row_speaks_of_goes(bench: Bench) -> None:
    ino = make(bench, b"f")
    bench.write(ino, 1, b"data")
    bench.area.data.path(ino - 1).write_bytes(b"stray")
    bench.reopen()
    while bench.area.tidy():
        pass
    assert list(bench.area.data.numbers()) == [ino]
    bench.area.close()


def test_what_was_open_without_a_name_goes_with_the_process(bench: Bench) -> None:
    ino = make(bench, b"f")
    bench.staging.open(ino, True)
    bench.staging.unlink(bench.staging.root_ino, b"f", 20)
    assert bench.staging.inode(ino).nlink == 0
    bench.kill()
    bench.area.flush()
    assert errno_of(lambda: bench.staging.inode(ino))
    assert rows(bench)["orphan"] == 0
    bench.area.close()


def test_datasets_do_not_see_each_other(bench: Bench) -> None:
    other = bench.area.dataset("E", Base(0, b""), CREATOR)
    make(bench, b"f")
    assert other.is_clean()
    assert other.root_ino != bench.staging.root_ino
    assert bench.area.dataset("E") is other
    bench.area.drop("E")
    while bench.area.tidy():
        pass
    assert not bench.area.has("E")
    bench.area.close()


def test_the_same_tree_is_built_after_a_crash_before_the_rebase(bench: Bench) -> None:
    bench.write(make(bench, b"f"), 0, b"data")
    bench.seal()
    before = bench.staging.build(bench.objects.node)
    bench.kill()
    again = bench.staging.build(bench.objects.node)
    assert (again.top, again.directories) == (before.top, before.directories)
    bench.area.close()


def test_what_cannot_be_sealed_is_named(bench: Bench) -> None:
    make(bench, b"pipe", Kind.FIFO)
    make(bench, b"socket", Kind.SOCKET)
    assert [str(p) for p in bench.staging.problems()] == [
        "'socket' is a socket, which cannot be sealed"
    ]
    with pytest.raises(RefusedError):
        bench.staging.build(bench.objects.node)
    bench.staging.unlink(bench.staging.root_ino, b"socket", 20)
    bench.write(make(bench, b"unread"), 0, b"data")
    with pytest.raises(BusyError):
        bench.staging.build(bench.objects.node)
    bench.area.close()


def test_a_full_disk_changes_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    make(bench, b"before")

    def full(*_: object) -> None:
        raise StorageFullError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(bench.area.tables._journal, "append", full)
        with pytest.raises(StorageFullError):
            make(bench, b"f")
        with pytest.raises(StorageFullError):
            bench.staging.unlink(bench.staging.root_ino, b"before", 20)
    with monkeypatch.context() as patched:
        patched.setattr(bench.area.database, "write", full)
        with pytest.raises(StorageFullError):
            bench.area.flush()
        make(bench, b"while")
    names = {bench.staging.resolve((n,)) is not None for n in (b"before", b"while")}
    assert names == {True}
    bench.kill()
    assert bench.staging.resolve((b"while",)) is not None
    assert bench.staging.resolve((b"f",)) is None
    bench.area.close()


def test_a_flush_that_cannot_empty_its_journal_is_finished_by_the_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise StorageError("cannot truncate")

    make(bench, b"first")
    with monkeypatch.context() as patched:
        patched.setattr(bench.area.tables._journal, "drop", broken)
        for _ in range(2):
            with pytest.raises(StorageError):
                bench.area.flush()
    make(bench, b"second")
    bench.area.flush()
    bench.area.flush()
    bench.kill()
    for name in (b"first", b"second"):
        assert bench.staging.resolve((name,)) is not None
    bench.area.close()


def test_a_change_is_real_though_the_flush_it_brings_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("dtafs.store.staging.tables.LIMIT_ROWS", 1)
        patched.setattr(bench.area.database, "write", _no_room)
        make(bench, b"f")
    assert bench.staging.resolve((b"f",)) is not None
    bench.area.close()


def test_who_can_wait_has_many_rows_flushed_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = bench.area.tables
    make(bench, b"first")
    bench.area.drain()
    assert tables.changed_rows and not bench.area.is_full
    for module in ("area", "tables"):
        monkeypatch.setattr(f"dtafs.store.staging.{module}.FULL_ROWS", 1)
    assert bench.area.is_full
    with monkeypatch.context() as patched:
        patched.setattr(bench.area.database, "write", _no_room)
        bench.area.drain()
    bench.area.drain()
    make(bench, b"second")
    bench.area.drain()
    assert not tables.changed_rows
    tables.flush(from_rows=1)
    bench.kill()
    assert bench.staging.resolve((b"second",)) is not None
    bench.area.close()


def _no_room(*_: object) -> None:
    raise StorageFullError("no room")


def entry(kind: Kind, ref: bytes = b"", mode: int = 0o640) -> Entry:
    return Entry(b"", kind, mode, 7, 8, 123, 0, b"", ref)


def test_place_and_remove_by_path(bench: Bench) -> None:
    staging = bench.staging
    content = bench.objects.store(b"content")
    made = staging.place((b"a", b"b", b"f"), entry(Kind.FILE), 20, content)
    assert (made.size, made.mode, made.uid, made.mtime_ns) == (7, 0o640, 7, 123)
    assert bench.read(made.ino) == b"content"
    assert not list(staging.unsealed())
    staging.place((b"a",), entry(Kind.DIRECTORY, mode=0o700), 21)
    above = staging.resolve((b"a",))
    assert above is not None and (above.mode, above.mtime_ns) == (0o700, 123)
    staging.place((b"a", b"b"), entry(Kind.SYMLINK, b"target"), 22)
    link = staging.resolve((b"a", b"b"))
    assert link is not None and staging.readlink(link.ino) == b"target"
    staging.place((b"a", b"b", b"c"), entry(Kind.FILE), 23)
    assert staging.resolve((b"a", b"b", b"c")) is not None
    top = bench.commit()
    assert top.below.entries == 3
    assert staging.remove_path((b"a",), 24)
    assert not staging.remove_path((b"a",), 25)
    assert bench.commit().below.entries == 0
    bench.area.close()


def test_things_are_placed_together(bench: Bench) -> None:
    staging = bench.staging
    content = bench.objects.store(b"content")
    several = [
        Placing((b"d",), entry(Kind.DIRECTORY, mode=0o700)),
        Placing((b"d", b"f"), entry(Kind.FILE), content),
        Placing((b"d", b"below", b"g"), entry(Kind.FILE)),
        Placing((b"link",), entry(Kind.SYMLINK, b"d")),
        Placing((b"d", b"f"), entry(Kind.FILE, mode=0o600), content),
    ]
    assert not staging.place_all(several, 20)
    file = staging.resolve((b"d", b"f"))
    assert file is not None and (file.mode, bench.read(file.ino)) == (0o600, b"content")
    above = staging.resolve((b"d",))
    assert above is not None and (above.mode, above.nlink) == (0o700, 3)
    assert bench.commit().below.entries == 5
    kept = [Placing((b"d",), entry(Kind.FILE)), Placing((b"new",), entry(Kind.FILE))]
    assert staging.place_all(kept, 30, over_directories=False) == [(b"d",)]
    assert bench.commit().below.entries == 6
    assert not staging.place_all(kept, 31)
    assert bench.commit().below.entries == 3
    bench.area.close()


def test_what_is_there_as_wanted_leaves_staging_clean(bench: Bench) -> None:
    staging = bench.staging
    content = bench.objects.store(b"content")
    things = [
        Placing((b"d",), entry(Kind.DIRECTORY)),
        Placing((b"d", b"e"), entry(Kind.DIRECTORY)),
        Placing((b"d", b"e", b"f"), entry(Kind.FILE), content),
        Placing((b"d", b"e"), entry(Kind.DIRECTORY)),
        Placing((b"d",), entry(Kind.DIRECTORY)),
    ]
    staging.place_all(things, 20)
    bench.commit()
    staging.place_all(things, 30)
    assert staging.is_clean()
    bench.area.close()


def test_status_names_what_differs(bench: Bench) -> None:
    staging, root = bench.staging, bench.staging.root_ino
    for path in ((b"d", b"x"), (b"d", b"y"), (b"m",), (b"r",)):
        staging.place(path, entry(Kind.FILE), 10)
    bench.commit()
    staging.rename(root, b"d", root, b"e", 0, 20)
    staging.unlink(root, b"r", 20)
    modified = staging.resolve((b"m",))
    assert modified is not None
    bench.write(modified.ino, 0, b"new")
    found = {c.path: (c.before is not None, c.after is not None) for c in staging.status()}
    assert found == {
        (): (True, True),
        (b"d",): (True, False),
        (b"d", b"x"): (True, False),
        (b"d", b"y"): (True, False),
        (b"e",): (False, True),
        (b"e", b"x"): (False, True),
        (b"e", b"y"): (False, True),
        (b"m",): (True, True),
        (b"r",): (True, False),
    }
    bench.area.close()


def test_staged_bytes_are_for_the_owner_alone(bench: Bench) -> None:
    """Whatever the mode of the file that holds them: small files are rows, large ones files."""
    staging = bench.directory / "staging"
    private = [staging / name for name in ("data.mdb", "journal.0", "journal.1", "data")]
    assert [path.stat().st_mode & 0o077 for path in private] == [0, 0, 0, 0]
    (staging / "data.mdb").chmod(0o644)
    bench.reopen()
    assert (staging / "data.mdb").stat().st_mode & 0o777 == 0o600


def test_the_first_use_by_two_threads_makes_one_staging(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    both, find = threading.Barrier(2), bench.area._find

    def found_together(name: str) -> object:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # where both come as far, neither knows of the other
        return find(name)

    monkeypatch.setattr(bench.area, "_find", found_together)
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(bench.area.dataset, "other", Base(0, b""), CREATOR) for _ in "ab"]
        first, second = (call.result() for call in calls)
    assert first is second


def test_two_threads_never_get_the_same_tree(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    both, read = threading.Barrier(2), bench.area.tables.number

    def read_together(name: str) -> int:
        number = read(name)
        with suppress(threading.BrokenBarrierError):
            both.wait(0.3)  # where both come as far, both have read the same
        return number

    monkeypatch.setattr(bench.area.tables, "number", read_together)
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(bench.area.next_tree) for _ in "ab"]
        first, second = (call.result() for call in calls)
    assert first != second
