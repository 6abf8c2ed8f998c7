"""A lake that is made again on an empty machine: the same lake, and what is missing is said."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.format import PackKind, pack_key
from dtafs.store.check import check
from dtafs.store.findings import ERROR
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import copy_pack, move_pack
from dtafs.store.reindex import dump
from dtafs.store.tiers.mirror import mirror
from tests.support import kernel
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.mounts import Mount
from tests.support.object_stores import ObjectStore
from tests.support.programs import CTL, ctl, ctl_json, started
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version, tree_of_seed

SEEDS = (1, 2, 3)


class Origin:
    """A lake, its mirror with all of its content, and a machine that has neither yet."""

    def __init__(self, lake_path: Path, warm: Path) -> None:
        self.path, self.warm = lake_path, warm
        self.url = f"file://{warm}"
        self.key = lake_path / "keys" / "signing.pem"


@pytest.fixture
def origin(lake_path: Path, tmp_path: Path) -> Origin:
    warm = tmp_path / "warm"
    ctl(lake_path, "tier", "add", "warm", f"file://{warm}")
    with Lake.open(lake_path) as lake:
        lake.create_dataset("größe ☂", ACTOR)
        lake.create_dataset("d", ACTOR)
        for seed in SEEDS:
            put_tree(lake, "d", tree_of_seed(seed), tmp_path / "tree")
            commit(lake, "d", f"version of {seed}", (f"tag-{seed}",))
        mirror(lake)
        for pack in content_packs(lake):
            copy_pack(lake, pack, "warm")
    return Origin(lake_path, warm)


def content_packs(lake: Lake) -> list[bytes]:
    return [pack for pack, row in lake.index.packs() if row.kind == PackKind.CONTENT]


def metadata_packs(lake: Lake) -> list[bytes]:
    return [pack for pack, row in lake.index.packs() if row.kind == PackKind.METADATA]


def rows(path: Path) -> list[Any]:
    with Lake.open(path, write=False) as lake:
        return list(dump(lake.index.database))


def assert_whole(path: Path) -> None:
    """Every version reads, every byte of it."""
    with Lake.open(path, write=False) as lake:
        for number, seed in enumerate(SEEDS, 1):
            assert read_version(lake, lake.resolve(f"d:v{number}")) == tree_of_seed(seed)
        errors = [str(f) for f in check(lake, read_data=True) if f.severity == ERROR]
        assert not errors


def test_the_same_lake(origin: Origin, tmp_path: Path) -> None:
    new = tmp_path / "new"
    facts = ctl_json(new, "restore", "--from", origin.url)
    assert (facts["versions"], facts["datasets"], facts["problems"]) == (3, 2, [])
    assert facts["content_packs"] == facts["content_packs_in_tiers"] > 0
    assert not facts["writable"]
    assert rows(new) == rows(origin.path)
    assert (new / "lake.json").read_bytes() == (origin.path / "lake.json").read_bytes()
    for path in (origin.path / "log").rglob("0*"):
        assert (new / path.relative_to(origin.path)).read_bytes() == path.read_bytes()
    stored = sum(path.stat().st_size for path in (new / "packs").rglob("*") if path.is_file())
    assert stored < 20_000  # metadata only
    assert_whole(new)
    assert "is sound" in ctl(new, "check", "--read-data").stdout.decode()


def test_it_can_be_read_at_once_and_written_with_its_key(
    origin: Origin, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    new = tmp_path / "new"
    said = ctl(new, "restore", "--from", origin.url).stdout.decode()
    assert "mounted with --read-only" in said and "signing.pem" in said
    mounted = mount(new, "--read-only")
    assert (mounted.mountpoint / "d" / "v3" / "big").read_bytes() == tree_of_seed(3)[b"big"].content
    assert not kernel.unmount_patiently(mounted.mountpoint, 60.0)
    mounted.process.wait(60.0)
    error = ctl_json(new, "create", "e", exit_code=5)["error"]["message"]
    assert "put it back from its backup" in error
    shutil.copy(origin.key, new / "keys" / "signing.pem")
    ctl(new, "create", "e")
    (tmp_path / "file").write_bytes(b"content")
    ctl(new, "put", "d", tmp_path / "file", "--commit", "goes on")
    # And the mirror goes on with it: the log, but of content only what was copied there.
    again = tmp_path / "again"
    facts = ctl_json(again, "restore", "--from", origin.url, "--key", origin.key, exit_code=6)
    assert facts["versions"] == 4 and facts["writable"] and facts["content_packs_lost"] == 1
    ctl(again, "create", "f")


def test_content_in_an_archive(origin: Origin, tmp_path: Path) -> None:
    """What begins and ends a content pack is in the mirror, so an archive need not be read."""
    tape = tmp_path / "tape"
    ctl(origin.path, "tier", "add", "cold", f"file://{tape}")
    with Lake.open(origin.path) as lake:
        packs = content_packs(lake)
        for pack in packs:
            move_pack(lake, pack, "cold")
            (origin.warm / pack_key(pack)).unlink(missing_ok=True)
    new = tmp_path / "new"
    cold = ("--tier", f"cold=file://{tape}", "--key", origin.key)
    facts = ctl_json(new, "restore", "--from", origin.url, *cold)
    assert facts["content_packs_in_tiers"] == len(packs) and not facts["problems"]
    ctl(new, "cat", "d:v3", "big", exit_code=7)
    for path in (new, origin.path):
        with Lake.open(path) as lake:
            for pack in packs:
                lake.tiers["cold"].recall(pack_key(pack))
                move_pack(lake, pack, "hot")
    assert ctl(new, "cat", "d:v3", "big").stdout == tree_of_seed(3)[b"big"].content


@pytest.mark.parametrize("what", ["absent", "damaged"])
def test_footers_that_are_not_there_are_read_from_the_packs(
    origin: Origin, tmp_path: Path, what: str
) -> None:
    for path in (origin.warm / "footers").rglob("?" * 64):
        if what == "absent":
            path.unlink()
        else:
            path.chmod(0o644)
            path.write_bytes(path.read_bytes()[:-1])
    facts = ctl_json(tmp_path / "new", "restore", "--from", origin.url)
    assert not facts["problems"]
    assert_whole(tmp_path / "new")


def test_what_is_missing_is_said(origin: Origin, tmp_path: Path) -> None:
    with Lake.open(origin.path, write=False) as lake:
        content, metadata = content_packs(lake), metadata_packs(lake)
    dice = random.Random(1)
    gone, damaged = dice.choice(content), dice.choice(metadata)
    (origin.warm / pack_key(gone)).rename(tmp_path / "gone")
    path = origin.warm / pack_key(damaged)
    kept = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    new = tmp_path / "new"
    facts = ctl_json(new, "restore", "--from", origin.url, exit_code=6)
    assert facts["content_packs_lost"] == 1
    text = "\n".join(facts["problems"])
    assert f"1 of {len(content)} content packs are in none of the tiers" in text
    assert gone.hex() in text
    assert f"pack {damaged.hex()} cannot be read from tier warm" in text
    assert "restored as far as its tiers have it, with 2 problems" in facts["error"]["message"]
    # What is found later makes it whole: put the packs back, and index them.
    (tmp_path / "gone").rename(origin.warm / pack_key(gone))
    path.write_bytes(kept)
    shutil.rmtree(new)
    assert not ctl_json(new, "restore", "--from", origin.url)["problems"]


@pytest.mark.damages_lake
def test_a_pack_of_which_a_tier_has_a_part_is_not_there(origin: Origin, tmp_path: Path) -> None:
    with Lake.open(origin.path, write=False) as lake:
        pack = content_packs(lake)[0]
    path = origin.warm / pack_key(pack)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    facts = ctl_json(tmp_path / "new", "restore", "--from", origin.url, exit_code=6)
    assert facts["content_packs_lost"] == 1
    assert f"tier warm has only a part of pack {pack.hex()}" in facts["problems"]
    with Lake.open(tmp_path / "new", write=False) as lake:
        assert not lake.placed.where(pack).names
    newest = facts["newest"][:19].replace("T", " ")
    text = ctl(tmp_path / "again", "restore", "--from", origin.url, exit_code=6).stdout.decode()
    assert f"The newest entry of the log is of {newest} UTC" in text


@pytest.mark.parametrize("what", ["absent", "damaged"])
def test_a_log_ends_where_it_is_broken(origin: Origin, tmp_path: Path, what: str) -> None:
    path = origin.warm / "log" / "d" / "0000000003"
    if what == "absent":
        path.unlink()
    else:
        path.chmod(0o644)
        data = path.read_bytes()
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    new = tmp_path / "new"
    facts = ctl_json(new, "restore", "--from", origin.url, exit_code=6)
    assert facts["versions"] == 1
    assert "the log of 'd' ends before entry 3 of 4" in facts["problems"][0]
    with Lake.open(new, write=False) as lake:
        assert read_version(lake, lake.resolve("d:latest")) == tree_of_seed(SEEDS[0])


def test_places_and_keys_that_are_wrong(origin: Origin, tmp_path: Path) -> None:
    new, other = tmp_path / "new", tmp_path / "other"

    def refused(code: int, *arguments: object) -> str:
        message = ctl_json(new, "restore", *arguments, exit_code=code)["error"]["message"]
        assert not new.exists()
        return str(message)

    (tmp_path / "empty").mkdir()
    ctl(other, "init")
    assert "there is no lake at" in refused(3, "--from", f"file://{tmp_path}/empty")
    assert "is gone" in refused(3, "--from", f"file://{tmp_path}/nowhere")
    assert "no place for a tier" in refused(2, "--from", "elsewhere")
    assert "write each other tier once" in refused(2, "--from", origin.url, "--tier", "cold")
    cold = ("--tier", f"cold=file://{other}")
    assert "belongs to another lake" in refused(5, "--from", origin.url, *cold)
    assert "has the public key" in refused(5, "--from", origin.url, "--public-key", "ab" * 32)
    key = ("--key", other / "keys" / "signing.pem")
    assert "is not the one of this lake" in refused(5, "--from", origin.url, *key)
    assert "one place" in refused(4, "--from", origin.url, "--tier", f"cold={origin.url}")
    new.mkdir()
    (new / "mine").write_bytes(b"")
    ctl(new, "restore", "--from", origin.url, exit_code=4)
    assert [path.name for path in new.iterdir()] == ["mine"]


def test_an_interrupted_restore_is_begun_anew(origin: Origin, tmp_path: Path) -> None:
    new = tmp_path / "new"
    (new / "log" / "d").mkdir(parents=True)
    (new / "log" / "d" / "0000000009").write_bytes(b"torn")
    (new / "packs").mkdir()
    ctl(new, "restore", "--from", origin.url, exit_code=4)  # nobody said that it may go
    (new / "restoring").write_bytes(b"")
    ctl(new, "restore", "--from", origin.url)
    assert not (new / "restoring").exists() and not (new / "log" / "d" / "0000000009").exists()
    assert_whole(new)


@pytest.fixture
def in_bucket(
    lake_path: Path, tmp_path: Path, seaweed_store: ObjectStore, prefix: str
) -> Iterator[tuple[str, dict[str, str]]]:
    """A lake that is mirrored, with its content, through a store that fails all along; the URL of the
    mirror, and the environment with the endpoint that fails."""
    with fault_proxy(seaweed_store) as proxy:
        environment, url = proxy.store.environment(), proxy.store.url(prefix)
        ctl(lake_path, "tier", "add", "warm", url, env=environment)
        config = lake_path / "config.toml"
        config.write_text(config.read_text() + "mirror_content = true\ntimeout_s = 5.0\n")
        faults = [Fault.INTERNAL, Fault.SLOW_DOWN, Fault.DROP, Fault.LOSE_ANSWER, Fault.HALF_ANSWER]
        proxy.at_random(11, 0.1, [*faults, Fault.HALF_UPLOAD])
        ctl(lake_path, "create", "d", env=environment)
        for seed in SEEDS:
            with Lake.open(lake_path) as lake:
                put_tree(lake, "d", tree_of_seed(seed), tmp_path / "tree")
            ctl(lake_path, "commit", "d", "-m", f"version of {seed}", env=environment)
        ctl(lake_path, "tag", "d:v3", "last", env=environment)  # and what was behind follows
        counters = ctl_json(lake_path, "stats")["tiers"][0]["counters"]
        assert counters["retries"] > 0 and ctl_json(lake_path, "stats")["mirror"]["problem"] is None
        yield url, environment


def test_from_a_bucket_with_faults_all_along(
    in_bucket: tuple[str, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, environment = in_bucket
    new = tmp_path / "new"
    facts = ctl_json(new, "restore", "--from", url, env=environment)
    assert facts["problems"] == [] and facts["versions"] == 3
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert_whole(new)


def test_a_killed_restore_leaves_no_lake(
    lake_path: Path, tmp_path: Path, seaweed_store: ObjectStore, prefix: str
) -> None:
    """Killed at several points of it; the same command begins anew, and the last one ends."""
    with fault_proxy(seaweed_store) as proxy:
        environment, url = proxy.store.environment(), proxy.store.url(prefix)
        (tmp_path / "file").write_bytes(b"content")
        ctl(lake_path, "create", "d")
        ctl(lake_path, "put", "d", tmp_path / "file", "--commit", "first")
        ctl(lake_path, "tier", "add", "warm", url, "--mirror-content", env=environment)
        new, output = tmp_path / "new", tmp_path / "output"
        for path in ("log/d/0000000002", "packs/", "footers/"):
            held = threading.Event()

            def choose(method: str, asked: str, path: str = path, held: Any = held) -> Fault:
                if path in asked and "list-type" not in asked:
                    held.set()
                    return Fault.STALL
                return Fault.NONE

            proxy.choose(choose)
            command = (CTL, "--lake", new, "restore", "--from", url)
            with started(*command, output=output, env=environment):
                assert held.wait(60), output.read_text()
            assert not (new / "lake.json").exists()
            ctl(new, "ls", exit_code=3, env=environment)
        proxy.calm()
        ctl(new, "restore", "--from", url, env=environment)
        assert ctl(new, "cat", "d:v1", "file", env=environment).stdout == b"content"
