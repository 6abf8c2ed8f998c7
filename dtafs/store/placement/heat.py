"""When each pack was last read: what the policy of tiers goes by.

Kept in memory by the process that has the lake open for writing, and written now and then to
`upkeep/heat`, JSON that is replaced as a whole. What a kill loses is a few minutes of it; without the
file, packs count as unread since they were written. Reads that the kernel's page cache answers are not
seen: what is read from there needs no pack.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

import msgspec

from dtafs.core.values import HASH_BYTES
from dtafs.errors import DtafsError, NotFoundError
from dtafs.store.condemn import FOLDER
from dtafs.store.durable import Disk, read_file

log = logging.getLogger(__name__)

FILE = "heat"
LIMIT_BYTES = 1 << 30

STALE_S = 600.0
"""Who shows what was written down is content with what is so old."""


class Read(NamedTuple):
    """When a pack was last read (ns since 1970), and how many frames of it so far."""

    time_ns: int
    frames: int


_decode_read = msgspec.json.Decoder(Read).decode


def read_heat(lake: Path) -> dict[bytes, Read]:
    """What is known of reads, by pack; nothing where the file is missing or damaged."""
    path = lake / FOLDER / FILE
    try:
        # In two steps: one call with 100,000 packs holds the interpreter's lock for 50 ms.
        found = msgspec.json.decode(read_file(path, LIMIT_BYTES), type=dict[str, msgspec.Raw])
        heat = {bytes.fromhex(name): _decode_read(read) for name, read in found.items()}
        if any(len(pack) != HASH_BYTES for pack in heat):
            raise ValueError("a name is not that of a pack")
        return heat
    except NotFoundError:
        return {}
    except (msgspec.MsgspecError, ValueError, RecursionError, DtafsError) as error:
        log.warning("%s is damaged (%s): every pack counts as unread", path, error)
        return {}


def _encode_heat(heat: dict[bytes, Read]) -> bytes:
    """What `read_heat` reads, sorted; a 256th at a time, for the sake of the interpreter's lock."""
    parts: dict[int, dict[str, Read]] = {}
    for pack, read in heat.items():
        parts.setdefault(pack[0], {})[pack.hex()] = read
    encoded = (msgspec.json.encode(parts[key], order="sorted")[1:-1] for key in sorted(parts))
    return b"{" + b",".join(encoded) + b"}"


class Heat:
    """The reads of a lake. Thread-safe: threads that note at once at worst lose a count."""

    def __init__(self, lake: Path) -> None:
        self._path = lake
        self._known: dict[bytes, Read] | None = None
        self._fresh: dict[bytes, Read] = {}
        self._unsaved = False
        self._saved_s = -math.inf
        self._lock = threading.Lock()

    def note(self, pack: bytes) -> None:
        """A frame of a pack is being read."""
        before = self._fresh.get(pack)
        self._fresh[pack] = Read(time.time_ns(), 1 if before is None else before.frames + 1)

    def reads(self) -> dict[bytes, Read]:
        """What is known of all packs."""
        with self._lock:
            if self._known is None:
                self._known = read_heat(self._path)
            fresh, self._fresh = self._fresh, {}
            self._unsaved |= bool(fresh)
            for pack, read in fresh.items():
                known = self._known.get(pack, Read(0, 0))
                self._known[pack] = Read(read.time_ns, known.frames + read.frames)
            return dict(self._known)

    def save(self, disk: Disk, there: Container[bytes] | None = None) -> None:
        """Write it down, but for packs that are not `there` any more."""
        self._saved_s = time.monotonic()
        found = self.reads()
        if not self._unsaved and there is None:
            return
        if there is not None:
            found = {pack: read for pack, read in found.items() if pack in there}
            with self._lock:
                self._known = dict(found)
        disk.make_directory(self._path / FOLDER)
        disk.replace(self._path / FOLDER / FILE, _encode_heat(found))
        self._unsaved = False

    def save_stale(self, disk: Disk) -> None:
        """Write it down, unless that was done within STALE_S."""
        if time.monotonic() - self._saved_s >= STALE_S:
            self.save(disk)
