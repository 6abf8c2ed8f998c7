"""The bytes of staged files: what is known of them, and what to read from where.

See `dtafs.store.staging.data`, which writes them.
"""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dtafs.core.values import Content, Kind
from dtafs.errors import IntegrityError
from dtafs.store.staging.extents import Extent
from dtafs.store.staging.overlay import Node, Overlay, Virtual, failure, kind_of
from dtafs.store.staging.plans import Piece, ReadPlan, StagedSource, pieces_of
from dtafs.store.staging.rows import (
    NOWHERE,
    PATCHES,
    WHOLE,
    Inode,
    InodeRow,
    decode_number,
    from_number,
    inode_of_entry,
    inode_of_row,
    number,
)

if TYPE_CHECKING:
    from dtafs.store.objects import Objects


SPARSE_FROM_BYTES = 64 * 1024
"""Smaller files are taken to have no holes: asking costs as much as all the rest of a `stat`."""


class FileReading:
    """What is known of the bytes of the files of one dataset. The caller holds its lock."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._extents: dict[int, list[Extent]] = {}
        self._checked: set[int] = set()
        """Open files whose data ends where their row says."""
        self._uncut: set[int] = set()
        """Files that are longer than their rows say, until `left_to_cut` is called."""
        self._opens: dict[int, int] = {}
        self._written: set[int] = set()
        """Files whose local bytes this process wrote. Those of an earlier one may have been lost by
        a crash of the machine, so that sealed content, where there is any, is what counts."""
        self._same: dict[int, tuple[Content, int]] = {}
        """Files with local bytes that this process sealed and changed since: the content that they
        had, and how much of its beginning they still have."""

    def extents(self, ino: int) -> list[Extent]:
        """The local ranges of a patched file; do not change the list."""
        known = self._extents.get(ino)
        if known is None:
            overlay = self._overlay
            known = [
                (from_number(rest), decode_number(value))
                for rest, value in overlay.tables.scan("extent", overlay.owner(ino))
            ]
            if ino in self._opens:
                self._extents[ino] = known
        return known

    def remembered(self) -> list[Content]:
        """Sealed contents that no row speaks of and that sealing may build on. Any thread."""
        return [content for content, _size in list(self._same.values())]

    def opened(self, ino: int) -> None:
        """Somebody opened the file."""
        self._opens[ino] = self._opens.get(ino, 0) + 1

    def closed(self, ino: int) -> None:
        """The inverse of `opened`; with the last one goes the descriptor."""
        self._opens[ino] -= 1
        if not self._opens[ino]:
            del self._opens[ino]
            self._extents.pop(ino, None)
            self._checked.discard(ino)
            self._overlay.shared.data.close(ino)

    def start_again(self) -> None:
        """Forget what is known of the bytes: numbers of linked files come again in another tree."""
        for known in (self._extents, self._checked, self._written, self._same):
            known.clear()

    def is_open(self, ino: int) -> bool:
        return ino in self._opens

    def shown(self, node: Node) -> Inode:
        """What `stat` shows of an inode; of a large local file, the holes take no room."""
        if isinstance(node, Virtual):
            return inode_of_entry(node.ino, node.entry)
        shown = inode_of_row(node)
        if node.local == WHOLE and node.size > SPARSE_FROM_BYTES:
            return replace(shown, blocks=self._overlay.shared.data.blocks(node.ino))
        return shown

    def _file(self, ino: int) -> InodeRow | Virtual:
        node = self._overlay.node(ino)
        kind = kind_of(node)
        if kind != Kind.FILE:
            raise failure(errno.EISDIR if kind == Kind.DIRECTORY else errno.EINVAL)
        return node

    def check_file(self, ino: int) -> None:
        """Raise unless the inode is a regular file: EISDIR, EINVAL."""
        self._file(ino)

    def open_source(self, lock: threading.RLock, ino: int, objects: Objects) -> StagedSource:
        """All bytes of a file as they are now, with a descriptor of its own. The caller does not
        hold the `lock` of the dataset: opening a file may wait for the disk."""
        with lock:
            source = self._source(ino, objects, -1)
        if source is None:
            fd = self._overlay.shared.data.open_privately(ino)
            try:
                with lock:
                    source = self._source(ino, objects, fd)
            except BaseException:
                os.close(fd)
                raise
        assert source is not None
        return source

    def _source(self, ino: int, objects: Objects, fd: int) -> StagedSource | None:
        """A source that takes `fd` over, a descriptor of the data file; None where that is -1 and
        one is needed."""
        node = self._file(ino)
        if isinstance(node, Virtual):
            plan = self._content_plan(node.entry.content)
        elif node.sealed is not None and self.is_superseded(node):
            plan = self._content_plan(node.sealed)
        elif node.local and fd < 0:
            return None
        else:
            pieces = self.pieces(node, 0, node.size) if node.size else []
            plan = ReadPlan(node.size, fd, node.content, pieces, self._held(node))
            return StagedSource(plan, objects, self._same.get(ino))
        return StagedSource(plan._replace(fd=fd), objects)

    def _content_plan(self, content: Content) -> ReadPlan:
        size = content.size
        pieces = [Piece(0, size, False, False)] if size else []
        return ReadPlan(size, -1, content, pieces)

    def open_data(self, row: InodeRow) -> int:
        """The shared descriptor of an open file's data, without what a crash left past its end."""
        if row.ino not in self._opens:
            raise failure(errno.EBADF)
        data = self._overlay.shared.data
        fd = data.open(row.ino, anew=row.local == NOWHERE)
        if row.local == WHOLE and row.ino not in self._checked:
            data.truncate(row.ino, row.size)
        self._checked.add(row.ino)
        return fd

    def plan_read(self, ino: int, offset: int, size: int) -> ReadPlan:
        """Where `size` bytes from `offset` are; shorter at the end of the file."""
        node = self._file(ino)
        if isinstance(node, Virtual):
            content = node.entry.content
            count = max(0, min(size, content.size - offset))
            pieces = [Piece(offset, count, False, False)] if count else []
            return ReadPlan(count, -1, content, pieces)
        count = max(0, min(size, node.size - offset))
        if not count:
            return ReadPlan(0, -1, None, [])
        if self.is_superseded(node):
            return ReadPlan(count, -1, node.sealed, [Piece(offset, count, False, False)])
        fd = self.open_data(node) if node.local else -1
        pieces = self.pieces(node, offset, count)
        return ReadPlan(count, fd, node.content, pieces, self._held(node))

    def _held(self, row: InodeRow) -> bytes | None:
        if not row.is_held:
            return None
        held = self._overlay.tables.get("bytes", self._overlay.prefix, number(row.ino))
        if held is None:
            raise IntegrityError(f"staging has lost the bytes of inode {row.ino}")
        return held

    def pieces(self, row: InodeRow, offset: int, size: int) -> list[Piece]:
        """Where a range inside a file is."""
        local = self.extents(row.ino) if row.local == PATCHES else []
        return pieces_of(row, local, offset, size)

    def is_superseded(self, row: InodeRow) -> bool:
        """True when the sealed content of a file counts and not what is local."""
        return row.sealed is not None and row.ino not in self._written
