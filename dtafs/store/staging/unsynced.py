"""What a power failure has taken from patched files.

A patch is a row of `extent` and bytes in a data file. The row may be on the disk before the bytes:
LMDB is synced each second and the journal whenever somebody syncs a file, while the bytes of another
file wait for the kernel. After a power failure such a range would read as zeros, although what lies
below it is sealed or was synced.

To sync every data file before its rows would make one program's `fsync` wait for all that others
write. Instead this looks, when the lake is first opened after a start of the machine, which ranges
are holes. File systems that allocate late (ext4, XFS, btrfs) make a range part of a file once its
bytes are on the disk, and show it as a hole until then; so a hole within a patch is a write that was
lost, as may happen to any that was not synced, and what lies below shows again.

- It is done by blocks of the file system: a write-back cache sends whole pages, so with blocks of at
  most a page none holds one patch that was synced and another that was lost.
- As long as the machine runs, the page cache has the bytes whatever becomes of the process.
- A copy of a lake is left as it is: programs that copy may turn zeros into holes. So is a lake on a
  file system that does that itself (ZFS with compression).
"""

from __future__ import annotations

import logging
from itertools import groupby
from pathlib import Path

from dtafs.store.database import Database
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Lakewide, Overlay
from dtafs.store.staging.rows import (
    PATCHES,
    decode_dataset,
    decode_number,
    encode,
    from_number,
    number,
)

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
TREE_BYTES, INO_BYTES = 4, 8


def this_boot() -> str:
    """Names this run of the machine; empty where that cannot be told."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


def this_place(directory: Path) -> str:
    """Names a directory: a copy of it has another name."""
    return str(directory.stat().st_ino)


def drop_lost_writes(shared: Lakewide, database: Database) -> None:
    """If the machine was started since the lake was last open, let go of what never reached its disk.

    Called with no staging open and nothing waiting to be flushed. Blocks; durable when it returns.
    """
    tables, data = shared.tables, shared.data
    boot, place = this_boot(), this_place(data.directory)
    now = f"{boot} {place}".encode()
    before = tables.get("area", b"", b"machine")
    if before == now:
        return
    if before is not None:
        boot_before, _, place_before = before.decode().partition(" ")
        if boot != boot_before and place == place_before:
            for name, value in list(tables.scan("dataset", b"")):
                _look_through(Overlay(name.decode(), decode_dataset(value), shared), database)
    tables.apply([("area", b"", b"machine", now)])
    tables.flush()


def _look_through(overlay: Overlay, database: Database) -> None:
    """Look at all patched files of a dataset."""
    with database.read() as txn:
        keys = (key for key, _end in txn.scan("extent", overlay.prefix))
        patched = [from_number(ino) for ino, _ in groupby(keys, _ino_of)]
    data, count = overlay.shared.data, 0
    for ino in patched:
        row, owner = overlay.find_row(ino), overlay.owner(ino)
        if row is None or row.local != PATCHES or row.sealed is not None:
            continue  # of what is sealed, local bytes of another process do not count
        known = [
            (from_number(s), decode_number(e)) for s, e in overlay.tables.scan("extent", owner)
        ]
        there = data.stored(ino, known)
        if there == known or not (count or data.keeps_zeros()):
            continue
        op = Operation(overlay)
        for start, _ in known:
            op.put("extent", owner, number(start), None)
        for start, end in there:
            op.put("extent", owner, number(start), encode(end))
        op.change(row, generation=row.generation + 1)
        op.commit()
        count += 1
    if count:
        log.warning(
            "%s: the machine went down before all that was written to %d staged files was on its "
            "disk; these ranges show what they showed before, as far as nobody had synced them",
            overlay.name,
            count,
        )


def _ino_of(key: bytes) -> bytes:
    return key[TREE_BYTES : TREE_BYTES + INO_BYTES]
