"""Figures of tiers, against a real S3-compatible server on this host: SeaweedFS, which the benchmark starts.

Packs are moved as `dtafsctl tier move` moves them, one after the other: hashed, sent, read back and
compared, their stubs synced. Beside that, files of the same bytes are sent with the same client
library. Both take turns. A restore is the whole command, and the mount that follows it.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.store import S3Store

from dtafs.core.format import PackKind
from dtafs.store.config import TierSettings
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import copy_pack
from dtafs.store.session import Session, actor_here
from dtafs.store.tiers.attach import attach
from dtafs.store.tiers.mirror import mirror
from scripts.far_figures import reading_far
from scripts.figures import MIB, Figure
from tests.support.object_stores import ACCESS_KEY, SECRET_KEY, ObjectStore, seaweedfs

FILE_MIB = 32
"""The size of a full pack."""

READ_MIB = 1_024
"""Of each file that is read through the mount."""


def tiering(directory: Path, packs: int, versions: int, rounds: int) -> Iterator[Figure]:
    """All of them."""
    (directory / "server").mkdir()
    with seaweedfs(directory / "server") as store, _surroundings(store):
        yield moving(directory, store, packs, rounds)
        yield from reading_far(directory, store.url("far"), _client(store), "far", rounds, READ_MIB)
        yield from restoring(directory, store, versions)


@contextmanager
def _surroundings(store: ObjectStore) -> Iterator[None]:
    """The environment in which the store is found, while the block runs."""
    before = dict(os.environ)
    os.environ.update(store.environment())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def moving(directory: Path, store: ObjectStore, packs: int, rounds: int) -> Figure:
    """The speed at which content packs get to a tier, beside plain uploads of the same sizes."""
    lake = Lake.create(directory / "moved")
    session = Session(lake, actor_here("benchmark"))
    session.create("d")
    source = directory / "random"
    source.write_bytes(os.urandom(packs * rounds * FILE_MIB * MIB))
    session.put("d", [str(source)])
    session.commit("d", "random")
    source.unlink()
    attach(lake, "warm", TierSettings(store.url("moved")))
    content = [(p, r.size) for p, r in lake.index.packs() if r.kind == PackKind.CONTENT]
    client = _client(store)
    plain_s, moved_s = [], []
    for number in range(rounds):
        batch = content[number * packs : (number + 1) * packs]
        for pack, size in batch:
            file = directory / "plain"
            file.write_bytes(os.urandom(size))
            started_s = time.monotonic()
            obstore.put(client, f"plain/{pack.hex()}", file, use_multipart=False)
            plain_s.append((time.monotonic() - started_s) / size)
        for pack, size in batch:
            started_s = time.monotonic()
            copy_pack(lake, pack, "warm")
            moved_s.append((time.monotonic() - started_s) / size)
    lake.close()
    plain, moved = (1 / statistics.median(times) / MIB for times in (plain_s, moved_s))
    return Figure("moving packs to a bucket", "plain upload", plain, moved, "MiB/s", 0.7)


def _client(store: ObjectStore) -> S3Store:
    return S3Store(
        store.bucket,
        config={
            "endpoint": store.endpoint,
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "virtual_hosted_style_request": False,
        },
        client_options={"allow_http": True},
    )


def restoring(directory: Path, store: ObjectStore, versions: int) -> Iterator[Figure]:
    """How long an empty machine takes from nothing to a mount that answers."""
    lake = Lake.create(directory / "lost")
    session = Session(lake, actor_here("benchmark"))
    session.create("d")
    source = directory / "changed"
    for number in range(versions):
        source.write_bytes(os.urandom(2_000))
        session.put("d", [str(source)])
        session.commit("d", f"version {number}")
    attach(lake, "warm", TierSettings(store.url("lost"), mirror_content=True))
    began_s = time.monotonic()
    mirror(lake)
    each_ms = (time.monotonic() - began_s) / versions * 1e3
    lake.close()
    yield Figure("mirroring with content, for each version", "", None, each_ms, "ms")
    again, mountpoint = directory / "again", directory / "mountpoint"
    mountpoint.mkdir()
    used_s, began_s = _children_s(), time.monotonic()
    _run("dtafs.cli.ctl", "--lake", again, "restore", "--from", store.url("lost"))
    restored_s = _children_s() - used_s
    _run("dtafs.cli.daemon", "mount", "--read-only", again, mountpoint)
    assert len(list((mountpoint / "d").iterdir())) == versions + 1
    answered_s = time.monotonic() - began_s
    _run("dtafs.cli.daemon", "umount", mountpoint)
    name = f"a lake of {versions:,} versions on an empty machine, until its mount answers"
    yield Figure(name, "to reach", 5.0, answered_s, "s", 1.0, more_is_better=False)
    yield Figure("of which the restore takes of the processor", "", None, restored_s, "s")


def _run(module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
