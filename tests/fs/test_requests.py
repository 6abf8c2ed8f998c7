"""How the tasks of pyfuse3 take turns at reading requests, without a kernel."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio

from dtafs.fs import requests
from dtafs.fs.requests import STRAIGHT_MAX, UnderWay


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: the end to wait for, the end to write to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_what_is_not_replaced_is_trios_own() -> None:
    """pyfuse3 catches this exception when its descriptor is about to be closed."""
    stand_in = requests._Trio()
    assert stand_in.ClosedResourceError is trio.ClosedResourceError
    assert stand_in.lowlevel.notify_closing is trio.lowlevel.notify_closing
    assert stand_in.lowlevel.current_task() is trio.lowlevel.current_task()


async def test_one_task_at_a_time_and_each_gets_its_turn() -> None:
    turn, inside, turns = requests._Turn(), 0, [0] * 5

    async def reader(number: int) -> None:
        nonlocal inside
        for _ in range(20):
            async with turn:
                inside += 1
                assert inside == 1
                await trio.lowlevel.checkpoint()
                inside -= 1
            turns[number] += 1
            await trio.lowlevel.checkpoint()  # the handler

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(len(turns)):
                nursery.start_soon(reader, number)
    assert turns == [20] * 5


async def test_a_task_takes_over_when_a_handler_waits() -> None:
    turn, answered, slow_done = requests._Turn(), 0, trio.Event()

    async def slow() -> None:
        async with turn:
            await trio.lowlevel.checkpoint()
        await slow_done.wait()

    async def quick() -> None:
        nonlocal answered
        for _ in range(10):
            async with turn:
                answered += 1
        slow_done.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            nursery.start_soon(quick)
    assert answered == 10


async def test_who_gives_up_waiting_leaves_nothing_behind() -> None:
    turn = requests._Turn()
    with trio.fail_after(30):
        async with turn:
            with trio.move_on_after(0):
                async with turn:
                    raise AssertionError("two inside")
        async with turn:
            pass


async def test_requests_without_end_keep_nobody_waiting(pipe: tuple[int, int]) -> None:
    """Every other task runs at least once in STRAIGHT_MAX requests."""
    source, sink = pipe
    os.write(sink, b"always readable")
    low_level, turns, rounds = requests._LowLevel(), 0, 10 * STRAIGHT_MAX

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(rounds):
            await low_level.wait_readable(source)
        nursery.cancel_scope.cancel()
    assert turns >= rounds // STRAIGHT_MAX - 1


@pytest.mark.parametrize("handlers", [0, 1])
async def test_waiting_goes_on_until_there_is_a_request(
    pipe: tuple[int, int], handlers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = pipe
    others = UnderWay()
    others.count = handlers
    monkeypatch.setattr(requests, "under_way", others)
    arrived = trio.Event()

    async def wait() -> None:
        await requests._LowLevel().wait_readable(source)
        arrived.set()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            assert not arrived.is_set()
            os.write(sink, b"a request")
            await arrived.wait()


async def test_a_descriptor_too_high_for_select_is_waited_for_by_trio(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = pipe
    monkeypatch.setattr(requests, "SELECT_LIMIT", 0)
    monkeypatch.setattr(requests, "LINGER_S", math.nan)  # select would refuse it
    os.write(sink, b"a request")
    with trio.fail_after(30):
        await requests._LowLevel().wait_readable(source)


async def test_a_closing_descriptor_ends_the_wait(pipe: tuple[int, int]) -> None:
    source, _ = pipe

    async def wait() -> None:
        with suppress(trio.ClosedResourceError):
            await requests._LowLevel().wait_readable(source)
            raise AssertionError("nothing was written")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            for _ in range(5):
                await trio.lowlevel.checkpoint()
            requests._LowLevel().notify_closing(source)
