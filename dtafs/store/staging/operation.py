"""An operation: rows of one staging that change together, whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from dtafs.core.values import Kind
from dtafs.store.staging.batch import Put
from dtafs.store.staging.overlay import Overlay, failure, kind_of, names_in
from dtafs.store.staging.rows import (
    Dentry,
    InodeRow,
    decode_dentry,
    encode,
    number,
    row_of_entry,
)


class Operation:
    """Rows that will change together. Reads see what was put before."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.inodes: dict[int, InodeRow | None] = {}
        self.puts: dict[tuple[str, bytes, bytes], bytes | None] = {}
        self.unnamed: list[tuple[int, bytes]] = []
        self.dirty_directories: set[int] = set()
        self._doomed: list[int] = []
        self._bare: set[int] = set()
        """Inodes that had no row before: no name in them had one either."""
        self._named: dict[int, tuple[int, bytes]] = {}
        """Names that this operation gives, and those that it was told."""
        self._dentries: dict[tuple[int, bytes], Dentry | None] = {}
        """Dentries that were looked up together, as they were before."""

    def row(self, ino: int) -> InodeRow:
        """The row of an inode, which is settled if it has none yet."""
        if ino in self.inodes:
            row = self.inodes[ino]
            assert row is not None, "an inode is used after the operation that removes it"
            return row
        row = None if ino in self.overlay.virtuals else self.overlay.find_row(ino)
        if row is None:
            self._settle(ino)
            return self.row(ino)
        return row

    def directory(self, ino: int) -> InodeRow:
        """The row of a directory in which names can be made: ENOENT when it was removed."""
        if kind_of(self.overlay.node(ino)) != Kind.DIRECTORY:
            raise failure(errno.ENOTDIR)
        row = self.row(ino)
        if row.nlink == 0:
            raise failure(errno.ENOENT)
        return row

    def put(self, table: str, owner: bytes, rest: bytes, value: bytes | None) -> None:
        self.puts[table, owner, rest] = value

    def put_link(self, ino: int, directory: int, name: bytes) -> None:
        """The inode has this name from now on."""
        self.put("link", self.overlay.owner(ino), number(directory) + name, b"")
        self._named[ino] = (directory, name)

    def know_name(self, ino: int, directory: int, name: bytes) -> None:
        """Say where a directory is, which spares looking that up."""
        self._named.setdefault(ino, (directory, name))

    def dentry(self, directory: int, name: bytes) -> Dentry | None:
        """What a name leads to as this operation leaves it so far; None without a row."""
        key = ("dentry", self.overlay.owner(directory), name)
        if key in self.puts:
            data = self.puts[key]
            return None if data is None else decode_dentry(data)
        if directory in self._bare:
            return None
        if (directory, name) in self._dentries:
            return self._dentries[directory, name]
        return self.overlay.dentry(directory, name)

    def look_ahead(self, directory: int, names: Sequence[bytes]) -> None:
        """Look up together what several names of a directory lead to."""
        if directory in self._bare or directory in self.overlay.virtuals:
            return
        overlay = self.overlay
        owner, below = overlay.owner(directory), []
        with overlay.tables.view() as view:
            for name in names:
                data = view.get("dentry", owner, name)
                dentry = None if data is None else decode_dentry(data)
                self._dentries[directory, name] = dentry
                if dentry is not None and dentry.ino:
                    below.append(dentry.ino)
            overlay.load_rows(view, below)

    def new(self, row: InodeRow) -> InodeRow:
        """A row for an inode that had none."""
        self.inodes[row.ino] = row
        self._bare.add(row.ino)
        return row

    def change(self, row: InodeRow, **fields: object) -> InodeRow:
        """Change fields of a row; its names become dirty when they were not."""
        epoch = self.overlay.epoch
        if row.epoch != epoch:
            self._mark_inode(row)
        changed = replace(row, epoch=epoch, **fields)
        self.inodes[row.ino] = changed
        return changed

    def note(self, row: InodeRow, **fields: object) -> InodeRow:
        """Change fields that say the same in another way, so that nothing becomes dirty."""
        changed = replace(row, **fields)
        self.inodes[row.ino] = changed
        return changed

    def mark(self, directory: int, name: bytes) -> None:
        """A commit has to look at this name, and so at the names of all directories above it."""
        epoch = self.overlay.epoch
        value = encode(epoch)
        while True:
            # Unseen: writing what may be there already is cheaper than asking LMDB each time.
            self.put("dirty", self.overlay.owner(directory), name, value)
            if directory in self.dirty_directories or self.overlay.is_marked(directory):
                return
            self.dirty_directories.add(directory)
            # Its name may be what this very operation gives it.
            above = self._named.get(directory) or self.overlay.a_name(directory)
            if above is None:
                return
            directory, name = above

    def _mark_inode(self, row: InodeRow) -> None:
        if row.kind == Kind.DIRECTORY and row.ino in self._named:  # it has this name only
            self.mark(*self._named[row.ino])
            return
        for directory, name in self.overlay.names(row.ino):
            self.mark(directory, name)

    def _settle(self, ino: int) -> None:
        """Give rows to an untouched inode and to those above it that lack one."""
        overlay = self.overlay
        pending, chain = [ino], []
        while pending:
            here = pending.pop()
            if here in self.inodes:
                continue
            virtual = overlay.virtuals.get(here)
            if virtual is None:
                if overlay.find_row(here) is None:
                    raise failure(errno.ESTALE)
                continue
            chain.append(virtual)
            pending.extend(directory for directory, _ in virtual.names)
        for virtual in reversed(chain):
            entry = virtual.entry
            held = names_in(overlay.fetch, entry.ref) if entry.kind == Kind.DIRECTORY else 0
            self.new(row_of_entry(virtual.ino, entry, overlay.epoch, held))
            if entry.link:
                self.put("group", overlay.prefix, number(virtual.ino), b"")
            for directory, name in virtual.names:
                dentry = encode(Dentry(virtual.ino, 0, overlay.epoch))
                self.put("dentry", overlay.owner(directory), name, dentry)
                self.put_link(virtual.ino, directory, name)
        for virtual in reversed(chain):
            for directory, name in virtual.names:
                self.mark(directory, name)

    def commit(self) -> None:
        """Make it real; when this raises, nothing has changed."""
        if not self.inodes and not self.puts:
            return
        prefix = self.overlay.prefix
        puts: list[Put] = [
            ("inode", prefix, number(ino), None if row is None else encode(row))
            for ino, row in self.inodes.items()
        ]
        puts += [(*key, value) for key, value in self.puts.items()]
        self.overlay.tables.apply(puts, self._remove_data() if self._doomed else None)
        self.overlay.applied(self)

    def doom(self, ino: int) -> None:
        """Once this operation is in LMDB, the data file of an inode goes."""
        self._doomed.append(ino)

    def _remove_data(self) -> Callable[[], None]:
        data, doomed = self.overlay.shared.data, self._doomed
        for ino in doomed:
            data.doom(ino)

        def remove() -> None:
            for ino in doomed:
                data.remove(ino)

        return remove
