"""What is lost with some chunks: datasets, versions, paths, and the ranges of bytes in them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dtafs.store.affected import ranges_at
from dtafs.store.checks_tree import Attribution
from dtafs.store.findings import PATHS_MAX, Range
from dtafs.store.repair_staged import StagedOriginals
from dtafs.store.survey import DAMAGE, Survey

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


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
                known.ranges = ranges_at(survey, spot, wanted)
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
                {"path": path, "ranges": known.ranges and [list(one) for one in known.ranges]}
                for path, known in paths[:PATHS_MAX]
                if path
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
