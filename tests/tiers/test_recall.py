"""Recalling from an archive: asked for once, watched, and what can go wrong with it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from dtafs.errors import ConflictError, IntegrityError, RecallError, UnsupportedError
from dtafs.store.tiers.base import State
from dtafs.store.tiers.state import Capabilities
from tests.support.object_stores import ObjectStore
from tests.support.tiers import opened, tier_at

KEY = "packs/ab/" + "ab" * 32


def set_transition(store: ObjectStore, progression: str, times: int) -> None:
    """How many times moto says that a restore is under way before it is done."""
    body: dict[str, Any] = {
        "model_name": "s3::keyrestore",
        "transition": {"progression": progression, "times": times},
    }
    request = urllib.request.Request(
        f"{store.endpoint}/moto-api/state-manager/set-transition",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request):
        pass


@pytest.fixture
def slow_archive(moto_store: ObjectStore) -> Iterator[ObjectStore]:
    """A store that takes a while to restore an object: until it was asked three times."""
    set_transition(moto_store, "manual", 3)
    yield moto_store
    set_transition(moto_store, "immediate", 0)


def test_a_recall_is_watched(slow_archive: ObjectStore, prefix: str) -> None:
    tier = tier_at(slow_archive, prefix, "GLACIER")
    tier.put(KEY, b"these")
    states = []
    tier.recall(KEY)
    for _ in range(6):
        facts = tier.facts(KEY)
        assert facts is not None and facts.size_bytes == 5
        states.append(facts.state)
        if facts.state is State.READY:
            break
        with pytest.raises(RecallError):
            tier.read(KEY)
        tier.recall(KEY)  # asking again is fine, and asks for nothing more
    assert states[0] is State.RECALLING and states[-1] is State.READY
    assert tier.read(KEY) == b"these"


def test_an_archived_object_is_judged_by_its_checksum(moto_store: ObjectStore, prefix: str) -> None:
    """It cannot be read back, so a move to an archive relies on what the store says of it."""
    tier = tier_at(moto_store, prefix, "DEEP_ARCHIVE")
    tier.put(KEY, b"these")
    tier.verify(KEY, b"these")
    for other in (b"those", b"these and more"):
        with pytest.raises(IntegrityError, match="by the store's own checksum"):
            tier.verify(KEY, other)
        with pytest.raises(ConflictError):
            tier.put(KEY, other)


def test_a_store_that_only_keeps_the_class(seaweed_store: ObjectStore, prefix: str) -> None:
    """SeaweedFS says GLACIER and reads at once; after the probe nothing is recalled from it."""
    unprobed = tier_at(seaweed_store, prefix, "GLACIER")
    unprobed.put(KEY, b"these")
    with pytest.raises(UnsupportedError, match="cannot restore it"):
        unprobed.recall(KEY)
    known = Capabilities(conditional_put="honoured", archive="at once")
    tier = opened(seaweed_store, prefix, "GLACIER", known=known).tier
    assert not tier.needs_recall
    assert tier.read(KEY) == b"these"


def test_the_log_is_never_archived(moto_store: ObjectStore, prefix: str) -> None:
    tier = tier_at(moto_store, prefix, "GLACIER")
    tier.put("log/d/0000000001", b"entry")
    assert tier.read("log/d/0000000001") == b"entry"
