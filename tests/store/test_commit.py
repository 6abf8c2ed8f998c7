"""Commits: what is in a version, what is refused, and what a crash between two steps leaves."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.tree import walk
from dtafs.core.values import Actor, Entry, Kind
from dtafs.errors import IntegrityError, RefusedError, StorageError, StorageFullError
from dtafs.store import commit as commit_module
from dtafs.store import pending as pending_module
from dtafs.store import reachable
from dtafs.store.commit import commit, prepare
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.staging.staging import Opener, Staging

ANN = Actor("ann", 1000, "host", "test")
NOW = 1_700_000_000_000_000_000


@pytest.fixture
def data_lake(lake: Lake) -> Lake:
    lake.create_dataset("D", ANN, ("raw",))
    return lake


def write(
    staging: Staging, name: bytes, data: bytes, offset: int = 0, directory: int | None = None
) -> None:
    parent = directory or staging.root_ino
    found = staging.lookup(parent, name)
    if found is None:
        found = staging.make(parent, name, Kind.FILE, 0o644, 7, 8, NOW)
    handle = staging.open(found.ino, True, Opener(1, "test"))
    if data:
        os.pwrite(staging.begin_write(found.ino), data, offset)
        staging.wrote(found.ino, offset, len(data), NOW)
    staging.close(handle)


def files(lake: Lake, version: VersionRow) -> dict[bytes, bytes]:
    found = walk(lake.objects.node, lake.objects.top(version))
    return {
        b"/".join(path): b"".join(lake.objects.stream(entry.content))
        for path, entry in found
        if entry.kind == Kind.FILE
    }


def entries(lake: Lake, version: VersionRow) -> dict[bytes, Entry]:
    return {b"/".join(p): e for p, e in walk(lake.objects.node, lake.objects.top(version))}


def test_a_version_is_what_staging_was(data_lake: Lake) -> None:
    staging = data_lake.staging("D")
    write(staging, b"a.csv", b"1,2\n" * 50_000)
    folder = staging.make(staging.root_ino, b"sub", Kind.DIRECTORY, 0o2750, 1, 2, NOW)
    write(staging, b"empty", b"", directory=folder.ino)
    staging.make(folder.ino, b"link", Kind.SYMLINK, 0o777, 1, 2, NOW, target=b"../a.csv")
    staging.make(folder.ino, b"pipe", Kind.FIFO, 0o600, 1, 2, NOW)
    version = commit(data_lake, "D", "first", ANN, tags=("checked",))
    assert (version.name, version.tags) == ("D:v1", ("checked", "raw"))
    assert (version.manifest.files, version.manifest.size_bytes) == (2, 200_000)
    assert files(data_lake, version) == {b"a.csv": b"1,2\n" * 50_000, b"sub/empty": b""}
    found = entries(data_lake, version)
    assert (found[b"sub"].mode, found[b"sub"].uid, found[b"sub"].gid) == (0o2750, 1, 2)
    assert found[b"sub/link"].ref == b"../a.csv" and found[b"sub/pipe"].kind == Kind.FIFO
    assert (found[b"a.csv"].mode, found[b"a.csv"].mtime_ns) == (0o644, NOW)


def test_the_next_version_holds_the_change_and_the_first_stays(data_lake: Lake) -> None:
    staging = data_lake.staging("D")
    data = os.urandom(2_000_000)
    write(staging, b"big", data)
    write(staging, b"other", b"x")
    first = commit(data_lake, "D", "first", ANN)
    write(staging, b"big", b"PATCH", 1_000_000)
    staging.unlink(staging.root_ino, b"other", NOW)
    second = commit(data_lake, "D", "second", ANN)
    patched = data[:1_000_000] + b"PATCH" + data[1_000_005:]
    assert files(data_lake, second) == {b"big": patched}
    assert files(data_lake, first) == {b"big": data, b"other": b"x"}
    assert second.manifest.parent == first.manifest_sha256.hex() and second.tags == ()
    sizes = [(data_lake.path / f"packs/{p[:2]}/{p}").stat().st_size for p in second.manifest.packs]
    assert sum(sizes) < 600_000


def test_an_empty_commit_is_refused_unless_it_is_wanted(data_lake: Lake) -> None:
    with pytest.raises(
        RefusedError, match="nothing to commit: staging of 'D' is the same as an empty"
    ):
        commit(data_lake, "D", "x", ANN)
    write(data_lake.staging("D"), b"a", b"1")
    commit(data_lake, "D", "x", ANN)
    with pytest.raises(RefusedError, match="the same as D:v1"):
        commit(data_lake, "D", "x", ANN)
    assert commit(data_lake, "D", "again", ANN, allow_empty=True).name == "D:v2"


def test_what_cannot_be_sealed_is_named(data_lake: Lake) -> None:
    staging = data_lake.staging("D")
    staging.make(staging.root_ino, b"sock", Kind.SOCKET, 0o600, 1, 2, NOW)
    staging.make(
        staging.root_ino, b"disk", Kind.BLOCK_DEVICE, 0o600, 0, 0, NOW, rdev=os.makedev(8, 1)
    )
    disk = "'disk' is a block device, which cannot be sealed"
    sock = "'sock' is a socket, which cannot be sealed"
    with pytest.raises(RefusedError, match=f"^'D' cannot be committed: {disk}; {sock}$"):
        commit(data_lake, "D", "x", ANN)
    sockets = [b"x%d" % number for number in range(5)]
    for name in sockets:
        staging.make(staging.root_ino, name, Kind.SOCKET, 0o600, 1, 2, NOW)
    with pytest.raises(
        RefusedError, match=r"'x2' is a socket, which cannot be sealed; and 2 more$"
    ):
        commit(data_lake, "D", "x", ANN)
    for name in (b"sock", b"disk", *sockets):
        staging.unlink(staging.root_ino, name, NOW)
    write(staging, b"a", b"1")
    commit(data_lake, "D", "x", ANN)


def test_hard_links_are_one_file_in_the_version(data_lake: Lake) -> None:
    staging = data_lake.staging("D")
    write(staging, b"a", b"shared")
    folder = staging.make(staging.root_ino, b"z", Kind.DIRECTORY, 0o755, 1, 2, NOW)
    found = staging.lookup(staging.root_ino, b"a")
    assert found is not None
    staging.link(found.ino, folder.ino, b"b", NOW)
    version = commit(data_lake, "D", "x", ANN)
    first = entries(data_lake, version)
    assert first[b"a"].link == first[b"z/b"].link != 0 and first[b"a"].nlink == 2
    write(staging, b"a", b"SHARED")
    second = commit(data_lake, "D", "y", ANN)
    assert files(data_lake, second) == {b"a": b"SHARED", b"z/b": b"SHARED"}


class Stop(BaseException):
    """What a crash is to the code that it interrupts."""


@pytest.mark.parametrize("step", ["intend", "record", "apply", "rebase", "settle"])
def test_a_crash_between_two_steps_is_completed_at_the_next_open(
    lake_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    lake = Lake.open(lake_path)
    lake.create_dataset("D", ANN)
    write(lake.staging("D"), b"a", b"1" * 1000)
    commit(lake, "D", "first", ANN)
    write(lake.staging("D"), b"a", b"2" * 1000)
    write(lake.staging("D"), b"b", b"3")
    lake.area.flush()
    target, name = {
        "intend": (lake.pending, "intend"),
        "record": (lake, "record"),
        "apply": (lake.index, "apply"),
        "rebase": (Staging, "rebase"),
        "settle": (lake.pending, "settle"),
    }[step]

    def crash(*_args: object, **_named: object) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(target, name, crash)
        with pytest.raises(Stop):
            commit(lake, "D", "second", ANN)
        lake.close()
    with Lake.open(lake_path) as lake:
        assert lake.pending is not None
        logged = step not in ("intend", "record")
        assert [v.number for v in lake.versions("D")] == ([1, 2] if logged else [1])
        assert lake.pending.intents() == []
        if logged:
            assert lake.staging("D").is_clean() and lake.pending.all_packs() == []
        else:
            assert commit(lake, "D", "second", ANN).number == 2
        version = lake.versions("D")[-1]
        assert files(lake, version) == {b"a": b"2" * 1000, b"b": b"3"}


def test_discarded_work_frees_its_packs_at_the_next_open(lake_path: Path) -> None:
    with Lake.open(lake_path) as lake:
        lake.create_dataset("D", ANN)
        write(lake.staging("D"), b"a", os.urandom(100_000))
        commit_module.prepare(lake, "D")
        assert lake.pending is not None and len(lake.pending.all_packs()) >= 1
        lake.staging("D").discard()
    with Lake.open(lake_path) as lake:
        assert lake.pending is not None and lake.pending.all_packs() == []
        assert [p for p in (lake_path / "packs").rglob("*") if p.is_file()] == []


def test_work_that_is_sealed_but_not_committed_survives(lake_path: Path) -> None:
    data = os.urandom(300_000)
    with Lake.open(lake_path) as lake:
        lake.create_dataset("D", ANN)
        write(lake.staging("D"), b"a", data)
        commit_module.prepare(lake, "D")
    with Lake.open(lake_path) as lake:
        version = commit(lake, "D", "x", ANN)
        assert files(lake, version) == {b"a": data}
        assert stat.S_IMODE(entries(lake, version)[b""].mode) == 0o755


def test_a_one_file_commit_in_a_large_directory_writes_little(data_lake: Lake) -> None:
    staging = data_lake.staging("D")
    for i in range(3000):
        staging.make(staging.root_ino, b"%06d" % i, Kind.FILE, 0o644, 1, 2, NOW)
    commit(data_lake, "D", "many", ANN)
    write(staging, b"001500", b"changed")
    version = commit(data_lake, "D", "one", ANN)
    sizes = [(data_lake.path / f"packs/{p[:2]}/{p}").stat().st_size for p in version.manifest.packs]
    assert sum(sizes) < 30_000
    assert version.manifest.files == 3000


@pytest.mark.damages_lake
def test_a_lost_pack_is_not_relied_on_and_its_chunks_are_stored_again(data_lake: Lake) -> None:
    data = os.urandom(100_000)
    staging = data_lake.staging("D")
    write(staging, b"a", data)
    first = commit(data_lake, "D", "first", ANN)
    (data_lake.path / f"packs/{first.manifest.packs[0][:2]}/{first.manifest.packs[0]}").unlink()
    data_lake.objects.clear()
    data_lake.files.close()
    write(staging, b"copy", data)
    second = commit(data_lake, "D", "second", ANN)
    assert files(data_lake, second) == {b"a": data, b"copy": data}
    assert files(data_lake, first) == {b"a": data}


@pytest.mark.parametrize("more", [b"", b"4"])
def test_staging_that_could_not_follow_goes_on(
    lake_path: Path, monkeypatch: pytest.MonkeyPatch, more: bytes
) -> None:
    def full(*_args: object, **_named: object) -> None:
        raise StorageFullError("no room")

    with Lake.open(lake_path) as lake:
        lake.create_dataset("D", ANN)
        write(lake.staging("D"), b"a", b"1")
        with monkeypatch.context() as patch:
            patch.setattr(Staging, "rebase", full)
            with pytest.raises(StorageFullError, match="D:v1 is sealed and safe"):
                commit(lake, "D", "first", ANN)
        if more:
            write(lake.staging("D"), b"b", more)
    with Lake.open(lake_path) as lake:
        assert lake.pending is not None and lake.pending.intents() == []
        assert files(lake, lake.versions("D")[0]) == {b"a": b"1"}
        write(lake.staging("D"), b"c", b"5")
        second = commit(lake, "D", "second", ANN)
        assert second.number == 2
        assert files(lake, second) == {b"a": b"1", b"c": b"5"} | ({b"b": more} if more else {})


def staged_many(lake: Lake) -> dict[bytes, bytes]:
    """Files of different contents in staging, sealed already; what they hold."""
    held = {b"%02d" % n: b"content %d" % n for n in range(12)}
    for name, data in held.items():
        write(lake.staging("D"), name, data)
    lake.area.flush()
    prepare(lake, "D")
    return held


@pytest.mark.parametrize("txns", [0, 1, 3])
def test_a_crash_while_pending_rows_go_leaves_what_names_the_rest(
    lake_path: Path, monkeypatch: pytest.MonkeyPatch, txns: int
) -> None:
    lake = Lake.open(lake_path)
    lake.create_dataset("D", ANN)
    held = staged_many(lake)
    done: list[object] = []
    delete = pending_module._delete

    def crash(*args: Any) -> None:
        if len(done) == txns:
            raise Stop
        done.append(args)
        delete(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pending_module, "DROPPED_AT_ONCE", 3)
        patch.setattr(pending_module, "_delete", crash)
        with pytest.raises(Stop):
            commit(lake, "D", "first", ANN)
        lake.close()
    with Lake.open(lake_path) as lake:
        assert lake.pending is not None
        assert lake.pending.intents() == [] and lake.pending.all_packs() == []
        assert not any(lake.pending.places(chunk) for chunk, _place in lake.index.places())
        assert lake.staging("D").is_clean()
        assert files(lake, lake.versions("D")[0]) == held


def test_what_no_pack_has_is_not_committed(
    data_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few chunks are looked up at once, and also where the row of a pending one was lost."""
    monkeypatch.setattr(reachable, "AT_ONCE", 5)
    held, pending = staged_many(data_lake), data_lake.pending
    assert pending is not None
    nodes = data_lake.staging("D").build(data_lake.objects.node).nodes
    packs = pending.packs("D")
    reachable.require_all(data_lake, "D", nodes, packs)
    with pytest.raises(IntegrityError, match=r"cannot be committed: chunk .* is in no pack"):
        reachable.require_all(data_lake, "D", nodes, [])
    chunk = data_lake.objects.chunk_id(hashlib.sha256(held[b"07"]).digest())
    pending._database.write(lambda txn: txn.delete("chunk", chunk + b"D"))
    reachable.require_all(data_lake, "D", nodes, packs)
    assert files(data_lake, commit(data_lake, "D", "first", ANN)) == held


@pytest.mark.parametrize("kind", [StorageError, StorageFullError])
def test_what_staging_could_not_follow_is_said_to_be_safe(
    data_lake: Lake, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    staging = data_lake.staging("D")
    write(staging, b"x", b"data")

    def fail(*_args: object) -> None:
        raise kind("the disk does not do it")

    with monkeypatch.context() as patch:
        patch.setattr(staging, "rebase", fail)
        with pytest.raises(kind, match="D:v1 is sealed and safe, but staging could not follow"):
            commit(data_lake, "D", "first", ANN)
    with pytest.raises(RefusedError, match="nothing to commit"):
        commit(data_lake, "D", "second", ANN)
    assert data_lake.staging("D").base.version == 1
