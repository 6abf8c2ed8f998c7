"""Lists of ranges against sets of numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dtafs.store.staging.extents import add, cut, split, total

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), max_size=12)


def numbers(extents: list[tuple[int, int]]) -> set[int]:
    return {n for start, end in extents for n in range(start, end)}


def assert_sound(extents: list[tuple[int, int]]) -> None:
    assert all(start < end for start, end in extents)
    for (_, end), (start, _) in pairwise(extents):
        assert end < start, "ranges that touch are one"


@given(RANGES)
def test_add_is_union_and_says_what_it_changed(ranges: list[tuple[int, int]]) -> None:
    extents: list[tuple[int, int]] = []
    rows: set[tuple[int, int]] = set()
    for start, size in ranges:
        expected = numbers(extents) | set(range(start, start + size))
        delta = add(extents, start, start + size)
        rows = (rows - set(delta.removed)) | set(delta.added)
        assert_sound(extents)
        assert numbers(extents) == expected
        assert sorted(rows) == extents
        assert total(extents) == len(expected)


@given(RANGES, st.integers(0, 90))
def test_cut_takes_the_end_away(ranges: list[tuple[int, int]], size: int) -> None:
    extents: list[tuple[int, int]] = []
    for start, length in ranges:
        add(extents, start, start + length)
    before, rows = numbers(extents), set(extents)
    delta = cut(extents, size)
    assert_sound(extents)
    assert numbers(extents) == {n for n in before if n < size}
    assert sorted((rows - set(delta.removed)) | set(delta.added)) == extents


@given(RANGES, st.integers(0, 80), st.integers(0, 80))
def test_split_covers_a_range_in_order(ranges: list[tuple[int, int]], a: int, b: int) -> None:
    extents: list[tuple[int, int]] = []
    for start, length in ranges:
        add(extents, start, start + length)
    low, high = min(a, b), max(a, b)
    at = low
    for start, end, inside in split(extents, low, high):
        assert start == at < end <= high
        assert all((n in numbers(extents)) is inside for n in range(start, end))
        at = end
    assert at == high or low == high
