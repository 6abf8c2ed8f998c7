"""The mirror: what makes a lake readable again on an empty machine, in its tier `warm`.

That is the superblock, every log entry, every metadata pack, and of each content pack its header, footer and
trailer (below `footers/`, as the bytes of a stub that names no tier), so that an index can be made without
reading content. With `mirror_content`, the content packs themselves as well. Order, for each entry: the
packs that it brings, then the entry: so an entry in the mirror has its metadata there. A tier without a
condition that holds gets no log: two lakes, or two hosts, could write over each other's entries.

How far it is is remembered in `upkeep/mirror.json`; without that file the tier is listed, and what the
entries there need and the tier lacks is put there. Each pass looks first whether the tier still is this
lake's: a bucket that was emptied has to be attached again, which forgets what it had (`forget_mirrored`).
What a mirror has lost in part is found by `lacking`, for the check, and put there again by a pass `anew`, for
a repair. A pack of this lake that cannot be read is left out and tried again; `dtafsctl check` names it. What
is deleted from the lake is deleted from the mirror by
`dtafs.store.placement.removal`. One pass at a time; blocks.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct

from dtafs.core.entries import log_key
from dtafs.core.format import PackKind, pack_key
from dtafs.core.names import format_time
from dtafs.core.placed import encode_stub
from dtafs.errors import (
    BusyError,
    ConflictError,
    DtafsError,
    IntegrityError,
    NotFoundError,
    RecallError,
    RefusedError,
)
from dtafs.store.durable import Disk, read_file
from dtafs.store.log import Appended
from dtafs.store.packs import hash_pack
from dtafs.store.placement.moves import copy_pack, stub_for
from dtafs.store.placement.removal import MIRROR, finish_removal, footer_key
from dtafs.store.replay import packs_brought
from dtafs.store.tiers.base import Source, Tier
from dtafs.store.tiers.listing import whole_sequences
from dtafs.store.tiers.opening import check_lake
from dtafs.store.tiers.state import read_state

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

T = TypeVar("T")

log = logging.getLogger(__name__)

BATCH_ENTRIES = 128
WORKERS = 6
"""Requests under way at once: most of the time of each is the store's."""

STATE_LIMIT_BYTES = 64 * 1024 * 1024


class Mirrored(Struct):
    """How far the mirror is."""

    url: str
    sequences: dict[str, int] | None = None
    """Log -> its last entry that is in the tier; None where that has to be asked."""
    left_out: dict[str, str] = {}
    """Packs in hex that could not be read here, and why."""
    content_due: list[str] = []
    """Content packs in hex that are still to be copied."""
    content: bool = False
    """Whether content that was there when `mirror_content` was set is copied, or among these."""
    last: str | None = None
    """When a pass last came to its end."""
    problem: str | None = None
    """What kept the last pass from that."""


def read_mirrored(lake: Lake) -> Mirrored:
    """How far the mirror is, as is remembered."""
    url = lake.tiers.settings[MIRROR].url
    try:
        data = read_file(_path(lake.path), STATE_LIMIT_BYTES)
        known = msgspec.json.decode(data, type=Mirrored)
    except (DtafsError, msgspec.DecodeError):
        return Mirrored(url)
    return known if known.url == url else Mirrored(url)


def _path(root: Path) -> Path:
    return root / "upkeep" / "mirror.json"


def _save(disk: Disk, known: Mirrored) -> None:
    disk.make_directory(disk.root / "upkeep")
    disk.replace(_path(disk.root), msgspec.json.encode(known))


def forget_mirrored(lake: Lake) -> None:
    """Know nothing any more of what the mirror has: it was emptied, or is another one."""
    with lake.tiers.mirroring:
        lake.disk.remove(_path(lake.path))


def is_behind(lake: Lake, again: bool = True) -> bool:
    """Whether there is something to mirror; with `again`, what was left out before counts. Quick: asks no
    tier, and reads one small file."""
    if MIRROR not in lake.tiers:
        return False
    known = read_mirrored(lake)
    if known.sequences is None or known.problem:
        return True
    if again and (known.left_out or known.content_due):
        return True
    if lake.tiers.settings[MIRROR].mirror_content and not known.content:
        return True
    return any(number > known.sequences.get(name, 0) for name, number in _heads(lake))


def _heads(lake: Lake) -> Iterator[tuple[str, int]]:
    return ((name, sequence) for name, (sequence, _hash) in lake.index.heads().items())


def mirror(lake: Lake, anew: bool = False) -> dict[str, Any]:
    """Bring the mirror up to date, `anew` everything that it should have; what `mirror_facts` says after it.
    Raises what kept it from that, which is remembered as the mirror's `problem`."""
    with lake.tiers.mirroring:
        known = read_mirrored(lake)
        if anew:
            known.sequences, known.content_due = {}, []
        try:
            _Pass(lake, known).run()
        except DtafsError as error:
            known.problem = str(error)
            _save(lake.disk, known)
            raise
        known.problem, known.last = None, format_time(time.time_ns())
        _save(lake.disk, known)
    return mirror_facts(lake)


