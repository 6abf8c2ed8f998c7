"""The root and the datasets' directories: what they list, what can be changed there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

import pytest
import trio

from dtafs.core.format import pack_key
from dtafs.core.names import format_time
from dtafs.core.values import Kind
from dtafs.errors import (
    BusyError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from dtafs.fs import top
from dtafs.fs.area import Changes
from dtafs.fs.inodes import ROOT
from tests.fs.conftest import CALLER, World


async def target(world: World, path: str) -> bytes:
    """Where a symlink leads."""
    ino = (await world.at(path)).ino
    return await world.namespace.area(ino).readlink(ino)


async def one_version(world: World, dataset: str = "D") -> None:
    await world.mkdir(dataset)
    await world.write(f"{dataset}/staging/x", b"1")
    await world.commit(dataset)


async def test_an_empty_lake(world: World) -> None:
    assert await world.names("") == [b".dtafs"]
    root = await world.at("")
    assert root.ino == ROOT and root.kind == Kind.DIRECTORY


async def test_a_new_dataset(world: World) -> None:
    made = await world.mkdir("WF 2024-07 ü")
    assert made.ino == (await world.at("WF 2024-07 ü")).ino
    assert await world.names("WF 2024-07 ü") == [b"staging"]
    assert [row.name for row in world.lake.datasets()] == ["WF 2024-07 ü"]
    assert (await world.at("WF 2024-07 ü/staging")).uid == CALLER.uid


@pytest.mark.parametrize("name", [".hidden", "a:b", "a@b", "-x", " x", "x" * 201])
async def test_names_that_no_dataset_can_have(world: World, name: str) -> None:
    with pytest.raises(UsageError):
        await world.mkdir(name)


async def test_a_dataset_name_that_is_not_utf8(world: World) -> None:
    with pytest.raises(UsageError):
        await world.namespace.make(ROOT, b"\xff\xfe", stat.S_IFDIR | 0o755, CALLER)


async def test_a_dataset_that_exists(world: World) -> None:
    await world.mkdir("D")
    with pytest.raises(ConflictError):
        await world.mkdir("D")


async def test_versions_links_and_tags(world: World) -> None:
    await one_version(world)
    await world.write("D/staging/y", b"2")
    await world.commit("D")
    directory = (await world.at("D")).ino
    await world.namespace.symlink(directory, b"raw", b"v1", CALLER)
    assert await world.names("D") == [b"v1", b"v2", b"latest", b"staging", b"raw"]
    assert await target(world, "D/latest") == b"v2"
    assert await target(world, "D/raw") == b"v1"
    assert world.lake.resolve("D:raw").number == 1
    with pytest.raises(ConflictError):
        await world.namespace.symlink(directory, b"raw", b"v2", CALLER)
    await world.namespace.area(directory).unlink(directory, b"raw", CALLER)
    with pytest.raises(FileNotFoundError):
        await world.at("D/raw")
    with pytest.raises(UsageError):
        await world.namespace.symlink(directory, b"raw", b"../elsewhere", CALLER)
    with pytest.raises(NotFoundError):
        await world.namespace.symlink(directory, b"raw", b"v9", CALLER)


async def test_a_time_leads_to_the_version_of_then(world: World) -> None:
    await one_version(world)
    await world.write("D/staging/y", b"2")
    await world.commit("D")
    first, second = world.lake.versions("D")
    for row in (first, second):
        assert await target(world, f"D/@{format_time(row.time_ns)}") == b"v%d" % row.number
    for word in ("@1999-01-01", "@yesterday", "@"):
        with pytest.raises(FileNotFoundError):
            await world.at(f"D/{word}")
    assert b"@1999-01-01" not in await world.names("D")


async def test_latest_is_another_inode_for_another_version(world: World) -> None:
    await one_version(world)
    before = await world.at("D/latest")
    await world.write("D/staging/y", b"2")
    await world.commit("D")
    after = await world.at("D/latest")
    assert before.ino != after.ino and after.name_timeout_s == 0
    assert await world.namespace.area(before.ino).readlink(before.ino) == b"v1"


async def test_renaming_staging_commits(world: World) -> None:
    await world.mkdir("D")
    await world.write("D/staging/x", b"1")
    staging = (await world.at("D/staging")).ino
    area = world.namespace.area(staging)
    await area.set_xattr(staging, b"user.dtafs.message", "für später".encode())
    await area.set_xattr(staging, b"user.dtafs.tags", b"raw, first")
    assert b"user.dtafs.message" in await area.list_xattrs(staging)
    await world.commit("D")
    row = world.lake.resolve("D:v1")
    assert (row.manifest.message, row.tags) == ("für später", ("first", "raw"))
    assert await area.list_xattrs(staging) == []
    assert await world.read("D/v1/x") == b"1"
    assert await world.read("D/staging/x") == b"1"


async def test_commits_that_are_refused(world: World) -> None:
    await one_version(world)
    with pytest.raises(RefusedError, match="nothing to commit"):
        await world.rename("D/staging", "D/v2")
    await world.write("D/staging/y", b"2")
    with pytest.raises(ConflictError):
        await world.rename("D/staging", "D/v1")
    with pytest.raises(RefusedError, match="v2"):
        await world.rename("D/staging", "D/v3")
    for name in ("old", "v0", "latest", "V2"):
        with pytest.raises(OSError, match=os.strerror(errno.EPERM)):
            await world.rename("D/staging", f"D/{name}")
    assert world.lake.dataset("D").newest == 1


async def test_a_bad_tag_is_refused_when_it_is_set(world: World) -> None:
    await world.mkdir("D")
    staging = (await world.at("D/staging")).ino
    with pytest.raises(UsageError):
        await world.namespace.area(staging).set_xattr(staging, b"user.dtafs.tags", b"v3")


async def test_an_open_writer_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await one_version(world)
    opened = await world.open("D/staging/x", os.O_WRONLY)
    await opened.write(0, b"22")
    with pytest.raises(BusyError, match=rf"x is open for writing by process {os.getpid()}"):
        await world.commit("D")
    await opened.release()
    await world.commit("D")
    assert await world.read("D/v2/x") == b"22"


async def test_two_commits_at_once(world: World) -> None:
    await one_version(world)
    await world.write("D/staging/y", b"2")
    outcomes: list[str] = []

    async def commit() -> None:
        try:
            await world.rename("D/staging", "D/v2")
            outcomes.append("done")
        except (ConflictError, RefusedError):
            outcomes.append("refused")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit)
        nursery.start_soon(commit)
    assert sorted(outcomes) == ["done", "refused"]
    assert [row.number for row in world.lake.versions("D")] == [1, 2]


async def test_everything_else_is_refused(world: World) -> None:
    await one_version(world)
    directory = (await world.at("D")).ino
    area = world.namespace.area(directory)
    refused = [
        lambda: area.create(directory, b"new", 0o644, os.O_RDWR, CALLER),
        lambda: area.make(directory, b"new", stat.S_IFDIR | 0o755, CALLER),
        lambda: area.make(ROOT, b"file", stat.S_IFREG | 0o644, CALLER),
        lambda: area.symlink(ROOT, b"link", b"D", CALLER),
        lambda: area.unlink(directory, b"latest", CALLER),
        lambda: area.rmdir(ROOT, b"D"),
        lambda: area.rename(ROOT, b"D", ROOT, b"E", 0, CALLER),
        lambda: area.set_attributes(directory, Changes(mode=0o700)),
        lambda: area.set_xattr(directory, b"user.x", b"1"),
        lambda: area.remove_xattr(directory, b"user.x"),
    ]
    for change in refused:
        with pytest.raises(OSError) as caught:
            await change()
        assert caught.value.errno == errno.EPERM


async def test_a_read_only_mount_shows_no_staging(world: World) -> None:
    await one_version(world)
    async with trio.open_nursery() as nursery:
        frozen = World(world.lake, nursery, read_only=True)
        assert await frozen.names("D") == [b"v1", b"latest"]
        with pytest.raises(FileNotFoundError):
            await frozen.at("D/staging")
        with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
            await frozen.mkdir("E")
        assert await frozen.read("D/v1/x") == b"1"


async def test_forgotten_numbers_leave_the_table(world: World) -> None:
    await one_version(world)
    numbers = world.namespace.area(ROOT)._numbers  # type: ignore[attr-defined]
    before = len(numbers)
    for second in range(50):
        with pytest.raises(FileNotFoundError):
            await world.at(f"D/@1999-01-01T00:00:{second:02d}")
    found = await world.at("D/@2999-01-01")
    assert len(numbers) == before + 1
    world.namespace.release(found.ino, 1)
    assert len(numbers) == before


async def test_the_roots_of_many_versions_are_read_together(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of versions asks a thread for some dozens of root nodes at a time."""
    monkeypatch.setattr(top, "READ_AHEAD_NAMES", 4)
    await world.mkdir("D")
    for number in range(1, 8):
        await world.write(f"D/staging/x{number}", b"%d" % number)
        await world.commit("D")
    world.lake.objects.clear()
    asked: list[int] = []
    run_sync = trio.to_thread.run_sync

    async def counted(call: Callable[..., object], *args: object, **options: object) -> object:
        asked.append(len(args[0]) if isinstance(args[0], list) else 1)
        return await run_sync(call, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trio.to_thread, "run_sync", counted)
    listed = await world.entries("D")
    assert [name for name, _ in listed][:7] == [b"v%d" % number for number in range(1, 8)]
    assert asked == [4, 3]
    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    for number, (_name, attributes) in enumerate(listed[:7], 1):
        assert attributes.ino == (await world.at(f"D/v{number}")).ino
        assert await world.read(f"D/v{number}/x{number}") == b"%d" % number


@pytest.mark.damages_lake
async def test_a_damaged_version_hides_no_other(world: World) -> None:
    await one_version(world)
    await world.write("D/staging/y", b"2")
    await world.commit("D")
    place = world.lake.index.place(world.lake.resolve("D:v1").root)
    assert place is not None
    pack = world.lake.path / pack_key(place.pack)
    pack.chmod(0o644)
    pack.write_bytes(b"damage")
    world.lake.files.close()
    world.lake.objects.clear()
    assert await world.names("D") == [b"v1", b"v2", b"latest", b"staging"]
    with pytest.raises(IntegrityError):
        await world.read("D/v1/x")
    assert await world.read("D/v2/y") == b"2"
