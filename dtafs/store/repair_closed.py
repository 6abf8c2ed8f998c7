"""Repairing a lake that perhaps cannot be opened: its superblock and its log come first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dtafs.core.values import Actor
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, UnsupportedError
from dtafs.store.durable import Disk
from dtafs.store.founding import read_superblock
from dtafs.store.index import Index
from dtafs.store.lake import Lake
from dtafs.store.lock import WriterLock
from dtafs.store.log import Log
from dtafs.store.progress import Report
from dtafs.store.repair import no_facts, repair_from
from dtafs.store.repair_log import find_bad_entries, mend_superblock, put_back
from dtafs.store.repair_sources import OtherLake, other_lakes


def repair_at(
    path: Path,
    actor: Actor,
    paths: Sequence[str] = (),
    *,
    wait_s: float = 0.0,
    dry_run: bool = False,
    report: Report | None = None,
) -> dict[str, Any]:
    """As `repair`, for a lake that nobody has open and that perhaps cannot be opened.

    Raises what keeps it from being opened when another lake does not have what is missing.
    """
    path = path.absolute()
    with other_lakes(path, paths) as others:
        mended: list[dict[str, Any]] = []
        try:
            lake = Lake.open(path, wait_s=wait_s)
        except (IntegrityError, NotFoundError, UnsupportedError):
            mended = _mend_closed(path, others, dry_run)
            if not mended:
                raise
            if dry_run:
                return {**no_facts(dry_run), "mended": mended}
            lake = Lake.open(path, wait_s=wait_s)
        with lake:
            facts = repair_from(lake, actor, others, dry_run, report)
    facts["mended"] = mended + facts["mended"]
    return facts


def _mend_closed(path: Path, others: Sequence[OtherLake], dry_run: bool) -> list[dict[str, Any]]:
    """Superblock and log of a lake that cannot be opened; what was mended."""
    if not (path / "run").is_dir():
        return []
    disk, lock = Disk(path), WriterLock(path / "run" / "lock")
    try:
        mended: list[dict[str, Any]] = []
        where = mend_superblock(path, disk, others, None, dry_run)
        if where is not None:
            mended.append({"object": "lake.json", "how": where})
            if dry_run:
                return mended
        block = read_superblock(path)
        log = Log(disk, block, None)
        for bad in find_bad_entries(log, block, _heads(path), others):
            if bad.data is not None:
                mended.append({"object": bad.key, "how": bad.where})
                if not dry_run:
                    put_back(disk, log, bad)
        return mended
    finally:
        lock.release()


def _heads(path: Path) -> dict[str, tuple[int, bytes]]:
    """What an index says of the log, nothing where it cannot be read."""
    try:
        index = Index(path / "index", write=False)
    except DtafsError:
        return {}
    try:
        return index.heads()
    except DtafsError:
        return {}
    finally:
        index.close()
