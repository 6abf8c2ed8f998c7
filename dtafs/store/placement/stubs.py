"""The stubs of a lake: reading them, and changing them durably.

A pack is *hot* when its file lies in `packs/`, *away* when it does not and a tier has a verified copy,
as its stub says (`dtafs.core.placed`). One process changes stubs, the one that has the lake open for
writing, and in it everybody who looks at a stub and then changes it does so under `Placed.lock`, as does
whoever deletes a pack. So of a move and a deletion of one pack the second sees what the first did. What
takes longer, since a tier is asked, one thread at a time does for a pack (`Placed.alone`): else one could
delete the copy that another has just found whole.
Order of locks: `Placed.alone`, `Lake.append_lock`, `Condemned.lock`, `Placed.lock`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from dtafs.core.format import pack_key
from dtafs.core.placed import (
    STUB_LIMIT_BYTES,
    Stub,
    decode_stub,
    doomed_key,
    encode_stub,
    stub_key,
)
from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError, NotFoundError
from dtafs.store.durable import Disk, read_file

FOLDER, DOOMED = "placed", "doomed"

KNOWN_S = 1.0
"""For how long it is believed where a pack lies, by those who only show it."""

KNOWN_MAX = 65_536
"""Packs of which that is remembered: 2 TiB of them, in 10 MiB of memory."""


class ColdPlace(Exception):
    """Where a pack lies has to be looked up on the disk."""

    def __init__(self, pack: bytes) -> None:
        super().__init__(pack.hex())
        self.pack = pack


class Where(NamedTuple):
    """Where a pack lies: on the hot disk, and in which tiers."""

    hot: bool
    tiers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All places by name, the nearest first."""
        return (("hot",) if self.hot else ()) + self.tiers


def read_stub(root: Path, pack: bytes) -> Stub | None:
    """The stub of a pack, or None where there is none; IntegrityError when it is damaged."""
    try:
        return decode_stub(read_file(root / stub_key(pack), STUB_LIMIT_BYTES), pack)
    except NotFoundError:
        return None


def stubbed_packs(root: Path) -> Iterator[bytes]:
    """The packs that have a stub, whatever it says."""
    try:
        folders = sorted(os.listdir(root / FOLDER))
    except FileNotFoundError:
        return
    for folder in folders:
        if not (root / FOLDER / folder).is_dir():
            continue
        for name in sorted(os.listdir(root / FOLDER / folder)):
            pack = pack_of_name(name)
            if pack is not None and name.startswith(folder):
                yield pack


def doomed_packs(root: Path) -> dict[bytes, Stub | None]:
    """The packs that are being deleted everywhere, each with its stub; None where that is damaged."""
    found: dict[bytes, Stub | None] = {}
    try:
        names = sorted(os.listdir(root / DOOMED))
    except FileNotFoundError:
        return found
    for name in names:
        pack = pack_of_name(name)
        if pack is not None:
            with suppress(NotFoundError):
                found[pack] = doomed_stub(root, pack)
    return found


def doomed_stub(root: Path, pack: bytes) -> Stub | None:
    """The stub of a pack that is being deleted everywhere, None where it is damaged; NotFoundError where
    it is not being deleted."""
    try:
        return decode_stub(read_file(root / doomed_key(pack), STUB_LIMIT_BYTES), pack)
    except IntegrityError:
        return None


def pack_of_name(name: str) -> bytes | None:
    """The pack that a file is named after; None where the name is that of no pack."""
    try:
        pack = bytes.fromhex(name)
    except ValueError:
        return None
    return pack if len(pack) == HASH_BYTES and name == pack.hex() else None


def tiers_of(root: Path, pack: bytes) -> dict[str, int]:
    """The tiers that have a verified copy of a pack, each with the time of that in ns."""
    stub = read_stub(root, pack)
    return {} if stub is None else {name: stub.copies[name] for name in stub.tiers}


def is_away(root: Path, pack: bytes) -> bool:
    """Whether a pack is not on the hot disk and a tier has it; a damaged stub says nothing."""
    if (root / pack_key(pack)).exists():
        return False
    try:
        stub = read_stub(root, pack)
    except IntegrityError:
        return False
    return stub is not None and bool(stub.tiers)


