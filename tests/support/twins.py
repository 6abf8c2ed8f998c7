"""Two directories in which the same is done, step by step, and must have the same effect.

One is the model: a directory of the machine's own file system. The other is what is tested. After
each step the outcome (a value or an errno), everything that `lstat` says of every name below, and
which times moved are compared, so that a test is a list of steps and holds no expected values.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

CLOCK_REALTIME_COARSE = 5
"""The clock that the kernel takes file times from. It ticks every few milliseconds, on a busy machine
later than it should."""
POLL_S = 0.000_5

STEPS_SHOWN = 25
AT_FDCWD = -100
LIBC = ctypes.CDLL(None, use_errno=True)


def await_tick(since_ns: int) -> None:
    """Wait until that clock is later than a moment of the fine one, from which Linux takes some times
    too: a time that is set after that is later than any that was set before the moment."""
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= since_ns:
        time.sleep(POLL_S)


class User(NamedTuple):
    """Whom a step is taken as."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


ROOT = User()
ALICE = User(65_534, 65_534)
BOB = User(65_532, 65_532, (65_533,))
"""Alice has no other group; Bob is in 65533 too."""


class Seen(NamedTuple):
    """What `lstat` says of a name, but for times; directories have the size they like."""

    mode: str
    nlink: int
    uid: int
    gid: int
    size: int
    rdev: int
    target: str
    first: str
    """The first name, in order, of the same inode."""


class Side:
    """One of the two directories."""

    def __init__(self, top: Path) -> None:
        self.top = self.here = top
        self.fds: dict[str, int] = {}
        self.times: dict[str, tuple[int, int, int]] = {}
        self.counts_links = True
        """Whether a directory's `st_nlink` counts its subdirectories."""

    def run(self, call: Callable[..., object], arguments: tuple[Any, ...], user: User) -> object:
        """Take one step: what it returned, or the name of its errno."""
        os.chdir(self.here)
        try:
            with acting_as(user):
                return call(self, *arguments)
        except OSError as error:
            return str(error) if error.errno is None else errno.errorcode[error.errno]

    def look(self) -> tuple[dict[str, Seen], dict[str, str]]:
        """Every name below, and of those that were there before which times moved."""
        os.chdir(self.here)
        found = dict(_walk())
        first: dict[int, str] = {}
        seen, moved, times = {}, {}, {}
        for path in sorted(found):
            status = found[path]
            seen[path] = self._seen(path, status, first.setdefault(status.st_ino, path))
            now = times[path] = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
            before = self.times.get(path, now)
            if before[0] == now[0]:
                moved[path] = "".join(
                    name for name, a, b in zip("imc", before, now, strict=True) if a != b
                )
        self.times = times
        return seen, moved

    def _seen(self, path: str, status: os.stat_result, first: str) -> Seen:
        directory = stat.S_ISDIR(status.st_mode)
        link = stat.S_ISLNK(status.st_mode)
        return Seen(
            stat.filemode(status.st_mode),
            status.st_nlink if self.counts_links or not directory else -1,
            status.st_uid,
            status.st_gid,
            0 if directory else status.st_size,
            status.st_rdev,
            os.readlink(path) if link else "",
            first,
        )

    def close(self) -> None:
        """Close what steps left open."""
        for fd in self.fds.values():
            with suppress(OSError):
                os.close(fd)
        self.fds.clear()


class Twins:
    """The two directories; `do` takes a step in both."""

    def __init__(self, model: Path, tested: Path) -> None:
        self.sides = (Side(model), Side(tested))
        self.user = ROOT
        self.steps: list[str] = []
        self._moved_at_ns = 0
        self.moves = 0
        """How many steps changed anything."""
        self.last: dict[str, Seen] = {}
        self.look()

    def ignore_links_of_directories(self) -> None:
        """A directory of a sealed version has one link, and so has what staging shows of it."""
        for side in self.sides:
            side.counts_links = False

    def enter(self, name: str) -> None:
        """Go on in the directory `name` of the top, which is made unless it is there."""
        for side in self.sides:
            side.close()
            side.here = side.top / name
            side.here.mkdir(exist_ok=True)
            side.times = {}
        self.steps = []
        self.look()

    def do(self, call: Callable[..., object], *arguments: Any) -> object:
        """Take a step in both directories; returns what it returned, or the name of its errno."""
        self._wait_for_the_clock()
        self.steps.append(f"{call.__name__}{arguments!r} as {self.user.uid}")
        model, tested = (side.run(call, arguments, self.user) for side in self.sides)
        assert tested == model, f"{self}\n  model:  {model!r}\n  tested: {tested!r}"
        self.look()
        return model

    def set_up(self, names: Sequence[str], build: Callable[[], None]) -> None:
        """Make directories below the top and fill them as root, without comparing anything."""
        for side in self.sides:
            for name in names:
                (side.top / name).mkdir()
                os.chdir(side.top / name)
                build()
        self._moved_at_ns = time.time_ns()

    def look(self) -> None:
        """Compare what is there, and note whether it differs from what was there before."""
        shots = [side.look() for side in self.sides]
        for what in (0, 1):
            model, tested = shots[0][what], shots[1][what]
            if model != tested:
                names = sorted({*model, *tested})
                rows = [
                    f"  {name}:\n    model:  {model.get(name)}\n    tested: {tested.get(name)}"
                    for name in names
                    if model.get(name) != tested.get(name)
                ]
                raise AssertionError(f"{self}\n" + "\n".join(rows))
        changed = shots[0][0] != self.last or any(shots[0][1].values())
        self.last = shots[0][0]
        if changed:
            self.moves += 1
            self._moved_at_ns = time.time_ns()

    def _wait_for_the_clock(self) -> None:
        await_tick(self._moved_at_ns)

    def close(self) -> None:
        """Leave both directories."""
        os.chdir("/")
        for side in self.sides:
            side.close()

    def __str__(self) -> str:
        steps = [f"  {step}" for step in self.steps[-STEPS_SHOWN:]]
        return f"in {self.sides[1].here}, after\n" + "\n".join(steps)


@contextmanager
def acting_as(user: User) -> Iterator[None]:
    """Have the effective ids and the groups of a user, as a process of that user has."""
    if user == ROOT:
        yield
        return
    before = os.getgroups()
    os.setgroups(user.groups)
    os.setegid(user.gid)
    os.seteuid(user.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


def rename_with(path: str, new_path: str, flags: int) -> None:
    """renameat2(2)."""
    old, new = os.fsencode(path), os.fsencode(new_path)
    if LIBC.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _walk() -> Iterator[tuple[str, os.stat_result]]:
    """Everything at and below the current directory. Relative paths may be longer."""
    yield ".", os.lstat(".")
    pending = [""]
    while pending:
        directory = pending.pop()
        for name in os.listdir(directory or "."):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                pending.append(path)
