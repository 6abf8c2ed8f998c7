"""The bytes of staged files: what to read from where, writing, truncating.

Where the bytes of a file are follows from its row: all in its data file (`WHOLE`), or over a sealed
content in the ranges that `extent` names (`PATCHES`), or all in the content (`NOWHERE`). What is in
neither, up to `size`, is zeros. A file with a content below it is never copied. What a small new file
is written with at once takes the place of a content, in a row of `bytes`: it is recorded together
with its inode and needs no data file unless the file is written to again.

Reading and writing are split, so that a thread does only the work on bytes: a `ReadPlan` says where
they are, `execute_read` fetches them (both in `dtafs.store.staging.plans`); a write asks for the
descriptor, writes, and then has what it wrote recorded. The kernel orders writes and truncations of
one file among each other.

A crash of the process between bytes and record leaves bytes that no row speaks of: in a `PATCHES`
file nothing reads them, in a `WHOLE` file they lie past `size`, and `open_data` cuts them off
before the file can grow over them.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dtafs.core.values import Content, Kind
from dtafs.errors import IntegrityError
from dtafs.store.staging import extents
from dtafs.store.staging.extents import Delta, Extent
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Node, Overlay, Virtual, failure, kind_of
from dtafs.store.staging.plans import Piece, ReadPlan, StagedSource
from dtafs.store.staging.rows import (
    FILE_MAX_BYTES,
    HELD_MAX_BYTES,
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

SAME_FROM_BYTES = 1024 * 1024
"""Of what is shorter it is not remembered that its bytes are sealed already."""


class FileData:
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

    def open_source(self, ino: int, objects: Objects) -> StagedSource:
        """All bytes of a file as they are now, with a descriptor of its own."""
        node = self._file(ino)
        if isinstance(node, Virtual):
            return StagedSource(self._content_plan(node.entry.content), objects)
        if node.sealed is not None and self.is_superseded(node):
            return StagedSource(self._content_plan(node.sealed), objects)
        fd = self._overlay.shared.data.open_privately(ino) if node.local else -1
        pieces = self.pieces(node, 0, node.size) if node.size else []
        plan = ReadPlan(node.size, fd, node.content, pieces, self._held(node))
        return StagedSource(plan, objects, self._same.get(ino))

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
        op.change(row, local=PATCHES if row.limit else WHOLE, content=below)
        op.commit()
        self._written.add(ino)
        return fd

    def hold(self, ino: int, data: bytes, now_ns: int | None) -> bool:
        """Record the first bytes of an open new file, in place of `begin_write` and `wrote`.

        False when that is not for such a file, or enough such bytes wait to be flushed.
        """
        node = self._file(ino)
        if not isinstance(node, InodeRow) or node.generation or node.local != WHOLE:
            return False
        if ino not in self._opens:
            raise failure(errno.EBADF)
        shared, size = self._overlay.shared.data, len(data)
        if not 0 < size <= HELD_MAX_BYTES or not shared.may_hold(size):
            return False
        shared.check_room()
        op = Operation(self._overlay)
        fields: dict[str, object] = {"size": size, "limit": size, "local": NOWHERE, "generation": 1}
        if now_ns is not None:
            fields |= {"mtime_ns": now_ns, "ctime_ns": now_ns}
        op.change(op.row(ino), **fields)
        op.put("bytes", self._overlay.prefix, number(ino), data)
        op.commit()
        return True

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
        if row.is_held:
            op.put("bytes", self._overlay.prefix, number(row.ino), None)
        self._extents.pop(row.ino, None)
        self._same.pop(row.ino, None)
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
        self._note_same(row, offset)
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

    def _note_same(self, row: InodeRow, offset: int) -> None:
        """A file is about to change from an offset on: keep what is known of the bytes before it."""
        content, size = self._same.pop(row.ino, (None, 0))
        if row.sealed is not None:
            content, size = row.sealed, row.sealed.size
        size = min(size, offset)
        if content is None or size < SAME_FROM_BYTES:
            return
        # Of a patched file that was changed anywhere else, what lies below knows more.
        if row.local == WHOLE or (row.local == PATCHES and size == content.size):
            self._same[row.ino] = (content, size)

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
        self._note_same(row, size)
        limit = min(row.limit, size)
        if row.is_held and not limit:
            op.put("bytes", self._overlay.prefix, number(ino), None)
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
        """Note whether the data file is to be cut: that waits for the disk, be it for a few bytes."""
        if not row.local:
            return
        if row.ino in self._extents:
            extents.cut(self._extents[row.ino], row.size)
        if self._overlay.shared.data.is_longer(row.ino, row.size):
            self._checked.discard(row.ino)
            self._uncut.add(row.ino)

    def left_to_cut(self, ino: int) -> Callable[[], None] | None:
        """What does what `truncated` left; for a thread, while nobody else sets the size.

        Until then what is past the end of the file is what a crash may leave there, too: `open_data`
        cuts it off before anything could grow over it.
        """
        row = self._overlay.peek_row(ino) if ino in self._uncut else None
        self._uncut.discard(ino)
        if row is None or not row.local:
            return None
        return partial(self._overlay.shared.data.cut, ino, row.size)
