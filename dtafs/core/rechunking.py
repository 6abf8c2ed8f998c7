"""Cutting a file anew that is mostly another one: what did not change is neither read nor cut.

Where a chunk ends depends on its own bytes and on the two after them, and on nothing before it. So
a chunk of the old file is one of the new file too wherever a cut of the new file falls on its first
byte and all those bytes are the old ones. Elsewhere the new file is cut until a cut falls on an old
one again, which happens soon, since contents decide the cuts. In a run of zeros all chunks are
equal and none is looked at.

The chunks are those that cutting the whole new file would give; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

from dtafs.core.chunking import Chunker
from dtafs.core.values import Span

WINDOW_BYTES = 4 * 1024 * 1024
"""New bytes are read and cut so many at once."""

LOOK_AHEAD_BYTES = 2
"""FastCDC decides on a cut by the byte after it too, and takes bytes in pairs: a cut that only one
byte follows, the last of the file, may not be found."""


class Where(Enum):
    """What a stretch of the new file holds."""

    OLD = 1
    """The bytes that the old file has at the same offsets."""
    ZEROS = 2
    NEW = 3
    """Anything; it has to be read."""


class Stretch(NamedTuple):
    """A range of the new file. The stretches of a file follow each other without gaps."""

    start: int
    end: int
    where: Where


class Kept(NamedTuple):
    """`times` equal chunks, one after the other, that need no reading to be known."""

    span: Span
    times: int
    zeros: bool


Read = Callable[[int, int], memoryview]
"""Gives `size` bytes of the new file from an offset; the memory stays as it is."""


def zero_chunk(chunker: Chunker) -> bytes:
    """The chunk that a long run of zeros is cut into, over and over."""
    zeros = memoryview(bytes(2 * chunker.parameters.maximum))
    return bytes(next(chunker.cuts(zeros, True)))


class Rechunking:
    """The chunks of a new file, in order; to be iterated once."""

    def __init__(
        self,
        chunker: Chunker,
        zero: Span,
        old: Iterable[Span],
        layout: Sequence[Stretch],
        read: Read,
    ) -> None:
        """`zero` describes the `zero_chunk`; `old` are the chunks of the old file; `layout` covers
        the new file and has no stretch of `OLD` past the end of the old one."""
        self._chunker, self._zero, self._read = chunker, zero, read
        self._layout, self._stretch = layout, 0
        self._size = layout[-1].end if layout else 0
        self._old, self._old_at = iter(old), 0
        self._span = next(self._old, None)

    def __iter__(self) -> Iterator[Kept | list[memoryview]]:
        """Known chunks, and between them the bytes of new ones."""
        at = 0
        while at < self._size:
            kept = self._kept(at)
            if kept is not None:
                yield kept
                at += kept.span.size * kept.times
                continue
            fresh: list[memoryview] = []
            for chunk in self._cut(at):
                fresh.append(chunk)
                at += len(chunk)
                if self._kept(at) is not None:
                    break
            yield fresh

    def _kept(self, at: int) -> Kept | None:
        """What is known to begin at a cut of the new file."""
        while self._stretch < len(self._layout) and self._layout[self._stretch].end <= at:
            self._stretch += 1
        if self._stretch == len(self._layout):
            return None
        stretch = self._layout[self._stretch]
        if stretch.where == Where.ZEROS:
            size, end = self._zero.size, stretch.end
            whole = end == self._size and (end - at) % size == 0
            count = (end - at - (0 if whole else LOOK_AHEAD_BYTES)) // size
            return Kept(self._zero, count, True) if count > 0 else None
        if stretch.where == Where.NEW:
            return None
        while self._span is not None and self._old_at < at:
            self._old_at += self._span.size
            self._span = next(self._old, None)
        span = self._span
        if span is None or self._old_at != at:
            return None
        end = at + span.size
        if end + LOOK_AHEAD_BYTES <= stretch.end or end == stretch.end == self._size:
            return Kept(span, 1, span.id == self._zero.id)
        return None

    def _cut(self, at: int) -> Iterator[memoryview]:
        """Cut what follows; gives at least one chunk."""
        stretch = self._layout[self._stretch]
        changed = stretch.end - at if stretch.where == Where.NEW else 0
        size = min(changed, WINDOW_BYTES) + 2 * self._chunker.parameters.maximum
        size = min(size, self._size - at)
        return self._chunker.cuts(self._read(at, size), at + size == self._size)
