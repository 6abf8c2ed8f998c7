"""Small sealed files whose bytes the kernel is given with the answer to `open`.

Who opens a small file reads it, nearly always. When its bytes are in memory, they go into the
kernel's page cache before `open` is answered, and the read needs no request: the whole of a request
is ten times what the copy costs. What was handed over was checked as any read is, and a sealed
file never changes, so the kernel may keep it.

The kernel is told only of files that nobody has open. Whoever has one open may be waiting for a
page of it, which the kernel has locked until the daemon answers, and handing that page over would
wait for the lock, on the event loop.
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable

from dtafs.core.values import Content
from dtafs.store.objects import INLINE_HASH_BYTES, Objects

Store = Callable[[int, int, bytes], None]
"""Puts bytes at an offset of an inode into the kernel's page cache; OSError when it cannot."""

HANDED_MAX_BYTES = INLINE_HASH_BYTES
"""Larger files are read by few requests for what they hold, and not always as a whole."""

REMEMBERED = 16_384
"""Files handed over lately: the kernel is not given them again, unless it has thrown them away and
asks. 2 MiB."""


class Handover:
    """What of small files the kernel has been given. All on the event loop."""

    def __init__(self, objects: Objects, store: Store | None) -> None:
        """`store` is None where there is no kernel to give anything to."""
        self._objects, self._store = objects, store
        self._opens: dict[int, int] = {}
        self._handed: OrderedDict[int, None] = OrderedDict()

    def opened(self, ino: int, content: Content) -> Callable[[], None]:
        """A file is being opened: hand it over, if that helps. Returns what to call when it is
        closed."""
        if self._store is None or not 0 < content.size <= HANDED_MAX_BYTES:
            return _nothing
        opens = self._opens.get(ino, 0)
        if not opens:
            self._hand_over(self._store, ino, content)
        self._opens[ino] = opens + 1
        return lambda: self._closed(ino)

    def _closed(self, ino: int) -> None:
        left = self._opens[ino] - 1
        if left:
            self._opens[ino] = left
        else:
            del self._opens[ino]

    def _hand_over(self, store: Store, ino: int, content: Content) -> None:
        if ino in self._handed:
            return
        data = self._objects.read_at_hand(content, 0, content.size)
        if data is None:
            return
        try:
            store(ino, 0, bytes(data))
        except OSError as error:
            # ENOENT: the kernel has just forgotten the file; ENOMEM. It asks for what it lacks.
            if error.errno not in (errno.ENOENT, errno.ENOMEM):
                raise
            return
        self._handed[ino] = None
        if len(self._handed) > REMEMBERED:
            self._handed.popitem(last=False)


def _nothing() -> None:
    return
