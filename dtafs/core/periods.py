"""Periods of years, months and days, and when they end: calendar arithmetic in UTC.

A day that a month does not have is read as the first of the next one (29 February and a year give
1 March): where two readings of a retention period are possible, the longer one keeps the law.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from dtafs.errors import UsageError

DAY_NS = 86_400 * 10**9
YEARS_MAX = 1_000
"""A longer period is a mistake: "for ever" is what no rule disposes of."""

END_OF_TIME_NS = 253_402_300_800 * 10**9
"""The year 10000 begins, which the log cannot write: whatever ends then or later never does."""

_PERIOD = re.compile(
    r"[pP]?(?:(\d{1,7})[yY])?(?:(\d{1,7})[mM])?(?:(\d{1,7})[wW])?(?:(\d{1,7})[dD])?", re.ASCII
)
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Period(NamedTuple):
    """So many months and then so many days."""

    months: int
    days: int

    def __str__(self) -> str:
        """As `parse_period` reads it, years and months apart: `7y`, `1y6m`, `90d`."""
        years, months = divmod(self.months, 12)
        parts = ((years, "y"), (months, "m"), (self.days, "d"))
        return "".join(f"{number}{unit}" for number, unit in parts if number) or "0d"

    @property
    def shortest_days(self) -> int:
        """It is never shorter than this, whenever it begins."""
        years, months = divmod(self.months, 12)
        return years * 365 + max(0, years // 4 - years // 100 - 1) + months * 28 + self.days

    @property
    def longest_days(self) -> int:
        """It is never longer than this, whenever it begins."""
        years, months = divmod(self.months, 12)
        leap = years if years < 2 else min(years, years // 4 + 2)
        return years * 365 + leap + months * 31 + self.days

    def covers(self, other: Period) -> bool:
        """Whether it ends no earlier than another one, whenever both begin."""
        whole = self.months >= other.months and self.days >= other.days
        return whole or self.shortest_days >= other.longest_days


def parse_period(text: str) -> Period:
    """`7y`, `6m` (months), `2w`, `90d`, or several of them in this order (`1y6m`, `P1Y6M`)."""
    match = _PERIOD.fullmatch(text)
    if match is None or not any(match.groups()):
        raise UsageError(f"{text!r} is not a period: write it as 7y, 6m (months), 90d or 1y6m")
    years, months, weeks, days = (int(group or 0) for group in match.groups())
    period = Period(years * 12 + months, weeks * 7 + days)
    if period.months > YEARS_MAX * 12 or period.days > YEARS_MAX * 366:
        raise UsageError(
            f"the period {text!r} is longer than {YEARS_MAX:,} years: what is to be kept for ever "
            "needs no rule"
        )
    return period


def end_of(start_ns: int, period: Period) -> int | None:
    """When a period that begins at a time (ns since the epoch, UTC) is over; None: never."""
    day, rest = divmod(start_ns, DAY_NS)
    if period.months:
        year, month, date = _civil(day)
        years, month0 = divmod(month - 1 + period.months, 12)
        year, month = year + years, month0 + 1
        if date > _days_in(year, month):
            year, month, date = (year, month + 1, 1) if month < 12 else (year + 1, 1, 1)
        day = _day(year, month, date)
    end = (day + period.days) * DAY_NS + rest
    return end if end < END_OF_TIME_NS else None


def _days_in(year: int, month: int) -> int:
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _MONTH_DAYS[month - 1] + leap


def _civil(day: int) -> tuple[int, int, int]:
    """Year, month and date of a day since 1970-01-01, in the proleptic Gregorian calendar.

    The calendar repeats every 400 years, of 146,097 days; years are counted from 1 March, so that
    the leap day is the last of a year (http://howardhinnant.github.io/date_algorithms.html).
    """
    era, of_era = divmod(day + 719_468, 146_097)
    year = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    shifted = (5 * of_year + 2) // 153
    date = of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year + era * 400 + (month <= 2), month, date


def _day(year: int, month: int, date: int) -> int:
    """The inverse of `_civil`."""
    era, of_era = divmod(year - (month <= 2), 400)
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + date - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468
