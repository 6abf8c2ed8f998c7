"""Trying out what a store really does, with a few objects of a few bytes that are removed again.

What servers say of themselves is no guide: of eight that were tried, four answered success to a failed
condition, and a fifth to one kind of it; three more passed one writer after the other and failed with
several at once. So the condition is tried with several at once.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor

from dtafs.errors import ConflictError, DtafsError, RecallError, RefusedError, StorageError
from dtafs.store.tiers.base import Tier
from dtafs.store.tiers.directory import DirectoryTier
from dtafs.store.tiers.s3 import S3Tier
from dtafs.store.tiers.settings import ARCHIVES
from dtafs.store.tiers.state import Capabilities

FOLDER = ".dtafs-probe"
RACERS = 4


def probe(tier: Tier) -> Capabilities:
    """What the store behind a tier does. Raises what keeps it from being used at all."""
    stem = f"{FOLDER}/{secrets.token_hex(8)}"
    if isinstance(tier, S3Tier):
        return _probe_bucket(tier, stem)
    assert isinstance(tier, DirectoryTier)
    return _probe_directory(tier, stem)


def _probe_directory(tier: DirectoryTier, stem: str) -> Capabilities:
    """A directory does by itself what our own module does in it, unless its file system cannot."""
    try:
        tier.put(stem, b"first")
        try:
            tier.put(stem, b"other")
            conditional = "ignored"
        except ConflictError:
            conditional = "honoured"
        ranges = "honoured" if tier.read(stem, 1, 2) == b"ir" else "ignored"
    finally:
        with contextlib.suppress(DtafsError):
            tier.delete(stem)
    return Capabilities(
        conditional_put=conditional,
        overwrite="allowed",
        ranges=ranges,
        archive="recall" if tier.needs_recall else "none",
        object_lock="off",
    )


def _probe_bucket(tier: S3Tier, stem: str) -> Capabilities:
    bucket = tier.bucket
    bucket.require()
    names = [f"{stem}-{n}" for n in range(3)]
    try:
        bucket.put(names[0], b"first", create=False, storage_class=None)
        conditional = _conditional(tier, names[0], names[1])
        overwrite = "allowed"
        try:
            bucket.put(names[0], b"second", create=False, storage_class=None)
        except RefusedError:
            overwrite = "refused"
        bucket.get(names[0], 1, 2)
        archive = _archive(tier, names[2])
        lock = bucket.request("GET", "", {"object-lock": ""}, expect=(400, 403, 404, 405, 501))
    finally:
        for name in names:
            with contextlib.suppress(DtafsError):
                bucket.delete(name)
    return Capabilities(
        conditional_put=conditional,
        overwrite=overwrite,
        ranges="ignored" if bucket.ignores_ranges else "honoured",
        archive=archive,
        object_lock="enabled" if "<ObjectLockEnabled>Enabled<" in lock.body else "off",
    )


def _conditional(tier: S3Tier, there: str, absent: str) -> str:
    """What happens to a condition: first of one writer, then of several at once."""
    bucket = tier.bucket
    try:
        if bucket.put(there, b"other", create=True, storage_class=None):
            return "ignored"
    except (StorageError, RefusedError):
        return "refused"
    barrier = threading.Barrier(RACERS)

    def create(number: int) -> bool:
        barrier.wait()
        return bucket.put(absent, b"%d" % number, create=True, storage_class=None)

    with ThreadPoolExecutor(RACERS) as racers:
        winners = sum(racers.map(create, range(RACERS)))
    # None won: the answer to the one who did was lost.
    return "honoured" if winners <= 1 else "raced"


def _archive(tier: S3Tier, key: str) -> str:
    """What a storage class means here."""
    if (
        tier.storage_class is not None
    ):  # a store that knows no such class says so now, not at the first move
        tier.bucket.put(key, b"archived", create=False, storage_class=tier.storage_class)
    if tier.storage_class not in ARCHIVES:
        return "none"
    try:
        tier.bucket.get(key, 0, None)
    except RecallError:
        return "recall"
    return "at once"
