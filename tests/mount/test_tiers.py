"""Tiers under a real mount: what is away says so, is brought back, and holds up nobody."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dtafs.store.lake import Lake
from dtafs.store.placement.moves import move_pack, move_packs
from tests.posix import acts
from tests.support.actors import Actor, acting
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.mounts import Mount, mounted
from tests.support.object_stores import ObjectStore
from tests.support.programs import ctl
from tests.support.small_lakes import read_version
from tests.support.tiered import (
    DATASET,
    add_tiers,
    content_of,
    content_packs,
    fill,
    random_tree,
)

TREE = random_tree(1, 3, 3_000_000)
NEAR = random_tree(2, 1)
READERS = 20
"""More than libfuse lets a mount have under way in the background."""

PATIENCE_S = 15.0
"""Half of what a request to the proxy may take."""


@pytest.fixture
def moved(lake_path: Path) -> Callable[[str], Path]:
    """`moved(tier)` is a lake whose one version lies in that tier."""

    def make(tier: str) -> Path:
        add_tiers(lake_path)
        with Lake.open(lake_path) as lake:
            fill(lake, lake_path.parent / "scratch", TREE)
            for pack in content_packs(lake):
                move_pack(lake, pack, tier)
        return lake_path

    return make


@pytest.mark.parametrize("tier", ["warm", "cold"])
def test_what_is_away_reads(
    moved: Callable[[str], Path], mount: Callable[..., Mount], tier: str
) -> None:
    mount_of = mount(moved(tier))
    top = mount_of / f"{DATASET}/v1"
    for name, item in TREE.items():
        path = top / os.fsdecode(name)
        assert path.stat().st_blocks == 0 and path.stat().st_size == len(item.content)
        assert os.getxattr(path, "user.dtafs.tier") == tier.encode()
    for name, item in TREE.items():
        assert (top / os.fsdecode(name)).read_bytes() == item.content
    shown = os.getxattr(top / "file 0", "user.dtafs.tier")
    assert shown == (b"hot" if tier == "cold" else b"warm"), "a recall keeps it hot for a while"


def test_who_does_not_wait(moved: Callable[[str], Path], mount: Callable[..., Mount]) -> None:
    mount_of = mount(moved("cold"))
    path = mount_of / f"{DATASET}/v1/file 1"
    with pytest.raises(OSError) as caught:
        os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert caught.value.errno == errno.EAGAIN
    assert path.read_bytes() == TREE[b"file 1"].content
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))


def test_a_daemon_killed_in_a_move(lake_path: Path, tmp_path: Path) -> None:
    """At moments that differ: whatever it was doing, everything reads, and the next daemon goes on."""
    add_tiers(
        lake_path,
        "\n[tiering]\nafter_days = 0\nsettle_hours = 0\nsize_min_kib = 0\nevery_s = 0.05\n",
    )
    with Lake.open(lake_path) as lake:
        for number in range(6):
            tree = random_tree(number, 1, 1_000_000)
            fill(lake, lake_path.parent / "scratch", tree, dataset=f"D{number}")
    for cycle in range(5):
        with mounted(lake_path, tmp_path / "kills") as mount:
            for _ in range(cycle):
                os.stat(mount / "D0/v1/file 0")
                list(os.scandir(mount / "D5/v1"))
            mount.kill()
        with Lake.open(lake_path, write=True, wait_s=10.0) as lake:
            for number in range(6):
                content = content_of(lake, f"D{number}:v1", b"file 0")
                expected = random_tree(number, 1, 1_000_000)[b"file 0"].content
                assert lake.objects.read(content, 0, content.size) == expected
    with Lake.open(lake_path) as lake:
        assert not move_packs(lake, content_packs(lake), "warm").left


def told(mount: Mount, sql: str) -> list[tuple[object, ...]]:
    """What the mount's catalog says, by any SQLite client."""
    path = mount / ".dtafs/catalog.sqlite"
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


@pytest.mark.parametrize("options", [[], ["--read-only"]])
def test_the_catalog_says_where_versions_lie(
    moved: Callable[[str], Path], mount: Callable[..., Mount], options: list[str]
) -> None:
    path = moved("warm")
    with Lake.open(path) as lake:
        read_version(lake, lake.resolve(f"{DATASET}:v1"))
    mount_of = mount(path, *options)
    [(ver, tier, last, count, pinned)] = told(
        mount_of, "SELECT ver, tier, last_access, count, pinned FROM whereabouts"
    )
    assert (ver, tier, pinned) == ("v1", "warm", 0) and last and count
    before = os.stat(mount_of / ".dtafs/catalog.sqlite").st_ino
    assert os.stat(mount_of / ".dtafs/catalog.sqlite").st_ino == before
    if options:
        return
    ctl(path, "tier", "recall", f"{DATASET}:v1")
    ctl(path, "tier", "pin", f"{DATASET}:v1")
    assert os.stat(mount_of / ".dtafs/catalog.sqlite").st_ino != before
    found = told(mount_of, "SELECT ver, tier, pinned FROM whereabouts ORDER BY tier")
    assert found == [("v1", "hot", 1), ("v1", "warm", 1)]


