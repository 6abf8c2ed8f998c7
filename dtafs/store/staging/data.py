"""The bytes of staged files: what to read from where, writing, truncating.

Where the bytes of a file are follows from its row: all in its data file (`WHOLE`), or over a sealed
content in the ranges that `extent` names (`PATCHES`), or all in the content (`NOWHERE`). What is in
neither, up to `size`, is zeros. A file with a content below it is never copied.

Reading and writing are split, so that a thread does only the work on bytes: a `ReadPlan` says where
they are, `execute_read` fetches them; a write asks for the descriptor, writes, and then has what it
wrote recorded. The kernel orders writes and truncations of one file among each other.

A crash of the process between bytes and record leaves bytes that no row speaks of: in a `PATCHES`
file nothing reads them, in a `WHOLE` file they lie past `size`, and `open_data` cuts them off
before the file can grow over them.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from dtafs.core.values import Content, Kind
from dtafs.store.staging import extents
from dtafs.store.staging.extents import Delta, Extent
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Node, Overlay, Virtual, failure, kind_of
from dtafs.store.staging.rows import (
    FILE_MAX_BYTES,
    NOWHERE,
    PATCHES,
    WHOLE,
    Inode,
    InodeRow,
    decode_number,
    encode,
    from_number,
    inode_of_entry,
    inode_of_row,
    number,
)

if TYPE_CHECKING:
    from dtafs.store.objects import Objects


SPARSE_FROM_BYTES = 64 * 1024
"""Smaller files are taken to have no holes: asking costs as much as all the rest of a `stat`."""


class Piece(NamedTuple):
    """A run of bytes: from the data file when `local`, from the content when not, else zeros."""

    offset: int
    size: int
    local: bool
    zero: bool


class ReadPlan(NamedTuple):
    """Where the bytes of one read are. Valid while the reader has the file open."""

    size: int
    fd: int
    content: Content | None
    pieces: list[Piece]


class FileData:
    """What is known of the bytes of the files of one dataset. The caller holds its lock."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._extents: dict[int, list[Extent]] = {}
        self._checked: set[int] = set()
        """Open files whose data ends where their row says."""
        self._opens: dict[int, int] = {}
        self._written: set[int] = set()
        """Files whose local bytes this process wrote. Those of an earlier one may have been lost by
        a crash of the machine, so that sealed content, where there is any, is what counts."""

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

    def open_source(self, ino: int, objects: Objects) -> StagedSource:
        """All bytes of a file as they are now, with a descriptor of its own."""
        node = self._file(ino)
        if isinstance(node, Virtual):
            return StagedSource(self._content_plan(node.entry.content), objects)
        if node.sealed is not None and self.is_superseded(node):
            return StagedSource(self._content_plan(node.sealed), objects)
        fd = self._overlay.shared.data.open_privately(ino) if node.local else -1
        pieces = self.pieces(node, 0, node.size) if node.size else []
        return StagedSource(ReadPlan(node.size, fd, node.content, pieces), objects)

    def _content_plan(self, content: Content) -> ReadPlan:
        size = content.size
        pieces = [Piece(0, size, False, False)] if size else []
        return ReadPlan(size, -1, content, pieces)

    def sync(self, ino: int) -> None:
        """Return when the bytes of a file are on the disk. Blocks; any thread."""
        row = self._overlay.peek_row(ino)
        if row is not None and row.local:
            self._overlay.shared.data.sync(ino)

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
        return ReadPlan(count, fd, node.content, self.pieces(node, offset, count))

    def pieces(self, row: InodeRow, offset: int, size: int) -> list[Piece]:
        """Where a range inside a file is."""
        if row.local == WHOLE:
            return [Piece(offset, size, True, False)]
        found: list[Piece] = []
        local = self.extents(row.ino) if row.local == PATCHES else []
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

    def begin_write(self, ino: int) -> int:
        """A descriptor to write the bytes to, at their offsets; then call `wrote`.

        The file must be open (EBADF), so that the descriptor stays valid until it is closed.
        """
        node = self._file(ino)
        if isinstance(node, InodeRow) and node.local and not self.is_superseded(node):
            self._written.add(ino)
            return self.open_data(node)
        op = Operation(self._overlay)
        row = op.row(ino)
        if row.local:
            row = self.drop_local(op, row)
        fd = self.open_data(row)
        below = row.content if row.limit else None
        op.change(row, local=PATCHES if below else WHOLE, content=below)
        op.commit()
        self._written.add(ino)
        return fd

    def is_superseded(self, row: InodeRow) -> bool:
        """True when the sealed content of a file counts and not what is local."""
        return row.sealed is not None and row.ino not in self._written

    def drop_local(self, op: Operation, row: InodeRow) -> InodeRow:
        """Let a file rest on its sealed content alone."""
        content = row.whole_content
        assert content is not None, "local bytes are dropped only where packs have them"
        owner = self._overlay.owner(row.ino)
        if row.local == PATCHES:
            for rest, _ in self._overlay.tables.scan("extent", owner):
                op.put("extent", owner, rest, None)
        self._extents.pop(row.ino, None)
        limit = content.size
        return op.note(
            row, content=content if limit else None, limit=limit, sealed=None, local=NOWHERE
        )

    def write_failed(self, ino: int) -> None:
        """What a write may have left past the end of a file must not be taken for data later."""
        self._checked.discard(ino)

    def wrote(self, ino: int, offset: int, size: int, now_ns: int | None) -> InodeRow:
        """Record that a range was written to the descriptor of `begin_write`.

        `now_ns` None leaves the times: with the kernel's write-back cache, it sets them itself.
        """
        op = Operation(self._overlay)
        row = op.row(ino)
        end = offset + size
        if not 0 <= offset <= end <= FILE_MAX_BYTES:
            raise failure(errno.EFBIG)
        fields: dict[str, object] = {}
        if now_ns is not None:
            fields = {"mtime_ns": now_ns, "ctime_ns": now_ns}
        row = op.change(
            row, size=max(row.size, end), generation=row.generation + 1, sealed=None, **fields
        )
        try:
            if row.local == PATCHES:
                self._put_extents(op, ino, extents.add(self.extents(ino), offset, end))
            op.commit()
        except BaseException:
            self._extents.pop(ino, None)
            self._checked.discard(ino)
            raise
        return row

    def _put_extents(self, op: Operation, ino: int, delta: Delta) -> None:
        owner = self._overlay.owner(ino)
        for start, _ in delta.removed:
            op.put("extent", owner, number(start), None)
        for start, end in delta.added:
            op.put("extent", owner, number(start), encode(end))

    def truncate(self, op: Operation, ino: int, size: int, now_ns: int) -> InodeRow:
        """Put the new size into the operation; afterwards `truncated` does it to the data."""
        self._file(ino)
        if not 0 <= size <= FILE_MAX_BYTES:
            raise failure(errno.EFBIG if size > 0 else errno.EINVAL)
        row = op.row(ino)
        if size == row.size:
            # POSIX moves the times "if the file size is changed", and so does the kernel, which
            # keeps them: to differ from it would show once it has forgotten the file.
            return row
        if row.local and self.is_superseded(row):
            row = self.drop_local(op, row)
            op.doom(ino)
        limit = min(row.limit, size)
        local, content = row.local, row.content if limit else None
        if local == PATCHES and size < row.size:
            self._put_extents(op, ino, extents.cut(list(self.extents(ino)), size))
        if local == WHOLE and size > row.size and ino not in self._checked:
            self._overlay.shared.data.truncate(ino, row.size)
        if local == PATCHES and not limit and not size:
            local = WHOLE
        return op.change(
            row,
            size=size,
            limit=limit,
            content=content,
            local=local,
            generation=row.generation + 1,
            sealed=None,
            mtime_ns=now_ns,
            ctime_ns=now_ns,
        )

    def truncated(self, row: InodeRow) -> None:
        """Cut the data file to what its row says."""
        if row.local:
            self._overlay.shared.data.truncate(row.ino, row.size)
            if row.ino in self._extents:
                extents.cut(self._extents[row.ino], row.size)


