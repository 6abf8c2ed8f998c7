"""The real daemon, killed with SIGKILL while somebody works in its mount: no promise is broken.

Each cycle mounts the lake that the last one left, compares everything with what was acknowledged
(`tests.crash.mounted_writer`), works on, and kills: at a random moment, or at a named operation on
the disk (`tests.crash.killed_daemon`). Then the dead mount is taken away, the log read, the lake
checked. The promises are those of the README, "What is safe, and when".
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from tests.crash.killed_daemon import AFTER, BEFORE, HALFWAY, SAID, Point
from tests.crash.mounted_writer import DATASET, DaemonDied, Writer
from tests.crash.promises import assert_no_errors
from tests.support import kernel, mounts, programs
from tests.support.tried import tried

KILLED_DAEMON = "tests.crash.killed_daemon"
NEVER = Point("nothing", "", BEFORE)

STEPS = 40
"""What the writer does before it commits; a cycle goes on until the daemon is dead, at most
ROUNDS times."""
ROUNDS = 4
VERSIONS_READ = 2
"""Versions that are compared in each cycle; all of them are at the end."""

CYCLES, CYCLES_SOAK = 6, 250
LONGEST_S = 1.0
CHECKED_SHARE = 0.5

JOURNAL, DATA, PENDING = "staging/journal", "staging/data/", "staging/pending"
POINTS = (
    Point("write", JOURNAL, HALFWAY, 25),
    Point("write", JOURNAL, AFTER, 60),
    Point("sync", JOURNAL, BEFORE),
    Point("truncate", JOURNAL, BEFORE, 2),
    Point("truncate", JOURNAL, AFTER, 2),
    Point("write", DATA, HALFWAY, 3),
    Point("write", DATA, AFTER, 5),
    Point("truncate", DATA, BEFORE),
    Point("remove", DATA, AFTER),
    Point("commit", "staging", BEFORE, 2),
    Point("commit", "staging", AFTER, 2),
    Point("write", "tmp/", HALFWAY),
    Point("link", "packs/", BEFORE),
    Point("link", "packs/", AFTER),
    Point("commit", PENDING, BEFORE),
    Point("commit", PENDING, AFTER),
    Point("commit", PENDING, AFTER, 3),
    Point("link", "log/", BEFORE),
    Point("link", "log/", AFTER),
    Point("commit", "index", BEFORE),
    Point("commit", "index", AFTER),
    Point("commit", "index", AFTER, 2),
    Point("commit", "index", AFTER, 3),
)
"""Where a daemon dies that has just been mounted."""
POINTS_OF_A_START = (
    Point("truncate", JOURNAL, BEFORE),
    Point("commit", "staging", BEFORE),
    Point("commit", "staging", AFTER),
    Point("commit", "index", BEFORE),
)
"""Where one dies that follows a killed one, while it makes up for what that left."""


@contextmanager
def daemon(lake: Path, mountpoint: Path, point: Point, armed: Path) -> Iterator[mounts.Mount]:
    """A daemon that answers, or has died over its start; killed when the block is over."""
    output = mountpoint.with_name("output")
    for stale in (output, lake / "run" / "daemon.log"):
        stale.unlink(missing_ok=True)
    env = {"KILL_AT": str(point), "KILL_WHEN": str(armed)}
    arguments = ("mount", lake, mountpoint, "--foreground")
    with programs.started(KILLED_DAEMON, *arguments, output=output, env=env) as process:
        mount = mounts.Mount(lake, mountpoint, process, output)
        connection = _connection(mount)
        with kernel.Watchdog(connection or -1, mounts.BODY_LIMIT_S) as watchdog:
            yield mount
        assert not watchdog.fired, "the daemon did not answer"
    mounts.assert_quiet(mount)


def _connection(mount: mounts.Mount) -> int | None:
    """The FUSE connection of a daemon, once it answers; None when it died at its point."""
    try:
        return mounts.wait_until_answering(mount)
    except (AssertionError, OSError):
        if SAID not in mount.said():
            raise
        return None


def clear_away(mountpoint: Path, dice: random.Random) -> None:
    """Take a dead mount away as its user would, in one of the two ways."""
    if kernel.is_mounted(mountpoint) and dice.random() < 0.5:
        assert programs.run(programs.DAEMON, "umount", mountpoint).returncode == 0
    elif kernel.is_mounted(mountpoint):
        assert not kernel.unmount(mountpoint)
    assert not kernel.is_mounted(mountpoint)


class Kills:
    """One lake that many daemons die over."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.lake, self._mountpoint = directory / "lake", directory / "mnt"
        self._armed = directory / "armed"
        self._mountpoint.mkdir()
        programs.ctl(self.lake, "init")
        programs.ctl(self.lake, "create", DATASET)
        self._dice = random.Random(seed)
        self.writer = Writer(self.lake, self._mountpoint, self._dice)

    def cycle(
        self, point: Point = NEVER, delay_s: float | None = None, check: bool | None = None
    ) -> bool:
        """Compare, work, and die after a while or at a point; True when it was at the point.

        The check, which makes up for the kill as any writer of the lake does, comes after it in
        half of the cycles unless `check` says so; in the others that is left to the next daemon.
        """
        self._armed.unlink(missing_ok=True)
        with daemon(self.lake, self._mountpoint, point, self._armed) as mount:
            self.writer.verify(VERSIONS_READ)
            self._armed.touch()
            timer = threading.Timer(delay_s or mounts.BODY_LIMIT_S, mount.process.kill)
            timer.start()
            try:
                for _ in range(ROUNDS):
                    self.writer.work(mount.process, STEPS)
            except DaemonDied:
                pass
            finally:
                timer.cancel()
        tried("kills of the daemon")
        clear_away(self._mountpoint, self._dice)
        if self._dice.random() < CHECKED_SHARE if check is None else check:
            self._check()
        return SAID in mount.said()

    def die_at_start(self, point: Point) -> bool:
        """Kill a daemon while it starts, at a point; True when it came there."""
        self._armed.touch()
        with daemon(self.lake, self._mountpoint, point, self._armed) as mount:
            pass
        tried("kills of the daemon")
        clear_away(self._mountpoint, self._dice)
        return SAID in mount.said()

    def end(self) -> None:
        """Compare everything once more, in a mount that ends as it should."""
        with mounts.mounted(self.lake, self._mountpoint):
            self.writer.verify(len(self.writer.versions))
        self._check()

    def clear_away_always(self) -> None:
        """Leave no mount behind, whatever failed."""
        if kernel.is_mounted(self._mountpoint):
            kernel.unmount(self._mountpoint, lazy=True)

    def _check(self) -> None:
        with Lake.open(self.lake) as opened:
            assert_no_errors(opened)


