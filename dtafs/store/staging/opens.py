"""Who has which file open, and the version that a staging lies on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import Struct

from dtafs.store.staging.data import FileData
from dtafs.store.staging.overlay import Overlay


class Base(NamedTuple):
    """The version that staging lies on: its number (0: none yet) and the id of its root node."""

    version: int
    root: bytes


class Opener(Struct, frozen=True):
    """The process that has a file open."""

    pid: int = 0
    program: str = ""


class _Open(NamedTuple):
    ino: int
    writing: bool
    opener: Opener


class Opens:
    """The open files of one dataset. The caller holds its lock."""

    def __init__(self, overlay: Overlay, files: FileData) -> None:
        self._overlay, self._files = overlay, files
        self._opens: dict[int, _Open] = {}
        self._next = 1

    def open(self, ino: int, writing: bool, opener: Opener) -> int:
        """Note that a file is open; the handle for `close`."""
        self._files.check_file(ino)
        handle, self._next = self._next, self._next + 1
        self._overlay.remember(ino)
        self._files.opened(ino)
        self._opens[handle] = _Open(ino, writing, opener)
        return handle

    def close(self, handle: int) -> tuple[int, bool]:
        """The inode, which the caller releases, and whether this was its last writer."""
        ino, writing, _ = self._opens.pop(handle)
        self._files.closed(ino)
        quiet = writing and not any(o.writing and o.ino == ino for o in self._opens.values())
        return ino, quiet

    def writers(self) -> Sequence[tuple[bytes, Opener]]:
        """Who has files open for writing, by path."""
        opens = self._opens.values()
        return [(self._overlay.path_of(o.ino), o.opener) for o in opens if o.writing]

    def close_all(self) -> None:
        """Close the descriptors of all."""
        for o in self._opens.values():
            self._files.closed(o.ino)
        self._opens.clear()
