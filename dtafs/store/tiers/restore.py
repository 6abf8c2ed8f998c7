"""Restore: a lake on an empty machine, from what its mirror has (`dtafs.store.tiers.mirror`).

The superblock, the log, the metadata packs and how the content packs begin and end are fetched; content stays
in the tiers and is read from there when somebody asks for it. Everything is checked as it comes: packs by the
hash in their name, entries by their signature. A log ends before its first entry that is missing or damaged.
`lake.json` is written last, when all the rest is on the disk: until then the directory is no lake, and the
next restore begins anew.

The private key is in no tier. Without it, the lake can be read and not changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from dtafs.core.entries import decode_collection, log_key
from dtafs.core.format import PackKind, Superblock, decode_ends, decode_superblock, pack_key
from dtafs.core.names import format_time
from dtafs.core.placed import Stub, decode_stub, encode_stub, stub_key
from dtafs.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    from_os_error,
)
from dtafs.store.config import TierSettings
from dtafs.store.crypto import Signer, verify_superblock
from dtafs.store.durable import Disk
from dtafs.store.founding import FOLDERS, check_place_for_new
from dtafs.store.lock import WriterLock
from dtafs.store.log import Appended, parse_entry
from dtafs.store.packs import read_ends
from dtafs.store.placement.removal import MIRROR, footer_key
from dtafs.store.placement.stubs import pack_of_name
from dtafs.store.progress import Meter, Progress, Report
from dtafs.store.reindex import reindex_at
from dtafs.store.replay import packs_brought
from dtafs.store.tiers.base import Tier, read_whole
from dtafs.store.tiers.listing import last_sequences
from dtafs.store.tiers.opening import SUPERBLOCK_KEY, open_tier
from dtafs.store.tiers.patience import SHORT
from dtafs.store.tiers.settings import check_tiers, settled, with_tier
from dtafs.store.tiers.state import Capabilities

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 16
WHOLE_BYTES = 4 << 20
"""A pack up to this size without a footer in the mirror is most likely metadata: one request, not four."""

ATTEMPTS = 3
"""Times that an object is fetched whose bytes are wrong: the network may have altered them."""

UNFINISHED = "restoring"
"""A file at the top of a directory in which a restore is under way, or was interrupted."""


def restore(
    path: Path,
    source: TierSettings,
    others: Mapping[str, TierSettings],
    environment: Mapping[str, str],
    *,
    public_key: str | None = None,
    key_file: Path | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Make a lake at `path`, absent or empty, from its mirror; what was found, and what is missing.

    `others` are the lake's other tiers by name. `public_key`: what the lake's must be, in hex. `key_file`
    has its private key. RefusedError when a place is not this lake's or a key not its key, NotFoundError
    when there is no lake in the mirror.
    """
    started_s = time.monotonic()
    settings = {MIRROR: source, **others}
    settings = {name: settled(name, one, environment) for name, one in settings.items()}
    check_tiers(path / "config.toml", settings)
    tiers = {
        name: open_tier(name, one, environment, Capabilities(), SHORT).tier
        for name, one in settings.items()
    }
    mirror = tiers[MIRROR]
    superblock, data = _superblock_of(mirror, public_key)
    pem = _private_key(key_file, superblock)
    for name, tier in tiers.items():
        if name != MIRROR and _superblock_of(tier, None)[0].lake != superblock.lake:
            raise RefusedError(f"{tier.url} belongs to another lake: it is no tier of this one")
    path = path.absolute()
    disk = Disk(path)
    lock = _make_place(path, disk)
    try:
        work = _Restore(disk, mirror, superblock, report)
        try:
            facts = work.run(tiers)
        finally:
            work.close()
        text = b""
        for name, one in settings.items():
            text = with_tier(path / "config.toml", text, name, one)
        disk.replace(path / "config.toml", text)
        if pem is not None:
            disk.replace(path / "keys" / "signing.pem", pem, 0o600)
        disk.sync_everything()
        disk.put_new(path / SUPERBLOCK_KEY, data)
        disk.unlink(path / UNFINISHED)
    finally:
        lock.release()
    with _unlogged("dtafs.store.replay"):  # what it misses is in `problems`
        reindexed = reindex_at(path)
    return {
        "lake": superblock.lake,
        "path": str(path),
        "public_key": superblock.public_key,
        "writable": pem is not None,
        **facts,
        "versions": reindexed["rows"]["version"],
        "seconds": round(time.monotonic() - started_s, 3),
    }


