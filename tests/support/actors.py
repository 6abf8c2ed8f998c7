"""Processes of other users, for tests: each does what it is told, one call at a time.

Unlike effective ids of the test's own process, such a process has nothing of root's, can hold locks
of its own, and can be killed.
"""

from __future__ import annotations

import importlib
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.support import programs

T = TypeVar("T")

PRELOADED = ("tests.posix.acts", "tests.posix.races")
"""Modules of which the functions are asked for; another user may not be able to read them."""


class Actor:
    """A process with the ids of a user; its answers are those of this process's calls."""

    def __init__(self, uid: int = 0, gids: tuple[int, ...] = (0,)) -> None:
        """`gids` begins with the effective group; the others are supplementary."""
        ids = [str(uid), *map(str, gids)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.actors", *ids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=programs.environment(),
            cwd=programs.ROOT,
        )

    def begin(self, call: Callable[..., object], *arguments: object) -> None:
        """Have a call made; `end` waits for it."""
        assert self.process.stdin is not None
        pickle.dump((call, arguments), self.process.stdin)
        self.process.stdin.flush()

    def ends_within(self, seconds: float) -> bool:
        """Whether what was begun comes out in time."""
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], seconds)[0])

    def end(self) -> Any:
        """What the call that was begun returned; raises the OSError that it raised."""
        assert self.process.stdout is not None
        result = pickle.load(self.process.stdout)
        if isinstance(result, BaseException):
            raise result
        return result

    def do(self, call: Callable[..., T], *arguments: object) -> T:
        """Have a call made and wait for it."""
        self.begin(call, *arguments)
        result: T = self.end()
        return result

    def close(self) -> None:
        """End the process, whatever it does."""
        programs.kill(self.process)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def acting(uid: int = 0, gids: tuple[int, ...] = (0,)) -> Iterator[Actor]:
    """An actor for the length of a block."""
    actor = Actor(uid, gids)
    try:
        yield actor
    finally:
        actor.close()


def main() -> None:
    """Become the user that the arguments name, then make calls until there are no more."""
    for module in PRELOADED:
        importlib.import_module(module)
    uid, gid, *others = map(int, sys.argv[1:])
    if os.geteuid() == 0:
        os.setgroups(others)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    os.umask(0)
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    while True:
        try:
            call, arguments = pickle.load(source)
        except EOFError:
            return
        try:
            result = call(*arguments)
        except OSError as error:
            result = OSError(error.errno, error.strerror or "")
        pickle.dump(result, answers)
        answers.flush()


if __name__ == "__main__":
    main()