def execute_read(plan: ReadPlan, objects: Objects) -> bytes:
    """The bytes of a plan. Blocks; any thread."""
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
        else:
            assert plan.content is not None
            parts.append(objects.read(plan.content, piece.offset, piece.size))
    return parts[0] if len(parts) == 1 else b"".join(parts)


class StagedSource:
    """The bytes of a staged file as a sealer reads them, as they were when it was opened.

    A write that comes in between makes the file's generation differ, and what was read is not used.
    """

    def __init__(self, plan: ReadPlan, objects: Objects) -> None:
        """`plan` covers the whole file; its descriptor belongs to this object now."""
        self._plan, self._objects, self._at = plan, objects, 0
        self.size = plan.size

    def readinto(self, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` as far as there are bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        size = min(len(view), self.size - self._at)
        if size <= 0:
            return 0
        wanted = [
            Piece(start, end - start, piece.local, piece.zero)
            for piece in self._plan.pieces
            if (start := max(piece.offset, self._at))
            < (end := min(piece.offset + piece.size, self._at + size))
        ]
        data = execute_read(self._plan._replace(pieces=wanted), self._objects)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        """Close the descriptor."""
        if self._plan.fd >= 0:
            os.close(self._plan.fd)
            self._plan = self._plan._replace(fd=-1)
