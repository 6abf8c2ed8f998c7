"""Watching a trio event loop: what holds it, for how long, and where.

`StepWatch` is an instrument: it measures each step of each task, from one checkpoint to the next. A
step that holds the loop for more than `HELD_LIMIT_S` is logged as a warning, which fails the test
whose daemon said it (`tests.support.mounts`).

The machine is shared, so that time on the clock says little. A step counts what the loop's thread
*did*: processor time; sleep in a system call (a sync, an unlink that the disk takes its time for);
waiting for a lock of ours. What the kernel gave to other processes (run delay), and what the
interpreter gave to other threads (the GIL), is no fault of the step. A thread beside samples
long steps, so that the report says which line it was.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import trio

log = logging.getLogger("steps")

HELD_LIMIT_S = 0.050
SAMPLED_AFTER_S = 0.010
SAMPLE_S = 0.005
FRAMES_SHOWN = 12

FUTEX = "202"
"""The system call in which a thread waits for a lock, on x86-64; also for the GIL."""

WAITING_FOR_A_LOCK = ("with self._", "lock:", ".acquire(", ".wait(", ".join(", ".result(")
"""What a line looks like that may wait for a lock of ours: elsewhere a futex is the GIL's."""

RUNNING = "running"
FILES = ("syscall", "schedstat")


class Usage(NamedTuple):
    """What the kernel says of a thread since it began, in seconds."""

    cpu_s: float
    delayed_s: float
    """Ready to run while others had the processors."""


class Step(NamedTuple):
    """A step that took long: of which task, and what it spent, in seconds."""

    task: str
    wall_s: float
    cpu_s: float
    blocked_s: float
    """Asleep in a system call or for a lock of ours."""
    where: str

    @property
    def held_s(self) -> float:
        return max(self.cpu_s, self.blocked_s)

    def __str__(self) -> str:
        return (
            f"{self.held_s * 1e3:.0f} ms (clock {self.wall_s * 1e3:.0f}, processor "
            f"{self.cpu_s * 1e3:.0f}, asleep {self.blocked_s * 1e3:.0f}) in {self.task}{self.where}"
        )


class StepWatch(trio.abc.Instrument):
    """Measures the steps of the loop that it is an instrument of."""

    def __init__(self, limit_s: float = HELD_LIMIT_S) -> None:
        self.longest = Step("no task", 0.0, 0.0, 0.0, "")
        self.steps = 0
        self._limit_s = limit_s
        self._began = 0.0
        self._cpu_began = 0.0
        self._sampler = _Sampler()
        self._collecting = 0.0

    def __enter__(self) -> StepWatch:
        """From now on; on the thread of the loop that runs."""
        self._sampler.start(threading.get_ident(), threading.get_native_id())
        gc.callbacks.append(self._collection)
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_exc: object) -> None:
        trio.lowlevel.remove_instrument(self)
        gc.callbacks.remove(self._collection)
        self._sampler.stop()
        log.info("of %d steps the longest took %s", self.steps, self.longest)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._cpu_began = time.thread_time()
        self._began = self._sampler.began = time.monotonic()
        self._collecting = 0.0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        wall_s = time.monotonic() - self._began
        self._sampler.began = 0.0
        if not self._began:
            return  # the step in which the watch began
        self.steps += 1
        if wall_s < min(self.longest.held_s, self._limit_s):
            return
        self._judge(task, wall_s, time.thread_time() - self._cpu_began)

    def _judge(self, task: trio.lowlevel.Task, wall_s: float, cpu_s: float) -> None:
        blocked_s, where = self._sampler.take(self._began)
        if self._collecting:
            where = f", {self._collecting * 1e3:.0f} ms of it garbage collection{where}"
        step = Step(task.name, wall_s, cpu_s, min(blocked_s, wall_s), where)
        if step.held_s > self._limit_s:
            log.warning("the event loop was held for %s", step)
        if step.held_s > self.longest.held_s:
            self.longest = step

    def _collection(self, phase: str, info: dict[str, Any]) -> None:
        now = time.monotonic()
        self._collecting += -now if phase == "start" else now


class _Sampler:
    """Looks at the loop's thread while a step takes long."""

    def __init__(self) -> None:
        self.began = 0.0
        """When the present step began; 0 while there is none."""
        self._of = 0.0
        self._used = Usage(0.0, 0.0)
        self._sampled_at = 0.0
        self._samples: Counter[tuple[str, str]] = Counter()
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def start(self, thread: int, native: int) -> None:
        self._thread = thread
        # Open all the time: what is watched may run out of descriptors.
        self._syscall, self._schedstat = (
            os.open(f"/proc/self/task/{native}/{name}", os.O_RDONLY) for name in FILES
        )
        self._watcher = threading.Thread(target=self._watch, name="steps", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        self._ended.set()
        self._watcher.join()
        os.close(self._syscall)
        os.close(self._schedstat)

    def take(self, began: float) -> tuple[float, str]:
        """How long the step that began then was asleep, and where it was seen."""
        with self._lock:
            if self._of != began:
                return 0.0, ""
            used, before, samples = self._usage(), self._used, self._samples
            asleep = time.monotonic() - self._sampled_at
        asleep -= used.cpu_s - before.cpu_s + used.delayed_s - before.delayed_s
        total = sum(samples.values())
        ours = sum(n for (call, _), n in samples.items() if call != RUNNING)
        share = ours / total if total else 0.0
        seen = "".join(f"\n{n} of {total}, {call}:\n{at}" for (call, at), n in samples.items())
        return max(0.0, asleep * share), seen

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            began = self.began
            if began and time.monotonic() - began >= SAMPLED_AFTER_S:
                self._sample(began)

    def _sample(self, began: float) -> None:
        frame = sys._current_frames().get(self._thread)
        call = self._call()
        if frame is None or self.began != began:
            return
        if call == FUTEX and not _waits_for_a_lock(frame):
            call = RUNNING
        at = _stack(frame)
        with self._lock:
            if self._of != began:
                self._of, self._samples = began, Counter()
                self._used, self._sampled_at = self._usage(), time.monotonic()
            self._samples[RUNNING if call == RUNNING else f"system call {call}", at] += 1

    def _call(self) -> str:
        """The number of the system call that the thread is asleep in, or "running"."""
        try:
            return os.pread(self._syscall, 200, 0).split()[0].decode()
        except OSError:
            return RUNNING

    def _usage(self) -> Usage:
        cpu_ns, delayed_ns, _slices = os.pread(self._schedstat, 200, 0).split()
        return Usage(int(cpu_ns) / 1e9, int(delayed_ns) / 1e9)


def _waits_for_a_lock(frame: FrameType) -> bool:
    if any(code is threading.Thread.start.__code__ for code in _codes(frame)):
        return False  # for a new thread to be given a processor
    lines = _lines_of(frame.f_code.co_filename)
    line = lines[frame.f_lineno - 1] if frame.f_lineno <= len(lines) else ""
    return any(text in line for text in WAITING_FOR_A_LOCK)


@functools.cache
def _lines_of(path: str) -> list[str]:
    """The lines of a source file. (`linecache` is not for two threads.)"""
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # "<string>"
        return []


def _codes(frame: FrameType | None) -> Iterator[CodeType]:
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


def _stack(frame: FrameType | None) -> str:
    lines: list[str] = []
    while frame is not None and len(lines) < FRAMES_SHOWN:
        code = frame.f_code
        lines.append(f"  {Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
        frame = frame.f_back
    return "\n".join(lines)
