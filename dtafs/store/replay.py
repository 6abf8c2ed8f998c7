"""Applying the log to an index: all datasets together, in the order in which things happened.

The order matters: the serials that number the versions of a whole lake come out the same each time.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator
from pathlib import Path

import msgspec

from dtafs.core.entries import LogEntry
from dtafs.errors import IntegrityError
from dtafs.store.index import Index
from dtafs.store.log import Appended, Log
from dtafs.store.packs import Pack, PackPresence, read_footer

_logger = logging.getLogger(__name__)


def replay(root: Path, log: Log, index: Index) -> int:
    """Apply what the log of the lake at `root` has and the index has not; how many entries."""
    streams = []
    for name in log.datasets():
        row = index.dataset(name)
        first = row.sequence + 1 if row else 1
        if log.exists(name, first):
            streams.append(_keyed(log, name, first))
    count = 0
    for _key, appended in heapq.merge(*streams, key=lambda pair: pair[0]):
        apply_entry(root, appended, index)
        count += 1
    return count


def _keyed(log: Log, dataset: str, first: int) -> Iterator[tuple[tuple[int, str, int], Appended]]:
    for appended in log.read_from(dataset, first):
        yield (appended.entry.time_ns, dataset, appended.entry.sequence), appended


def apply_entry(root: Path, appended: Appended, index: Index) -> None:
    """Apply an entry. A damaged pack does not hide the version: its chunks are missing then, which
    `dtafsctl check` names, and everything else can be read."""
    packs: list[Pack] = []
    names = _pack_names(appended.entry) if appended.entry.kind == "committed" else []
    for name in names:
        try:
            packs.append(read_footer(root, bytes.fromhex(name)))
        except IntegrityError as error:
            _logger.error("%s; run dtafsctl check to see what it affects", error)
    index.apply(appended.entry, appended.object_hash, packs, PackPresence(root))


def _pack_names(entry: LogEntry) -> list[str]:
    try:
        names = msgspec.convert(entry.body.get("packs", []), list[str])
        return [name for name in names if bytes.fromhex(name)]
    except (msgspec.ValidationError, ValueError):
        raise IntegrityError(
            f"entry {entry.sequence} of {entry.dataset!r} names malformed packs"
        ) from None