HELD_UP_S = 40.0
"""Less than the two minutes for which a tier is asked again, more than STUCK_S on a busy machine."""


def test_readers_of_a_tier_that_answers_nothing_hold_up_nobody(
    lake_path: Path,
    tmp_path: Path,
    mount: Callable[..., Mount],
    seaweed_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eighty of them, which is more than the kernel and the daemon take at once: some wait, some are told to
    try again, and who reads what is here reads it. They are told by an error that no program takes for the
    end of the file."""
    files = random_tree(5, 80, 200_000)
    with fault_proxy(seaweed_store) as proxy:
        for name, value in proxy.store.environment().items():
            monkeypatch.setenv(name, value)
        ctl(lake_path, "tier", "add", "warm", proxy.store.url("lakes/held up"))
        with Lake.open(lake_path) as lake:
            fill(lake, tmp_path / "scratch", files)
            assert not move_packs(lake, content_packs(lake), "warm").left
            fill(lake, tmp_path / "scratch", TREE, dataset="H")
        mounted_at = mount(lake_path)
        proxy.choose(lambda method, path: Fault.STALL if "/packs/" in path else Fault.NONE)
        with ThreadPoolExecutor(len(files) + 1) as readers:
            tops = mounted_at / f"{DATASET}/v1"
            far = [readers.submit((tops / os.fsdecode(name)).read_bytes) for name in files]
            try:
                # Until the first ones are told to try again.
                concurrent.futures.wait(far, HELD_UP_S, FIRST_COMPLETED)
                near = readers.submit((mounted_at / "H/v1/file 1").read_bytes)
                assert near.result(HELD_UP_S) == TREE[b"file 1"].content
                told = [one.exception() for one in far if one.done()]
                assert {getattr(error, "errno", error) for error in told} == {errno.ETIMEDOUT}
                assert len(told) < len(far), "the others wait still"
            finally:
                proxy.calm()
                proxy.ending.set()  # which ends those that stall


def test_without_a_daemon_a_command_says_what_to_do(moved: Callable[[str], Path]) -> None:
    done = ctl(moved("cold"), "cat", f"{DATASET}:v1", "file 0", exit_code=7)
    assert b"archive tier 'cold'" in done.stderr and b"dtafsctl tier recall" in done.stderr
    assert done.stderr.count(b"\n") == 1 and done.stdout == b""


@pytest.fixture
def stalling(
    lake_path: Path, seaweed_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """The tier `warm` of a lake, which holds READERS files, behind a proxy."""
    for name, value in seaweed_store.environment().items():
        monkeypatch.setenv(name, value)
    with fault_proxy(seaweed_store) as proxy:
        place = (proxy.store.url("stalling"), "--endpoint", proxy.store.endpoint)
        ctl(lake_path, "tier", "add", "warm", *place)
        with Lake.open(lake_path) as lake:
            fill(lake, lake_path.parent / "scratch", random_tree(1, READERS, 100_000))
            for pack in content_packs(lake):
                move_pack(lake, pack, "warm")
            fill(lake, lake_path.parent / "scratch", NEAR, dataset="near")
        yield proxy


def is_waiting(actor: Actor) -> bool:
    """Whether a process waits for a page of a file."""
    return Path(f"/proc/{actor.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "D"


def test_a_tier_that_does_not_answer_holds_up_nobody_else(
    lake_path: Path, stalling: FaultProxy, mount: Callable[..., Mount]
) -> None:
    """Whoever has read it waits; what is near and not in memory is read meanwhile."""
    mount_of = mount(lake_path)
    stalling.choose(lambda *_: Fault.STALL)
    with ExitStack() as stack:
        readers = [stack.enter_context(acting()) for _ in range(READERS)]
        for number, reader in enumerate(readers):
            reader.do(acts.keep_open, os.fspath(mount_of / f"{DATASET}/v1/file {number}"))
            reader.begin(acts.read_kept)
        near = stack.enter_context(acting())
        near.do(acts.keep_open, os.fspath(mount_of / "near/v1/file 0"))
        until_s = time.monotonic() + PATIENCE_S
        while not all(is_waiting(reader) for reader in readers):
            assert time.monotonic() < until_s, "nobody waits for the tier"
        near.begin(acts.read_kept)
        assert near.ends_within(PATIENCE_S)
        assert near.end() == NEAR[b"file 0"].content[:100]
        assert all(is_waiting(reader) for reader in readers)
        stalling.calm()
        stalling.ending.set()
