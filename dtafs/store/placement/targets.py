"""What a command names, `DATASET`, `DATASET:V` or `DATASET:V/PATH`, and the packs that it needs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from dtafs.core.names import version_name
from dtafs.core.tree import find
from dtafs.core.values import Entry, Kind
from dtafs.errors import NotFoundError
from dtafs.store.placement.contents import contents_below, nearest, packs_of_contents
from dtafs.store.placement.pins import Pin

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

GIB = 1 << 30
SPEED_BYTES = 50e6
"""What a tier is taken to give in a second, for estimates."""


class Target(NamedTuple):
    """A version, or a path in it; `version` is 0 where only a dataset is named."""

    dataset: str
    version: int
    path: str = ""

    @property
    def name(self) -> str:
        """How it is written."""
        if not self.version:
            return self.dataset
        return f"{self.dataset}:{version_name(self.version)}" + (
            f"/{self.path}" if self.path else ""
        )


def parse_target(lake: Lake, text: str) -> Target:
    """What a text names; NotFoundError says what does exist."""
    mark = next((i for i, char in enumerate(text) if char in ":@"), len(text))
    version, _, path = text[mark:].partition("/")
    if not version:
        return Target(lake.dataset(text).name, 0)
    row = lake.resolve(text[:mark] + version)
    return Target(row.dataset, row.number, path.strip("/"))


def target_of_pin(pin: Pin) -> Target:
    """What a pin names."""
    return Target(pin.dataset, pin.version, pin.path)


def packs_of_target(lake: Lake, target: Target) -> dict[bytes, int]:
    """The content packs that it needs, of a dataset its newest version, in the order of reading,
    each with the stored bytes that are needed of it. Blocks."""
    return packs_of_contents(lake, contents_below(lake, _entry(lake, target)))


def packs_of_targets(lake: Lake, texts: Iterable[str]) -> dict[bytes, int]:
    """As `packs_of_target`, of all that texts name."""
    found: dict[bytes, int] = {}
    for target in [parse_target(lake, text) for text in texts]:
        for pack, size in packs_of_target(lake, target).items():
            found[pack] = max(size, found.get(pack, 0))
    return found


def _entry(lake: Lake, target: Target) -> Entry:
    name = f"{target.dataset}:{version_name(target.version)}" if target.version else target.dataset
    row = lake.resolve(name)
    entry = lake.objects.top(row)
    for part in filter(None, os.fsencode(target.path).split(b"/")):
        found = find(lake.objects.node, entry.ref, part) if entry.kind == Kind.DIRECTORY else None
        if found is None:
            raise NotFoundError(f"{row.name} has no path {target.path!r}")
        entry = found.entry
    return entry


def plan_reading(lake: Lake, texts: Iterable[str]) -> dict[str, Any]:
    """What reading something takes: for each place, the packs and bytes that it has, what of that has
    to be moved, for how long that takes, and its price. Recalls nothing, and asks no tier.

    From a tier that can be read only what is needed is read; from an archive come whole packs.
    """
    places: dict[str, dict[str, Any]] = {}
    for pack, needed in packs_of_targets(lake, texts).items():
        row = lake.index.pack(pack)
        size = row.size if row is not None else needed
        name = nearest(lake, pack)
        archive = lake.tiers.is_archive(name)
        place = places.setdefault(name, {"tier": name, "archive": archive, "packs": 0})
        place["packs"] += 1
        place["size_bytes"] = place.get("size_bytes", 0) + size
        moved = 0 if name == "hot" else size if archive else needed
        place["moved_bytes"] = place.get("moved_bytes", 0) + moved
        place.setdefault("names", []).append(pack.hex())
    for name, place in places.items():
        settings = lake.tiers.settings.get(name)
        hours = settings.recall_hours if settings is not None and place["archive"] else 0.0
        place["time_s"] = round(hours * 3600 + place["moved_bytes"] / SPEED_BYTES, 1)
        price = settings.read_price_gib if settings is not None else 0.0
        place["price"] = round(price * place["moved_bytes"] / GIB, 4)
    order = sorted(places.values(), key=lambda place: (place["archive"], place["tier"] != "hot"))
    return {
        "places": order,
        "packs": sum(place["packs"] for place in order),
        "moved_bytes": sum(place["moved_bytes"] for place in order),
        "time_s": max((place["time_s"] for place in order), default=0.0),
        "price": round(sum(place["price"] for place in order), 4),
        "must_recall": any(place["archive"] for place in order),
    }
