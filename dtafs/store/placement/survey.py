"""Where all packs with a stub lie, kept current at the price of what has changed.

A stub that is made, replaced or removed changes its folder's time, `placed/<2 hex>`; a pack that leaves
the hot disk or comes back changes that of `packs/<2 hex>`. So a look costs two `stat` for each of at
most 256 folders, and only what lies in a changed one is read again. Blocks; used by one thread at a time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from dtafs.core.format import pack_key
from dtafs.core.placed import peek_copies, stub_key
from dtafs.errors import IntegrityError
from dtafs.store.durable import translated
from dtafs.store.placement.stubs import FOLDER, pack_of_name, read_stub

PEEK_BYTES = 4096
"""A stub of a large pack has 40 KiB; what it says of copies is in the first few hundred bytes."""

SETTLED_NS = 1_000_000_000
"""A folder that changed within this time is read again: a second change may have the same time, of
which kernels keep some milliseconds only."""


class Lies(NamedTuple):
    """Where a pack lies: since when on the hot disk, None where it is not there, and the tiers that have
    a verified copy, sorted, each with when it was verified. In ns since 1970."""

    hot_ns: int | None
    copies: tuple[tuple[str, int], ...]


class _Folder(NamedTuple):
    state: tuple[int, int] | None
    """When it was changed, in `placed/` and in `packs/`; None where that may not tell the next change."""
    packs: dict[bytes, Lies]
    digest: bytes


class Survey:
    """What the stubs of a lake say. A damaged one counts as none."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, _Folder] = {}

    def look(self) -> str:
        """Look at what has changed; a text that is the same as long as all packs lie as they did."""
        with translated("looking where packs lie"):
            names = self._names()
            self._folders = {name: self._current(name) for name in names}
        parts = (name.encode() + self._folders[name].digest for name in names)
        return hashlib.sha256(b"".join(parts)).hexdigest() if names else ""

    def lies(self, pack: bytes) -> Lies | None:
        """Where a pack lay at the last look; None for one without a stub, which can only be hot."""
        folder = self._folders.get(pack.hex()[:2])
        return folder.packs.get(pack) if folder is not None else None

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._root / FOLDER) as found:
                return sorted(entry.name for entry in found if entry.is_dir())
        except FileNotFoundError:
            return []

    def _current(self, name: str) -> _Folder:
        changed = self._changed_ns(FOLDER, name), self._changed_ns("packs", name)
        known = self._folders.get(name)
        if known is not None and known.state == changed:
            return known
        settled = max(changed) < time.time_ns() - SETTLED_NS
        packs = dict(self._read(name))
        digest = hashlib.sha256(msgspec.json.encode(sorted(packs.items()))).digest()
        return _Folder(changed if settled else None, packs, digest)

    def _changed_ns(self, folder: str, name: str) -> int:
        try:
            return (self._root / folder / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _read(self, name: str) -> Iterator[tuple[bytes, Lies]]:
        for found in sorted(os.listdir(self._root / FOLDER / name)):
            pack = pack_of_name(found)
            if pack is None or not found.startswith(name):
                continue
            copies = self._copies(pack)
            verified = tuple(sorted((tier, ns) for tier, ns in copies.items() if ns))
            yield pack, Lies(self._hot_ns(pack), verified)

    def _copies(self, pack: bytes) -> dict[str, int]:
        try:
            with open(self._root / stub_key(pack), "rb", buffering=0) as file:
                return peek_copies(file.read(PEEK_BYTES), pack)
        except FileNotFoundError:
            return {}
        except IntegrityError:
            pass
        try:
            stub = read_stub(self._root, pack)  # with more tiers than fit
        except IntegrityError:
            return {}
        return stub.copies if stub is not None else {}

    def _hot_ns(self, pack: bytes) -> int | None:
        try:
            return os.stat(self._root / pack_key(pack)).st_mtime_ns
        except FileNotFoundError:
            return None
