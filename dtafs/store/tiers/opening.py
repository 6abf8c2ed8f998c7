"""From the configuration of this host to the tiers of a lake."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from dtafs.core.names import suggest
from dtafs.errors import NotFoundError, UnsupportedError
from dtafs.store.config import Config, TierPlace
from dtafs.store.tiers.base import Tier
from dtafs.store.tiers.directory import DirectoryTier


class Tiers(dict[str, Tier]):
    """The tiers that this host knows, by name; NotFoundError, naming the nearest, for another."""

    def __missing__(self, name: str) -> Tier:
        raise NotFoundError(f"config.toml has no tier {name!r}{suggest(name, self)}")


def open_tiers(config: Config) -> Tiers:
    """The tiers of `config.toml`. Asks none of them anything."""
    return Tiers((name, open_tier(name, place)) for name, place in config.tiers.items())


def open_tier(name: str, place: TierPlace) -> Tier:
    """One tier; UnsupportedError for a kind of store that this release does not know."""
    if place.url.startswith("file://"):
        root = Path(unquote(place.url.removeprefix("file://")))
        archive = bool(place.storage_class)
        return DirectoryTier(name, root, archive=archive, recall_days=place.recall_days)
    raise UnsupportedError(f"tier {name!r}: this release has no client for {place.url}")
