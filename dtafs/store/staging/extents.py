"""Ranges of a file, as a sorted list of disjoint, not touching `(start, end)` pairs. Pure.

A patched file keeps in one such list which of its bytes are in its data file. The list is changed
in place; what a change takes out of the list and puts in is returned, so that only those rows are
written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import NamedTuple

Extent = tuple[int, int]


class Delta(NamedTuple):
    """What a change did to a list of extents."""

    removed: list[Extent]
    added: list[Extent]


def add(extents: list[Extent], start: int, end: int) -> Delta:
    """Add the range, merging it with those it overlaps or touches."""
    low = bisect_left(extents, start, key=lambda extent: extent[1])
    high = bisect_right(extents, end, key=lambda extent: extent[0])
    removed = extents[low:high]
    if len(removed) == 1 and removed[0][0] <= start and end <= removed[0][1]:
        return Delta([], [])
    if removed:
        start, end = min(start, removed[0][0]), max(end, removed[-1][1])
    extents[low:high] = [(start, end)]
    return Delta(removed, [(start, end)])


def cut(extents: list[Extent], size: int) -> Delta:
    """Take out everything from `size` on."""
    low = bisect_right(extents, size, key=lambda extent: extent[1])
    removed = extents[low:]
    added = [(start, size) for start, _ in removed[:1] if start < size]
    extents[low:] = added
    return Delta(removed, added)


def split(extents: list[Extent], start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """The range from `start` to `end` as pieces `(start, end, is in the list)`, in order."""
    at = bisect_right(extents, start, key=lambda extent: extent[1])
    while start < end:
        if at == len(extents) or extents[at][0] >= end:
            yield start, end, False
            return
        low, high = extents[at]
        if start < low:
            yield start, low, False
            start = low
        stop = min(high, end)
        yield start, stop, True
        start = stop
        at += 1


def total(extents: list[Extent]) -> int:
    """How many bytes the list covers."""
    return sum(end - start for start, end in extents)
