"""Several processes, several users: locks, and what each may do to the other's files."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs.conftest import Place

ALICE, BOB = 65_534, 65_532
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

TRY_LOCK = """
import fcntl, sys
stream = open("lock", "rb+")
try:
    getattr(fcntl, sys.argv[1])(stream, fcntl.LOCK_EX | fcntl.LOCK_NB, *map(int, sys.argv[2:]))
    print("locked")
except BlockingIOError:
    print("busy")
"""


def test_flock_between_processes(place: Place) -> None:
    (place.staging / "lock").touch()
    attempt = (sys.executable, "-c", TRY_LOCK, "flock")
    with open(place.staging / "lock", "rb+") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        assert place.run(*attempt) == "busy\n"
        place.run("flock", "--shared", "--nonblock", "lock", "true")
    assert place.run(*attempt) == "locked\n"
    assert place.run("flock", "--nonblock", "lock", "echo", "mine") == "mine\n"


def test_record_locks_between_processes(place: Place) -> None:
    (place.staging / "lock").write_bytes(bytes(100))
    with open(place.staging / "lock", "rb+") as held:
        fcntl.lockf(held, fcntl.LOCK_EX, 10, 20)
        assert place.run(sys.executable, "-c", TRY_LOCK, "lockf", 5, 25) == "busy\n"
        assert place.run(sys.executable, "-c", TRY_LOCK, "lockf", 5, 30) == "locked\n"
        fcntl.lockf(held, fcntl.LOCK_UN)
        assert place.run(sys.executable, "-c", TRY_LOCK, "lockf", 5, 25) == "locked\n"


def as_user(uid: int, script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a shell script as somebody else, all of whose files the group may change."""
    return subprocess.run(
        ["sh", "-ec", f"umask 002\n{script}"],
        user=uid,
        group=uid,
        extra_groups=[100],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_root
def test_two_users_share_a_directory(shared_place: Place) -> None:
    team = shared_place.staging / "team"
    team.mkdir()
    os.chown(team, 0, 100)
    team.chmod(0o2775)
    first = (
        "mkdir sub; echo alice > sub/text; chmod 640 sub/text; mkfifo sub/pipe; ln -s text sub/link"
    )
    assert as_user(ALICE, first, team).stderr == ""
    done = as_user(BOB, "cat sub/link; echo bob > sub/other; mv sub/text sub/moved", team)
    assert (done.stdout, done.stderr) == ("alice\n", "")
    assert "Permission denied" in as_user(BOB, "echo no > sub/moved", team).stderr
    assert "Operation not permitted" in as_user(BOB, "chmod 666 sub/moved", team).stderr
    assert (
        as_user(BOB, "cp -p sub/moved sub/copy; cat sub/copy; rm -f sub/moved", team).stderr == ""
    )
    version = shared_place.commit()
    found = (version / "team/sub/copy").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (BOB, 100, 0o640)
    assert as_user(ALICE, f"cat {version}/team/sub/copy", team).stdout == "alice\n"
    assert as_user(ALICE, "echo more >> sub/other; cat sub/other", team).stdout == "bob\nmore\n"
    assert "Read-only" in as_user(ALICE, f"echo x >> {version}/team/sub/other", team).stderr


@needs_root
def test_two_users_at_once(shared_place: Place) -> None:
    shared_place.staging.chmod(0o777)
    script = "for n in $(seq 60); do echo $n > {0}$n; mv {0}$n {0}.$n; cat {0}.* > all.{0}; done"
    working = [
        subprocess.Popen(
            ["sh", "-ec", script.format(name)], user=uid, group=uid, cwd=shared_place.staging
        )
        for uid, name in ((ALICE, "a"), (BOB, "b"))
    ]
    assert [process.wait(60) for process in working] == [0, 0]
    version = shared_place.commit()
    for uid, name in ((ALICE, "a"), (BOB, "b")):
        numbers = (version / f"all.{name}").read_text().split()
        assert sorted(map(int, numbers)) == list(range(1, 61))
        assert (version / f"{name}.60").stat().st_uid == uid
