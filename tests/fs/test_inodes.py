"""Inode numbers: unique, reversible, never reused while the kernel may hold them (I9)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.fs.inodes import (
    GROUP_BASE,
    ORDINAL_LIMIT,
    ROOT,
    SEALED_BASE,
    SERIAL_LIMIT,
    TABLE_BASE,
    VIEW_BASE,
    NumberTable,
    Region,
    group_number,
    region_of,
    sealed_number,
    split_sealed,
)

serials = st.integers(0, SERIAL_LIMIT - 1)
ordinals = st.integers(0, ORDINAL_LIMIT - 1)


@given(serials, ordinals)
def test_sealed_numbers_say_what_they_stand_for(serial: int, ordinal: int) -> None:
    number = sealed_number(serial, ordinal)
    assert split_sealed(number) == (serial, ordinal)
    assert region_of(number) is Region.SEALED
    assert number < 1 << 63


@pytest.mark.parametrize(("serial", "ordinal"), [(SERIAL_LIMIT, 0), (0, ORDINAL_LIMIT), (-1, 0)])
def test_what_has_no_number_is_refused(serial: int, ordinal: int) -> None:
    with pytest.raises(OverflowError):
        sealed_number(serial, ordinal)


@given(serials, st.integers(1, 1 << 61))
def test_group_numbers_have_a_region_of_their_own(serial: int, group: int) -> None:
    assert region_of(group_number(serial, group)) is Region.GROUP
    assert group_number(serial, group) != group_number(serial + 1, group)


@pytest.mark.parametrize(
    ("ino", "region"),
    [
        (ROOT, Region.ROOT),
        (2, Region.STAGED),
        (TABLE_BASE - 1, Region.STAGED),
        (TABLE_BASE, Region.TABLE),
        (VIEW_BASE - 1, Region.TABLE),
        (VIEW_BASE, Region.VIEW),
        (GROUP_BASE - 1, Region.VIEW),
        (GROUP_BASE, Region.GROUP),
        (SEALED_BASE - 1, Region.GROUP),
        (SEALED_BASE, Region.SEALED),
    ],
)
def test_regions_meet_without_a_gap(ino: int, region: Region) -> None:
    assert region_of(ino) is region


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_a_number_is_never_reused(steps: list[tuple[str, bool]]) -> None:
    table = NumberTable()
    owners: dict[int, str] = {}
    held: dict[str, int] = {}
    for key, remember in steps:
        if remember:
            ino = table.number(key)
            assert owners.setdefault(ino, key) == key
            assert table.key(ino) == key
            table.remember(ino)
            held[key] = held.get(key, 0) + 1
        elif held.get(key):
            ino = table.number(key)
            table.release(ino, held.pop(key))
            with pytest.raises(KeyError):
                table.key(ino)
    assert len(table) == len(held)


def test_a_number_stays_while_a_reference_is_left() -> None:
    table = NumberTable()
    ino = table.number("x")
    table.remember(ino)
    table.remember(ino)
    table.release(ino, 1)
    assert table.number("x") == ino
    table.release(ino, 1)
    assert table.number("x") != ino