@contextlib.contextmanager
def _unlogged(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _superblock_of(tier: Tier, public_key: str | None) -> tuple[Superblock, bytes]:
    """The superblock in a tier, checked, and its bytes."""
    try:
        block, data = read_whole(tier, SUPERBLOCK_KEY, _signed_superblock)
    except NotFoundError as error:
        if tier.facts(SUPERBLOCK_KEY) is None:  # raises where all of the tier is gone
            raise NotFoundError(f"there is no lake at {tier.url}: it has no lake.json") from None
        raise error
    if public_key is not None and block.public_key != public_key.lower():
        raise RefusedError(
            f"the lake at {tier.url} has the public key {block.public_key}, not the one that you gave: it is "
            "another lake, or somebody has put a forged one there"
        )
    return block, data


def _signed_superblock(data: bytes) -> tuple[Superblock, bytes]:
    block = decode_superblock(data)
    verify_superblock(block)
    return block, data


def _private_key(key_file: Path | None, superblock: Superblock) -> bytes | None:
    if key_file is None:
        return None
    if Signer.load(key_file).public_key.hex() != superblock.public_key:
        raise RefusedError(f"the key in {key_file} is not the one of this lake")
    try:
        return key_file.read_bytes()
    except OSError as error:
        raise from_os_error(error, "reading the signing key") from error


def _make_place(path: Path, disk: Disk) -> WriterLock:
    """The directory with its folders, and the mark that it is no lake yet; the lock is held."""
    _check_place(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "making the lake") from error
    disk.make_directory(path / "run", 0o700)
    lock = WriterLock(path / "run" / "lock")
    try:
        _check_place(path)  # another restore may have ended, or begun, meanwhile
        disk.make_directory(path / "tmp")
        disk.clear_directory(path / "tmp")
        if (path / UNFINISHED).exists():
            for folder in ("packs", "log", "placed", "index"):
                disk.remove_tree(path / folder)
            disk.remove(path / "config.toml")
        else:
            disk.put_new(path / UNFINISHED, b"")
        for folder in (*FOLDERS, "placed", "upkeep"):
            disk.make_directory(path / folder, 0o700 if folder in ("keys", "run") else 0o755)
    except BaseException:
        lock.release()
        raise
    return lock


def _check_place(path: Path) -> None:
    """Raise ConflictError or UsageError unless a directory is absent, empty, or what an interrupted
    restore has left."""
    if (path / UNFINISHED).exists() and not (path / SUPERBLOCK_KEY).exists():
        return
    check_place_for_new(path)
    if (path / "config.toml").exists():
        raise ConflictError(f"{path} has a config.toml already; restore into an empty directory")


class _Restore:
    """Fetching everything that is to be on the disk."""

    def __init__(
        self, disk: Disk, mirror: Tier, superblock: Superblock, report: Report | None
    ) -> None:
        self._disk, self._mirror, self._superblock = disk, mirror, superblock
        self._workers = ThreadPoolExecutor(WORKERS, "dtafs-restore")
        self._report = report
        self._made: set[Path] = set()
        self._away: set[bytes] = set()
        # Content packs that a tier has, of the size that they should have.
        self.problems: list[str] = []
        """What could not be had, in sentences."""

    def close(self) -> None:
        """End the threads."""
        self._workers.shutdown(cancel_futures=True)

    def run(self, tiers: Mapping[str, Tier]) -> dict[str, Any]:
        """Fetch the log, then what the packs need; counts of it."""
        listing = {
            name: self._workers.submit(_packs_in, tier, "packs/") for name, tier in tiers.items()
        }
        footers = self._workers.submit(_packs_in, self._mirror, "footers/")
        entries = self._fetch_log(last_sequences(self._mirror))
        wanted = packs_of(entries)
        there = {name: task.result() for name, task in listing.items()}
        known = footers.result()
        held = set().union(*there.values())
        self._all("metadata", lambda pack: self._fetch_pack(pack, known, there), wanted)
        lost = [pack for pack in wanted if pack not in known and pack not in held]
        content = [pack for pack in wanted if (self._disk.root / stub_key(pack)).exists()]
        away = [pack for pack in content if pack in self._away]
        if len(away) < len(content):
            gone = [pack.hex() for pack in content if pack not in self._away]
            self.problems.append(
                f"{len(gone)} of {len(content)} content packs are in none of the tiers that were given, such "
                f"as {gone[0]}: what they held cannot be read"
            )
        return {
            "datasets": len({one.entry.dataset for one in entries if one.entry.kind == "created"}),
            "entries": len(entries),
            "newest": format_time(entries[-1].entry.time_ns) if entries else None,
            "metadata_packs": len(wanted) - len(content) - len(lost),
            "content_packs": len(content),
            "content_packs_in_tiers": len(away),
            "content_packs_lost": len(content) - len(away),
            "problems": self.problems,
        }

    def _fetch_log(self, sequences: Mapping[str, int]) -> list[Appended]:
        """All entries, each log up to the first that is missing or damaged; in the order of their times."""
        numbers = [(name, n) for name, last in sequences.items() for n in range(1, last + 1)]
        found = dict(zip(numbers, self._all("log", self._fetch_entry, numbers), strict=True))
        entries = []
        for name, last in sequences.items():
            for number in range(1, last + 1):
                one = found[name, number]
                if one is None:
                    self.problems.append(
                        f"the log of {name!r} ends before entry {number} of {last}, which is not to be had"
                    )
                    break
                data, appended = one
                self._write(log_key(name, number), data)
                entries.append(appended)
        return sorted(entries, key=lambda one: (one.entry.time_ns, one.entry.dataset))

    def _fetch_entry(self, which: tuple[str, int]) -> tuple[bytes, Appended] | None:
        name, number = which

        def fetch() -> tuple[bytes, Appended]:
            data = self._mirror.read(log_key(name, number))
            return data, parse_entry(self._superblock, name, number, data)

        return self._sound(fetch)

    def _fetch_pack(
        self, pack: bytes, footers: Mapping[bytes, int], there: Mapping[str, Mapping[bytes, int]]
    ) -> None:
        """A metadata pack, or the stub of a content pack."""
        if pack not in footers and pack not in there[MIRROR]:
            self.problems.append(f"pack {pack.hex()} is in no tier: what it held is lost")
            return
        stub = None
        if pack in footers:
            stub = self._sound(
                lambda: _checked(decode_stub(self._mirror.read(footer_key(pack)), pack))
            )
        if stub is None and pack in there[MIRROR]:
            size = there[MIRROR][pack]
            stub = self._sound(lambda: self._stub_or_pack(pack, size))
            if stub is None and (self._disk.root / pack_key(pack)).exists():
                return  # metadata
        if stub is None:
            self.problems.append(f"pack {pack.hex()} cannot be read from tier {MIRROR}")
            return
        self._write(stub_key(pack), encode_stub(stub._replace(copies=self._copies(stub, there))))

    def _copies(self, stub: Stub, there: Mapping[str, Mapping[bytes, int]]) -> dict[str, int]:
        """The tiers that have a pack, whole by their listing; one that has a part of it counts as one where
        something lies that nobody may rely on."""
        since_ns = time.time_ns()
        sizes = {name: packs[stub.pack] for name, packs in there.items() if stub.pack in packs}
        for name in (name for name, size in sizes.items() if size != stub.size):
            self.problems.append(f"tier {name} has only a part of pack {stub.pack.hex()}")
        if stub.size in sizes.values():
            self._away.add(stub.pack)
        return {name: since_ns if size == stub.size else 0 for name, size in sizes.items()}

    def _stub_or_pack(self, pack: bytes, size: int) -> Stub | None:
        """The stub of a content pack; of a metadata pack None, and it is written."""
        key = pack_key(pack)
        whole = self._mirror.read(key) if size <= WHOLE_BYTES else b""

        def read(offset: int, length: int) -> bytes:
            if whole:
                return whole[offset : offset + length]
            return self._mirror.read(key, offset, length)

        ends = read_ends(read, size)
        stub = _checked(Stub(pack, size, ends, {}))
        if decode_ends(ends, size)[0] == PackKind.CONTENT:
            return stub
        whole = whole or self._mirror.read(key)
        if hashlib.sha256(whole).digest() != pack:
            raise IntegrityError(f"pack {pack.hex()} has not the bytes that its name says")
        self._write(key, whole)
        return None

    def _sound(self, fetch: Callable[[], T]) -> T | None:
        """What `fetch` gives, tried again where it was damaged or absent; None when it stays so."""
        for _ in range(ATTEMPTS):
            with contextlib.suppress(IntegrityError, NotFoundError):
                return fetch()
        return None

    def _write(self, key: str, data: bytes) -> None:
        path = self._disk.root / key
        if path.parent not in self._made:
            self._make(path.parent)
        self._disk.put_unsynced(path, data)

    def _make(self, folder: Path) -> None:
        if folder != self._disk.root and folder not in self._made:
            self._make(folder.parent)
            self._disk.mkdir(folder)
            self._made.add(folder)

    def _all(self, stage: str, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Do all of it, in threads; raises the first failure."""
        todo = list(items)
        results = []
        meter = None
        if self._report is not None:
            meter = Meter(self._report, Progress(stage, 0, 0, len(todo), 0))
        for result in self._workers.map(work, todo):
            results.append(result)
            if meter is not None:
                meter(1, 0)
        return results


def _checked(stub: Stub) -> Stub:
    """A stub whose footer is whole."""
    decode_ends(stub.ends, stub.size)
    return stub


def packs_of(entries: Iterable[Appended]) -> list[bytes]:
    """The packs that entries, in the order of their times, brought and no later one removed."""
    packs: dict[bytes, None] = {}
    for one in entries:
        if one.entry.kind == "collected":
            for name in decode_collection(one.entry.body).removed:
                packs.pop(bytes.fromhex(name), None)
        packs |= dict.fromkeys(bytes.fromhex(name) for name in packs_brought(one.entry))
    return list(packs)


def _packs_in(tier: Tier, prefix: str) -> dict[bytes, int]:
    """The packs below a prefix of a tier, with the sizes of the objects."""
    found = {}
    for key, size in tier.keys(prefix):
        pack = pack_of_name(os.path.basename(key))
        if pack is not None:
            found[pack] = size
    return found
