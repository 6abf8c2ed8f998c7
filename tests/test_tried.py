"""The README's table of what was tried is what the tests have counted."""

from __future__ import annotations

import pytest

from tests.support.programs import ROOT
from tests.support.tried import ROWS, SOAK, USUAL, read_record, table, tried


def test_the_table_in_the_readme_is_the_record() -> None:
    """After `--record`: put the lines of `tests.support.tried.table()` into the README."""
    readme = (ROOT / "README.md").read_text().splitlines()
    lines = table()
    start = readme.index(lines[0])
    assert readme[start : start + len(lines)] == lines


def test_each_row_names_tests_that_exist_and_was_counted() -> None:
    known = read_record()
    assert list(known) == [row.what for row in ROWS]
    for row in ROWS:
        if row.tests != "the same":
            assert (ROOT / row.tests.split("`")[1]).exists(), row.tests
        assert set(known[row.what]) == {USUAL, SOAK}
        assert known[row.what][SOAK], row.what


def test_what_no_row_is_for_cannot_be_counted() -> None:
    with pytest.raises(AssertionError, match="cups of tea"):
        tried("cups of tea")
