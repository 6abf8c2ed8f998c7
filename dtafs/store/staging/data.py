"""The bytes of staged files: writing, truncating. (`dtafs.store.staging.reading` is below.)

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
from contextlib import suppress
from functools import partial

from dtafs.errors import StorageError, StorageFullError
from dtafs.store.staging import extents
from dtafs.store.staging.extents import Delta
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import failure
from dtafs.store.staging.reading import FileReading
from dtafs.store.staging.rows import (
    FILE_MAX_BYTES,
    HELD_MAX_BYTES,
    NOWHERE,
    PATCHES,
    WHOLE,
    InodeRow,
    encode,
    number,
)

SAME_FROM_BYTES = 1024 * 1024
"""Of what is shorter it is not remembered that its bytes are sealed already."""


class FileData(FileReading):
    """What is known of the bytes of the files of one dataset, and changing them. The caller holds its
    lock, except where it says otherwise."""

    def sync(self, ino: int) -> None:
        """Return when the bytes of a file are on the disk. Blocks; any thread."""
        row = self._overlay.peek_row(ino)
        if row is not None and row.local:
            self._overlay.shared.data.sync(ino)

    def left_to_empty(self, ino: int) -> Callable[[], None] | None:
        """What takes away a data file that `begin_write` would have to cut; for a thread.

        No row needs that file: the one that was durable last has the bytes in packs, too. Nothing
        happens when somebody else has begun to write meanwhile.
        """
        node, data = self._file(ino), self._overlay.shared.data
        if isinstance(node, InodeRow) and node.local and not self.is_superseded(node):
            return None
        if not data.is_longer(ino, 0):
            return None
        data.doom(ino)
        return partial(data.remove, ino)

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

        False when that is not for such a file, enough such bytes wait to be flushed, or a write to
        the data file is under way: the kernel sends those of one file in any order.
        """
        node = self._file(ino)
        if not isinstance(node, InodeRow) or node.generation or node.local != WHOLE:
            return False
        if ino in self._written:
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
        """Bytes of the file may be other ones now, and there may be some past its end, which must not
        be taken for data later: what a sealer has read counts no more."""
        self._checked.discard(ino)
        row = self._overlay.find_row(ino)
        if row is None or row.local == NOWHERE:
            return
        self._note_same(row, 0)
        op = Operation(self._overlay)
        op.change(row, generation=row.generation + 1, sealed=None)
        with suppress(StorageError, StorageFullError):  # the caller has the error that counts
            op.commit()

    def wrote(self, ino: int, offset: int, size: int, now_ns: int | None) -> InodeRow:
        """Record that a range was written to the descriptor of `begin_write`.

        `now_ns` None leaves the times: with the kernel's write-back cache, it sets them itself.
        """
        op = Operation(self._overlay)
        row = op.row(ino)
        assert row.local != NOWHERE, "begin_write has made a place for the bytes"
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
