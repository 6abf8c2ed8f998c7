"""What is lost with some chunks: datasets, versions, paths, and the ranges of bytes in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from dtafs.core.chunklist import chunks_in
from dtafs.core.nodes import Fetch
from dtafs.core.tree import find, open_root
from dtafs.core.values import Entry, Kind
from dtafs.store.checks_tree import Attribution
from dtafs.store.findings import PATHS_MAX
from dtafs.store.repair_staged import StagedOriginals
from dtafs.store.survey import DAMAGE, Spot, Survey

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

RANGES_MAX = 20
"""Ranges that are named of one file; what follows is in the last of them."""

Range = list[int]
"""The first byte and the one after the last."""


def losses(
    survey: Survey, staged: StagedOriginals, lost: Mapping[bytes, str]
) -> dict[str, list[dict[str, Any]]]:
    """For each object from which chunks are `lost` (chunk to object) what of which paths that is.

    Chunks that neither a version nor a staged file needs are no loss, and are left out.
    """
    wanted = set(lost)
    found: dict[str, dict[tuple[str, str], _Path]] = {}
    for chunk, spots in Attribution(survey, wanted).spots().items():
        for spot in spots:
            of = found.setdefault(lost[chunk], {})
            path = os.fsdecode(spot.path)
            known = of.setdefault((spot.dataset, path), _Path())
            known.versions.add(spot.version)
            if known.ranges is None and path:
                known.ranges = _ranges(survey, spot, wanted)
    lake = survey.lake
    for dataset, ino, chunk in staged.users(wanted):
        path = os.fsdecode(_staged_path(lake, dataset, ino))
        found.setdefault(lost[chunk], {}).setdefault((dataset, path), _Path()).staged = True
    return {name: _facts(of) for name, of in found.items()}


class _Path:
    def __init__(self) -> None:
        self.versions: set[int] = set()
        self.ranges: list[Range] | None = None
        self.staged = False


def _facts(of: dict[tuple[str, str], _Path]) -> list[dict[str, Any]]:
    by_dataset: dict[str, list[tuple[str, _Path]]] = {}
    for (dataset, path), known in sorted(of.items(), key=lambda item: item[0]):
        by_dataset.setdefault(dataset, []).append((path, known))
    return [
        {
            "dataset": dataset,
            "versions": sorted(set().union(*(known.versions for _path, known in paths))),
            "staged": any(known.staged for _path, known in paths),
            "paths": [
                {"path": path, "ranges": known.ranges} for path, known in paths[:PATHS_MAX] if path
            ],
            "more": max(0, len(paths) - PATHS_MAX),
        }
        for dataset, paths in by_dataset.items()
    ]


def _staged_path(lake: Lake, dataset: str, ino: int) -> bytes:
    try:
        return lake.staging(dataset).path_of(ino)
    except DAMAGE:
        return b""


def _ranges(survey: Survey, spot: Spot, wanted: set[bytes]) -> list[Range] | None:
    """The ranges of a file that are lost; None where that cannot be known, or it is no file."""
    fetch = survey.objects.node
    try:
        entry = _entry(survey, fetch, spot)
        if entry is None or entry.kind != Kind.FILE:
            return None
        return _of_file(fetch, survey.objects.chunk_id, entry, wanted)
    except DAMAGE:
        return None


def _entry(survey: Survey, fetch: Fetch, spot: Spot) -> Entry | None:
    version = next(
        v for v in survey.versions if (v.dataset, v.number) == (spot.dataset, spot.version)
    )
    entry = open_root(fetch, bytes.fromhex(version.manifest.root))
    for name in spot.path.split(b"/"):
        located = find(fetch, entry.ref, name)
        if located is None:
            return None
        entry = located.entry
    return entry


def _of_file(
    fetch: Fetch, chunk_id: Callable[[bytes], bytes], entry: Entry, wanted: set[bytes]
) -> list[Range]:
    if entry.ref in wanted:
        return [[0, entry.size]]
    ranges: list[Range] = []
    offset = 0
    for piece in chunks_in(fetch, chunk_id, entry.content):
        if piece.id in wanted:
            if ranges and (ranges[-1][1] == offset or len(ranges) == RANGES_MAX):
                ranges[-1][1] = offset + piece.size
            else:
                ranges.append([offset, offset + piece.size])
        offset += piece.size
    return ranges
