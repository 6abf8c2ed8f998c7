"""Destroying what lies in quarantine of versions that were disposed of: packs, parity, and names.

A damaged pack says in its footer what it holds; its parity does not, and goes when its pack does, or where
there is no such pack in quarantine any more: nothing could be mended with it. Reports of what was lost
name paths; where a version was among those that is disposed of now, only the paths stay that another of
them has, and the rest is counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dtafs.core.tree import find
from dtafs.core.values import Kind
from dtafs.errors import DtafsError, IntegrityError, NotFoundError
from dtafs.store.packs import Pack, read_footer_of
from dtafs.store.quarantine import quarantined_packs, quarantined_parity, reports, write_report

if TYPE_CHECKING:
    from dtafs.store.index import VersionRow
    from dtafs.store.lake import Lake


def destroy_aside(lake: Lake, holds_dead: Callable[[Pack], bool], left: dict[str, str]) -> int:
    """Delete what lies in quarantine and holds what is dead; its size in bytes.

    What may hold some of it and does not say so is left, and noted in `left`.
    """
    size = 0
    for path in quarantined_packs(lake.path):
        try:
            pack = bytes.fromhex(path.name.partition(".")[0])
            held = holds_dead(read_footer_of(path, pack))
        except (ValueError, NotFoundError, IntegrityError):
            left[_key(lake, path)] = (
                "it does not say what it holds; delete it when you do not need it"
            )
            continue
        if held:
            size += _delete(lake, path)
    for path in _without_pack(lake):
        size += _delete(lake, path)
    for path in reports(lake.path):
        try:
            _forget_names(lake, path)
        except (ValueError, KeyError, TypeError, AttributeError):
            left[_key(lake, path)] = "it cannot be read; delete it when you do not need it"
    return size


def _key(lake: Lake, path: Path) -> str:
    return str(path.relative_to(lake.path))


def _delete(lake: Lake, path: Path) -> int:
    size = path.stat().st_size
    lake.disk.unlink(path)
    return size


def _without_pack(lake: Lake) -> list[Path]:
    """The parity whose damaged pack is not there."""
    packs = {path.name.partition(".")[0] for path in quarantined_packs(lake.path)}
    return [p for p in quarantined_parity(lake.path) if p.name.partition(".")[0] not in packs]


def _forget_names(lake: Lake, path: Path) -> None:
    facts = json.loads(path.read_bytes())
    changed = False
    for affected in facts["affects"]:
        rows = [lake.index.version(affected["dataset"], number) for number in affected["versions"]]
        kept = [row for row in rows if row is not None and not row.disposed]
        if len(kept) == len(rows):
            continue
        told = affected["paths"]
        stay = [one for one in told if any(_has(lake, row, one["path"]) for row in kept)]
        if len(stay) < len(told):
            affected["paths"], changed = stay, True
            affected["more"] += len(told) - len(stay)
    if changed:
        write_report(lake.disk, lake.path, path.stem, facts)


def _has(lake: Lake, row: VersionRow, path: str) -> bool:
    """Whether a version that is kept has a path; a name that cannot be looked up goes."""
    try:
        entry = lake.objects.top(row)
        for name in _parts(path):
            located = None
            if entry.kind == Kind.DIRECTORY:
                located = find(lake.objects.node, entry.ref, name)
            if located is None:
                return False
            entry = located.entry
    except DtafsError:
        return False
    return True


def _parts(path: str) -> Iterator[bytes]:
    yield from os.fsencode(path).split(b"/")
