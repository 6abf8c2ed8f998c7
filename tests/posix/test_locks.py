"""Locks between processes: flock and fcntl, waited for, and given up by who is killed."""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.posix import acts
from tests.support.actors import Actor, acting
from tests.support.mounts import Mount

PATIENCE_S = 20.0
SETTLING_S = 0.2
"""How long who has to wait is watched waiting."""


@pytest.fixture
def pair(module_mount: Mount, tmp_path: Path) -> Iterator[tuple[Actor, Actor]]:
    """Two processes that have a file of 100 bytes open."""
    place = module_mount / "D/staging" / tmp_path.name
    place.mkdir()
    (place / "lock").write_bytes(bytes(100))
    with acting() as one, acting() as two:
        for actor in (one, two):
            actor.do(acts.enter, str(place), "/")
            actor.do(acts.open_to_lock, "lock")
        yield one, two


def is_refused(actor: Actor, how: str, kind: int, *where: int) -> bool:
    """Whether a lock is not to be had without waiting."""
    try:
        actor.do(acts.lock, how, kind | fcntl.LOCK_NB, *where)
    except OSError as error:
        assert error.errno in (errno.EAGAIN, errno.EACCES)
        return True
    return False


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_who_waits_gets_it_when_it_is_free(pair: tuple[Actor, Actor], how: str) -> None:
    one, two = pair
    one.do(acts.lock, how, fcntl.LOCK_EX)
    assert is_refused(two, how, fcntl.LOCK_EX)
    two.begin(acts.lock, how, fcntl.LOCK_EX)
    assert not two.ends_within(SETTLING_S)
    one.do(acts.lock, how, fcntl.LOCK_UN)
    assert two.ends_within(PATIENCE_S)
    two.end()
    assert is_refused(one, how, fcntl.LOCK_EX)


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_who_is_killed_holds_nothing(pair: tuple[Actor, Actor], how: str) -> None:
    one, two = pair
    one.do(acts.lock, how, fcntl.LOCK_EX)
    two.begin(acts.lock, how, fcntl.LOCK_EX)
    assert not two.ends_within(SETTLING_S)
    one.close()
    assert two.ends_within(PATIENCE_S)
    two.end()


@pytest.mark.parametrize("how", ["flock", "lockf"])
def test_who_is_killed_while_it_waits_is_gone(pair: tuple[Actor, Actor], how: str) -> None:
    one, two = pair
    one.do(acts.lock, how, fcntl.LOCK_EX)
    two.begin(acts.lock, how, fcntl.LOCK_EX)
    assert not two.ends_within(SETTLING_S)
    two.close()
    one.do(acts.lock, how, fcntl.LOCK_UN)
    assert not is_refused(one, how, fcntl.LOCK_EX)


def test_readers_share_and_ranges_do_not_meet(pair: tuple[Actor, Actor]) -> None:
    one, two = pair
    for how in ("flock", "lockf"):
        one.do(acts.lock, how, fcntl.LOCK_SH)
        two.do(acts.lock, how, fcntl.LOCK_SH)
        assert is_refused(one, how, fcntl.LOCK_EX)
        for actor in pair:
            actor.do(acts.lock, how, fcntl.LOCK_UN)
    one.do(acts.lock, "lockf", fcntl.LOCK_EX, 10, 20)
    assert is_refused(two, "lockf", fcntl.LOCK_SH, 5, 29)
    assert not is_refused(two, "lockf", fcntl.LOCK_EX, 10, 30)
    one.do(acts.lock, "lockf", fcntl.LOCK_UN, 5, 22)
    assert not is_refused(two, "lockf", fcntl.LOCK_SH, 5, 22)
    assert is_refused(two, "lockf", fcntl.LOCK_SH, 2, 26)


def test_who_holds_a_record_can_be_asked(pair: tuple[Actor, Actor]) -> None:
    one, two = pair
    one.do(acts.lock, "lockf", fcntl.LOCK_EX, 10, 20)
    kind, _, start, length, pid = struct.unpack("hhqqi", two.do(acts.who_locks)[:28])
    assert (kind, start, length, pid) == (fcntl.F_WRLCK, 20, 10, one.process.pid)


def test_a_cycle_of_waiting_is_refused(pair: tuple[Actor, Actor]) -> None:
    one, two = pair
    one.do(acts.lock, "lockf", fcntl.LOCK_EX, 10, 0)
    two.do(acts.lock, "lockf", fcntl.LOCK_EX, 10, 10)
    one.begin(acts.lock, "lockf", fcntl.LOCK_EX, 10, 10)
    assert not one.ends_within(SETTLING_S)
    with pytest.raises(OSError) as caught:
        two.do(acts.lock, "lockf", fcntl.LOCK_EX, 10, 0)
    assert caught.value.errno == errno.EDEADLK
    two.do(acts.lock, "lockf", fcntl.LOCK_UN)
    assert one.ends_within(PATIENCE_S)
    one.end()
