"""A lake ten times the size of its hot disk, over real servers that fail all along: every byte comes back."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import kernel
from tests.support.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.support.mounts import STOP_LIMIT_S, Mount
from tests.support.object_stores import ObjectStore
from tests.support.programs import ctl, ctl_json

HOT_BYTES = 4 << 20
FILE_BYTES = 1 << 20
VERSIONS = 20
"""Two files each, that no other version has; and one that all of them have."""

OLD = 6
"""The first so many are sent to the archive."""

LIMIT_S = 120.0
"""How long something may take that is waited for."""

DATASET = "WF-2024-07"

TIERING = f"""
[cache]
far_mib = 3

[tiering]
hot_gib = {HOT_BYTES / (1 << 30)}
after_days = inf
superseded_after_days = inf
settle_hours = 0
size_min_kib = 0
every_s = 0.2
archive_tags = ["old"]
recalled_days = {5.0 / 86_400}
recall_wait_s = 60
"""

FAULTS = (
    Fault.INTERNAL,
    Fault.GARBLE,
    Fault.LOSE_ANSWER,
    Fault.DROP,
    Fault.GARBLE,
    Fault.SLOW_DOWN,
    Fault.HALF_UPLOAD,
    Fault.GARBLE,
    Fault.HALF_ANSWER,
)


class Weather:
    """Each sixth request to a store meets a fault, one kind after the other; none meets one when the
    request before it for the same object did, so that the least patience is enough."""

    def __init__(self) -> None:
        self._count = self._next = 0
        self._met: set[tuple[str, str]] = set()
        self._garbled: dict[str, int] = {}

    def __call__(self, method: str, path: str) -> Fault:
        """What happens to a request."""
        self._count += 1
        if (method, path) in self._met:
            self._met.remove((method, path))
            return Fault.NONE
        if self._count % 6:
            return Fault.NONE
        fault = FAULTS[self._next % len(FAULTS)]
        self._next += 1
        if fault is Fault.GARBLE and not self._may_garble(method, path):
            fault = Fault.DROP
        self._met.add((method, path))
        return fault

    def _may_garble(self, method: str, path: str) -> bool:
        """Only objects have hashes of their own. Who gets wrong bytes asks once more: readers of one
        object, of which there are several at once, are not to get them both times."""
        if method != "GET" or "list-type" in path or self._count < self._garbled.get(path, 0):
            return False
        self._garbled[path] = self._count + 60
        return True


@pytest.fixture
def stores(
    seaweed_store: ObjectStore, moto_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, FaultProxy]]:
    """The stores of the tiers, each behind what fails; every program of the test is let in."""
    for name, value in seaweed_store.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with fault_proxy(seaweed_store) as warm, fault_proxy(moto_store) as cold:
        warm.choose(Weather())
        cold.choose(Weather())
        yield {"warm": warm, "cold": cold}


def files_of(number: int) -> dict[str, bytes]:
    """What a version holds; the file that all have grows by a part that does not compress."""
    dice, shared = random.Random(number), random.Random(0)
    files = {name: dice.randbytes(FILE_BYTES + number) for name in ("first", "second")}
    return files | {"shared": shared.randbytes(FILE_BYTES // 2) + dice.randbytes(1_000)}


def assert_reads(mount: Mount, numbers: range) -> None:
    """Every byte of these versions."""
    for number in numbers:
        for name, content in files_of(number).items():
            found = (mount / DATASET / f"v{number}" / name).read_bytes()
            assert found == content, f"v{number}/{name}"


def await_that(what: str, holds: Callable[[], Any]) -> None:
    """Ask until it is so; each question is a command, which takes a while."""
    until_s = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < until_s, f"it does not come to be that {what}"


def placed(lake: Path) -> Any:
    """Where the content lies."""
    return ctl_json(lake, "stats")["placement"]


def packs_in(facts: Any, tier: str) -> int:
    """How many packs a tier has."""
    return int(facts["tiers"].get(tier, {"packs": 0})["packs"])


def fits(lake: Path) -> bool:
    """Whether the hot disk has no more than it may."""
    return int(placed(lake)["hot"]["size_bytes"]) <= HOT_BYTES


def is_mirrored(lake: Path) -> bool:
    """Whether nothing is on this machine alone."""
    facts = ctl_json(lake, "stats")
    mirror, content = facts["mirror"], facts["placement"]
    in_tiers = packs_in(content, "warm") + packs_in(content, "cold")
    return mirror["entries_behind"] == 0 and mirror["problem"] is None and in_tiers >= VERSIONS


def change(lake: Path, before: str, after: str) -> None:
    """Edit the configuration."""
    config = lake / "config.toml"
    config.write_text(config.read_text().replace(before, after))


def make_lake(lake: Path, stores: dict[str, FaultProxy]) -> None:
    """An empty lake with both tiers, and a small hot disk."""
    ctl(lake, "init")
    for name, proxy in stores.items():
        endpoint = ("--endpoint", proxy.store.endpoint)
        facts = ctl_json(lake, "tier", "add", name, proxy.store.url("ten times"), *endpoint)
        assert facts["capabilities"]["conditional_put"] == "honoured"
    change(lake, "url =", "timeout_s = 3.0\nurl =")
    change(lake, "[tiers.warm]", f"{TIERING}\n[tiers.warm]\nmirror_content = false")


def restore(new: Path, stores: dict[str, FaultProxy], key: Path) -> None:
    """The lake again, on a machine that has nothing but its key."""
    warm, cold = stores["warm"].store, stores["cold"].store
    places = ("--from", warm.url("ten times"), "--endpoint", warm.endpoint)
    places += ("--tier", f"cold={cold.url('ten times')}")
    elsewhere = {"AWS_ENDPOINT_URL": cold.endpoint}
    facts = ctl_json(new, "restore", *places, env=elsewhere)
    assert (facts["versions"], facts["problems"], facts["writable"]) == (VERSIONS, [], False)
    assert facts["content_packs_in_tiers"] == facts["content_packs"]
    shutil.copy(key, new / "keys" / "signing.pem")
    config = new / "config.toml"
    config.write_text(config.read_text() + TIERING)


def write_versions(mount: Mount) -> None:
    """Written as users do, and a file that is staged and discarded again."""
    ctl(mount.lake, "create", DATASET)
    staging = mount / DATASET / "staging"
    for number in range(1, VERSIONS + 1):
        for name, content in files_of(number).items():
            (staging / name).write_bytes(content)
        staging.rename(mount / DATASET / f"v{number}")
    (staging / "never sealed").write_bytes(random.Random(99).randbytes(FILE_BYTES))
    ctl(mount.lake, "discard", DATASET)


def end(mount: Mount) -> None:
    """Unmount; the daemon ends by itself."""
    assert not kernel.unmount_patiently(mount.mountpoint, STOP_LIMIT_S)
    assert mount.process.wait(STOP_LIMIT_S) == 0


def assert_sound(lake: Path) -> None:
    """Every copy that needs no recall is read and right."""
    assert "is sound" in ctl(lake, "check", "--read-data").stdout.decode()


def write_and_read(mount: Mount) -> None:
    """All versions, of which the hot disk keeps what it has room for."""
    write_versions(mount)
    await_that("it fits the hot disk", lambda: fits(mount.lake))
    facts = placed(mount.lake)
    assert facts["hot"]["size_bytes"] + facts["away"]["size_bytes"] >= 10 * HOT_BYTES
    assert_reads(mount, range(1, VERSIONS + 1))


def thin_and_recall(mount: Mount) -> None:
    """The oldest go to the archive, and come back for who asks, by command or by opening a file."""
    lake = mount.lake
    for number in range(1, OLD + 1):
        ctl(lake, "tag", f"{DATASET}:v{number}", "old")
    ctl(lake, "collect", "--grace", "0s")
    # All but the first: its pack has what newer ones need as well.
    await_that("the old is archived", lambda: packs_in(placed(lake), "cold") == OLD - 1)
    archived = placed(lake)
    assert packs_in(archived, "warm") <= VERSIONS - OLD + 1, "the warm copies are given up"
    ctl(lake, "tier", "recall", f"{DATASET}:v2", f"{DATASET}:v3")
    assert_reads(mount, range(1, VERSIONS + 1))
    await_that("what was recalled leaves again", lambda: fits(lake))


def test_every_byte_comes_back(
    tmp_path: Path, stores: dict[str, FaultProxy], mount: Callable[..., Mount]
) -> None:
    """Written, read, thinned, recalled, lost with its machine, and rebuilt on another."""
    lake, new, key = tmp_path / "lake", tmp_path / "new", tmp_path / "signing.pem"
    make_lake(lake, stores)
    shutil.copy(lake / "keys" / "signing.pem", key)
    stores["warm"].plan(Fault.STALL, method="PUT", path="/packs/")
    stores["warm"].plan(Fault.STALL, method="GET", path="/packs/")
    stores["cold"].plan(Fault.STALL, method="PUT", path="/packs/")
    first = mount(lake)
    write_and_read(first)
    thin_and_recall(first)
    end(first)

    change(lake, "mirror_content = false", "mirror_content = true")
    second = mount(lake)
    await_that("all of it is in the tiers", lambda: is_mirrored(lake))
    end(second)
    assert_sound(lake)
    shutil.rmtree(lake)

    restore(new, stores, key)
    third = mount(new)
    assert_reads(third, range(1, VERSIONS + 1))
    staging = third / DATASET / "staging"
    (staging / "first").write_bytes(b"after the loss")
    staging.rename(third / DATASET / f"v{VERSIONS + 1}")
    assert (third / DATASET / "latest" / "first").read_bytes() == b"after the loss"
    await_that("what was recalled leaves again", lambda: fits(new))
    end(third)
    assert_sound(new)
    for proxy in stores.values():
        met = {seen.fault for seen in proxy.seen}
        assert proxy.left == 0 and met >= {*FAULTS, Fault.STALL} - {Fault.GARBLE}
    assert sum(seen.fault is Fault.GARBLE for seen in stores["warm"].seen) > 3
