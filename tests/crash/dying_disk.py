"""A disk whose process dies at one of its operations, as a kill would end it, in this very process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dtafs.errors import DtafsError
from dtafs.store.durable import Disk
from dtafs.store.lake import Lake

OPERATIONS = ("open_file", "write", "sync", "link", "rename", "remove", "mkdir")


class Died(BaseException):
    """The process is no more; nothing may catch it but the test."""


class DyingDisk(Disk):
    """Works for so many operations, and never again."""

    def __init__(self, root: Path, operations: int) -> None:
        super().__init__(root)
        self.left = operations
        for name in OPERATIONS:
            setattr(self, name, self._counted(getattr(super(), name)))

    def _counted(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Died
            return operation(*arguments, **named)

        return call


@contextlib.contextmanager
def dying(path: Path, operations: int) -> Iterator[Lake]:
    """A lake whose process dies after so many operations on the disk. What LMDB has not been given by
    then is lost; what the log got is there."""
    disk = DyingDisk(path, 10**9)
    lake = Lake.open(path, disk=disk)
    disk.left = operations
    try:
        yield lake
    finally:
        disk.left = 0
        for close in (
            lake.close,
            lake.index.close,
            lake.pending.close if lake.pending else lake.close,
        ):
            with contextlib.suppress(Died, DtafsError, Exception):
                close()
        if lake.lock is not None:
            lake.lock.release()
