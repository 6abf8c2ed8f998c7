"""Bytes of staged files: patches over sealed content, holes, sealing, what survives a death."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.values import Kind
from dtafs.store.staging import datafiles
from dtafs.store.staging.rows import NOWHERE, PATCHES, WHOLE, InodeRow
from tests.staging.fakes import Bench
from tests.staging.model import errno_of

SEALED = bytes(range(100))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """One sealed file `f` that no row speaks of."""
    bench = Bench(tmp_path)
    f = bench.staging.make(bench.staging.root_ino, b"f", Kind.FILE, 0o644, 1, 2, 10)
    bench.write(f.ino, 0, SEALED)
    bench.commit()
    while bench.area.tidy():
        pass
    bench.reopen()
    yield bench
    bench.area.close()


def ino(bench: Bench) -> int:
    found = bench.staging.lookup(bench.staging.root_ino, b"f")
    assert found is not None
    return found.ino


def row(bench: Bench) -> InodeRow:
    found = bench.staging._overlay.find_row(ino(bench))
    assert found is not None
    return found


def test_a_patch_copies_nothing(bench: Bench) -> None:
    f = ino(bench)
    bench.write(f, 50, b"patch")
    assert bench.read(f) == SEALED[:50] + b"patch" + SEALED[55:]
    assert row(bench).local == PATCHES
    data = bench.area.data.path(f)
    assert data.stat().st_blocks * 512 <= 4096
    assert bench.read(f, 48, 4) == SEALED[48:50] + b"pa"
    assert bench.read(f, 98) == SEALED[98:]
    assert bench.read(f, 100) == b""
    assert bench.read(f, 2**40) == b""


def test_what_was_cut_off_never_comes_back(bench: Bench) -> None:
    f, staging = ino(bench), bench.staging
    bench.write(f, 90, b"local")
    staging.truncate(f, 40, 20)
    assert bench.read(f) == SEALED[:40]
    staging.truncate(f, 100, 30)
    assert bench.read(f) == SEALED[:40] + bytes(60)
    bench.write(f, 120, b"end")
    assert bench.read(f) == SEALED[:40] + bytes(80) + b"end"
    bench.kill()
    assert bench.read(ino(bench)) == SEALED[:40] + bytes(80) + b"end"


def test_emptied_and_written_anew_is_wholly_local(bench: Bench) -> None:
    f, staging = ino(bench), bench.staging
    staging.truncate(f, 0, 20)
    assert staging.inode(f).blocks == 0
    bench.write(f, 3, b"new")
    assert row(bench).local == WHOLE
    assert bench.read(f) == b"\0\0\0new"


def test_a_file_has_to_be_open(bench: Bench) -> None:
    f, staging = ino(bench), bench.staging
    assert errno_of(lambda: staging.begin_write(f)) == errno.EBADF
    assert errno_of(lambda: staging.open(staging.root_ino, False)) == errno.EISDIR
    handle = staging.open(f, True)
    assert [path for path, _ in staging.writers()] == [b"f"]
    staging.close(handle)
    assert not staging.writers()
    assert errno_of(lambda: staging.truncate(f, -1, 20)) == errno.EINVAL
    assert errno_of(lambda: staging.truncate(f, 2**63, 20)) == errno.EFBIG


def test_quiet_is_told_once_the_last_writer_has_closed(bench: Bench) -> None:
    f, staging = ino(bench), bench.staging
    told: list[int] = []
    staging.on_quiet = told.append
    first, second, reader = staging.open(f, True), staging.open(f, True), staging.open(f, False)
    for handle in (first, reader):
        staging.close(handle)
        assert not told
    staging.close(second)
    assert told == [f]


def test_sealing_is_refused_for_what_changed_meanwhile(bench: Bench) -> None:
    f, staging = ino(bench), bench.staging
    assert not list(staging.unsealed())
    bench.write(f, 0, b"a")
    ((found, generation, size),) = staging.unsealed()
    assert (found, size) == (f, 100)
    assert staging.generation(f) == (generation, size)
    bench.write(f, 1, b"b")
    content = bench.objects.store(b"a" + SEALED[1:])
    assert not staging.sealed(f, generation, content)
    bench.seal()
    assert staging.generation(f) is None
    bench.write(f, 2, b"c")
    assert bench.read(f)[:4] == b"abc\x03"
    assert len(list(staging.unsealed())) == 1


def test_sealed_bytes_survive_the_loss_of_local_ones(bench: Bench) -> None:
    """A crash of the machine may take data that was never synced, but not packs."""
    f = ino(bench)
    bench.write(f, 10, b"patch")
    bench.seal()
    expected = bench.read(f)
    bench.area.close()
    bench.area.data.path(f).write_bytes(b"")
    bench.open()
    assert bench.read(f) == expected
    bench.write(f, 0, b"more")
    assert bench.read(f) == b"more" + expected[4:]
    bench.staging.truncate(f, 20, 50)
    assert bench.read(f) == (b"more" + expected[4:])[:20]


def test_bytes_without_a_record_are_not_shown(bench: Bench) -> None:
    """The process died between the write and its record, then the file grows."""
    made = bench.staging.make(bench.staging.root_ino, b"n", Kind.FILE, 0o644, 1, 2, 10)
    bench.write(made.ino, 0, b"seen")
    bench.staging.open(made.ino, True)
    os.pwrite(bench.staging.begin_write(made.ino), b"lost", 4)
    bench.kill()
    assert bench.read(made.ino) == b"seen"
    bench.staging.truncate(made.ino, 10, 20)
    assert bench.read(made.ino) == b"seen" + bytes(6)


def new_file(bench: Bench) -> int:
    return bench.staging.make(bench.staging.root_ino, b"n", Kind.FILE, 0o644, 1, 2, 10).ino


def rows_of_bytes(bench: Bench) -> int:
    bench.area.flush()
    return sum(1 for _ in bench.area.tables.scan("bytes", b""))


def test_a_small_new_file_needs_no_data_file(bench: Bench) -> None:
    n = new_file(bench)
    bench.write(n, 0, b"small")
    bench.kill()
    assert bench.read(n) == b"small"
    assert bench.staging.inode(n).blocks == 1
    assert not list(bench.area.data.numbers())
    bench.write(n, 3, b"er still")
    assert bench.read(n) == b"smaer still"
    bench.kill()
    assert bench.read(n, 1) == b"maer still"
    bench.commit()
    while bench.area.tidy():
        pass
    found = bench.staging.lookup(bench.staging.root_ino, b"n")
    assert found is not None
    assert bench.read(found.ino) == b"smaer still"
    assert rows_of_bytes(bench) == 0
    assert not list(bench.area.data.numbers())


def test_nothing_is_held_while_another_write_is_under_way(bench: Bench) -> None:
    """The kernel writes back the end of a new file first, and its header while that is under way."""
    n, staging = new_file(bench), bench.staging
    handle = staging.open(n, True)
    fd = staging.begin_write(n)
    assert not staging.hold(n, b"header", None)
    bench.write(n, 0, b"header")
    os.pwrite(fd, b"end", 20_000)
    staging.wrote(n, 20_000, 3, None)
    staging.close(handle)
    assert bench.read(n) == b"header".ljust(20_000, b"\0") + b"end"


def test_a_file_that_was_emptied_is_closed_by_a_thread(bench: Bench) -> None:
    staging, data, n = bench.staging, bench.area.data, new_file(bench)
    bench.write(n, 0, bytes(20))
    bench.write(n, 20, b"more")
    assert not data.has_left
    handle = staging.open(n, True)
    os.pwrite(staging.begin_write(n), b"again", 0)
    staging.truncate(n, 0, 20)
    staging.close(handle)
    assert data.has_left
    bench.write(n, 3, b"new")
    data.close_left()
    assert not data.has_left
    assert bench.read(n) == b"\0\0\0new"


def test_the_data_file_of_before_is_taken_away_by_a_thread(bench: Bench) -> None:
    """It is still there, since no flush came after the tidying, as the file is written again."""
    staging, f = bench.staging, ino(bench)
    staging.remember(f)
    bench.write(f, 0, b"patch")
    assert staging.left_to_empty(f) is None
    bench.commit()
    while bench.area.tidy():
        pass
    handle = staging.open(f, True)
    first, second = staging.left_to_empty(f), staging.left_to_empty(f)
    assert first is not None and second is not None
    first()
    assert not [*bench.area.data.numbers()]
    os.pwrite(staging.begin_write(f), b"other", 50)
    second()  # of a write that came at the same time: there is nothing to take away any more
    staging.wrote(f, 50, 5, None)
    staging.close(handle)
    bench.area.flush()
    assert bench.read(f) == b"patch" + SEALED[5:50] + b"other" + SEALED[55:]


def test_what_a_failed_write_leaves_is_what_is_sealed(bench: Bench) -> None:
    staging, n = bench.staging, new_file(bench)
    bench.write(n, 0, bytes(20))
    bench.write(n, 0, b"before" * 5)
    bench.seal()
    handle = staging.open(n, True)
    os.pwrite(staging.begin_write(n), b"part", 0)
    staging.write_failed(n)
    staging.close(handle)
    assert bench.read(n) == b"part" + b"before"[4:] + b"before" * 4
    bench.commit()
    while bench.area.tidy():
        pass
    found = staging.lookup(staging.root_ino, b"n")
    assert found is not None
    assert bench.read(found.ino) == b"part" + b"before"[4:] + b"before" * 4


def test_held_bytes_go_with_their_file(bench: Bench) -> None:
    staging, n = bench.staging, new_file(bench)
    bench.write(n, 0, b"small")
    staging.truncate(n, 2, 20)
    staging.truncate(n, 4, 30)
    assert bench.read(n) == b"sm\0\0"
    staging.truncate(n, 0, 40)
    assert rows_of_bytes(bench) == 0
    staging.unlink(staging.root_ino, b"n", 50)
    bench.write(new_file(bench), 0, b"other")
    assert rows_of_bytes(bench) == 1
    staging.unlink(staging.root_ino, b"n", 60)
    assert rows_of_bytes(bench) == 0
    bench.write(new_file(bench), 0, b"third")
    staging.discard()
    while bench.area.tidy():
        pass
    assert rows_of_bytes(bench) == 0


def test_only_so_much_is_held_before_a_flush(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datafiles, "HELD_BETWEEN_FLUSHES_BYTES", 10)
    n = new_file(bench)
    bench.write(n, 0, b"more than ten")
    assert [*bench.area.data.numbers()] == [n]
    assert bench.read(n) == b"more than ten"
    handle = bench.staging.open(n, True)
    assert not bench.staging.hold(n, b"again", 20)
    bench.staging.close(handle)


def test_tidying_drops_local_bytes_of_what_is_committed(bench: Bench) -> None:
    f = ino(bench)
    bench.staging.remember(f)
    bench.write(f, 5, b"xyz")
    bench.commit()
    while bench.area.tidy():
        pass
    bench.area.flush()
    assert row(bench).local == NOWHERE
    assert not list(bench.area.data.numbers())
    assert bench.read(f) == SEALED[:5] + b"xyz" + SEALED[8:]
    bench.write(f, 0, b"!")
    bench.area.flush()
    assert bench.read(f) == b"!" + SEALED[1:5] + b"xyz" + SEALED[8:]


def test_fsync_survives_without_a_flush(bench: Bench) -> None:
    f = ino(bench)
    bench.write(f, 0, b"synced")
    bench.staging.fsync(f)
    bench.kill()
    assert bench.read(ino(bench))[:6] == b"synced"


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 150), st.binary(min_size=1, max_size=30)),
            st.integers(0, 160),
            st.sampled_from(["seal", "commit", "kill"]),
        ),
        max_size=12,
    ),
    st.booleans(),
)
def test_any_history_of_a_file(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, bytes] | int | str],
    committed: bool,
) -> None:
    bench = Bench(tmp_path_factory.mktemp("history"))
    f = bench.staging.make(bench.staging.root_ino, b"f", Kind.FILE, 0o644, 1, 2, 10).ino
    bench.write(f, 0, SEALED)
    if committed:
        bench.commit()
    expected = SEALED
    for step in steps:
        if isinstance(step, tuple):
            offset, data = step
            bench.write(ino(bench), offset, data)
            padded = expected.ljust(offset, b"\0")
            expected = padded[:offset] + data + padded[offset + len(data) :]
        elif isinstance(step, int):
            bench.staging.truncate(ino(bench), step, 20)
            expected = expected[:step].ljust(step, b"\0")
        else:
            {"seal": bench.seal, "commit": bench.commit, "kill": bench.kill}[step]()
        assert bench.read(ino(bench)) == expected
    bench.area.close()


def test_a_size_that_stays_moves_no_time(bench: Bench) -> None:
    f = ino(bench)
    before = bench.staging.inode(f)
    assert bench.staging.truncate(f, before.size, 99) == before
    after = bench.staging.set_attributes(f, now_ns=99, size=before.size, mode=0o600)
    assert (after.mtime_ns, after.ctime_ns) == (before.mtime_ns, 99)


def test_set_id_bits_go_when_asked(bench: Bench) -> None:
    f, change = ino(bench), bench.staging.set_attributes
    for mode, left in ((0o6755, 0o755), (0o6745, 0o2745), (0o644, 0o644)):
        change(f, now_ns=1, mode=mode)
        assert change(f, now_ns=2, size=0, drop_set_id=True).mode == left
