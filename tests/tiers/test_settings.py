"""The tables of tiers in config.toml: what they may say, and that other lines are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtafs.errors import ConflictError, NotFoundError, UsageError
from dtafs.store.config import TierSettings, load_config, parse_config
from dtafs.store.tiers.settings import Address, parse_url, settled, with_tier, without_tier

PATH = Path("config.toml")
BEFORE = b"""# mine
[collect]
grace_days = 3.0   # short
"""


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("s3://bucket", Address("s3", "bucket", "")),
        ("s3://bucket/", Address("s3", "bucket", "")),
        ("s3://my.bucket/a/b/", Address("s3", "my.bucket", "a/b")),
        ("file:///srv/tape", Address("file", "", "/srv/tape")),
        ("file:///srv/a%20b/", Address("file", "", "/srv/a b")),
    ],
)
def test_a_url(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        *("", "s3://", "s3:///x", "s3://b", "s3://bucket/../x", "s3://bucket/a//b", "file://srv"),
        *("file:///", "/srv/tape", "http://bucket"),
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(UsageError, match="s3://BUCKET/PREFIX or file:///DIRECTORY"):
        parse_url(url)


def test_a_tier_comes_and_goes_and_nothing_else_changes() -> None:
    settings = TierSettings(
        "s3://bucket/a", endpoint="http://h:1", region="r", storage_class="GLACIER"
    )
    grown = with_tier(PATH, BEFORE, "cold", settings)
    assert grown.startswith(BEFORE)
    assert parse_config(PATH, grown).tiers == {"cold": settings}
    twice = with_tier(PATH, grown, "warm", TierSettings("s3://bucket/b"))
    assert without_tier(PATH, twice, "cold").startswith(BEFORE)
    assert list(parse_config(PATH, without_tier(PATH, twice, "cold")).tiers) == ["warm"]
    assert without_tier(PATH, grown, "cold") == BEFORE
    with pytest.raises(ConflictError, match="tier remove cold"):
        with_tier(PATH, grown, "cold", settings)
    with pytest.raises(NotFoundError, match="there are: cold"):
        without_tier(PATH, grown, "warm")


def test_a_table_that_is_written_inline_is_left_to_its_author() -> None:
    text = b'tiers = { warm = { url = "s3://bucket/a" } }\n'
    with pytest.raises(UsageError, match="only you can remove"):
        without_tier(PATH, text, "warm")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[tiers.warm]\nurl = 's3://bucket/a'\nurll = 1", "'tiers.warm.urll'"),
        ("[tiers.warm]\nurl = 's3://bucket/a'\nsecret_access_key = 'x'", "unknown key"),
        ("[tiers.hot]\nurl = 's3://bucket/a'", "the lake's own disk"),
        ("[tiers.'W arm']\nurl = 's3://bucket/a'", "no name for a tier"),
        ("[tiers.warm]\n", "no place for a tier"),
        ("[tiers.warm]\nurl = 's3://bucket/a'\nendpoint = 'h:1'", "is no endpoint"),
        (
            "[tiers.warm]\nurl = 's3://bucket/a'\nendpoint = 'http://u:p@h:1'",
            "credentials have no place",
        ),
        ("[tiers.warm]\nurl = 's3://bucket/a'\nrecall_priority = 'Fast'", "recall_priority"),
        ("[tiers.warm]\nurl = 's3://bucket/a'\ntimeout_s = 0.0", "timeout_s"),
        ("tiers = 3", "tiers"),
        ("[tiers]\nwarm = 's3://bucket'", "tiers"),
    ],
)
def test_a_table_that_is_wrong(tmp_path: Path, table: str, said: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(table)
    with pytest.raises(UsageError, match=said):
        load_config(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s3://bucket/a", "s3://bucket/a/"),
        ("s3://bucket/a", "s3://bucket/a/b"),
        ("s3://bucket", "s3://bucket/a"),
        ("file:///srv/tape", "file:///srv/./tape"),
    ],
)
def test_two_tiers_with_one_place(tmp_path: Path, one: str, other: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[tiers.warm]\nurl = '{one}'\n[tiers.cold]\nurl = '{other}'\n")
    with pytest.raises(ConflictError, match="warm and cold have one place"):
        load_config(path)


def test_a_url_with_credentials_is_not_repeated(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[tiers.warm]\nurl = "s3://KEY:SECRET@bucket/x"\n')
    with pytest.raises(UsageError, match="credentials have no place") as caught:
        load_config(config)
    assert "SECRET" not in str(caught.value)


def test_neighbours_are_two_places(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[tiers.warm]\nurl='s3://bucket/a'\n[tiers.cold]\nurl='s3://bucket/ab'\n")
    assert list(load_config(path).tiers) == ["warm", "cold"]


def test_what_is_not_said_comes_from_where_aws_tools_look(tmp_path: Path) -> None:
    aws = tmp_path / "config"
    aws.write_text("[profile lab]\nregion = eu-north-1\nendpoint_url = http://lab:9\n")
    files = {"AWS_CONFIG_FILE": str(aws), "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
    bare = TierSettings("s3://bucket/a")
    assert settled("warm", bare, files) == TierSettings("s3://bucket/a", region="us-east-1")
    named = TierSettings("s3://bucket/a", profile="lab")
    found = settled("warm", named, files)
    assert (found.endpoint, found.region) == ("http://lab:9", "eu-north-1")
    more = {"AWS_ENDPOINT_URL": "http://e:1", "AWS_REGION": "x", "AWS_PROFILE": "lab", **files}
    found = settled("warm", bare, more)
    assert (found.endpoint, found.region) == ("http://e:1", "x")


def test_a_tier_that_is_called_cold_is_an_archive() -> None:
    assert settled("cold", TierSettings("s3://bucket/a"), {}).storage_class == "GLACIER"
    assert settled("cold", TierSettings("file:///t"), {}).storage_class == "TAPE"
    own = TierSettings("s3://bucket/a", storage_class="STANDARD_IA")
    assert settled("cold", own, {}).storage_class == "STANDARD_IA"
    assert settled("warm", TierSettings("file:///t"), {}).storage_class is None
