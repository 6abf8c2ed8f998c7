"""Names, specs and times as people write them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.names import (
    VersionSpec,
    check_dataset_name,
    check_tag,
    format_time,
    nearest,
    parse_spec,
    parse_time,
    parse_version_name,
    suggest,
)
from dtafs.errors import UsageError


@pytest.mark.parametrize("name", ["WF-2024-07", "Wildfire July 4", "données", "a", "v1", "x" * 200])
def test_a_usable_dataset_name_is_returned(name: str) -> None:
    assert check_dataset_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        (".", "begin"),
        ("..", "begin"),
        (".dtafs", "begin"),
        ("-x", "begin"),
        (" x", "begin"),
        ("x ", "end"),
        ("a/b", "'/'"),
        ("a:b", "':'"),
        ("a@b", "'@'"),
        ("a\nb", "contain"),
        ("a\0b", "contain"),
        ("é" * 101, "at most 200 bytes"),
        ("e\u0301", "NFC"),
        ("\udcff", "UTF-8"),
        ("lost+found", "reserved"),
    ],
)
def test_an_unusable_dataset_name_says_why(name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_dataset_name(name)


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("v3", "looks like"),
        ("V07", "looks like"),
        ("latest", "meaning"),
        ("staging", "meaning"),
        ("a,b", "','"),
    ],
)
def test_an_unusable_tag_says_why(tag: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_tag(tag)


def test_specs() -> None:
    assert parse_spec("D") == VersionSpec("D")
    assert parse_spec("D:v3") == VersionSpec("D", version=3)
    assert parse_spec("D:raw") == VersionSpec("D", tag="raw")
    assert parse_spec("D:latest") == VersionSpec("D", tag="latest")
    at = parse_spec("D@2024-07-04T12:00Z")
    assert at == VersionSpec("D", at_ns=1720094400_000000000)
    assert str(at) == "D@2024-07-04T12:00:00.000000000Z"
    assert [str(parse_spec(s)) for s in ("D", "D:v3", "D:raw")] == ["D", "D:v3", "D:raw"]


@pytest.mark.parametrize(
    "text", ["", ":v1", "D:", "D:v0", "D:V1", "D:v01", "D@", "D@yesterday", "D:v1:v2", "a/b:v1"]
)
def test_a_malformed_spec_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError):
        parse_spec(text)


@given(st.text(max_size=30))
def test_any_text_is_a_spec_or_a_usage_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        spec = parse_spec(text)
        assert parse_spec(str(spec)) == spec


def test_version_names() -> None:
    assert parse_version_name("v12") == 12
    assert [
        parse_version_name(w) for w in ("v0", "v01", "V1", "v", "1", "v1x", "v" + "9" * 10)
    ] == [None] * 7


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01", 0),
        ("1970-01-01T00:00Z", 0),
        ("1970-01-01 01:00:00+01:00", 0),
        ("1970-01-01T00:00:01.5Z", 1_500_000_000),
        ("1970-01-01T00:00:00.000000001Z", 1),
        ("2024-02-29T23:59:59Z", 1709251199_000000000),
    ],
)
def test_times(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2023-02-29",
        "2024-13-01",
        "2024-01-01T25:00Z",
        "20240101",
        "2024-01-01T00:00:00.\u0661",
    ],
)
def test_what_is_no_time_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="not a time"):
        parse_time(text)


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_a_formatted_time_parses_back(ns: int) -> None:
    assert parse_time(format_time(ns)) == ns


def test_the_nearest_is_suggested() -> None:
    assert nearest("wf-2024-07", ["WF-2024-07", "x"]) == ["WF-2024-07"]
    assert suggest("claen", ["clean", "raw"]) == "; did you mean 'clean'?"
    assert suggest("zzz", ["clean"]) == ""
