"""Patterns that name datasets: `*` stands for any characters, `?` for one, `\\` takes a meaning away.

Matching takes time in proportion to the lengths, whatever the pattern: the parts between stars are
looked for once each, from left to right, which is all that a pattern of stars needs. `Patterns`
finds, among many, those that match a name without trying each: by the longest run of plain
characters in it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Generic, TypeVar

from dtafs.core.names import DATASET_NAME_MAX_BYTES
from dtafs.errors import UsageError

T = TypeVar("T")

ANY, ONE = "*", "?"
EVERYTHING = "*"
STARS_MAX = 16
_ONE = "\0"
"""Stands for `?` in a part; no dataset's name has it."""

_SPECIAL = frozenset("*?[]{}\\")
_TOKEN = re.compile(r"\\.|\*+|.")
_HEAD = re.compile(r"[^*?\\]*")
_STARS = re.compile(r"\*+")
_FORBIDDEN = re.compile(
    r"^(?:\\[*?\[\]{}\\]|[^\\/:@\[\]{}])*+(?:\\(?:[^*?\[\]{}\\]|$)|[/:@\[\]{}])"
)


class Pattern:
    """A pattern, taken apart. `parse_pattern` makes one."""

    __slots__ = ("parts", "text")

    def __init__(self, text: str, parts: tuple[str, ...]) -> None:
        self.text, self.parts = text, parts
        """The parts between the stars: one more than there are stars."""

    @property
    def name(self) -> str | None:
        """The one name that matches; None where several can."""
        return self.parts[0] if len(self.parts) == 1 and _ONE not in self.parts[0] else None

    @property
    def matches_everything(self) -> bool:
        return len(self.parts) > 1 and not any(self.parts)

    @property
    def is_vague(self) -> bool:
        """Whether it has no plain character, so that names say nothing of what is meant."""
        return not any(part.strip(_ONE) for part in self.parts)

    def matches(self, name: str) -> bool:
        """Whether a dataset of this name is meant."""
        first, *middle = self.parts
        if not middle:
            return len(first) == len(name) and _found(first, name, 0)
        last = middle.pop()
        end = len(name) - len(last)
        if end < len(first) or not _found(first, name, 0) or not _found(last, name, end):
            return False
        at = len(first)
        for part in middle:
            at = _find(part, name, at, end)
            if at < 0:
                return False
            at += len(part)
        return True


def _found(part: str, name: str, at: int) -> bool:
    if _ONE not in part:
        return name.startswith(part, at)
    return all(p in (_ONE, c) for p, c in zip(part, name[at : at + len(part)], strict=True))


def _find(part: str, name: str, start: int, end: int) -> int:
    """Where a part lies between two places of a name; -1 where it does not."""
    if _ONE not in part:
        return name.find(part, start, end)
    places = range(start, end - len(part) + 1)
    return next((at for at in places if _found(part, name, at)), -1)


def parse_pattern(text: str) -> Pattern:
    """Take a pattern apart; UsageError says what is wrong with it."""
    if not text:
        raise UsageError("a pattern of datasets cannot be empty: '*' is for all")
    if len(text.encode(errors="surrogateescape")) > 2 * DATASET_NAME_MAX_BYTES:
        raise UsageError(f"the pattern {text[:20] + '…'!r} is longer than any dataset's name")
    wrong = _FORBIDDEN.search(text)
    what = wrong[0][-1] if wrong else next(filter(_is_control, text), None)
    if what is not None:
        raise UsageError(
            f"the pattern {text!r} cannot contain {what!r}: its wildcards are * and ?, and a \\ "
            "takes the meaning of * ? [ ] { } and of itself away"
        )
    if not unicodedata.is_normalized("NFC", text):
        raise UsageError(f"the pattern {text!r} must be in Unicode form NFC, as names are")
    runs = _STARS.split(text.replace(ONE, _ONE)) if "\\" not in text else _unescaped(text)
    parts = tuple(runs)
    if len(parts) > STARS_MAX + 1:
        raise UsageError(f"the pattern {text!r} has more than {STARS_MAX} stars")
    return Pattern(text, parts)


def _is_control(char: str) -> bool:
    return unicodedata.category(char)[0] == "C"


def _unescaped(text: str) -> list[str]:
    parts = [""]
    for token in _TOKEN.findall(text):
        if token.startswith(ANY):
            parts.append("")
        else:
            parts[-1] += _ONE if token == ONE else token[-1]
    return parts


def may_match(text: str, name: str) -> bool:
    """False where the first characters of a pattern show that it does not match: a quick look."""
    head = _HEAD.match(text)
    return head is None or name.startswith(head[0])


def escape(name: str) -> str:
    """The pattern that matches this name only."""
    return "".join("\\" + char if char in _SPECIAL else char for char in name)


class Patterns(Generic[T]):
    """Values, each under a pattern: which of them apply to a name?"""

    def __init__(self) -> None:
        self._exact: dict[str, list[T]] = {}
        self._every: list[T] = []
        self._heads: dict[str, list[tuple[Pattern, T]]] = {}
        self._tails: dict[str, list[tuple[Pattern, T]]] = {}
        self._inner: dict[str, list[tuple[Pattern, T]]] = {}

    def add(self, pattern: Pattern, value: T) -> None:
        """Put a value under a pattern."""
        head, tail = pattern.parts[0], pattern.parts[-1]
        if pattern.name is not None:
            self._exact.setdefault(pattern.name, []).append(value)
        elif pattern.matches_everything:
            self._every.append(value)
        elif plain := head.partition(_ONE)[0]:
            self._heads.setdefault(plain, []).append((pattern, value))
        elif plain := tail.rpartition(_ONE)[2]:
            self._tails.setdefault(plain, []).append((pattern, value))
        else:
            runs = [run for part in pattern.parts for run in part.split(_ONE)]
            self._inner.setdefault(max(runs, key=len), []).append((pattern, value))

    def matching(self, name: str) -> list[T]:
        """The values whose pattern matches a name, in no particular order."""
        found = [*self._exact.get(name, ()), *self._every]
        candidates: list[tuple[Pattern, T]] = []
        for length in range(1, len(name) + 1) if self._heads or self._tails else ():
            candidates += self._heads.get(name[:length], ())
            candidates += self._tails.get(name[-length:], ())
        for length in {len(run) for run in self._inner}:
            for run in {name[at : at + length] for at in range(len(name) - length + 1)}:
                candidates += self._inner.get(run, ())
        return found + [value for pattern, value in candidates if pattern.matches(name)]
