"""Staging by path, without a mount: what `put` and the Python API use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from dtafs.core.tree import Path
from dtafs.core.values import Content, Entry
from dtafs.store.staging.data import FileData
from dtafs.store.staging.overlay import Overlay
from dtafs.store.staging.placing import (
    Placing,
    content_at,
    find_path,
    names_at,
    place,
    place_all,
    removal_of,
)
from dtafs.store.staging.rows import Inode


class ByPath:
    """The methods of `Staging` that take whole paths; that class says which threads may call them."""

    _lock: threading.RLock
    _overlay: Overlay
    _files: FileData

    def place(self, path: Path, entry: Entry, now_ns: int, content: Content | None = None) -> Inode:
        """`place_all` of one thing; what is there then."""
        with self._lock:
            return self._files.shown(place(self._overlay, path, entry, now_ns, content))

    def place_all(
        self, things: Sequence[Placing], now_ns: int, over_directories: bool = True
    ) -> Sequence[Path]:
        """Put things at their paths: missing directories above are made, another kind of thing that
        is there is replaced, a directory keeps what it has, what is there as wanted is not touched.
        Without `over_directories` nothing but a directory replaces one: the result says where."""
        with self._lock:
            return place_all(self._overlay, things, now_ns, over_directories)

    def remove_path(self, path: Path, now_ns: int) -> bool:
        """Remove what is at a path and all below it; False when there is nothing."""
        remove = self.removal(path, now_ns)
        while remove is not None and remove():
            pass
        return remove is not None

    def removal(self, path: Path, now_ns: int) -> Callable[[], bool] | None:
        """As `remove_path`, in parts: a call for each, which says whether there are more."""
        with self._lock:
            removal = removal_of(self._overlay, path, now_ns)

        def remove() -> bool:
            with self._lock:
                return removal is not None and removal.step()

        return None if removal is None else remove

    def resolve(self, path: Path) -> Inode | None:
        """What is at a path (symlinks are not followed), or None."""
        with self._lock:
            node = find_path(self._overlay, path)
            return None if node is None else self._files.shown(node)

    def names_at(self, path: Path, most: int) -> Iterable[bytes] | None:
        """The names in a directory, none where there is no directory; None for one that may have
        more than `most`, and has to be listed step by step."""
        with self._lock:
            return names_at(self._overlay, path, most)

    def content_at(self, path: Path) -> Content | None:
        """The sealed content of the file at a path; None where it has none or there is no file."""
        with self._lock:
            return content_at(self._overlay, path)
