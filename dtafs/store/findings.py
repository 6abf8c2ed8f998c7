"""What the checker says: one value for each thing that is not as it must be."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

PATHS_MAX = 20
"""How many paths a finding names for one dataset; `more` counts the others."""
RANGES_SHOWN = 3
"""Ranges of a path that are spelled out in a text."""

Range = tuple[int, int]
"""The first byte of a file and the one after the last."""

ERROR: Literal["error"] = "error"
WARNING: Literal["warning"] = "warning"


class Affected(Struct, frozen=True):
    """What is broken, or cannot be read, because of a finding, in one dataset."""

    dataset: str
    versions: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    """Below the version's top directory; bytes that are not UTF-8 as surrogate escapes."""
    more: int = 0
    ranges: tuple[tuple[Range, ...], ...] = ()
    """Of each path the bytes that cannot be read, in any of the versions; none where the path is no
    file, or its length cannot be known."""

    def __str__(self) -> str:
        text = self.dataset
        if self.versions:
            text += ":" + ",".join(f"v{number}" for number in self.versions)
        if self.paths:
            ranges = self.ranges or ((),) * len(self.paths)
            text += " " + ", ".join(map(_named, self.paths, ranges))
        return text + (f" and {self.more} more" if self.more else "")


class Finding(Struct, frozen=True):
    """A broken invariant.

    `invariant` is its number in DESIGN.md; `severity` is "error" where something promised does not
    hold, "warning" where only room is lost or only something that is rebuilt is wrong; `message`
    says in one sentence what is broken; `affects` what that touches, as far as it is known.
    """

    invariant: int
    severity: Literal["error", "warning"]
    message: str
    affects: tuple[Affected, ...] = ()

    def __str__(self) -> str:
        text = f"I{self.invariant} {self.severity}: {self.message}"
        if self.affects:
            text += " (affects " + "; ".join(map(str, self.affects)) + ")"
        return text


def _named(path: str, ranges: tuple[Range, ...]) -> str:
    shown = ", ".join(range_text(*one) for one in ranges[:RANGES_SHOWN])
    more = f" and {len(ranges) - RANGES_SHOWN} more ranges" if len(ranges) > RANGES_SHOWN else ""
    return ascii_path(path) + (f" (bytes {shown}{more})" if shown else "")


def range_text(start: int, end: int) -> str:
    """A range as people count: from the first byte to the last."""
    return f"{start}-{end - 1}"


def ascii_path(path: str) -> str:
    """A path as it can be shown on any terminal."""
    return path if path.isprintable() else ascii(path)
