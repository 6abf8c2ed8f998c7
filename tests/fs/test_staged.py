"""Staging in the namespace: the gate, references, open files, and what a commit leaves valid."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dtafs.core.values import Kind
from dtafs.fs.area import Changes
from tests.fs.conftest import ACTOR, CALLER, World


async def start(world: World) -> int:
    """A dataset with one file in staging; the inode of staging."""
    await world.mkdir("D")
    await world.write("D/staging/x", b"one")
    return (await world.at("D/staging")).ino


async def test_a_file_is_written_and_read(world: World) -> None:
    await start(world)
    opened = await world.open("D/staging/x", os.O_RDWR)
    assert await opened.write(10, b"far") == 3
    assert await opened.read(0, 100) == b"one" + bytes(7) + b"far"
    await opened.fsync()
    await opened.release()
    assert (await world.at("D/staging/x")).size == 13


async def test_truncating_by_open_and_by_setattr(world: World) -> None:
    await start(world)
    found = await world.at("D/staging/x")
    changed = await world.namespace.set_attributes(found.ino, Changes(size=2, mode=0o600))
    assert (changed.size, changed.mode) == (2, 0o600)
    opened = await world.open("D/staging/x", os.O_WRONLY | os.O_TRUNC)
    await opened.release()
    assert await world.read("D/staging/x") == b""


async def test_every_kind_can_be_made(world: World) -> None:
    top = await start(world)
    kinds = {
        b"file": stat.S_IFREG,
        b"plain": 0,
        b"pipe": stat.S_IFIFO,
        b"socket": stat.S_IFSOCK,
        b"device": stat.S_IFCHR,
    }
    for name, bits in kinds.items():
        made = await world.namespace.make(top, name, bits | 0o640, CALLER, os.makedev(1, 3))
        assert stat.S_IFMT(made.st_mode) == (bits or stat.S_IFREG)
        assert made.mode == 0o640
    assert (await world.at("D/staging/device")).rdev == os.makedev(1, 3)


async def test_listing_while_names_come_and_go(world: World) -> None:
    top = await start(world)
    for i in range(100):
        await world.write(f"D/staging/f{i:03d}", b"")
    area = world.namespace.area(top)
    handle = await area.open_directory(top)
    seen: list[bytes] = []
    cookie = 0
    for round_ in range(60):
        page: list[tuple[bytes, int]] = []

        def emit(
            name: bytes, _found: object, after: int, page: list[tuple[bytes, int]] = page
        ) -> bool:
            if len(page) == 3:
                return False
            page.append((name, after))
            return True

        await world.namespace.list(handle, cookie, emit)
        if not page:
            break
        seen += [name for name, _ in page]
        cookie = page[-1][1]
        if round_ < 20:
            await area.unlink(top, f"f{round_ * 5:03d}".encode(), CALLER)
            await world.write(f"D/staging/new{round_}", b"")
    await handle.release()
    assert len(seen) == len(set(seen))
    stayed = {f"f{i:03d}".encode() for i in range(100) if i % 5}
    assert stayed <= set(seen)


async def test_a_listing_goes_on_across_a_commit(world: World) -> None:
    top = await start(world)
    names = {f"f{i:03d}".encode() for i in range(50)}
    for name in names:
        await world.write(f"D/staging/{name.decode()}", b"")
    handle = await world.namespace.area(top).open_directory(top)
    seen: list[tuple[bytes, int]] = []

    def emit_some(name: bytes, _found: object, after: int) -> bool:
        if len(seen) < 20:
            seen.append((name, after))
            return True
        return False

    def emit_rest(name: bytes, _found: object, after: int) -> bool:
        seen.append((name, after))
        return True

    await world.namespace.list(handle, 0, emit_some)
    await world.commit("D")
    await world.namespace.list(handle, seen[-1][1], emit_rest)
    await handle.release()
    listed = [name for name, _ in seen]
    assert len(listed) == len(set(listed))
    assert names <= set(listed)


async def test_changes_wait_while_a_commit_finishes_and_looking_does_not(world: World) -> None:
    await start(world)
    done: list[str] = []

    async def change() -> None:
        await world.write("D/staging/y", b"2")
        done.append("changed")

    async with trio.open_nursery() as nursery, world.gates.of("D").closing():
        nursery.start_soon(change)
        await wait_all_tasks_blocked()
        assert await world.names("D/staging") == [b"x"]
        assert (await world.at("D/staging/x")).size == 3
        assert done == []
    assert done == ["changed"]


async def test_other_datasets_go_on_meanwhile(world: World) -> None:
    await start(world)
    await world.mkdir("E")
    async with world.gates.of("D").closing():
        await world.write("E/staging/x", b"free")
    assert await world.read("E/staging/x") == b"free"


async def test_numbers_and_open_files_outlive_a_commit(world: World) -> None:
    await start(world)
    before = await world.at("D/staging/x")
    opened = await world.open("D/staging/x")
    await world.commit("D")
    assert await opened.read(0, 10) == b"one"
    await opened.release()
    assert (await world.at("D/staging/x")).ino == before.ino
    await world.write("D/staging/y", b"two")
    await world.commit("D")
    assert await world.read("D/staging/x") == b"one"


async def test_forgotten_and_looked_up_again(world: World) -> None:
    top = await start(world)
    await world.commit("D")
    found = await world.at("D/staging/x")
    world.namespace.release(found.ino, 1_000)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        await world.namespace.area(found.ino).attributes(found.ino)
    assert await world.read("D/staging/x") == b"one"
    assert (await world.namespace.area(top).attributes(top)).kind == Kind.DIRECTORY


async def test_an_unlinked_open_file_can_be_used(world: World) -> None:
    top = await start(world)
    opened = await world.open("D/staging/x", os.O_RDWR)
    ino = (await world.at("D/staging/x")).ino
    await world.namespace.area(top).unlink(top, b"x", CALLER)
    with pytest.raises(FileNotFoundError):
        await world.at("D/staging/x")
    await opened.write(3, b"!")
    assert await opened.read(0, 10) == b"one!"
    await opened.release()
    world.namespace.release(ino, 1_000)


async def test_datasets_are_separate_devices_for_rename_and_link(world: World) -> None:
    await start(world)
    await world.mkdir("E")
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        await world.rename("D/staging/x", "E/staging/x")
    other = (await world.at("E/staging")).ino
    with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
        await world.namespace.link((await world.at("D/staging/x")).ino, other, b"x")


async def test_names_are_bytes(world: World) -> None:
    top = await start(world)
    names = [b"\xff\xfe", "ü".encode(), b"new\nline", b" ", b"x" * 255]
    for name in names:
        await world.namespace.create(top, name, 0o644, os.O_RDONLY, CALLER)
    with pytest.raises(OSError, match=os.strerror(errno.ENAMETOOLONG)):
        await world.namespace.create(top, b"x" * 256, 0o644, os.O_RDONLY, CALLER)
    await world.names("D/staging")
    assert sorted([*names, b"x"]) == sorted(await world.names("D/staging"))


async def test_attributes_of_the_lake_are_not_taken_over(world: World) -> None:
    top = await start(world)
    ino = (await world.at("D/staging/x")).ino
    area = world.namespace.area(ino)
    await area.set_xattr(ino, b"user.dtafs.sha256", b"what a copy brings along")
    await area.set_xattr(ino, b"user.own", b"1")
    assert await area.list_xattrs(ino) == [b"user.own"]
    for name in (b"user.dtafs.sha256", b"user.none"):
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            await area.get_xattr(ino, name)
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            await area.remove_xattr(ino, name)
    await area.set_xattr(top, b"user.dtafs.message", b"draft")
    await area.remove_xattr(top, b"user.dtafs.message")
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        await area.get_xattr(top, b"user.dtafs.message")


async def test_a_closed_file_is_offered_for_sealing(world: World) -> None:
    await start(world)
    ino = (await world.at("D/staging/x")).ino
    assert world.quiet == [("D", ino)]


async def test_discarding_through_a_session(world: World) -> None:
    await start(world)
    await world.commit("D")
    await world.write("D/staging/y", b"2")
    changed = (await world.at("D/staging/y")).ino
    session = world.changes.session(ACTOR, "D")
    await trio.to_thread.run_sync(session.discard, "D")
    assert await world.names("D/staging") == [b"x"]
    dataset, outdated = world.renewed[-1]
    top = (await world.at("D/staging")).ino
    assert dataset == "D" and outdated.inodes == [top]
    assert (top, b"y") in outdated.names, "the kernel is told to forget what was there"
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        await world.namespace.area(changed).attributes(changed)


def threads_of(patch: pytest.MonkeyPatch, owner: object, method: str) -> list[int]:
    """From now on, the threads that a method is called in."""
    called: list[int] = []
    real = getattr(owner, method)

    def noting(*arguments: object) -> object:
        called.append(threading.get_ident())
        return real(*arguments)

    patch.setattr(owner, method, noting)
    return called


async def test_the_loop_flushes_nothing_where_a_thread_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(world)
    for module in ("area", "tables"):
        monkeypatch.setattr(f"dtafs.store.staging.{module}.FULL_ROWS", 1)
    flushes = threads_of(monkeypatch, world.lake.area.tables, "flush")
    await world.write("D/staging/y", b"two")
    session = world.changes.session(ACTOR, "D")
    await trio.to_thread.run_sync(session.discard, "D")
    assert flushes and threading.get_ident() not in flushes


async def test_a_listing_waits_while_many_rows_wait_for_a_flush(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it shows may have to become rows: without that, a slow disk would fill the memory."""
    await start(world)
    await world.write("D/staging/y", b"two")
    for module in ("area", "tables"):
        monkeypatch.setattr(f"dtafs.store.staging.{module}.FULL_ROWS", 1)
    assert world.lake.area.is_full
    assert {b"x", b"y"} <= set(await world.names("D/staging"))
    assert not world.lake.area.is_full


async def test_the_loop_closes_no_file_that_was_emptied_and_cuts_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(world)
    here = threading.get_ident()
    closes = threads_of(monkeypatch, world.lake.area.data, "close_left")
    cuts = threads_of(monkeypatch, world.lake.disk, "truncate")
    removals = threads_of(monkeypatch, world.lake.area.data, "remove")
    opened = await world.open("D/staging/x", os.O_RDWR)
    await opened.write(1, b"more")
    await opened.release()
    await trio.to_thread.run_sync(world.changes.session(ACTOR, "D").commit, "D", "first")
    while world.lake.area.tidy_rows():
        pass
    opened = await world.open("D/staging/x", os.O_RDWR)
    await opened.write(2, b"again")  # the data file of before is there still
    await opened.release()
    assert removals and here not in removals
    opened = await world.open("D/staging/x", os.O_RDWR | os.O_TRUNC)
    await opened.write(1, b"anew")
    await opened.release()
    assert closes and cuts and here not in closes + cuts
    assert await world.read("D/staging/x") == b"\0anew"