class Placed:
    """The stubs of an open lake. Thread-safe."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self._root, self._disk = root, disk
        self.lock = threading.RLock()
        """Held while a stub is looked at and changed, or a pack is deleted."""
        self._moving = threading.Condition()
        self._movers: dict[bytes, list[int]] = {}
        # Pack -> the thread that moves it, and how often it has entered.
        self._known: dict[bytes, tuple[float, Where]] = {}

    @contextmanager
    def alone(self, pack: bytes) -> Iterator[None]:
        """Be the only one who puts copies of a pack into tiers, deletes them, or drops the pack; whoever is
        at it is waited for. A thread may enter again. Taken before every other lock but the mirror's."""
        me = threading.get_ident()
        with self._moving:
            while (mover := self._movers.get(pack)) is not None and mover[0] != me:
                self._moving.wait()
            self._movers.setdefault(pack, [me, 0])[1] += 1
        try:
            yield
        finally:
            with self._moving:
                self._movers[pack][1] -= 1
                if not self._movers[pack][1]:
                    del self._movers[pack]
                    self._moving.notify_all()

    def stub(self, pack: bytes) -> Stub | None:
        """The stub of a pack, or None where there is none; IntegrityError when it is damaged."""
        return read_stub(self._root, pack)

    def save(self, stub: Stub) -> None:
        """Make a stub durable, in the place of the one there was. Under the lock."""
        path = self._root / stub_key(stub.pack)
        self._disk.make_directory(path.parent)
        self._disk.replace(path, encode_stub(stub))
        self._known.pop(stub.pack, None)

    def remove(self, pack: bytes) -> None:
        """Take a damaged stub away, durably, of a pack that is hot. Under the lock."""
        self._disk.unlink(self._root / stub_key(pack))
        self._known.pop(pack, None)

    def doom(self, pack: bytes) -> None:
        """Put the stub of a pack, if there is one, with those of packs that are being deleted
        everywhere, durably and in one step. Under the lock."""
        path = self._root / stub_key(pack)
        if path.exists():
            self._disk.move(path, self._root / doomed_key(pack))
        self._known.pop(pack, None)

    def note_doomed(self, stub: Stub) -> None:
        """Note that tiers may have something of a pack that has no stub and is being deleted everywhere,
        durably. Under the lock."""
        path = self._root / doomed_key(stub.pack)
        self._disk.make_directory(path.parent)
        self._disk.replace(path, encode_stub(stub))

    def is_doomed(self, pack: bytes) -> bool:
        """Whether something of a pack may still have to be deleted from some tier."""
        return (self._root / doomed_key(pack)).exists()

    def gone(self, pack: bytes) -> None:
        """A pack that was doomed is deleted everywhere. Under the lock."""
        self._disk.unlink(self._root / doomed_key(pack))

    def is_hot(self, pack: bytes) -> bool:
        """Whether a pack is on the hot disk."""
        return (self._root / pack_key(pack)).exists()

    def is_used(self) -> bool:
        """Whether any pack may have a stub."""
        return (self._root / FOLDER).is_dir()

    def known(self, pack: bytes) -> Where:
        """As `where`, without looking at the disk; ColdPlace when it has to be looked at."""
        known = self._known.get(pack)
        if known is None or time.monotonic() - known[0] >= KNOWN_S:
            raise ColdPlace(pack)
        return known[1]

    def where(self, pack: bytes) -> Where:
        """Where a pack lies, as it was at most KNOWN_S ago; a damaged stub counts as none."""
        try:
            return self.known(pack)
        except ColdPlace:
            pass
        now_s = time.monotonic()
        try:
            stub = self.stub(pack)
        except IntegrityError:
            stub = None
        where = Where(self.is_hot(pack), () if stub is None else stub.tiers)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[pack] = (now_s, where)
        return where

    def forget(self, pack: bytes) -> None:
        """Look anew where a pack lies."""
        self._known.pop(pack, None)
