"""Reading sealed files ahead of their readers: the same bytes, within its budget, errors included."""

from __future__ import annotations

import random

import pytest
import trio

from dtafs.core.tree import find
from dtafs.core.values import Content
from dtafs.errors import IntegrityError
from dtafs.fs.far import FarReads
from dtafs.fs.nodes import NodeReader
from dtafs.fs.readahead import WINDOW_BYTES, WINDOWS_MAX, ReadAheadPool, SealedReader
from tests.fs.conftest import World

SIZE = 3 * WINDOW_BYTES + 12_345
DAMAGED_AT = 2 * WINDOW_BYTES + (1 << 19)
BYTES = random.Random(7).randbytes(SIZE)


def pool_of(world: World, nursery: trio.Nursery) -> ReadAheadPool:
    """What a mount of the lake reads through."""
    nodes = NodeReader(world.lake.objects)
    return ReadAheadPool(nodes, FarReads(world.lake, nodes, nursery), nursery)


async def sealed(world: World) -> Content:
    """The content of one file of four windows in D:v1, with nothing of it in memory."""
    await world.mkdir("D")
    await world.write("D/staging/large", BYTES)
    await world.commit("D")
    lake = world.lake
    found = find(lake.objects.node, lake.objects.top(lake.resolve("D:v1")).ref, b"large")
    assert found is not None
    lake.objects.clear()
    return found.entry.content


async def read_on(reader: SealedReader, piece: int, start: int = 0) -> bytes:
    """All bytes from `start`, read in order."""
    parts: list[bytes] = []
    while part := await reader.read(start + sum(map(len, parts)), piece):
        parts.append(bytes(part))
    return b"".join(parts)


@pytest.mark.parametrize("piece", [128 * 1024, 1 << 20, 1_000_003, 5 << 20])
async def test_straight_on_in_pieces_of_any_size(world: World, piece: int) -> None:
    content = await sealed(world)
    async with trio.open_nursery() as nursery:
        pool = pool_of(world, nursery)
        reader = SealedReader(content, pool)
        assert await read_on(reader, piece) == BYTES
        await reader.release()
    assert pool.windows == 0


async def test_jumping_about(world: World) -> None:
    content = await sealed(world)
    dice = random.Random(8)
    async with trio.open_nursery() as nursery:
        pool = pool_of(world, nursery)
        reader = SealedReader(content, pool)
        for _ in range(30):
            offset, size = dice.randrange(SIZE + 10), dice.randrange(1, 200_000)
            for _ in range(dice.randrange(1, 6)):  # a run long enough, at times, to be read ahead
                got = await reader.read(offset, size)
                assert bytes(got) == BYTES[offset : offset + size]
                offset += len(got)
        await reader.release()
    assert pool.windows == 0


async def test_many_readers_share_one_budget(world: World) -> None:
    content = await sealed(world)
    most = 0

    async def one(pool: ReadAheadPool, start: int) -> None:
        nonlocal most
        reader = SealedReader(content, pool)
        at = start
        while part := await reader.read(at, 1 << 20):
            assert bytes(part) == BYTES[at : at + len(part)]
            at += len(part)
            most = max(most, pool.windows)
        await reader.release()

    async with trio.open_nursery() as nursery:
        pool = pool_of(world, nursery)
        async with trio.open_nursery() as readers:
            for number in range(WINDOWS_MAX):
                readers.start_soon(one, pool, number * 1_000)
    assert 0 < most <= WINDOWS_MAX and pool.windows == 0


async def test_damage_ahead_reaches_the_reader_who_gets_there(world: World) -> None:
    content = await sealed(world)
    pack = max(world.lake.path.glob("packs/*/*"), key=lambda path: path.stat().st_size)
    intact = pack.read_bytes()
    place = intact.index(BYTES[DAMAGED_AT : DAMAGED_AT + 64])
    pack.chmod(0o644)
    pack.write_bytes(intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :])
    async with trio.open_nursery() as nursery:
        pool = pool_of(world, nursery)
        reader = SealedReader(content, pool)
        for offset in range(0, 2 * WINDOW_BYTES, 1 << 20):
            assert await reader.read(offset, 1 << 20) == BYTES[offset : offset + (1 << 20)]
        with pytest.raises(IntegrityError, match="damaged in pack"):
            await reader.read(2 * WINDOW_BYTES, 1 << 20)
        await reader.release()
    pack.write_bytes(intact)
