"""Periods: the calendar against Python's own, and the safer of two readings."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.names import format_time, parse_time
from dtafs.core.periods import DAY_NS, Period, end_of, parse_period
from dtafs.errors import UsageError


@pytest.mark.parametrize(
    ("start", "period", "end"),
    [
        ("2024-02-29", "1y", "2025-03-01"),
        ("2024-02-29", "4y", "2028-02-29"),
        ("2023-02-28", "1y", "2024-02-28"),
        ("2023-01-31", "1m", "2023-03-01"),
        ("2023-03-31", "1m", "2023-05-01"),
        ("2023-12-31", "2m", "2024-03-01"),
        ("2023-12-31", "12m", "2024-12-31"),
        ("2019-11-26T23:59:59.000000001Z", "7y", "2026-11-26T23:59:59.000000001Z"),
        ("2024-01-31", "1m1d", "2024-03-02"),
        ("1969-12-31T12:00Z", "1d", "1970-01-01T12:00Z"),
        ("2024-07-04T01:00+05:00", "1y", "2025-07-03T20:00Z"),
        ("2024-03-01", "2w", "2024-03-15"),
    ],
)
def test_ends(start: str, period: str, end: str) -> None:
    found = end_of(parse_time(start), parse_period(period))
    assert found is not None and format_time(found) == format_time(parse_time(end))


@given(st.dates(min_value=date(1, 1, 2), max_value=date(8000, 1, 1)), st.integers(0, 12_000))
def test_months_are_those_of_the_calendar(day: date, months: int) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    whole = (day.month - 1 + months) // 12 + day.year
    month = (day.month - 1 + months) % 12 + 1
    found = end_of(int(start.timestamp()) * 10**9, Period(months, 0))
    if whole > 9_998:
        return
    try:
        wanted = date(whole, month, day.day)
    except ValueError:  # the month has no such day
        wanted = date(whole, month, 28) + timedelta(4)
        wanted = wanted.replace(day=1)
    assert found is not None and format_time(found)[:10] == wanted.isoformat()


def test_beyond_what_the_log_can_write_is_never() -> None:
    assert end_of(parse_time("9999-12-31T23:59:59Z"), Period(0, 1)) is None
    assert end_of(parse_time("2024-01-01"), parse_period("1000y")) is not None
    assert end_of(parse_time("9500-01-01"), parse_period("1000y")) is None


@pytest.mark.parametrize(
    "text",
    ["", "P", "7", "y", "-1y", "1d1y", "1.5y", "7 y", "1y\n", "\u0667y", "1001y", "9999999d", "1h"],
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(UsageError, match="period"):
        parse_period(text)


def test_written_in_one_way() -> None:
    for text, written in (("P7Y", "7y"), ("18m", "1y6m"), ("2w", "14d"), ("0d", "0d")):
        period = parse_period(text)
        assert str(period) == written and parse_period(written) == period


PERIODS = st.builds(Period, st.integers(0, 400), st.integers(0, 800))
DAYS = st.integers(-100_000, 100_000)


@given(PERIODS, DAYS)
def test_bounds_in_days(period: Period, day: int) -> None:
    end = end_of(day * DAY_NS, period)
    assert end is not None
    assert period.shortest_days <= end // DAY_NS - day <= period.longest_days


@given(PERIODS, PERIODS, DAYS)
def test_what_covers_another_never_ends_earlier(one: Period, other: Period, day: int) -> None:
    if one.covers(other):
        ends = end_of(day * DAY_NS, one), end_of(day * DAY_NS, other)
        assert None not in ends and ends[0] >= ends[1]  # type: ignore[operator]


def test_the_same_length_covers() -> None:
    assert parse_period("1y").covers(parse_period("365d"))
    assert not parse_period("365d").covers(parse_period("1y"))
    assert parse_period("366d").covers(parse_period("1y"))
    assert not parse_period("6y").covers(parse_period("7y"))
