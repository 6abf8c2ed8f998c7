"""The gate that holds a dataset's staging still: who waits for whom."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from dtafs.fs.gate import LATER_AT_ONCE, Gate, Gates


async def test_closing_waits_for_those_inside() -> None:
    gate, order = Gate(), []
    leave = trio.Event()

    async def inside() -> None:
        async with gate.passing():
            order.append("in")
            await leave.wait()
            order.append("out")

    async def close() -> None:
        async with gate.closing():
            order.append("closed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(inside)
        await wait_all_tasks_blocked()
        nursery.start_soon(close)
        await wait_all_tasks_blocked()
        assert order == ["in"]
        leave.set()
    assert order == ["in", "out", "closed"]


async def test_whoever_comes_while_it_is_closed_waits() -> None:
    gate, order = Gate(), []

    async def late() -> None:
        async with gate.passing():
            order.append("late")

    async with trio.open_nursery() as nursery, gate.closing():
        assert gate.closed
        nursery.start_soon(late)
        await wait_all_tasks_blocked()
        order.append("done")
    assert order == ["done", "late"]


async def test_two_closers_take_turns() -> None:
    gate = Gate()
    inside = 0

    async def close() -> None:
        nonlocal inside
        async with gate.closing():
            inside += 1
            assert inside == 1
            await trio.lowlevel.checkpoint()
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(close)
    assert not gate.closed


async def test_calls_that_must_not_wait_are_made_when_it_opens() -> None:
    gate, made = Gate(), []
    gate.soon(lambda: made.append(1))
    assert made == [1]
    async with gate.closing():
        gate.soon(lambda: made.append(2))
        assert made == [1]
    assert made == [1, 2]


async def test_it_opens_after_a_failure_too() -> None:
    gate = Gate()
    with pytest.raises(ValueError, match="no"):
        async with gate.closing():
            raise ValueError("no")
    async with gate.passing():
        assert not gate.closed


async def test_a_cancelled_wait_leaves_it_as_it_was() -> None:
    gate = Gate()
    async with gate.passing():
        with trio.move_on_after(0):
            async with gate.closing():
                raise AssertionError("somebody is inside")
    assert not gate.closed
    async with gate.passing():
        pass


async def test_each_dataset_has_its_own() -> None:
    gates = Gates()
    assert gates.of("a") is gates.of("a")
    async with gates.of("a").closing(), gates.of("b").passing():
        pass


async def test_new_writers_wait_while_those_there_end() -> None:
    gate, order = Gate(), []

    async def write() -> None:
        await gate.enter_to_write()
        order.append("writer")
        gate.leave()

    async with trio.open_nursery() as nursery:
        with gate.no_new_writers():
            nursery.start_soon(write)
            await wait_all_tasks_blocked()
            async with gate.passing():
                order.append("another change")
            async with gate.closing():
                order.append("commit")
            await wait_all_tasks_blocked()
            assert order == ["another change", "commit"]
    assert order[-1] == "writer"


async def test_calls_that_waited_are_made_in_order_and_in_pieces() -> None:
    gate, made = Gate(), list[int]()
    async with gate.closing():
        for i in range(3 * LATER_AT_ONCE):
            gate.soon(lambda i=i: made.append(i))  # type: ignore[misc]

    async with trio.open_nursery() as nursery:

        async def close_again() -> None:
            async with gate.closing():
                gate.soon(lambda: made.append(-1))

        nursery.start_soon(close_again)
    assert made == [*range(3 * LATER_AT_ONCE), -1]
