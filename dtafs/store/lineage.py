"""What versions were made from, back to the beginning, as trees of plain values.

Sources are taken from manifests as they were given: they may name versions that are not there, or each
other in a circle, and a chain of them may be of any length. Each version is told once; where a tree
ends for another reason than that it has no sources, `ends` says why.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.names import version_name
from dtafs.core.values import Source
from dtafs.store.index import VersionRow

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

NESTED_MAX = 64
"""Trees are at most so deep, that every reader of JSON can take them, and a person follow them."""

ABOVE, BELOW, CIRCLE, MISSING = "above", "below", "circle", "missing"
"""Its sources were told before; they are, as a tree of its own that follows; it was made from itself, as
the manifests have it; the lake does not have it."""

Tree = dict[str, Any]


def lineage_of(lake: Lake, rows: Iterable[VersionRow]) -> list[Tree]:
    """A tree for each version, each followed by what of it is too deep. Blocks; asks the index alone."""
    trees: list[Tree] = []
    told: set[str] = set()
    path: dict[str, tuple[Iterator[Source], list[Tree], int]] = {}
    """The versions from the root to where we are: sources that are left, trees of the others, depth."""

    def enter(row: VersionRow, among: list[Tree], depth: int) -> None:
        name = row.name
        if name in told:
            among.append(_tree(row, CIRCLE if name in path else ABOVE))
            return
        if depth == NESTED_MAX:
            among.append(_tree(row, BELOW))
            among, depth = trees, 0
        tree = _tree(row, None)
        among.append(tree)
        told.add(name)
        path[name] = iter(row.manifest.sources), tree["sources"], depth + 1

    for row in rows:
        enter(row, trees, 0)
        while path:
            name = next(reversed(path))
            sources, among, depth = path[name]
            source = next(sources, None)
            if source is None:
                del path[name]
                continue
            found = lake.index.version(source.dataset, source.version)
            if found is None:
                among.append(_missing(source))
            else:
                enter(found, among, depth)
    return trees


def _tree(row: VersionRow, ends: str | None) -> Tree:
    manifest = row.manifest
    return {
        "id": row.name,
        "sha256": row.manifest_sha256.hex(),
        "message": manifest.message,
        "disposed": row.disposed > 0,
        "transform": msgspec.to_builtins(manifest.transform),
        "ends": ends,
        "sources": [],
    }


def _missing(source: Source) -> Tree:
    return {
        "id": f"{source.dataset}:{version_name(source.version)}",
        "sha256": source.manifest,
        "message": "",
        "disposed": False,
        "transform": None,
        "ends": MISSING,
        "sources": [],
    }
