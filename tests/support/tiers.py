"""Tiers for tests: opened as the lake opens them, with less patience."""

from __future__ import annotations

from collections.abc import Mapping

from dtafs.store.config import TierSettings
from dtafs.store.tiers.base import Tier
from dtafs.store.tiers.opening import OpenTier, open_tier
from dtafs.store.tiers.patience import Patience
from dtafs.store.tiers.state import Capabilities
from tests.support.object_stores import ObjectStore

QUICK = Patience(
    timeout_s=2.0,
    connect_s=2.0,
    attempts=4,
    first_pause_s=0.01,
    pause_max_s=0.05,
    give_up_s=20.0,
)
"""Enough for faults that pass, and little waiting."""

PROBED = Capabilities(conditional_put="honoured", archive="recall")
"""What the servers of the tests do."""


def opened(
    store: ObjectStore,
    prefix: str,
    storage_class: str | None = None,
    *,
    patience: Patience = QUICK,
    known: Capabilities = PROBED,
    environment: Mapping[str, str] | None = None,
) -> OpenTier:
    """A tier at a server, called warm, or cold if it has a storage class; nothing is asked yet."""
    settings = TierSettings(store.url(prefix), storage_class=storage_class)
    name = "cold" if storage_class else "warm"
    return open_tier(name, settings, environment or store.environment(), known, patience)


def tier_at(store: ObjectStore, prefix: str, storage_class: str | None = None) -> Tier:
    """The tier alone."""
    return opened(store, prefix, storage_class).tier
