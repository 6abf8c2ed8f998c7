"""Slow reads never take all threads from those that would be quick."""

from __future__ import annotations

import threading
from typing import cast

import trio
import trio.testing

from dtafs.fs.threads import PatientLimiter

USUAL, MOST = 2, 6


def as_limiter(limiter: PatientLimiter) -> trio.CapacityLimiter:
    return cast(trio.CapacityLimiter, limiter)


async def test_a_quick_read_beside_slow_ones() -> None:
    limiter, disk = PatientLimiter(USUAL, MOST), threading.Event()
    order: list[str] = []

    async def read(name: str, slow: bool) -> None:
        call = disk.wait if slow else bool
        await trio.to_thread.run_sync(call, limiter=as_limiter(limiter))
        order.append(name)

    async with trio.open_nursery() as nursery:
        for _ in range(MOST - 1):
            nursery.start_soon(read, "slow", True)
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.fail_after(20):
            await read("quick", False)
        assert order == ["quick"]
        disk.set()
    assert order.count("slow") == MOST - 1
    assert limiter.threads == USUAL


async def test_threads_are_bounded_all_the_same() -> None:
    limiter, disk = PatientLimiter(USUAL, MOST), threading.Event()
    busy, most = 0, 0
    lock = threading.Lock()

    def read() -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        disk.wait()
        with lock:
            busy -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(3 * MOST):
            nursery.start_soon(lambda: trio.to_thread.run_sync(read, limiter=as_limiter(limiter)))
        with trio.fail_after(20):
            while busy < MOST:
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert busy == MOST
        disk.set()
    assert most <= MOST and limiter.threads == USUAL


async def test_no_more_threads_than_usual_while_they_come_free() -> None:
    limiter = PatientLimiter(USUAL, MOST)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lambda: trio.to_thread.run_sync(bool, limiter=as_limiter(limiter)))
    assert limiter.threads == USUAL


async def test_a_cancelled_wait_takes_no_thread() -> None:
    limiter, disk = PatientLimiter(1, 1), threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: trio.to_thread.run_sync(disk.wait, limiter=as_limiter(limiter)))
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.move_on_after(0.1) as waiting:
            await limiter.acquire_on_behalf_of("me")
        assert waiting.cancelled_caught
        disk.set()
    await limiter.acquire_on_behalf_of("me")
    limiter.release_on_behalf_of("me")


async def test_a_free_thread_is_had_without_a_turn_of_the_loop() -> None:
    limiter, order = PatientLimiter(USUAL, MOST), list[str]()

    async def read(name: str) -> None:
        order.append(name)
        await limiter.acquire_on_behalf_of(name)
        order.append(name)
        limiter.release_on_behalf_of(name)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, "one")
        nursery.start_soon(read, "other")
    assert order[0] == order[1] and order[2] == order[3]
