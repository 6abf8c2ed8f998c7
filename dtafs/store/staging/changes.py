"""The steps of a commit that touch rows, and starting again from a version."""

from __future__ import annotations

import errno
import threading
from typing import TYPE_CHECKING

from msgspec.structs import replace

from dtafs.core.nodes import Fetch
from dtafs.core.tree import Sink, open_root
from dtafs.core.values import Content, Kind
from dtafs.errors import IntegrityError
from dtafs.store.staging import sealing
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Overlay, failure, names_in
from dtafs.store.staging.rows import encode, number, row_of_entry
from dtafs.store.staging.sealing import ADOPTED_AT_ONCE, Build, Edit, rebase

if TYPE_CHECKING:
    from dtafs.store.staging.area import StagingArea
    from dtafs.store.staging.data import FileData
    from dtafs.store.staging.opens import Base

__all__ = ["build", "rebase", "sealed", "start_again"]


def sealed(overlay: Overlay, ino: int, generation: int, content: Content) -> bool:
    """Packs have the bytes of a file now; False when it has changed since that generation."""
    row = overlay.find_row(ino)
    if row is None or row.kind != Kind.FILE or row.generation != generation:
        return False
    if content.size != row.size:
        raise IntegrityError(
            f"a sealer read {content.size} bytes of a staged file that has {row.size}"
        )
    if row.size:
        op = Operation(overlay)
        op.note(row, sealed=content)
        op.commit()
    return True


def build(
    overlay: Overlay, lock: threading.RLock, fetch: Fetch, edit: Edit, sink: Sink | None
) -> Build:
    """The tree that staging would become, after every name that it changes has a row."""
    found = list(sealing.find_group_names(overlay, fetch))
    for at in range(0, len(found), ADOPTED_AT_ONCE):
        with lock, overlay.fetching(fetch):
            sealing.adopt_group_names(overlay, found[at : at + ADOPTED_AT_ONCE])
    overlay.tables.flush()
    return sealing.build(overlay, fetch, edit, sink)


def start_again(overlay: Overlay, files: FileData, area: StagingArea, base: Base) -> None:
    """Another tree over a base, with nothing changed; the root keeps its number.

    The rows of the old tree are removed in the background. Durable with the next flush.
    """
    old = overlay.row
    if base.root:
        top = open_root(overlay.fetch, base.root)
        root = row_of_entry(old.root_ino, top, 0, names_in(overlay.fetch, top.ref))
    else:
        row = overlay.find_row(old.root_ino)
        if row is None:
            raise failure(errno.EIO)
        xattrs = row.xattrs if not old.root else ()  # they were the version's that it lay on
        root = replace(row, epoch=0, nlink=2, base_epoch=0, base_seq=1, next_seq=1, live=0)
        root = replace(root, base_root=b"", xattrs=xattrs)
    root = replace(root, epoch=old.epoch, base_epoch=old.epoch + 1)
    state = replace(
        old,
        tree=area.next_tree(),
        version=base.version,
        root=base.root,
        epoch=old.epoch + 1,
    )
    overlay.tables.apply(
        [
            ("inode", state.tree_prefix, number(old.root_ino), encode(root)),
            ("dataset", b"", overlay.name.encode(), encode(state)),
            ("doomed", b"", overlay.prefix + number(0), b""),
        ]
    )
    overlay.replace_state(state)
    files.start_again()