def mirror_what_came(lake: Lake) -> None:
    """Bring the mirror up to date after a command, in the command's own process. What keeps it from that
    is a warning: the command itself has succeeded, and the next one tries again."""
    if is_behind(lake):
        lake.tiers.hurry()
        try:
            mirror(lake)
        except DtafsError as error:
            log.warning("tier %s does not mirror the log yet: %s", MIRROR, error)


def lacking(lake: Lake) -> list[str]:
    """The keys of what the mirror should have by what is remembered, and does not have, or only a part of,
    by its listing. Raises what keeps it from being listed."""
    known, tier = read_mirrored(lake), lake.tiers[MIRROR]
    heads, sequences = dict(_heads(lake)), known.sequences or {}
    wanted: dict[str, int | None] = {
        log_key(name, number): None
        for name, last in sequences.items()
        for number in range(1, min(last, heads.get(name, 0)) + 1)
    }
    for pack, row in lake.index.packs():
        if row.sequence <= sequences.get(row.dataset, 0) and pack.hex() not in known.left_out:
            is_metadata = row.kind == PackKind.METADATA
            wanted |= {pack_key(pack): row.size} if is_metadata else {footer_key(pack): None}
    there: dict[str, int] = {}
    for prefix in ("log/", "packs/", "footers/"):
        there.update(tier.keys(prefix))
    return [
        key for key, size in wanted.items() if key not in there or size not in (None, there[key])
    ]


def mirror_facts(lake: Lake) -> dict[str, Any]:
    """How far the mirror lags: entries, and the age of the oldest of them."""
    known = read_mirrored(lake)
    sequences = known.sequences or {}
    behind = {
        name: (sequences.get(name, 0) + 1, number)
        for name, number in _heads(lake)
        if number > sequences.get(name, 0)
    }
    oldest = [_time_of(lake, name, first) for name, (first, _last) in behind.items()]
    age_s = (time.time_ns() - min(oldest)) / 1e9 if oldest else 0.0
    return {
        "tier": MIRROR,
        "entries_behind": sum(last - first + 1 for first, last in behind.values()),
        "behind_s": round(max(age_s, 0.0), 3),
        "content_packs_behind": len(known.content_due),
        "left_out": dict(known.left_out),
        "last": known.last,
        "problem": known.problem,
    }


def _time_of(lake: Lake, name: str, sequence: int) -> int:
    try:
        return lake.log.read(name, sequence).entry.time_ns
    except DtafsError:  # damaged, which `check` says
        return time.time_ns()


