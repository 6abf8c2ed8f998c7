"""Staging that lies on a version which is disposed of: it starts empty.

It must do so before anybody writes to it again, also after a crash between the entry that disposes of the
version and that. So `upkeep/leaving` names the dataset meanwhile, and the next opening of the lake does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dtafs.errors import IntegrityError, NotFoundError
from dtafs.store.condemn import FOLDER
from dtafs.store.durable import read_file
from dtafs.store.staging.opens import Base

if TYPE_CHECKING:
    from pathlib import Path

    from dtafs.store.lake import Lake

FILE = "leaving"
NAME_LIMIT_BYTES = 4096


def _file(lake: Lake) -> Path:
    return lake.path / FOLDER / FILE


@contextlib.contextmanager
def leaving(lake: Lake, dataset: str) -> Iterator[None]:
    """Dispose in this block of the version that staging, without changes, lies on; it is empty then.
    Nobody may change it meanwhile."""
    lake.disk.make_directory(lake.path / FOLDER)
    lake.disk.replace(_file(lake), dataset.encode())
    yield
    leave_disposed(lake, dataset)
    lake.disk.unlink(_file(lake))


def finish_leaving(lake: Lake) -> None:
    """After a crash: do what was about to be done. Called when a lake is opened."""
    try:
        dataset = read_file(_file(lake), NAME_LIMIT_BYTES).decode()
    except (NotFoundError, IntegrityError, UnicodeDecodeError):
        return
    if lake.index.dataset(dataset) is not None:
        leave_disposed(lake, dataset)
    lake.disk.unlink(_file(lake))


def leave_disposed(lake: Lake, dataset: str) -> None:
    """Let staging that lies on a version that was disposed of, and holds nothing, lie on none."""
    staging = lake.staging(dataset)
    base = staging.base
    row = lake.index.version(dataset, base.version) if base.root else None
    if row is None or not row.disposed or not staging.is_clean():
        return
    newest = lake.dataset(dataset).newest
    top = lake.index.version(dataset, newest)
    root = top.root if top is not None and not top.disposed else b""
    staging.discard(Base(newest, root))
