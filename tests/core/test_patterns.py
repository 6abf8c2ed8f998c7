"""Patterns of names, against Python's own, one by one and many at once."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.patterns import Patterns, escape, parse_pattern
from dtafs.errors import UsageError

NAMES = st.text("abc", max_size=8)
PATTERNS = st.text("abc*?", min_size=1, max_size=8)


@given(PATTERNS, NAMES)
def test_as_a_shell_matches(pattern: str, name: str) -> None:
    assert parse_pattern(pattern).matches(name) == fnmatch.fnmatchcase(name, pattern)


@given(st.lists(PATTERNS, max_size=12), NAMES)
def test_many_at_once_as_one_by_one(texts: list[str], name: str) -> None:
    patterns: Patterns[int] = Patterns()
    for number, text in enumerate(texts):
        patterns.add(parse_pattern(text), number)
    one_by_one = [n for n, text in enumerate(texts) if parse_pattern(text).matches(name)]
    assert sorted(patterns.matching(name)) == one_by_one


@given(st.text("ab*?\\[]{}", min_size=1, max_size=8), st.text("ab*?\\[]{}", max_size=8))
def test_an_escaped_name_matches_itself_only(name: str, other: str) -> None:
    pattern = parse_pattern(escape(name))
    assert pattern.name == name and pattern.matches(name)
    assert pattern.matches(other) == (other == name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("a/b", "'/'"),
        ("[ab]*", "wildcards"),
        ("{a,b}", "wildcards"),
        ("a\\", "\\\\"),
        ("a\\b", "'b'"),
        ("a\x1b[2J", "cannot contain"),
        ("a\nb", "cannot contain"),
        ("a‮", "cannot contain"),
        ("e\u0301*", "NFC"),
        ("x" * 500, "longer"),
        ("*a" * 20, "stars"),
    ],
)
def test_what_is_no_pattern(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_pattern(text)


def test_bombs_take_their_length() -> None:
    """Patterns that make a matcher that tries everything take years."""
    bombs = [parse_pattern("*" + "a*" * 15), parse_pattern("*" + "?a*" * 15 + "b")]
    patterns: Patterns[int] = Patterns()
    for number in range(2_000):
        patterns.add(parse_pattern("*" + "?a" * (number % 40) + "*b"), number)
    start = time.process_time()
    for _ in range(50):
        assert bombs[0].matches("a" * 200) and not bombs[1].matches("a" * 200)
    assert patterns.matching("a" * 200) == []
    assert time.process_time() - start < 2