@pytest.fixture
def kills(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Kills]:
    """A new lake to die over; a seed is printed that repeats what its writer does."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    made = Kills(tmp_path, seed)
    try:
        yield made
    finally:
        made.clear_away_always()


def test_killed_at_random_moments(kills: Kills, request: pytest.FixtureRequest) -> None:
    dice = random.Random(len(kills.writer.versions))
    for _ in range(CYCLES_SOAK if request.config.getoption("--soak") else CYCLES):
        kills.cycle(delay_s=dice.random() * LONGEST_S)
    kills.end()
    assert kills.writer.acknowledged


def test_killed_at_named_points(kills: Kills) -> None:
    # What the writer does is random, so that it may not come to a point in one cycle.
    missed = [str(point) for point in POINTS if not any(kills.cycle(point) for _ in range(3))]
    kills.end()
    assert not missed, "no daemon came to these points"


def test_killed_while_making_up_for_a_kill(kills: Kills) -> None:
    for point in POINTS_OF_A_START:
        assert kills.cycle(Point("link", "log/", AFTER), check=False)
        assert kills.die_at_start(point), f"no daemon came to {point}"
    kills.end()


@pytest.mark.soak
@pytest.mark.parametrize("count", range(1, 30))
def test_killed_at_every_operation(kills: Kills, count: int) -> None:
    """Each named point again, at its first, second, third … occurrence after the mount."""
    for point in POINTS:
        kills.cycle(point._replace(count=count))
    kills.end()
