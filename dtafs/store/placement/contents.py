"""From what users see to the packs that hold it: of a file, a directory, a version."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dtafs.core.tree import walk
from dtafs.core.values import Content, Entry, Kind
from dtafs.errors import IntegrityError
from dtafs.store.placement.stubs import Where

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

AT_ONCE = 8_192
"""Chunks that are looked up in one txn, which costs more than a lookup."""

SAMPLES = 16
"""Chunks of a large file that are looked up to say roughly how much of it is here."""


def packs_of_contents(lake: Lake, contents: Iterable[Content]) -> dict[bytes, int]:
    """The packs that contents need, in the order of their first use, each with the bytes that are
    needed of it, as they are stored. Blocks where chunk lists are read.

    IntegrityError when a chunk is in no pack.
    """
    found: OrderedDict[bytes, dict[int, int]] = OrderedDict()
    chunks = _chunks(lake, contents)
    while some := list(islice(chunks, AT_ONCE)):
        places = lake.index.places_of(some)
        for chunk in some:
            place = places.get(chunk) or lake.locate(chunk)
            if place is None:
                raise IntegrityError(f"chunk {chunk.hex()} is in no pack that the index knows")
            found.setdefault(place.pack, {})[place.offset] = place.stored
    return {pack: sum(frames.values()) for pack, frames in found.items()}


def _chunks(lake: Lake, contents: Iterable[Content]) -> Iterator[bytes]:
    for content in contents:
        if content.size:
            for piece in lake.objects.pieces(content):
                yield piece.id


def contents_below(lake: Lake, entry: Entry) -> Iterator[Content]:
    """The contents of a file, or of all files below a directory."""
    if entry.kind == Kind.FILE:
        yield entry.content
        return
    if entry.kind == Kind.DIRECTORY:
        for _path, found in walk(lake.objects.node, entry):
            if found.kind == Kind.FILE and found.size:
                yield found.content


def share_here(lake: Lake, content: Content) -> float:
    """How much of a content is on the hot disk, from 0 to 1: of a large file by SAMPLES of its chunks.

    Never blocks; raises ColdNode or ColdPlace where something must be read from the disk first.
    """
    if not content.size:
        return 1.0
    if not content.chunk_list:
        return float(_is_here(lake, lake.objects.chunk_id(content.sha256)))
    node = lake.objects.cached_node(content.chunk_list)
    while node.level:
        node = lake.objects.cached_node(node.spans[len(node.spans) // 2].id)
    step = max(1, len(node.spans) // SAMPLES)
    sampled = [_is_here(lake, span.id) for span in node.spans[::step]]
    return sum(sampled) / len(sampled)


def _is_here(lake: Lake, chunk: bytes) -> bool:
    place = lake.locate(chunk)
    return place is None or lake.placed.known(place.pack).hot


def places_of(lake: Lake, content: Content) -> list[str]:
    """The names of the places that a reader of a content depends on, hot or else the nearest tier
    of each pack, sorted. Blocks where chunk lists are read."""
    found = set()
    for pack in packs_of_contents(lake, [content]):
        found.add(nearest(lake, pack))
    return sorted(found)


def nearest(lake: Lake, pack: bytes) -> str:
    """The place that a pack would be read from: "hot", a tier, or "missing"."""
    return nearest_of(lake, lake.placed.where(pack))


def nearest_of(lake: Lake, where: Where) -> str:
    """The place from which a pack would be read that lies there."""
    if where.hot:
        return "hot"
    tiers = [name for name in where.tiers if name in lake.tiers]
    readable = [name for name in tiers if not lake.tiers.is_archive(name)]
    return (readable or tiers or list(where.tiers) or ["missing"])[0]


def is_archived(lake: Lake, where: Where) -> bool:
    """Whether a pack that lies there must be recalled before it is read."""
    name = nearest_of(lake, where)
    return lake.tiers.is_archive(name)
