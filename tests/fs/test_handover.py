"""Which files the kernel is given with the answer to `open`, with a list in the kernel's place."""

from __future__ import annotations

import errno
import os

import pytest

from dtafs.core.tree import find
from dtafs.core.values import Content
from dtafs.fs.handover import HANDED_MAX_BYTES, REMEMBERED, Handover
from tests.fs.conftest import World

FILES = {
    b"empty": b"",
    b"small": b"a few bytes",
    b"most": b"m" * HANDED_MAX_BYTES,
    b"more": b"m" * (HANDED_MAX_BYTES + 1),
}


class Kernel:
    """Remembers what it was given; refuses with `number`, unless that is 0."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int, bytes]] = []
        self.number = 0

    def store(self, ino: int, offset: int, data: bytes) -> None:
        if self.number:
            raise OSError(self.number, os.strerror(self.number))
        self.given.append((ino, offset, data))


async def contents(world: World, in_memory: bool = True) -> dict[bytes, Content]:
    """The files of D:v1, decoded unless they are not to be."""
    await world.mkdir("D")
    for name, data in FILES.items():
        await world.write(f"D/staging/{os.fsdecode(name)}", data)
    await world.commit("D")
    objects = world.lake.objects
    top, found = objects.top(world.lake.resolve("D:v1")), {}
    objects.clear()
    for name in FILES:
        located = find(objects.node, top.ref, name)
        assert located is not None
        found[name] = located.entry.content
        if in_memory:
            objects.read(found[name], 0, 1 << 20)
    return found


async def test_what_is_small_and_in_memory_is_handed_over_once(world: World) -> None:
    found, kernel = await contents(world), Kernel()
    handover = Handover(world.lake.objects, kernel.store)
    for ino, name in enumerate(FILES):
        handover.opened(ino, found[name])()
        handover.opened(ino, found[name])()
    assert kernel.given == [(1, 0, FILES[b"small"]), (2, 0, FILES[b"most"])]


async def test_what_is_not_in_memory_is_left_to_a_read(world: World) -> None:
    found, kernel = await contents(world, in_memory=False), Kernel()
    handover = Handover(world.lake.objects, kernel.store)
    handover.opened(1, found[b"small"])()
    assert kernel.given == []
    world.lake.objects.read(found[b"small"], 0, 1)
    handover.opened(1, found[b"small"])()
    assert kernel.given == [(1, 0, FILES[b"small"])]


async def test_nothing_is_handed_over_while_somebody_has_the_file_open(world: World) -> None:
    """A page that somebody waits for is locked, and handing it over would wait for it, too."""
    found, kernel = await contents(world, in_memory=False), Kernel()
    handover = Handover(world.lake.objects, kernel.store)
    first = handover.opened(1, found[b"small"])
    world.lake.objects.read(found[b"small"], 0, 1)
    second = handover.opened(1, found[b"small"])
    first()
    handover.opened(1, found[b"small"])()
    assert kernel.given == []
    second()
    handover.opened(1, found[b"small"])
    assert kernel.given == [(1, 0, FILES[b"small"])]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOMEM])
async def test_a_kernel_that_cannot_take_it_asks_later(world: World, number: int) -> None:
    found, kernel = await contents(world), Kernel()
    handover = Handover(world.lake.objects, kernel.store)
    kernel.number = number
    handover.opened(1, found[b"small"])()
    kernel.number = 0
    handover.opened(1, found[b"small"])()
    assert kernel.given == [(1, 0, FILES[b"small"])]


async def test_what_is_remembered_is_bounded(world: World) -> None:
    found, kernel = await contents(world), Kernel()
    handover = Handover(world.lake.objects, kernel.store)
    for ino in range(REMEMBERED + 1):
        handover.opened(ino, found[b"small"])()
    handover.opened(1, found[b"small"])()
    assert len(kernel.given) == REMEMBERED + 1, "the second is still known"
    handover.opened(0, found[b"small"])()
    assert len(kernel.given) == REMEMBERED + 2, "the first was forgotten"


async def test_damaged_bytes_are_not_handed_over(world: World) -> None:
    found, kernel = await contents(world, in_memory=False), Kernel()
    objects = world.lake.objects
    place = world.lake.locate(objects.chunk_id(found[b"small"].sha256))
    assert place is not None
    frame = objects._frame(place, near=True)
    frame.data = bytes(len(frame.data))
    handover = Handover(objects, kernel.store)
    handover.opened(1, found[b"small"])()
    assert kernel.given == []
