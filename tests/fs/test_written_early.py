"""What is written goes to the disk while its writer goes on, and nobody waits for that."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from dtafs.errors import StorageFullError
from dtafs.fs.area import OpenFile
from dtafs.fs.staged_handles import BEGUN_BYTES
from dtafs.store.durable import Disk
from tests.fs.conftest import World

MIB = 1 << 20
LIMIT_S = 20


class SlowDisk:
    """Notes with what a disk is told to begin, and begins only when `go` is set."""

    def __init__(self, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun: list[tuple[int, int]] = []
        self.threads: set[int] = set()
        monkeypatch.setattr(disk, "begin_sync", self._begin)

    def _begin(self, fd: int, offset: int, size: int) -> None:
        self.threads.add(threading.get_ident())
        assert self.go.wait(LIMIT_S)
        os.fstat(fd)  # it is open still
        self.begun.append((offset, size))


@pytest.fixture
async def slow(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlowDisk]:
    """The disk of `world`, below a dataset D; it is set going at the end at the latest."""
    await world.mkdir("D")
    disk = SlowDisk(world.lake.disk, monkeypatch)
    yield disk
    disk.go.set()


async def new_file(world: World) -> OpenFile:
    await world.write("D/staging/x", b"")
    return await world.open("D/staging/x", os.O_RDWR)


async def settled(disk: SlowDisk, count: int) -> None:
    """Wait until the disk has begun so often."""
    with trio.fail_after(LIMIT_S):
        while len(disk.begun) < count:
            await trio.sleep(0.001)
        await trio.sleep(0.01)


async def test_every_byte_is_begun_with_once(world: World, slow: SlowDisk) -> None:
    slow.go.set()
    opened = await new_file(world)
    for number in range(3 * BEGUN_BYTES // MIB + 1):
        await opened.write(number * MIB, bytes([number]) * MIB)
        await settled(slow, (number + 1) * MIB // BEGUN_BYTES)
    for number in range(BEGUN_BYTES // MIB):
        await opened.write(number * MIB, b"again" * 1000)
    await opened.release()
    assert slow.begun == [(n * BEGUN_BYTES, BEGUN_BYTES) for n in range(3)]
    assert threading.get_ident() not in slow.threads


async def test_a_slow_disk_holds_up_no_writer(world: World, slow: SlowDisk) -> None:
    opened = await new_file(world)
    with trio.fail_after(LIMIT_S):
        for number in range(3 * BEGUN_BYTES // MIB):
            await opened.write(number * MIB, bytes(MIB))
        await opened.fsync()
        await opened.release()  # with a descriptor of its own the disk is still at it
        assert (await world.at("D/staging/x")).size == 3 * BEGUN_BYTES
    assert not slow.begun and len(slow.threads) == 1
    slow.go.set()
    await settled(slow, 1)
    assert slow.begun == [(0, BEGUN_BYTES)]


async def test_room_is_there_once_the_disk_has_begun(
    world: World, slow: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removed file that the disk is told to begin with gives its room back only afterwards."""
    opened = await new_file(world)
    await opened.write(BEGUN_BYTES - 1, b"end")
    disk, write = world.lake.disk, world.lake.disk.write_content

    def full(fd: int, data: bytes, offset: int) -> None:
        if not slow.begun:
            slow.go.set()
            raise StorageFullError("no room")
        write(fd, data, offset)

    monkeypatch.setattr(disk, "write_content", full)
    with trio.fail_after(LIMIT_S):
        await opened.write(0, bytes(MIB))
    await opened.release()
    assert slow.begun == [(0, BEGUN_BYTES + 2)]


def test_the_disk_says_nothing_of_what_it_cannot_begin_with(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    fd = disk.open_file(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    disk.write(fd, bytes(MIB), 0)
    disk.begin_sync(fd, 0, MIB)
    disk.begin_sync(fd, 5 << 32, 1 << 40)
    os.close(fd)
    disk.begin_sync(fd, 0, MIB)
    read, write = os.pipe()
    disk.begin_sync(read, 0, MIB)
    os.close(read)
    os.close(write)
    assert (tmp_path / "x").stat().st_size == MIB
