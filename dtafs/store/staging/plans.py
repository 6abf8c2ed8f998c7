"""Where the bytes of a staged file are, and fetching them: plain values, no rows, any thread."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.rechunking import Stretch, Where
from dtafs.core.values import Content
from dtafs.store.resealing import Layers
from dtafs.store.staging import extents
from dtafs.store.staging.extents import Extent
from dtafs.store.staging.rows import BLOCK_BYTES, EMPTY, WHOLE, InodeRow

if TYPE_CHECKING:
    from dtafs.store.objects import Objects


class Piece(NamedTuple):
    """A run of bytes: from the data file when `local`, from what is below when not, else zeros."""

    offset: int
    size: int
    local: bool
    zero: bool


def pieces_of(row: InodeRow, local: list[Extent], offset: int, size: int) -> list[Piece]:
    """Where a range inside a file is, by its row and its local extents, if it has patches."""
    if row.local == WHOLE:
        return [Piece(offset, size, True, False)]
    found: list[Piece] = []
    for start, end, here in extents.split(local, offset, offset + size):
        shown = max(start, min(end, row.limit))
        if here:
            found.append(Piece(start, end - start, True, False))
            continue
        if shown > start:
            found.append(Piece(start, shown - start, False, False))
        if end > shown:
            found.append(Piece(shown, end - shown, False, True))
    return found


class ReadPlan(NamedTuple):
    """Where the bytes of one read are. Valid while the reader has the file open."""

    size: int
    fd: int
    content: Content | None
    pieces: list[Piece]
    held: bytes | None = None
    """What is below the local bytes where it is no content."""

    @property
    def is_in_memory(self) -> bool:
        """True when `execute_read` does not block."""
        return self.fd < 0 and self.held is not None


def execute_read(plan: ReadPlan, objects: Objects, near: bool = False) -> bytes:
    """The bytes of a plan. Blocks; any thread. `near` as for `Objects.chunk`."""
    parts: list[bytes] = []
    for piece in plan.pieces:
        if piece.zero:
            parts.append(bytes(piece.size))
        elif piece.local:
            data = os.pread(plan.fd, piece.size, piece.offset)
            while len(data) < piece.size:
                more = os.pread(plan.fd, piece.size - len(data), piece.offset + len(data))
                if not more:
                    data += bytes(piece.size - len(data))
                data += more
            parts.append(data)
        elif plan.held is not None:
            parts.append(plan.held[piece.offset : piece.offset + piece.size])
        else:
            assert plan.content is not None
            parts.append(objects.read(plan.content, piece.offset, piece.size, near))
    return parts[0] if len(parts) == 1 else b"".join(parts)


class StagedSource:
    """The bytes of a staged file as a sealer reads them, as they were when it was opened.

    A write that comes in between makes the file's generation differ, and what was read is not used.
    """

    def __init__(
        self, plan: ReadPlan, objects: Objects, same: tuple[Content, int] | None = None
    ) -> None:
        """`plan` covers the whole file; its descriptor belongs to this object now. `same` is a
        content with which the file has so many bytes at the beginning in common."""
        self._plan, self._objects, self._same, self._at = plan, objects, same, 0
        self.size = plan.size

    def layers(self) -> Layers | None:
        """What of the file need not be read to be sealed; None when all of it has to be."""
        base, same = self._same or (self._plan.content or EMPTY, 0)
        layout = layout_of(self._plan, same)
        if all(stretch.where == Where.NEW for stretch in layout):
            return None
        return Layers(base, layout, self._read_at)

    def _read_at(self, offset: int, size: int) -> memoryview:
        pieces, end = self._plan.pieces, offset + size
        wanted: list[Piece] = []
        for at in range(bisect_right(pieces, offset, key=_start) - 1, len(pieces)):
            piece = pieces[at]
            if piece.offset >= end:
                break
            start = max(piece.offset, offset)
            wanted.append(
                piece._replace(offset=start, size=min(piece.offset + piece.size, end) - start)
            )
        return memoryview(execute_read(self._plan._replace(pieces=wanted), self._objects))

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` as far as there are bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        size = min(len(view), self.size - self._at)
        if size <= 0:
            return 0
        data = self._read_at(self._at, size)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the descriptor."""
        if self._plan.fd >= 0:
            os.close(self._plan.fd)
            self._plan = self._plan._replace(fd=-1)


def _start(piece: Piece) -> int:
    return piece.offset


def layout_of(plan: ReadPlan, same: int) -> list[Stretch]:
    """The stretches of a whole file.

    With `same`, the content to compare with is one that has so many first bytes in common with the
    file; otherwise it is the one that the file lies on.
    """
    local_has_holes = plan.fd >= 0 and os.fstat(plan.fd).st_blocks * BLOCK_BYTES < plan.size
    found = [Stretch(0, same, Where.OLD)] if same else []
    for piece in plan.pieces:
        start, end = max(piece.offset, same), piece.offset + piece.size
        if start >= end:
            continue
        if piece.zero:
            found.append(Stretch(start, end, Where.ZEROS))
        elif not piece.local:
            unknown = same or plan.held is not None
            found.append(Stretch(start, end, Where.NEW if unknown else Where.OLD))
        elif local_has_holes:
            found += data_and_holes(plan.fd, start, end)
        else:
            found.append(Stretch(start, end, Where.NEW))
    return found


def data_and_holes(fd: int, start: int, end: int) -> Iterator[Stretch]:
    """A range of a data file. What lies past its end is a hole."""
    while start < end:
        try:
            data = min(os.lseek(fd, start, os.SEEK_DATA), end)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = end
        if data > start:
            yield Stretch(start, data, Where.ZEROS)
        if data == end:
            return
        start = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield Stretch(data, start, Where.NEW)
