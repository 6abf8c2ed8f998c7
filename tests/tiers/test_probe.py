"""What stores really do, and that a store is used only for what it does."""

from __future__ import annotations

import pytest

from dtafs.errors import ConflictError, StorageFullError
from dtafs.store.tiers.probe import probe
from dtafs.store.tiers.state import Capabilities
from tests.support.fault_proxy import Fault, fault_proxy
from tests.support.object_stores import ObjectStore
from tests.support.tiers import opened, tier_at

KEY = "packs/ab/" + "ab" * 32


def test_servers_that_do_what_they_should(
    seaweed_store: ObjectStore, moto_store: ObjectStore, prefix: str
) -> None:
    warm = probe(tier_at(seaweed_store, prefix))
    assert warm == Capabilities("honoured", "allowed", "honoured", "none", "off")
    cold = probe(tier_at(moto_store, prefix, "GLACIER"))
    assert cold == Capabilities("honoured", "allowed", "honoured", "recall", "off")
    # SeaweedFS keeps the class and gives the object all the same.
    assert probe(tier_at(seaweed_store, prefix, "GLACIER")).archive == "at once"
    assert list(tier_at(seaweed_store, prefix).keys("")) == []


def test_a_store_that_ignores_conditions(moto_store: ObjectStore, prefix: str) -> None:
    """Success is answered to a condition that failed: seen, and the object is asked for first."""
    with fault_proxy(moto_store, without=("If-None-Match", "Range")) as proxy:
        found = probe(opened(proxy.store, prefix).tier)
        assert (found.conditional_put, found.ranges) == ("ignored", "ignored")
        assert not found.creates_safely
        tier = opened(proxy.store, prefix, known=found).tier
        tier.put(KEY, b"these")
        tier.put(KEY, b"these")
        with pytest.raises(ConflictError):
            tier.put(KEY, b"those")
        tier.verify(KEY, b"these")
        assert tier.read(KEY, 1, 2) == b"he"
        parts: list[bytes] = []
        opened(proxy.store, prefix, known=found).tier.fetch(KEY, parts.append)
        assert b"".join(parts) == b"these"


def test_nothing_is_left_of_a_probe_that_fails(moto_store: ObjectStore, prefix: str) -> None:
    with fault_proxy(moto_store) as proxy:
        proxy.plan(Fault.NONE, method="PUT")
        proxy.plan(Fault.FULL, method="PUT")
        with pytest.raises(StorageFullError):
            probe(opened(proxy.store, prefix).tier)
    assert list(tier_at(moto_store, prefix).keys("")) == []
