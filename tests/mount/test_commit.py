"""Committing from a real mount and through the daemon: what is in the version, who is refused."""

from __future__ import annotations

import errno
import json
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.errors import BusyError, ConflictError, NotFoundError, RefusedError, UsageError
from dtafs.services.client import RemoteSession, connect_to_daemon
from dtafs.services.protocol import connect, decode_line, socket_path
from dtafs.store.lake import Lake
from dtafs.store.progress import Progress
from tests.support import programs
from tests.support.mounts import Mount


@pytest.fixture
def session(mounted_lake: Mount) -> Iterator[RemoteSession]:
    """A session with the daemon of `mounted_lake`, which has the dataset D with one file."""
    (mounted_lake / "D").mkdir()
    (mounted_lake / "D/staging/x").write_bytes(b"one")
    opened = connect_to_daemon(mounted_lake.lake, "tests 1.0")
    assert opened is not None
    with opened:
        yield opened


def test_moving_staging(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    (staging / "x").write_bytes(b"one")
    subprocess.run(["setfattr", "-n", "user.dtafs.message", "-v", "the first", staging], check=True)
    subprocess.run(["mv", "staging", "v1"], cwd=mounted_lake / "D", check=True)
    assert os.readlink(mounted_lake / "D/latest") == "v1"
    assert sorted(os.listdir(mounted_lake / "D")) == ["latest", "staging", "v1"]
    assert (mounted_lake / "D/v1/x").read_bytes() == b"one"
    (staging / "y").write_bytes(b"two")
    assert not (mounted_lake / "D/v1/y").exists(), "v1 must not lead to staging"
    with Lake.open(mounted_lake.lake, write=False) as lake:
        row = lake.resolve("D:v1")
    assert row.manifest.message == "the first"
    assert row.actor.program == "mv" and row.actor.uid == os.getuid()


def test_what_was_written_before_is_in_the_version(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    for number in range(1, 6):
        data = os.urandom(700_000)
        with (staging / "x").open("wb") as stream:
            stream.write(data)
        os.rename(staging, mounted_lake / f"D/v{number}")
        assert (mounted_lake / f"D/v{number}/x").read_bytes() == data


def test_a_map_that_is_still_there_counts_as_a_writer(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    path = mounted_lake / "D/staging/x"
    path.write_bytes(bytes(10_000))
    fd = os.open(path, os.O_RDWR)
    mapped = mmap.mmap(fd, 0)
    os.close(fd)
    mapped[0:4] = b"late"
    with pytest.raises(OSError) as caught:
        os.rename(mounted_lake / "D/staging", mounted_lake / "D/v1")
    assert caught.value.errno == errno.EBUSY
    mapped.close()
    os.rename(mounted_lake / "D/staging", mounted_lake / "D/v1")
    assert (mounted_lake / "D/v1/x").read_bytes()[:4] == b"late"


def test_an_open_writer_is_named_or_waited_for(mounted_lake: Mount, session: RemoteSession) -> None:
    script = (
        "import sys, time; f = open(sys.argv[1], 'ab'); f.write(b'!'); print(flush=True); input()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script, mounted_lake / "D/staging/x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdin is not None and writer.stdout is not None
    try:
        writer.stdout.readline()
        with pytest.raises(BusyError, match=rf"x is open for writing by process {writer.pid} "):
            session.commit("D", "refused")
        done: list[dict[str, object]] = []
        waiting = threading.Thread(
            target=lambda: done.append(session.commit("D", "waited", wait=True))
        )
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not done
        writer.communicate(b"\n")
        waiting.join(30)
        assert done and done[0]["id"] == "D:v1"
        assert (mounted_lake / "D/v1/x").read_bytes() == b"one!"
    finally:
        programs.kill(writer)


def test_a_session_does_what_the_lake_can(mounted_lake: Mount, session: RemoteSession) -> None:
    seen: list[Progress] = []
    facts = session.commit("D", "through the daemon", tags=["raw"], progress=seen.append)
    assert facts["id"] == "D:v1" and facts["tags"] == ["raw"]
    assert (mounted_lake / "D/raw/x").read_bytes() == b"one"
    assert session.set_tags("D", 1, add=["clean"], remove=["raw"])["tags"] == ["clean"]
    assert sorted(os.listdir(mounted_lake / "D")) == ["clean", "latest", "staging", "v1"]
    assert session.create("E")["dataset"] == "E"
    assert os.listdir(mounted_lake / "E") == ["staging"]
    assert session.status("D")["changes"] == []
    assert session.stats()
    for call, error in (
        (lambda: session.create("E"), ConflictError),
        (lambda: session.create("no/slash"), UsageError),
        (lambda: session.commit("D", "nothing"), RefusedError),
        (lambda: session.commit("F", "no such"), NotFoundError),
        (lambda: session.set_tags("D", 7, add=["x"]), NotFoundError),
    ):
        with pytest.raises(error):
            call()


def test_put_and_discard_show_in_the_mount(
    mounted_lake: Mount, session: RemoteSession, tmp_path: Path
) -> None:
    staging = mounted_lake / "D/staging"
    session.commit("D", "first")
    source = tmp_path / "x"
    source.write_bytes(b"another x, longer")
    assert (staging / "x").read_bytes() == b"one"
    session.put("D", [str(source)])
    assert (staging / "x").read_bytes() == b"another x, longer"
    assert session.status("D")["changes"]
    (staging / "made").write_bytes(b"by hand")
    session.discard("D")
    assert os.listdir(staging) == ["x"]
    assert (staging / "x").read_bytes() == b"one"
    assert session.status("D")["changes"] == []


def test_a_directory_of_large_files_and_symlinks_moves(
    mounted_lake: Mount, session: RemoteSession
) -> None:
    staging = mounted_lake / "D/staging"
    (staging / "old").mkdir()
    (staging / "old/large").write_bytes(os.urandom(1_000_000))
    (staging / "old/link").symlink_to("large")
    session.commit("D", "first")
    session.discard("D")  # so that nothing below the directory has a row
    os.rename(staging / "old", staging / "new")
    expected = [("added", f"new{name}") for name in ("", "/large", "/link")]
    expected += [("removed", f"old{name}") for name in ("", "/large", "/link")]
    for changes in (
        session.status("D")["changes"],
        session.commit("D", "second")
        and programs.ctl_json(mounted_lake.lake, "diff", "D:v1", "D:v2")["changes"],
    ):
        found = [(fact["change"], fact["path"]) for fact in changes if fact["path"] != "."]
        assert [what for what in found if what[0] != "changed"] == expected


def test_readers_of_sealed_versions_do_not_wait(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    (staging / "x").write_bytes(b"one")
    os.rename(staging, mounted_lake / "D/v1")
    for i in range(40):
        (staging / f"big{i}").write_bytes(os.urandom(1_000_000))
    done = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not done.is_set():
                assert (mounted_lake / "D/v1/x").read_bytes() == b"one"
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        opened = connect_to_daemon(mounted_lake.lake)
        assert opened is not None
        with opened:
            assert opened.commit("D", "second")["version"] == 2
    finally:
        done.set()
        reader.join(30)
    assert not failures
    assert len(os.listdir(mounted_lake / "D/v2")) == 41


def test_closed_files_are_sealed_before_the_commit(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    staging = mounted_lake / "D/staging"
    before = len(list(mounted_lake.lake.glob("packs/*/*")))
    for i in range(30):
        (staging / f"big{i}").write_bytes(os.urandom(1_000_000))
    deadline = threading.Event()
    for _ in range(300):
        if len(list(mounted_lake.lake.glob("packs/*/*"))) > before:
            break
        deadline.wait(0.1)
    else:
        pytest.fail("nothing was sealed in the background")
    os.rename(staging, mounted_lake / "D/v1")
    assert len(os.listdir(mounted_lake / "D/v1")) == 30


def test_the_socket_refuses_nonsense(mounted_lake: Mount) -> None:
    assert (socket_path(mounted_lake.lake).stat().st_mode & 0o777) == 0o600
    for line in (b"not json\n", b"[]\n", b'{"call": "open"}\n', b'{"call": "create"}\n'):
        with connect(socket_path(mounted_lake.lake)) as connection:
            connection.sendall(line)
            reply = decode_line(connection.makefile("rb").readline())
            assert reply["error"]["kind"] == "usage", reply
    with connect(socket_path(mounted_lake.lake)) as connection:
        connection.sendall(b'{"call": "create", "arg')
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""
    facts = json.loads((mounted_lake.lake / "run" / "daemon.json").read_bytes())
    assert facts["pid"] == mounted_lake.pid


def test_no_daemon_no_session(lake_path: Path) -> None:
    assert connect_to_daemon(lake_path) is None
    assert not (lake_path / "run" / "daemon.json").exists()
