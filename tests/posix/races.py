"""What racing processes do: random calls on a few names, of which any may fail as POSIX allows."""

from __future__ import annotations

import errno
import os
import random
import time
from collections import Counter
from collections.abc import Callable

from tests.support.twins import rename_with

NAMES = [
    f"{above}{name}"
    for above in ("", "d0/", "d1/", "d0/d2/")
    for name in ("a", "b", "d0", "d1", "d2")
]
EXPECTED = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOTEMPTY,
    errno.EINVAL,
    errno.EPERM,
    errno.ELOOP,
    errno.ESTALE,
    errno.ENXIO,
    errno.ESPIPE,
}
RENAME_EXCHANGE = 2


def _write(dice: random.Random, path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK, 0o644)
    try:
        os.pwrite(fd, dice.randbytes(dice.randrange(5_000)), dice.randrange(9_000))
    finally:
        os.close(fd)


def _read(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.read(fd, 10_000)
    finally:
        os.close(fd)


def _empty(path: str) -> None:
    """Remove what is in a directory. (shutil.rmtree opens fifos, and waits.)"""
    for name in os.listdir(path):
        os.unlink(os.path.join(path, name))
    os.rmdir(path)


def change(seed: float, seconds: float) -> dict[str, int]:
    """Change things for a while; how often each errno came out, "" for none."""
    dice = random.Random(seed)

    def name() -> str:
        return dice.choice(NAMES)

    steps: list[Callable[[], object]] = [
        lambda: _write(dice, name()),
        lambda: _write(dice, name()),
        lambda: _read(name()),
        lambda: os.mkdir(name()),
        lambda: os.mkdir(name()),
        lambda: os.rmdir(name()),
        lambda: os.unlink(name()),
        lambda: os.rename(name(), name()),
        lambda: os.rename(name(), name()),
        lambda: rename_with(name(), name(), RENAME_EXCHANGE),
        lambda: os.link(name(), name(), follow_symlinks=False),
        lambda: os.symlink(dice.choice("abx"), name()),
        lambda: os.mkfifo(name()),
        lambda: os.truncate(name(), dice.randrange(20_000)),
        lambda: os.chmod(name(), 0o755),
        lambda: os.utime(name(), (dice.randrange(1 << 30), 5)),
        lambda: os.setxattr(name(), "user.a", b"1"),
        lambda: _empty(name()),
    ]
    return _repeat(lambda: dice.choice(steps)(), seconds)


def look(seconds: float) -> dict[str, int]:
    """Walk over everything, again and again."""

    def walk() -> None:
        for top, directories, files in os.walk("."):
            for name in (*directories, *files):
                os.lstat(os.path.join(top, name))

    return _repeat(walk, seconds)


def _repeat(step: Callable[[], object], seconds: float) -> dict[str, int]:
    outcomes: Counter[str] = Counter()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            step()
            outcomes[""] += 1
        except OSError as error:
            outcomes[errno.errorcode[error.errno or 0]] += 1
    return dict(outcomes)
