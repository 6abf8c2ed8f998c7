"""Random steps by several users among few names, in staging and in its twin."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.posix import calls
from tests.support.twins import ALICE, BOB, ROOT, Twins

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

CREATE = os.O_CREAT | os.O_EXCL
STEPS = 350


@pytest.mark.parametrize(
    "seed",
    [pytest.param(n, marks=pytest.mark.soak if n > 2 else ()) for n in range(1, 30)],
)
def test_random_steps(twins: Twins, seed: int) -> None:
    dice = random.Random(seed)
    tops = (
        "a",
        "b",
        "d1",
        "d2",
        "d1/x",
        "d1/d3",
        "d1/d3/y",
        "d2/x",
        "d2/d4",
        "d2/d4/z",
        "s",
        "f/x",
    )

    def path() -> str:
        return dice.choice(tops)

    fds = ("p", "q")
    steps: list[Callable[[], tuple[object, ...]]] = [
        lambda: (calls.mkdir, path(), dice.choice((0o755, 0o777, 0o2777, 0o1777, 0o700))),
        lambda: (calls.mkdir, path(), 0o777),
        lambda: (calls.put_file, path(), dice.randbytes(dice.randrange(9_000))),
        lambda: (calls.try_open, path(), os.O_RDWR | CREATE, 0o666),
        lambda: (calls.symlink, dice.choice(tops), path()),
        lambda: (calls.mkfifo, path(), 0o666),
        lambda: (calls.link, path(), path()),
        lambda: (calls.unlink, path()),
        lambda: (calls.rmdir, path()),
        lambda: (calls.rename, path(), path()),
        lambda: (calls.rename, path(), path()),
        lambda: (calls.exchange, path(), path()),
        lambda: (calls.rename_new, path(), path()),
        lambda: (calls.chmod, path(), dice.choice((0o777, 0o644, 0o6777, 0o1777, 0o2755, 0o600))),
        lambda: (calls.lchown, path(), dice.choice((-1, 0, ALICE.uid)), dice.choice((-1, 65_533))),
        lambda: (calls.utime, path(), dice.randrange(2**60), dice.randrange(2**60)),
        lambda: (calls.set_xattr, path(), "user.a", dice.randbytes(5)),
        lambda: (calls.get_xattr, path(), "user.a"),
        lambda: (calls.list_xattrs, path()),
        lambda: (calls.listdir, path()),
        lambda: (calls.readlink, path()),
        lambda: (calls.open_as, dice.choice(fds), path(), os.O_RDWR),
    ]
    on_open: list[Callable[[str], tuple[object, ...]]] = [
        lambda fd: (
            calls.pwrite,
            fd,
            dice.randbytes(dice.randrange(1, 5_000)),
            dice.randrange(20_000),
        ),
        lambda fd: (calls.ftruncate, fd, dice.randrange(20_000)),
        lambda fd: (calls.pread, fd, 30_000, 0),
        lambda fd: (calls.fstat, fd),
        lambda fd: (calls.fchmod, fd, 0o666),
        lambda fd: (calls.close, fd),
    ]
    for _ in range(STEPS):
        twins.user = dice.choice((ROOT, ROOT, ALICE, BOB))
        if twins.sides[0].fds and dice.random() < 0.3:
            fd = dice.choice(sorted(twins.sides[0].fds))
            twins.do(*dice.choice(on_open)(fd))
            continue
        step = dice.choice(steps)()
        if step[0] is calls.open_as and step[1] in twins.sides[0].fds:
            twins.do(calls.close, step[1])
        twins.do(*step)
