"""Durations, sizes and counts as people write them: `30d`, `12h`, `50M`, `2 files`."""

from __future__ import annotations

import math

from dtafs.errors import UsageError

SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_duration_s(text: str) -> float:
    """Seconds from a number and a unit (s, m, h, d, w); `0` needs none. UsageError otherwise."""
    text = text.strip()
    if text == "0":
        return 0.0
    value = _number(text[:-1]) if text[-1:] in SECONDS else None
    if value is None or not math.isfinite(value * SECONDS[text[-1]]):
        raise UsageError(f"{text!r} is not a duration: write 30d, 12h, 45m or 90s")
    return value * SECONDS[text[-1]]


def parse_size_bytes(text: str) -> int:
    """Bytes from a number and K, M, G or T (powers of 1024), or nothing. UsageError otherwise."""
    bare = text.strip().removesuffix("iB").removesuffix("B").upper()
    unit = bare[-1:] if bare[-1:] in BYTES else ""
    value = _number(bare.removesuffix(unit))
    if value is None or not math.isfinite(value * BYTES[unit]):
        raise UsageError(f"{text!r} is not a size: write 500K, 50M or 2G")
    return int(value * BYTES[unit])


def counted(number: int, what: str) -> str:
    """`1 file`, `2,000 files`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
