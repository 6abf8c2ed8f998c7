"""Reading frames from packs, on the hot disk and in other tiers, through descriptors that are kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dtafs.core.format import pack_key
from dtafs.errors import (
    DtafsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    TooManyOpenError,
)
from dtafs.store.durable import Buffer, open_for_reading, read_at
from dtafs.store.packs import AbsentError, Place, decode_frame

OPEN_PACKS_MAX = 128


class FarFrame(Exception):
    """A frame lies in another tier, and who asked for it wanted only what is near."""


class Far(Protocol):
    """Reads packs that are not on the hot disk (`dtafs.store.placement.far`)."""

    def holds(self, pack: bytes) -> bool:
        """Whether a pack can be read, or recalled, from another tier."""

    def is_near(self, pack: bytes, offset: int, size: int) -> bool:
        """Whether those bytes of a pack are on this machine after all."""

    def read(self, pack: bytes, offset: int, size: int) -> Buffer:
        """Bytes of a pack, from wherever it lies; a view may keep much more memory in use."""

    def forget(self, pack: bytes) -> None:
        """Drop what is kept of a pack."""


class PackFiles:
    """Open packs, kept for reading. Thread-safe."""

    def __init__(
        self,
        root: Path,
        far: Far | None = None,
        note: Callable[[bytes], object] | None = None,
    ) -> None:
        """`far` reads what is not on the hot disk; without it, that cannot be read. `note` is told of
        each pack that is read."""
        self._root, self._far, self._note = root, far, note
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, _OpenPack] = OrderedDict()

    def read_frame(self, place: Place, near: bool = False) -> bytes:
        """The decoded frame that holds a chunk; errors name the pack.

        With `near`, raises FarFrame rather than wait for another tier.
        """
        if self._note is not None:
            self._note(place.pack)
        far, pack = self._far, self._known(place.pack)
        # What is here of a pack that is away is asked for before the disk: opening what is not there
        # costs 40 us.
        if pack is None and not (
            far is not None and far.is_near(place.pack, place.offset, place.stored)
        ):
            try:
                pack = self._borrow(place.pack)
            except AbsentError:
                if far is None or not far.holds(place.pack):
                    raise
                if near and not far.is_near(place.pack, place.offset, place.stored):
                    raise FarFrame from None
        try:
            if pack is not None:
                stored: Buffer = read_at(pack.fd, place.stored, place.offset)
            else:
                assert far is not None
                stored = far.read(place.pack, place.offset, place.stored)
            return decode_frame(stored, place.plain, place.codec)
        except IntegrityError as error:
            raise IntegrityError(
                f"pack {place.pack.hex()}, frame at {place.offset}: {error}"
            ) from None
        finally:
            if pack is not None:
                pack.give_back()

    def _borrow(self, pack: bytes) -> _OpenPack:
        found = self._known(pack)
        if found is None:
            opened = self._opened(pack)  # outside the lock: others need not wait for a slow disk
            with self._lock:
                found = self._open.setdefault(pack, opened)
                found.take()
                if found is not opened:
                    opened.give_back()
            if len(self._open) > OPEN_PACKS_MAX:
                self.close_one()
        return found

    def _known(self, pack: bytes) -> _OpenPack | None:
        with self._lock:
            found = self._open.get(pack)
            if found is not None:
                self._open.move_to_end(pack)
                found.take()
            return found

    def _opened(self, pack: bytes) -> _OpenPack:
        while True:
            try:
                return _OpenPack(open_for_reading(self._root / pack_key(pack)))
            except TooManyOpenError:
                if not self.close_one():
                    raise
            except RefusedError:
                raise  # nothing is wrong with the pack
            except NotFoundError as error:
                raise AbsentError(f"pack {pack.hex()} cannot be read: {error}") from None
            except DtafsError as error:
                raise IntegrityError(f"pack {pack.hex()} cannot be read: {error}") from None

    def close_one(self) -> bool:
        """Close the pack that was not used for longest; False when none is open."""
        with self._lock:
            if self._open:
                self._open.popitem(last=False)[1].give_back()
                return True
            return False

    def forget(self, pack: bytes) -> None:
        """Close a pack that is deleted, so that its room becomes free, and what is kept of it."""
        with self._lock:
            found = self._open.pop(pack, None)
            if found is not None:
                found.give_back()
        if self._far is not None:
            self._far.forget(pack)

    def close(self) -> None:
        """Close all descriptors that nobody is reading from."""
        with self._lock:
            for pack in self._open.values():
                pack.give_back()
            self._open.clear()


class _OpenPack:
    """A descriptor with a count of users; the table itself is one."""

    _lock = threading.Lock()

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 1

    def take(self) -> None:
        with self._lock:
            self.users += 1

    def give_back(self) -> None:
        with self._lock:
            self.users -= 1
            if self.users == 0:
                os.close(self.fd)
