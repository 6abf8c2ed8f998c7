"""Untouched inodes that the kernel remembers, moved from memory to rows when they are very many.

Reading through a large base (`find`, `ls -lR`) leaves the kernel with a number for each name, which
must go on meaning the same. In memory that is half a kilobyte each (`overlay.Virtual`). What is too
many gets rows of the epoch before, which say no more than the base says: nothing becomes dirty, and
tidying removes them once nobody holds their numbers.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from dtafs.core.values import Kind
from dtafs.errors import StorageError, StorageFullError
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Overlay, Virtual, names_in
from dtafs.store.staging.rows import Dentry, encode, number, row_of_entry
from dtafs.store.staging.tables import FULL_ROWS

VIRTUALS_MAX = 30_000
"""About 18 MB. A listing waits for a flush where many rows wait for one, so that there are not many more."""
SPILLED_AT_ONCE = 256
"""More than one step of a listing brings, and some 5 ms of work."""


def spill(overlay: Overlay) -> None:
    """Give rows to the longest known untouched inodes while there are too many of them.

    A fetch may raise; then nothing has changed. Without room for rows, on the disk or among those
    that wait for a flush, they stay in memory.
    """
    if len(overlay.virtuals) <= VIRTUALS_MAX or overlay.tables.changed_rows >= FULL_ROWS:
        return
    op = Operation(overlay)
    held = (virtual for ino, virtual in overlay.virtuals.items() if ino in overlay.known)
    for virtual in list(islice(held, SPILLED_AT_ONCE)):
        _settle_clean(op, virtual)
    with suppress(StorageError, StorageFullError):
        op.commit()


def _settle_clean(op: Operation, virtual: Virtual) -> None:
    """Give rows to an inode, and to the directories above it that have none: rows name theirs."""
    overlay = op.overlay
    pending: list[Virtual] = [virtual]
    while pending:
        here = pending.pop()
        if here.ino in op.inodes:
            continue
        entry, before = here.entry, overlay.epoch - 1
        inside = names_in(overlay.fetch, entry.ref) if entry.kind == Kind.DIRECTORY else 0
        op.new(row_of_entry(here.ino, entry, before, inside))
        if entry.link:
            op.put("group", overlay.prefix, number(here.ino), b"")
        dentry = encode(Dentry(here.ino, 0, before))
        for directory, name in here.names:
            op.put("dentry", overlay.owner(directory), name, dentry)
            op.put("link", overlay.owner(here.ino), number(directory) + name, b"")
            above = overlay.virtuals.get(directory)
            if above is not None:
                pending.append(above)
