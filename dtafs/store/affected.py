"""What is affected when some chunks and nodes cannot be read: paths, and ranges of their bytes."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from itertools import islice

from dtafs.core.chunklist import ranges_with
from dtafs.core.tree import find, open_root
from dtafs.core.values import Content, Entry, Kind
from dtafs.store.findings import PATHS_MAX, Affected, Range
from dtafs.store.survey import DAMAGE, Spot, Survey

RANGES_MAX = 20
"""Ranges that are named of one file; what follows is in the last of them."""


SPOTS_ASKED = 8
"""In so many versions of a path the ranges of bytes are looked for."""


def affected(
    survey: Survey, spots: Iterable[Spot], lost: Container[bytes] = ()
) -> tuple[Affected, ...]:
    """Spots gathered by dataset, with a bounded number of paths each; and, where something is lost,
    the ranges of each path that lie in lost chunks, or below lost nodes."""
    versions: dict[str, set[int]] = {}
    paths: dict[str, dict[bytes, list[Spot]]] = {}
    for spot in spots:
        versions.setdefault(spot.dataset, set()).add(spot.version)
        if spot.path:  # otherwise it is the whole version
            of_path = paths.setdefault(spot.dataset, {}).setdefault(spot.path, [])
            if len(of_path) < SPOTS_ASKED and spot not in of_path:
                of_path.append(spot)
    return tuple(
        _bounded(survey, name, versions[name], paths.get(name, {}), lost)
        for name in sorted(versions)
    )


def _bounded(
    survey: Survey,
    dataset: str,
    versions: set[int],
    paths: dict[bytes, list[Spot]],
    lost: Container[bytes],
) -> Affected:
    shown = list(islice(paths, PATHS_MAX))
    ranges: tuple[tuple[Range, ...], ...] = ()
    if lost:
        ranges = tuple(tuple(_of_path(survey, paths[path], lost)) for path in shown)
    names = tuple(os.fsdecode(path) for path in shown)
    return Affected(dataset, tuple(sorted(versions)), names, len(paths) - len(shown), ranges)


def _of_path(survey: Survey, spots: list[Spot], lost: Container[bytes]) -> list[Range]:
    return merged(sorted(one for spot in spots for one in ranges_at(survey, spot, lost) or ()))


def ranges_at(survey: Survey, spot: Spot, lost: Container[bytes]) -> list[Range] | None:
    """The ranges of the file at a path of a version that lie in lost chunks, or below lost nodes.

    None where that cannot be known, or it is no file.
    """
    try:
        entry = _entry(survey, spot)
    except DAMAGE:
        return None
    if entry is None or entry.kind != Kind.FILE:
        return None
    return ranges_of(survey, entry.content, lost)


def ranges_of(survey: Survey, content: Content, lost: Container[bytes]) -> list[Range] | None:
    """The same of a content."""
    objects = survey.objects
    try:
        return merged(ranges_with(objects.node, objects.chunk_id, content, lost))
    except DAMAGE:
        return None


def merged(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order as few as possible, and not too many."""
    found: list[Range] = []
    for start, end in ranges:
        if found and (found[-1][1] >= start or len(found) == RANGES_MAX):
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _entry(survey: Survey, spot: Spot) -> Entry | None:
    fetch = survey.objects.node
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
