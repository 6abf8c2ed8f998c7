"""Every call on every kind of name, by three users: outcome, error code and effect."""

from __future__ import annotations

import os
import random
import socket
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.posix import calls
from tests.support.mounts import mounted
from tests.support.twins import ALICE, BOB, ROOT, Twins, User

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

LONG = "n" * 256
STAMP_NS = 1_234_567_890_123_456_789
BATCH = 12
DEVICES = ("char", "block")
"""The mount is nodev, so these cannot be opened there."""


def build_sealable() -> None:
    """One of everything that a version can hold, in the current directory."""
    os.chmod(".", 0o777)
    for name, mode, uid in (
        ("file", 0o644, 0),
        ("mine", 0o640, ALICE.uid),
        ("set", 0o6755, 65_534),
    ):
        with open(name, "wb") as stream:
            stream.write(b"some bytes")
        os.chown(name, uid, 65_533)
        os.chmod(name, mode)
    for name, mode in (("dir", 0o755), ("full", 0o777), ("closed", 0o700), ("sticky", 0o1777)):
        os.mkdir(name)
        os.chmod(name, mode)
    os.mkdir("group")
    os.chown("group", 0, 65_533)
    os.chmod("group", 0o2775)
    os.mkdir("full/sub")
    for name, uid in (("full/x", 0), ("closed/x", 0), ("sticky/x", 0), ("sticky/y", ALICE.uid)):
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))
        os.chown(name, uid, uid)
    for target, name in (("file", "to file"), ("dir", "to dir"), ("gone", "to gone")):
        os.symlink(target, name)
    os.symlink("loop", "loop")
    os.mkfifo("fifo")
    os.link("file", "twin")


def build() -> None:
    """One of everything, in the current directory."""
    build_sealable()
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("socket")
    os.mknod("char", stat.S_IFCHR | 0o644, os.makedev(1, 7))
    os.mknod("block", stat.S_IFBLK | 0o644, os.makedev(7, 200))


NAMES = """file mine set dir full closed sticky group to|file to|dir to|gone loop fifo socket char
    block twin absent full/x full/sub closed/x sticky/x sticky/y""".split()
PLACES = """dir/new closed/new sticky/new group/new file/x absent/x loop/x to|gone/x fifo/x
    file/ dir/ absent/ to|dir/ to|file/ to|gone/ dir/. full/.. . .. to|dir/new full/sub/new""".split()
ALL = [word.replace("|", " ") for word in [*NAMES, *PLACES]] + [
    LONG,
    f"dir/{LONG}",
    f"{LONG}/x",
    "",
]
RENAMED = """file mine dir full group closed to|file to|dir loop fifo socket twin absent full/x
    sticky/x sticky/y full/sub file/ dir/ dir/. .. file/x closed/x""".split()
ONTO = """file mine dir full sticky to|file to|dir to|gone fifo twin absent full/x full/sub sticky/x
    closed/new sticky/new group/new full/new full/sub/new file/x absent/x dir/ absent/ file/ . ..""".split()

ONE_PATH: dict[str, tuple[Callable[..., object], Callable[[str], tuple[Any, ...]]]] = {
    "mkdir": (calls.mkdir, lambda path: (path, 0o755)),
    "rmdir": (calls.rmdir, lambda path: (path,)),
    "unlink": (calls.unlink, lambda path: (path,)),
    "mkfifo": (calls.mkfifo, lambda path: (path, 0o640)),
    "mknod": (calls.mknod, lambda path: (path, stat.S_IFREG | 0o600)),
    "mknod of a device": (calls.mknod, lambda path: (path, stat.S_IFCHR | 0o600, 0x0103)),
    "bind": (calls.bind, lambda path: (path,)),
    "symlink": (calls.symlink, lambda path: ("target", path)),
    "readlink": (calls.readlink, lambda path: (path,)),
    "stat": (calls.stat_of, lambda path: (path,)),
    "access": (calls.access, lambda path: (path, os.R_OK | os.W_OK)),
    "listdir": (calls.listdir, lambda path: (path,)),
    "chmod": (calls.chmod, lambda path: (path, 0o2710)),
    "chown": (calls.chown, lambda path: (path, ALICE.uid, 65_533)),
    "lchown of the group": (calls.lchown, lambda path: (path, -1, 65_533)),
    "chown of nothing": (calls.lchown, lambda path: (path, -1, -1)),
    "truncate": (calls.truncate, lambda path: (path, 5)),
    "truncate below zero": (calls.truncate, lambda path: (path, -1)),
    "utime": (calls.utime, lambda path: (path, STAMP_NS, STAMP_NS + 1)),
    "lutime": (calls.lutime, lambda path: (path, STAMP_NS, STAMP_NS + 1)),
    "touch": (calls.touch, lambda path: (path,)),
    "set_xattr": (calls.set_xattr, lambda path: (path, "user.a", b"1")),
    "get_xattr": (calls.get_xattr, lambda path: (path, "user.a")),
    "remove_xattr": (calls.remove_xattr, lambda path: (path, "user.a")),
}
OPEN_FLAGS = {
    "read": os.O_RDONLY,
    "write": os.O_WRONLY,
    "read and write": os.O_RDWR,
    "empty": os.O_WRONLY | os.O_TRUNC,
    "create": os.O_RDWR | os.O_CREAT,
    "create and empty": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "create anew": os.O_RDWR | os.O_CREAT | os.O_EXCL,
    "directory": os.O_RDONLY | os.O_DIRECTORY,
    "no link": os.O_RDONLY | os.O_NOFOLLOW,
    "append": os.O_WRONLY | os.O_APPEND,
}


