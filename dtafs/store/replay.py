"""Applying the log to an index: all datasets together, in the order in which things happened.

The order matters: the serials that number the versions of a whole lake come out the same each time.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from dtafs.core.entries import LogEntry, decode_collection
from dtafs.errors import IntegrityError
from dtafs.store.index import Index, Step
from dtafs.store.index_packs import Removed
from dtafs.store.index_records import apply_record, note_time
from dtafs.store.log import Appended, Log
from dtafs.store.packs import Pack, PackPresence, read_footer
from dtafs.store.rows_in_memory import RowsInMemory

APPLIED_AT_ONCE = 128
"""Entries, or packs, in one txn: to sync it takes as long as to apply fifty small entries."""

_logger = logging.getLogger(__name__)


def replay(root: Path, log: Log, index: Index) -> int:
    """Apply what the log of the lake at `root` has and the index has not; how many entries."""
    streams = []
    for name in log.names():
        first = (index.head(name) or (0, b""))[0] + 1
        if log.exists(name, first):
            log.settle(name)  # before the index, which is synced by itself, shows what it says
            streams.append(_keyed(log, name, first))
    count = 0
    unreadable: dict[bytes, str] = {}
    steps: list[Step] = []
    packs = 0
    present = PackPresence(root)
    for _key, appended in heapq.merge(*streams, key=lambda pair: pair[0]):
        alone = "collected" in (appended.entry.kind, steps[-1].entry.kind if steps else "")
        if alone or max(packs, len(steps)) >= APPLIED_AT_ONCE:
            _apply_all(index, steps, present)
            packs = 0
        steps.append(_step(root, appended, index, unreadable))
        packs += len(packs_brought(appended.entry))
        count += 1
    _apply_all(index, steps, present)
    _complain(unreadable)  # not of a pack that a later entry removes: that one may be gone
    return count


def _apply_all(index: Index, steps: list[Step], present: PackPresence) -> None:
    """Apply entries together; where one of them is wrong, those before it by themselves."""
    batch, steps[:] = steps[:], []
    try:
        if batch:
            index.apply(batch, present)
    except IntegrityError:
        for step in batch:
            index.apply([step], present)


def _keyed(log: Log, dataset: str, first: int) -> Iterator[tuple[tuple[int, str, int], Appended]]:
    for appended in log.read_from(dataset, first):
        yield (appended.entry.time_ns, dataset, appended.entry.sequence), appended


def count_gaps(log: Log, index: Index) -> None:
    """Count the gaps of the clock anew, from the first entry of the lake on. IntegrityError when an
    entry cannot be read; then the index is as it was."""
    rows = RowsInMemory()
    streams = [_keyed(log, name, 1) for name in log.names()]
    for _key, appended in heapq.merge(*streams, key=lambda pair: pair[0]):
        if appended.entry.kind == "clocked":
            apply_record(rows, appended.entry)
        note_time(rows, appended.entry)
    index.put_clock(rows.get("meta", b"clock"))


def apply_entry(root: Path, appended: Appended, index: Index) -> None:
    """Apply an entry. A damaged pack does not hide the version: its chunks are missing then, which
    `dtafsctl check` names, and everything else can be read."""
    unreadable: dict[bytes, str] = {}
    step = _step(root, appended, index, unreadable)
    index.apply([step], PackPresence(root))
    _complain(unreadable)


def _complain(unreadable: dict[bytes, str]) -> None:
    for problem in unreadable.values():
        _logger.error("%s; run dtafsctl check to see what it affects", problem)


def _step(root: Path, appended: Appended, index: Index, unreadable: dict[bytes, str]) -> Step:
    """How to apply an entry; `unreadable` gathers the packs that it needs and that cannot be read,
    when it is applied.

    For a collection, `index` has to have all entries before it.
    """
    removed: list[Removed] = []
    entry = appended.entry
    if entry.kind == "collected":
        collection = decode_collection(entry.body)
        removed = [_removed(root, index, bytes.fromhex(name)) for name in collection.removed]
        for pack, _chunks in removed:
            unreadable.pop(pack, None)
    brought = _Footers(root, packs_brought(entry), unreadable)
    return Step(entry, appended.object_hash, brought, removed)


class _Footers:
    """The packs of an entry, each read as it is come to: all together may be too large for memory."""

    def __init__(self, root: Path, names: Sequence[str], unreadable: dict[bytes, str]) -> None:
        self._root, self._names, self._unreadable = root, names, unreadable

    def __iter__(self) -> Iterator[Pack]:
        for pack in map(bytes.fromhex, self._names):
            try:
                footer = read_footer(self._root, pack)
            except IntegrityError as error:
                self._unreadable[pack] = str(error)
                continue
            self._unreadable.pop(pack, None)
            yield footer


def _removed(root: Path, index: Index, pack: bytes) -> Removed:
    if index.pack(pack) is None:  # it was gone already when the index was made
        return pack, ()
    try:
        return pack, [chunk for chunk, _place in read_footer(root, pack).places()]
    except IntegrityError:
        return pack, None


def packs_brought(entry: LogEntry) -> Sequence[str]:
    """The packs that an entry adds to the lake, in hex."""
    if entry.kind == "collected":
        return decode_collection(entry.body).added
    if entry.kind != "committed":
        return ()
    try:
        names = msgspec.convert(entry.body.get("packs", []), list[str])
        return [name for name in names if bytes.fromhex(name)]
    except (msgspec.ValidationError, ValueError):
        raise IntegrityError(
            f"entry {entry.sequence} of {entry.dataset!r} names malformed packs"
        ) from None
