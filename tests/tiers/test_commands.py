"""init --tier, tier add, tier remove, tier list: with real servers, with and without a daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dtafs.core.format import pack_key
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import move_pack
from tests.support.mounts import Mount
from tests.support.object_stores import ObjectStore
from tests.support.programs import ctl, ctl_json
from tests.support.tiered import content_packs

WRONG = {
    "endpoint": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, 1, "the connection to"),
    "secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 5, "does not accept the credentials"),
    "key": ({"AWS_ACCESS_KEY_ID": "wrong"}, 5, "does not accept the credentials"),
    "no key": ({"AWS_ACCESS_KEY_ID": ""}, 5, "there are no credentials"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_and_no_lake_is_left(
    tmp_path: Path, seaweed_store: ObjectStore, prefix: str, what: str
) -> None:
    change, code, said = WRONG[what]
    environment = {**seaweed_store.environment(), **change}
    lake = tmp_path / "lake"
    url = seaweed_store.url(prefix)
    facts = ctl_json(lake, "init", "--tier", f"warm={url}", env=environment, exit_code=code)
    assert said in facts["error"]["message"] and "tier warm" in facts["error"]["message"]
    assert "dtafs-test-secret" not in str(facts)
    assert not lake.exists()
    ctl(lake, "init")
    facts = ctl_json(lake, "tier", "add", "warm", url, env=environment, exit_code=code)
    assert said in facts["error"]["message"]
    assert not (lake / "config.toml").exists()


def test_a_bucket_that_is_not_there(tmp_path: Path, moto_store: ObjectStore) -> None:
    environment = moto_store.environment()
    where = "warm=s3://nothing-here/x"
    facts = ctl_json(tmp_path / "lake", "init", "--tier", where, env=environment, exit_code=3)
    assert "there is no bucket 'nothing-here'" in facts["error"]["message"]


def test_a_lake_with_tiers(
    tmp_path: Path, seaweed_store: ObjectStore, moto_store: ObjectStore, prefix: str
) -> None:
    lake, environment = tmp_path / "lake", seaweed_store.environment()
    url = seaweed_store.url(prefix)
    made = ctl_json(lake, "init", "--tier", f"warm={url}", env=environment)
    (warm,) = made["tiers"]
    assert warm["capabilities"]["conditional_put"] == "honoured"
    assert warm["capabilities"]["archive"] == "none"
    cold = ctl_json(
        lake,
        *("tier", "add", "cold", moto_store.url(prefix), "--endpoint", moto_store.endpoint),
        env=environment,
    )
    assert cold["storage_class"] == "GLACIER"
    assert cold["capabilities"]["archive"] == "recall"
    tape = ctl_json(lake, "tier", "add", "tape", f"file://{tmp_path}/tape", env=environment)
    assert tape["capabilities"]["conditional_put"] == "honoured"
    config = (lake / "config.toml").read_text()
    assert "dtafs-test" not in config and f'endpoint = "{seaweed_store.endpoint}"' in config
    keys = {name: environment[name] for name in environment if "KEY" in name}
    listed = ctl_json(lake, "tier", "list", env=keys)["tiers"]  # the endpoints are in config.toml
    assert [(found["name"], found["answers"]) for found in listed] == [
        ("warm", True),
        ("cold", True),
        ("tape", True),
    ]
    (tmp_path / "tape").rename(tmp_path / "elsewhere")
    text = ctl(lake, "tier", "list", env=keys).stdout.decode()
    assert "objects must be recalled before they are read" in text
    assert "no: the directory" in text and "of tier tape is gone" in text
    ctl(lake, "tier", "remove", "tape")
    assert "is no tier but" not in ctl(lake, "tier", "list", env=keys).stdout.decode()
    ctl(lake, "tier", "remove", "tape", exit_code=3)


def test_a_place_that_is_taken(tmp_path: Path, seaweed_store: ObjectStore, prefix: str) -> None:
    environment, url = seaweed_store.environment(), seaweed_store.url(prefix)
    ctl(tmp_path / "one", "init", "--tier", f"warm={url}", env=environment)
    facts = ctl_json(
        tmp_path / "two", "init", "--tier", f"warm={url}", env=environment, exit_code=5
    )
    assert "belongs to another lake" in facts["error"]["message"]
    facts = ctl_json(tmp_path / "one", "tier", "add", "more", url, env=environment, exit_code=4)
    assert "have one place" in facts["error"]["message"]
    ctl(tmp_path / "one", "tier", "add", "warm", url, env=environment)  # once more is fine
    ctl(tmp_path / "one", "tier", "add", "warm", f"{url}/other", env=environment, exit_code=4)
    # Taken away, the place is still this lake's, and can be attached again.
    ctl(tmp_path / "one", "tier", "remove", "warm", env=environment)
    ctl(tmp_path / "one", "tier", "add", "again", url, env=environment)


def test_a_table_that_names_the_bucket_of_another_lake(
    tmp_path: Path, seaweed_store: ObjectStore, prefix: str
) -> None:
    environment, url = seaweed_store.environment(), seaweed_store.url(prefix)
    ctl(tmp_path / "one", "init", "--tier", f"warm={url}", env=environment)
    ctl(tmp_path / "two", "init")
    (tmp_path / "two" / "config.toml").write_text(f'[tiers.warm]\nurl = "{url}"\n')
    (found,) = ctl_json(tmp_path / "two", "tier", "list", env=environment)["tiers"]
    assert not found["answers"] and "belongs to another lake" in found["problem"]["message"]
    (tmp_path / "two" / "config.toml").write_text(f'[tiers.warm]\nurl = "{url}/own"\n')
    (found,) = ctl_json(tmp_path / "two", "tier", "list", env=environment)["tiers"]
    assert "dtafsctl tier add warm" in found["problem"]["message"]
    ctl(tmp_path / "two", "tier", "add", "warm", env=environment)
    (found,) = ctl_json(tmp_path / "two", "tier", "list", env=environment)["tiers"]
    assert found["answers"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("warm", "nowhere"), 2, "no place for a tier"),
        (("hot", "file:///x/y"), 2, "own disk"),
        (("warm",), 2, "where is tier warm"),
        (("warm", "file:///no/such/place"), 3, "/no/such is not there"),
        (("warm", "file:///tmp/x", "--region", "r"), 2, "a directory has no region"),
        (("warm", "s3://bucket", "--endpoint", "127.0.0.1"), 2, "is no endpoint"),
        (("warm", "s3://KEY:SECRET@bucket/x"), 2, "credentials have no place in a tier's URL"),
        (("warm", "s3://bucket", "--endpoint", "http://KEY:SECRET@h"), 2, "have no place in a"),
        (("cold", "s3://bucket", "--storage-class", "GLACIR"), 2, "did you mean 'GLACIER'"),
    ],
)
def test_arguments_that_are_wrong(
    lake_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    facts = ctl_json(lake_path, "tier", "add", *arguments, exit_code=code)
    assert said in facts["error"]["message"] and "SECRET" not in facts["error"]["message"]


def test_what_a_table_says_is_not_silently_kept(lake_path: Path, tmp_path: Path) -> None:
    where = f"file://{tmp_path}/tape"
    ctl(lake_path, "tier", "add", "tape", where)
    facts = ctl_json(
        lake_path, "tier", "add", "tape", where, "--storage-class", "TAPE", exit_code=4
    )
    assert "with storage_class = None, not 'TAPE'" in facts["error"]["message"]
    ctl(lake_path, "tier", "add", "tape", where)


def test_with_a_daemon(
    lake_path: Path,
    mount: Callable[..., Mount],
    seaweed_store: ObjectStore,
    prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The daemon asks the stores, with the credentials of its own environment."""
    for name, value in seaweed_store.environment().items():
        if "ENDPOINT" not in name:
            monkeypatch.setenv(name, value)
    mount(lake_path)
    where: dict[str, Any] = {"env": {"AWS_ENDPOINT_URL": seaweed_store.endpoint}}
    ctl(lake_path, "tier", "add", "warm", seaweed_store.url(prefix), **where)
    (found,) = ctl_json(lake_path, "tier", "list", "--probe")["tiers"]
    assert found["answers"] and found["endpoint"] == seaweed_store.endpoint
    assert found["counters"]["requests"] > 0
    ctl(lake_path, "tier", "remove", "warm")
    assert ctl_json(lake_path, "tier", "list") == {"tiers": [], "mirror": None}


def test_the_only_copy_is_not_given_up(lake_path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    ctl(lake_path, "create", "d")
    ctl(lake_path, "put", "d", tmp_path / "file", "--commit", "first")
    ctl(lake_path, "tier", "add", "cold", f"file://{tmp_path}/tape")
    with Lake.open(lake_path) as lake:
        (pack,) = content_packs(lake)
        move_pack(lake, pack, "cold")
        size_bytes = (tmp_path / "tape" / pack_key(pack)).stat().st_size
    facts = ctl_json(lake_path, "tier", "remove", "cold", exit_code=5)
    assert f"the only copy of 1 pack of {size_bytes:,} bytes" in facts["error"]["message"]
    stub = next((lake_path / "placed").glob("*/*"))
    stub.rename(tmp_path / "stub")
    facts = ctl_json(lake_path, "tier", "remove", "cold", exit_code=5)
    assert "has 1 pack that this lake needs" in facts["error"]["message"]
    (tmp_path / "stub").rename(stub)
    with Lake.open(lake_path) as lake:
        lake.tiers["cold"].recall(pack_key(pack))
        move_pack(lake, pack, "hot")
    ctl(lake_path, "tier", "remove", "cold")