class Cases:
    """Takes single steps, each in a directory with one of everything that nothing has changed."""

    def __init__(
        self, twins: Twins, build: Callable[[], None] | None, prepared: Sequence[str] = ()
    ) -> None:
        """`prepared` directories are taken first; without `build`, there are no others."""
        self._twins, self._build, self._count = twins, build, 0
        self._directories = list(prepared)
        self._differences: list[str] = []
        self._start()

    @property
    def is_over(self) -> bool:
        """Whether there is no directory for another step."""
        return self._build is None and not self._directories

    def _start(self) -> None:
        """Go on in the next directory; they are made in batches, to wait for the clock once."""
        if not self._directories and self._build is not None:
            names = [f"case{self._count + number}" for number in range(BATCH)]
            self._count += BATCH
            self._twins.set_up(names, self._build)
            self._directories = names
        if self._directories:
            self._twins.enter(self._directories.pop(0))

    def take(self, user: User, call: Callable[..., object], *arguments: object) -> None:
        """One step; whatever changes something is the last one in its directory."""
        twins = self._twins
        twins.user, twins.steps = user, []
        moved = twins.moves
        try:
            twins.do(call, *arguments)
        except AssertionError as difference:
            self._differences.append(str(difference))
            moved -= 1
        if twins.moves != moved:
            self._start()

    def judge(self) -> None:
        """Fail when any step had another effect in staging."""
        found = self._differences
        assert not found, f"{len(found)} steps differ:\n" + "\n".join(found)


TWO_PATHS = (calls.rename, calls.rename_new, calls.exchange, calls.link)
SPECIAL = {"socket", *DEVICES}
SEALED_CASES = 60
LONG_RUN = pytest.mark.soak
USERS = [
    pytest.param(ROOT, id="root"),
    pytest.param(ALICE, id="alice"),
    pytest.param(BOB, id="bob", marks=LONG_RUN),
]
PAIRS = [
    pytest.param(calls.rename, ROOT, id="rename by root"),
    pytest.param(calls.rename, ALICE, id="rename by alice", marks=LONG_RUN),
    pytest.param(calls.exchange, ROOT, id="exchange by root", marks=LONG_RUN),
    pytest.param(calls.exchange, ALICE, id="exchange by alice", marks=LONG_RUN),
    pytest.param(calls.rename_new, ROOT, id="rename_new by root", marks=LONG_RUN),
    pytest.param(calls.rename_new, ALICE, id="rename_new by alice", marks=LONG_RUN),
    pytest.param(calls.link, ROOT, id="link by root"),
    pytest.param(calls.link, ALICE, id="link by alice", marks=LONG_RUN),
]


@pytest.mark.parametrize("user", USERS)
def test_one_path(twins: Twins, user: User) -> None:
    cases = Cases(twins, build)
    for call, arguments in ONE_PATH.values():
        for path in ALL:
            cases.take(user, call, *arguments(path))
    cases.judge()


@pytest.mark.parametrize("user", USERS)
def test_opening(twins: Twins, user: User) -> None:
    cases = Cases(twins, build)
    for flags in OPEN_FLAGS.values():
        for path in ALL:
            if path not in DEVICES:
                cases.take(user, calls.try_open, path, flags)
    cases.judge()


@pytest.mark.parametrize(("call", "user"), PAIRS)
def test_two_paths(twins: Twins, call: Callable[..., object], user: User) -> None:
    cases = Cases(twins, build)
    for path in RENAMED:
        for onto in ONTO:
            cases.take(user, call, path.replace("|", " "), onto.replace("|", " "))
    cases.judge()


def test_over_a_sealed_version(lake_path: Path, tmp_path: Path) -> None:
    """What a fresh daemon knows from the version alone, until it is changed for the first time."""
    dice = random.Random(9)
    prepared = [f"case{number}" for number in range(SEALED_CASES)]
    model, first, second = (tmp_path / name for name in ("model", "first", "second"))
    with mounted(lake_path, first) as mount:
        (mount / "D").mkdir()
        for top in (model, mount / "D/staging/tested"):
            top.mkdir()
        with closing(Twins(model, mount / "D/staging/tested")) as twins:
            twins.set_up(prepared, build_sealable)
        os.rename(mount / "D/staging", mount / "D/v1")
    two = [(call, (p, onto)) for call in TWO_PATHS for p in RENAMED for onto in ONTO]
    one = [(call, arguments(path)) for call, arguments in ONE_PATH.values() for path in ALL]
    opening = [(calls.try_open, (p, flags)) for flags in OPEN_FLAGS.values() for p in ALL]
    steps = [step for step in [*two, *one, *opening] if not SPECIAL & {*map(str, step[1])}]
    with (
        mounted(lake_path, second) as mount,
        closing(Twins(model, mount / "D/staging/tested")) as twins,
    ):
        twins.ignore_links_of_directories()
        cases = Cases(twins, None, prepared)
        for call, arguments in dice.sample(steps, len(steps)):
            if cases.is_over:
                break
            words = [w.replace("|", " ") if isinstance(w, str) else w for w in arguments]
            cases.take(ROOT, call, *words)
        cases.judge()