class _Pass:
    """One pass over what is not mirrored yet."""

    def __init__(self, lake: Lake, known: Mirrored) -> None:
        self._lake, self._known = lake, known
        self._settings = lake.tiers.settings[MIRROR]
        self._tier = lake.tiers[MIRROR]

    def run(self) -> None:
        """Mirror everything; StorageError and its like when the tier fails."""
        lake, known = self._lake, self._known
        check_lake(self._tier, lake.superblock)
        _check_store(lake, self._tier)
        again = {bytes.fromhex(name) for name in known.left_out}
        if known.sequences is None:
            known.sequences = whole_sequences(self._tier)
            again |= self._missing()
        if self._settings.mirror_content and not known.content:
            known.content_due = self._content_elsewhere()
        known.content = self._settings.mirror_content
        with ThreadPoolExecutor(WORKERS, "dtafs-mirror") as workers:
            _all(workers, self._put_pack, again)
            entries = self._entries()
            while batch := list(islice(entries, BATCH_ENTRIES)):
                brought = dict.fromkeys(
                    bytes.fromhex(name) for one in batch for name in packs_brought(one.entry)
                )
                _all(workers, self._put_pack, brought)
                _all(workers, self._put_entry, batch)
                for one in batch:
                    known.sequences[one.entry.dataset] = one.entry.sequence
                _save(lake.disk, known)
        self._copy_content()

    def _missing(self) -> set[bytes]:
        """The packs of the lake of which the tier lacks what a mirror has: entries may be there whose packs
        could not be read when they were put."""
        there = {key for prefix in ("packs/", "footers/") for key, _size in self._tier.keys(prefix)}
        return {
            pack
            for pack, row in self._lake.index.packs()
            if (pack_key if row.kind == PackKind.METADATA else footer_key)(pack) not in there
        }

    def _content_elsewhere(self) -> list[str]:
        """The content packs on this disk that the tier is not known to have, in hex."""
        placed = self._lake.placed
        content = (p for p, row in self._lake.index.packs() if row.kind == PackKind.CONTENT)
        where = ((pack, placed.where(pack)) for pack in content)
        return [pack.hex() for pack, at in where if at.hot and MIRROR not in at.tiers]

    def _entries(self) -> Iterator[Appended]:
        """The entries that are not mirrored, of all logs, in the order in which things happened."""
        known = self._known.sequences
        assert known is not None
        streams = [
            _keyed(self._lake, name, known.get(name, 0) + 1)
            for name, number in _heads(self._lake)
            if number > known.get(name, 0)
        ]
        return (one for _key, one in heapq.merge(*streams, key=lambda pair: pair[0]))

    def _put_entry(self, one: Appended) -> None:
        entry = one.entry
        data = self._lake.log.read_object(entry.dataset, entry.sequence)
        self._tier.put(log_key(entry.dataset, entry.sequence), data)

    def _put_pack(self, pack: bytes) -> None:
        """Mirror a pack that the lake still has; one that cannot be read here is noted."""
        with self._lake.placed.alone(pack):
            self._put_alone(pack)

    def _put_alone(self, pack: bytes) -> None:
        lake = self._lake
        row = lake.index.pack(pack)
        if row is None:  # a later entry has removed it, or it could not be read when it was applied
            self._known.left_out.pop(pack.hex(), None)
            return
        try:
            finish_removal(lake, pack)  # it may be here again, and not yet deleted there
            if row.kind == PackKind.METADATA:
                self._put_metadata(pack)
            else:
                stub = stub_for(lake, pack)._replace(copies={}, hot_until_ns=0)
                self._replace(footer_key(pack), encode_stub(stub))
                if self._settings.mirror_content:
                    self._known.content_due.append(pack.hex())
        except (IntegrityError, NotFoundError, BusyError) as error:
            self._leave_out(pack, error)
            return
        self._known.left_out.pop(pack.hex(), None)
        if lake.index.pack(pack) is None:  # deleted meanwhile, and maybe before it was put
            for key in (pack_key(pack), footer_key(pack)):
                self._tier.delete(key)

    def _put_metadata(self, pack: bytes) -> None:
        path = self._lake.path / pack_key(pack)
        if hash_pack(self._lake.path, pack) != pack:
            raise IntegrityError(f"pack {pack.hex()} is damaged; run dtafsctl repair")
        self._replace(pack_key(pack), path)
        self._tier.verify(pack_key(pack), path)

    def _replace(self, key: str, data: Source) -> None:
        """Put what is named by its content, and was checked: other bytes there are damaged ones."""
        try:
            self._tier.put(key, data)
        except ConflictError:
            self._tier.delete(key)
            self._tier.put(key, data)

    def _leave_out(self, pack: bytes, error: DtafsError) -> None:
        if self._tier.facts("lake.json") is None:  # raises where it is the tier that is gone
            raise error
        self._known.left_out[pack.hex()] = str(error)

    def _copy_content(self) -> None:
        due = self._known.content_due
        while due:
            pack = bytes.fromhex(due[0])
            if self._lake.index.pack(pack) is not None:
                try:
                    copy_pack(self._lake, pack, MIRROR)
                except (
                    IntegrityError,
                    NotFoundError,
                    BusyError,
                    ConflictError,
                    RecallError,
                ) as error:
                    self._leave_out(pack, error)
            del due[0]
            _save(self._lake.disk, self._known)


def _check_store(lake: Lake, tier: Tier) -> None:
    """Raise RefusedError for a store that the log must not go to."""
    found = read_state(lake.path, MIRROR, lake.tiers.settings[MIRROR].url).capabilities
    if found.conditional_put == "unknown":
        from dtafs.store.tiers.attach import probe_again

        probe_again(lake, MIRROR)
        found = read_state(lake.path, MIRROR, lake.tiers.settings[MIRROR].url).capabilities
    if not found.creates_safely:
        raise RefusedError(
            f"tier {MIRROR} is not used as a mirror: its store does not honour conditions, so that log "
            "entries could be written over; packs may still be moved there"
        )
    if tier.needs_recall:
        raise RefusedError(
            f"tier {MIRROR} is not used as a mirror: its packs are archived, and metadata must be at hand"
        )


def _keyed(lake: Lake, name: str, first: int) -> Iterator[tuple[tuple[int, str, int], Appended]]:
    for one in lake.log.read_from(name, first):
        yield (one.entry.time_ns, name, one.entry.sequence), one


def _all(workers: ThreadPoolExecutor, work: Callable[[T], None], items: Iterable[T]) -> None:
    """Do all of it; raises the first failure after everything that was begun has ended."""
    tasks = [workers.submit(work, item) for item in items]
    failures = [error for task in tasks if (error := task.exception()) is not None]
    if failures:
        raise failures[0]
