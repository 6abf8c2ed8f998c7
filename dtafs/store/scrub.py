"""Scrub: verifying a little of what is stored every day, so that all of it is verified every month.

`Ledger` remembers for each pack when it was last read whole, against its name and chunk by chunk,
and what was wrong. It lies in `upkeep/verified`, JSON that is replaced as a whole now and then, so
that what is interrupted goes on where it was; losing it means that packs are verified again. It is
no part of the index, which is a view of the log. One process at a time keeps it, with or without a
daemon on the lake; anybody may read it.

`Scrub` says what is due, reads no faster than it is told, and reads from the disk: the kernel is
asked to drop what it holds of a pack first, since its copy says nothing of the disk's.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from dtafs.core.format import pack_key
from dtafs.core.names import format_time
from dtafs.errors import BusyError, IntegrityError, NotFoundError
from dtafs.store.condemn import FOLDER
from dtafs.store.durable import Disk, open_for_reading, read_file, translated
from dtafs.store.lock import WriterLock

log = logging.getLogger(__name__)

FILE = "verified"
LEDGER_LIMIT_BYTES = 1 << 30
SAVE_EVERY_S = 20.0
"""What a kill may cost is read again: so much time at most."""

READ_BYTES = 1 << 20


class Verified(NamedTuple):
    """When a pack was last verified (ns since 1970), and what was wrong, or nothing."""

    time_ns: int
    problem: str = ""


def read_ledger(lake: Path) -> dict[bytes, Verified]:
    """What was verified, by pack; nothing where the ledger is missing or damaged."""
    path = lake / FOLDER / FILE
    try:
        data = read_file(path, LEDGER_LIMIT_BYTES)
        found = msgspec.json.decode(data, type=dict[str, Verified])
        return {bytes.fromhex(name): verified for name, verified in found.items()}
    except NotFoundError:
        return {}
    except (msgspec.MsgspecError, ValueError, RecursionError, IntegrityError) as error:
        log.warning("%s is damaged (%s): everything is verified again", path, error)
        return {}


class Ledger:
    """The ledger of a lake, kept by this process until it is closed."""

    def __init__(self, lake: Path) -> None:
        """Take it; BusyError when another process keeps it."""
        self._disk = Disk(lake / FOLDER)
        try:
            self._lock = WriterLock(lake / "run" / "verifying")
        except BusyError:
            raise BusyError(
                "another check is reading the data of this lake; try again when it is done"
            ) from None
        try:
            self._disk.make_directory(self._disk.root)
            self._disk.make_directory(self._disk.root / "tmp")
            self._disk.clear_directory(self._disk.root / "tmp")
            self.packs = read_ledger(lake)
        except BaseException:
            self._lock.release()
            raise
        self._saved_s = time.monotonic()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_exc: object) -> None:
        """Save what was noted, whatever ended the work, and let the next one in."""
        try:
            self.save()
        finally:
            self._lock.release()

    def note(self, pack: bytes, problem: str) -> None:
        """A pack was verified just now."""
        self.packs[pack] = Verified(time.time_ns(), problem)
        if time.monotonic() - self._saved_s >= SAVE_EVERY_S:
            self.save()

    def keep(self, packs: Iterable[bytes]) -> None:
        """Forget all packs but these: the others are gone."""
        there = set(packs)
        self.packs = {pack: known for pack, known in self.packs.items() if pack in there}

    def save(self) -> None:
        """Write the ledger, durably."""
        found = {pack.hex(): known for pack, known in self.packs.items()}
        self._disk.replace(self._disk.root / FILE, msgspec.json.encode(found, order="sorted"))
        self._saved_s = time.monotonic()


class Scrub:
    """One run over the packs."""

    def __init__(
        self, ledger: Ledger, max_age_s: float | None = None, rate_bytes: int | None = None
    ) -> None:
        """`max_age_s`: how old a verification may be, None for verifying everything; `rate_bytes`:
        how much to read a second, None for as fast as it goes."""
        self.ledger = ledger
        self._rate_bytes = rate_bytes
        self._max_age_s = max_age_s
        self._now_ns = time.time_ns()
        self._next_s = time.monotonic()
        self.packs = self.size_bytes = self.skipped = 0

    @property
    def is_partial(self) -> bool:
        """Whether what was verified lately is left out."""
        return self._max_age_s is not None

    def is_due(self, pack: bytes) -> bool:
        """Whether a pack is to be read: what was found damaged always is."""
        known = self.ledger.packs.get(pack)
        if self._max_age_s is not None and known is not None and not known.problem:
            age_s = (self._now_ns - known.time_ns) / 1e9
            if 0 <= age_s < self._max_age_s:
                self.skipped += 1
                return False
        return True

    def hash_pack(self, root: Path, pack: bytes) -> bytes:
        """The SHA-256 of all bytes of a pack, read from the disk at the rate."""
        digest = hashlib.sha256()
        fd = open_for_reading(root / pack_key(pack))
        try:
            with translated("reading a pack"):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                while part := os.read(fd, READ_BYTES):
                    digest.update(part)
                    self.count(len(part))
        finally:
            os.close(fd)
        self.packs += 1
        return digest.digest()

    def count(self, size: int) -> None:
        """So many bytes were read; waits, to keep to the rate."""
        self.size_bytes += size
        if self._rate_bytes is None:
            return
        now_s = time.monotonic()
        self._next_s = max(self._next_s, now_s) + size / self._rate_bytes
        time.sleep(self._next_s - now_s)

    def facts(self) -> dict[str, int]:
        """What was read, for JSON."""
        return {"packs": self.packs, "size_bytes": self.size_bytes, "skipped": self.skipped}


def verification_facts(
    packs: Iterable[bytes], verified: Mapping[bytes, Verified]
) -> dict[str, Any]:
    """When some packs were last verified: counts, and the oldest time."""
    wanted = list(packs)
    known = [verified[pack] for pack in wanted if pack in verified]
    never = len(wanted) - len(known)
    oldest_ns = min((one.time_ns for one in known), default=None)
    return {
        "packs": len(wanted),
        "never": never,
        "damaged": sum(bool(one.problem) for one in known),
        "oldest": format_time(oldest_ns) if oldest_ns is not None else None,
    }
