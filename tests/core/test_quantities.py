"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest

from dtafs.core.quantities import counted, parse_duration_s, parse_size_bytes
from dtafs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90s", 90), ("45m", 2_700), ("12h", 43_200), ("1.5d", 129_600), ("2w", 1_209_600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 days", "nan d", "infd", "1e999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="30d"):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1_000), ("500K", 512_000), ("50M", 50 << 20), ("1.5GiB", 3 << 29)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "5X", "infM", "1e400"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="50M"):
        parse_size_bytes(text)


def test_one_is_no_plural() -> None:
    assert [counted(number, "pack") for number in (0, 1, 2_000)] == [
        "0 packs",
        "1 pack",
        "2,000 packs",
    ]
