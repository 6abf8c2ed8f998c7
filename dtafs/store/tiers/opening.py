"""The tiers that this host knows of one lake, each opened when it is first used.

The client of object stores takes a quarter of a second to import, and every command opens a lake, so
what a kind of tier needs is imported only then. A tier is used only after its copy of `lake.json` was
compared with the lake's: a table that names the bucket of another lake would mix the two.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from dtafs.core.format import Superblock, decode_superblock
from dtafs.core.names import suggest
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, RefusedError, StorageError
from dtafs.store.config import TierSettings
from dtafs.store.durable import Disk
from dtafs.store.tiers.base import Tier, read_whole
from dtafs.store.tiers.patience import PROMPT, SHORT, Counters, Patience, Retrying
from dtafs.store.tiers.settings import ARCHIVES, COLD, COLD_CLASS, parse_url, settled
from dtafs.store.tiers.state import Capabilities, add_counts, read_state

SUPERBLOCK_KEY = "lake.json"


class OpenTier:
    """A tier with what is counted on the way to it."""

    def __init__(self, tier: Tier, retrying: Retrying) -> None:
        self.tier, self.retrying = tier, retrying


def open_tier(
    name: str,
    settings: TierSettings,
    environment: Mapping[str, str],
    known: Capabilities,
    patience: Patience | None = None,
) -> OpenTier:
    """The tier that a table describes. Makes no request; RefusedError without credentials comes with
    the first one."""
    settings = settled(name, settings, environment)
    address = parse_url(settings.url)
    patience = patience or Patience(timeout_s=settings.timeout_s)
    retrying = Retrying(name, patience, Counters())
    if address.scheme == "file":
        from dtafs.store.tiers.directory import DirectoryTier

        archive = settings.storage_class is not None
        tier: Tier = DirectoryTier(
            name, Path(address.path), archive=archive, recall_days=settings.recall_days
        )
        return OpenTier(tier, retrying)
    from dtafs.store.tiers.bucket import Bucket
    from dtafs.store.tiers.credentials import find_credentials
    from dtafs.store.tiers.s3 import S3Tier
    from dtafs.store.tiers.signed import Target, check_endpoint

    region = settings.region or ""
    endpoint = check_endpoint(settings.endpoint or f"https://s3.{region}.amazonaws.com")
    find = partial(find_credentials, name, settings.profile, environment)
    target = Target(endpoint, region, address.bucket)
    bucket = Bucket(name, target, address.path, find, patience, retrying)
    tier = S3Tier(
        name,
        settings.url,
        bucket,
        retrying,
        storage_class=settings.storage_class,
        conditional=known.creates_safely,
        archives=known.archive != "at once",
        recall_days=settings.recall_days,
        priority=settings.recall_priority,
    )
    return OpenTier(tier, retrying)


def lake_in(tier: Tier) -> Superblock | None:
    """The superblock of the lake that a tier belongs to; None of a tier that belongs to none yet."""
    try:
        return read_whole(tier, SUPERBLOCK_KEY, decode_superblock)
    except NotFoundError:
        if tier.facts(SUPERBLOCK_KEY) is None:  # raises where all of the tier is gone
            return None
        raise
    except IntegrityError as error:
        raise IntegrityError(f"tier {tier.name}: {error}") from None


class Tiers(Mapping[str, Tier]):
    """The tiers of a lake by name, in the order of `config.toml`. Thread-safe. The first use of a tier
    asks it which lake's it is, so that is for threads that may wait."""

    def __init__(
        self,
        root: Path,
        superblock: Superblock,
        settings: Mapping[str, TierSettings],
        environment: Mapping[str, str],
        patience: Patience | None = None,
    ) -> None:
        self._root, self._superblock = root, superblock
        self.settings: Mapping[str, TierSettings] = dict(settings)
        self.environment, self._patience = environment, patience
        self._lock = threading.Lock()
        self._open: dict[str, OpenTier] = {}
        self._checked: set[str] = set()
        """Those of them that are known to be this lake's."""
        self._retired = weakref.WeakSet[Retrying]()
        """Of those that get no new users."""
        self._stopped = False
        self.mirroring = threading.Lock()
        """Held by a pass of the mirror, of which there is one at a time."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.settings)

    def __len__(self) -> int:
        return len(self.settings)

    def __contains__(self, name: object) -> bool:
        return name in self.settings

    def __getitem__(self, name: str) -> Tier:
        """A tier that can be used. NotFoundError, not KeyError, when there is no such tier, RefusedError
        when it was never attached or is another lake's, else what kept the tier from answering."""
        with self._lock:
            found = self._open.get(name) or self._opened(name)
            self._open[name] = found
            checked = name in self._checked
        if not checked:
            check_lake(found.tier, self._superblock)
            with self._lock:
                self._checked.add(name)
        return found.tier

    def is_archive(self, name: str) -> bool:
        """Whether what lies in a tier must be recalled before it is read, as far as the table says.

        Asks no tier, and reads nothing.
        """
        with self._lock:
            found = self._open.get(name)
        if found is not None:
            return found.tier.needs_recall
        settings = self.settings.get(name)
        if settings is None:
            return False
        scheme = settings.url.partition(":")[0]
        known = settings.storage_class or (COLD_CLASS.get(scheme) if name == COLD else None)
        return known is not None and (scheme == "file" or known in ARCHIVES)

    def _opened(self, name: str) -> OpenTier:
        settings = self.settings.get(name)
        if settings is None:
            near = suggest(name, self.settings)
            raise NotFoundError(f"config.toml has no tier {name!r}{near}")
        capabilities = read_state(self._root, name, settings.url).capabilities
        opened = open_tier(name, settings, self.environment, capabilities, self._patience)
        if self._stopped:
            opened.retrying.stop()
        return opened

    def ask(self, name: str) -> None:
        """Raise what keeps a tier from being used now; soon, whatever the others are waiting for."""
        settings = self.settings[name]
        known = read_state(self._root, name, settings.url).capabilities
        opened = open_tier(name, settings, self.environment, known, PROMPT)
        check_lake(opened.tier, self._superblock)

    def trouble(self, name: str) -> DtafsError | None:
        """What keeps a tier from being used now, for who has just met a failure there; None when it answers:
        then it was no failure of the tier as a whole."""
        if self._stopped:
            return StorageError(f"tier {name} is not asked any more: the process ends")
        if name not in self.settings:
            return NotFoundError(f"config.toml has no tier {name!r}")
        try:
            self.ask(name)
        except DtafsError as error:
            return error
        return None

    def use(self, name: str, tier: Tier) -> None:
        """Use this object for a tier from now on: tests put one that fails in the place of another."""
        with self._lock:
            patience = Retrying(name, self._patience or Patience(), Counters())
            self._open[name] = OpenTier(tier, patience)
            self._checked.add(name)

    def renew(self, settings: Mapping[str, TierSettings], disk: Disk) -> None:
        """Go by other settings from now on. What was opened before gets no new users; who uses it just now
        goes on, unless the settings of that tier are others, or it is gone."""
        self.save_counters(disk)
        with self._lock:
            before, self.settings = self.settings, dict(settings)
            dropped, self._open = self._open, {}
            self._checked.clear()
            for name, opened in dropped.items():
                if self.settings.get(name) == before.get(name):
                    self._retired.add(opened.retrying)
                else:
                    opened.retrying.stop()

    def hurry(self) -> None:
        """Be as patient from now on as somebody who waits at a terminal."""
        with self._lock:
            self._patience = SHORT
            for opened in self._open.values():
                opened.retrying.patience = SHORT

    def stop(self) -> None:
        """Have nobody wait for a tier any longer: a request that is under way is the last."""
        with self._lock:
            self._stopped = True
            for retrying in self._retired:
                retrying.stop()
            for opened in self._open.values():
                opened.retrying.stop()

    def counters(self, name: str) -> dict[str, int]:
        """What happened on the way to a tier, in this process since it was last saved."""
        with self._lock:
            found = self._open.get(name)
        return found.retrying.counters.snapshot() if found is not None else {}

    def save_counters(self, disk: Disk) -> None:
        """Add what happened to what this host remembers. Only the writer of the lake does."""
        with self._lock:
            opened = list(self._open.items())
        for name, found in opened:
            counts = found.retrying.counters.take()
            add_counts(disk, name, found.tier.url, counts, time.time_ns())

    def close(self, disk: Disk | None) -> None:
        """Have nobody wait for a tier any longer; with a disk, save the counters there."""
        self.stop()
        if disk is not None:
            with contextlib.suppress(DtafsError):  # nothing relies on them
                self.save_counters(disk)
        with self._lock:
            self._open.clear()
            self._checked.clear()


def check_lake(tier: Tier, superblock: Superblock) -> None:
    """Raise RefusedError unless a tier belongs to this lake."""
    found = lake_in(tier)
    if found is None:
        raise RefusedError(
            f"tier {tier.name} at {tier.url} was not attached to a lake yet: dtafsctl tier add {tier.name}"
        )
    if found.lake != superblock.lake:
        raise RefusedError(
            f"tier {tier.name} at {tier.url} belongs to another lake, {found.lake}: give this one a prefix "
            "of its own"
        )
