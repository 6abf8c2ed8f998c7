"""What a lake holds and what that takes: the numbers behind `dtafsctl stats`.

All sizes in bytes. *Logical* counts every file of every version; *unique* counts every chunk once;
*stored* is what packs take on the disk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtafs.core.format import PackKind, pack_key
from dtafs.store.condemn import read_marks
from dtafs.store.index_packs import PackRow
from dtafs.store.parity_upkeep import parity_files
from dtafs.store.placement.facts import placement_facts
from dtafs.store.placement.removal import MIRROR
from dtafs.store.quarantine import FOLDER as QUARANTINE
from dtafs.store.scrub import read_ledger, verification_facts
from dtafs.store.tiers.attach import tier_facts
from dtafs.store.tiers.mirror import mirror_facts

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


def collect_stats(lake: Lake) -> dict[str, Any]:
    """The numbers, in plain values. Reads rows of versions and packs, not chunks, and is quick."""
    datasets = lake.datasets()
    versions = [version for row in datasets for version in lake.versions(row.name)]
    named = lake.index.packs()
    content = _sums(row for _id, row in named if row.kind == PackKind.CONTENT)
    metadata = _sums(row for _id, row in named if row.kind == PackKind.METADATA)
    kept = [version for version in versions if not version.disposed]
    logical = sum(version.manifest.size_bytes for version in kept)
    return {
        "datasets": len(datasets),
        "versions": len(versions),
        "disposed_versions": len(versions) - len(kept),
        "files": sum(version.manifest.files for version in kept),
        "logical_bytes": logical,
        "unique_bytes": content["plain_bytes"],
        "stored_bytes": content["stored_bytes"] + metadata["stored_bytes"],
        "content": content,
        "metadata": metadata,
        "deduplication_ratio": _ratio(logical, content["plain_bytes"]),
        "compression_ratio": _ratio(content["plain_bytes"], content["stored_bytes"]),
        "space_ratio": _ratio(logical, content["stored_bytes"] + metadata["stored_bytes"]),
        "uncommitted_pack_bytes": _unnamed_bytes(lake, {pack for pack, _row in named}),
        "log_bytes": disk_bytes(lake.path / "log"),
        "index_bytes": disk_bytes(lake.path / "index"),
        "staging_bytes": disk_bytes(lake.path / "staging"),
        "cache_bytes": disk_bytes(lake.path / "cache"),
        "parity_files": len(parity_files(lake.path)),
        "parity_bytes": sum(parity_files(lake.path).values()),
        "quarantine_bytes": disk_bytes(lake.path / QUARANTINE),
        "condemned_bytes": _condemned_bytes(lake),
        "tiers": [tier_facts(lake, name) for name in lake.tiers],
        "mirror": mirror_facts(lake) if MIRROR in lake.tiers else None,
        "placement": placement_facts(lake),
        "verified": verification_facts((pack for pack, _row in named), read_ledger(lake.path)),
    }


def _sums(rows: Iterable[PackRow]) -> dict[str, Any]:
    packs = plain = stored = frames = chunks = 0
    for row in rows:
        packs, plain, stored = packs + 1, plain + row.plain, stored + row.size
        frames, chunks = frames + row.frames, chunks + row.chunks
    return {
        "packs": packs,
        "plain_bytes": plain,
        "stored_bytes": stored,
        "frames": frames,
        "chunks": chunks,
        "average_chunk_bytes": plain // chunks if chunks else 0,
        "average_frame_bytes": plain // frames if frames else 0,
    }


def _ratio(whole: int, part: int) -> float | None:
    """How many times smaller, to three digits; None where there is nothing to compare."""
    return round(whole / part, 3) if part else None


def _unnamed_bytes(lake: Lake, named: set[bytes]) -> int:
    """What packs take that no log entry names: uncommitted work, or left by a crash."""
    hexes = {pack.hex() for pack in named}
    total = 0
    for path, size in _files(lake.path / "packs"):
        total += size if path.name not in hexes else 0
    return total


def _condemned_bytes(lake: Lake) -> int:
    """What packs take that a collection will delete."""
    total = 0
    for pack in read_marks(lake.path):
        with contextlib.suppress(FileNotFoundError):
            total += (lake.path / pack_key(pack)).stat().st_size
    return total


def disk_bytes(top: Path) -> int:
    """What the files below a directory take on the disk: sparse ones less than their size."""
    return sum(size for _path, size in _files(top))


def _files(top: Path) -> Iterable[tuple[Path, int]]:
    for folder, _directories, names in os.walk(top):
        for name in names:
            path = Path(folder, name)
            try:
                yield path, path.lstat().st_blocks * 512
            except FileNotFoundError:
                continue  # a temporary file that is gone by now
