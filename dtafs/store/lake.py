"""A lake in a directory: making one, opening it, and what everything else is reached through.

Opening for writing takes the lock, removes what a crash left in `tmp/`, replays into the index what
the log has and the index has not, and completes a commit whose entry was written but whose staging
was not moved on. Opening for reading takes no lock and sees the newest state that the index has.
Thread-safe but for staging, whose metadata belongs to one thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtafs.core.chunking import ChunkParameters
from dtafs.core.entries import check_place, make_log_entry
from dtafs.core.format import Superblock
from dtafs.core.names import (
    LAKE_LOG,
    VersionSpec,
    check_dataset_name,
    check_tag,
    parse_spec,
    suggest,
)
from dtafs.core.parity import parity_percent
from dtafs.core.records import DISPOSITION_KINDS, LAKE_KINDS
from dtafs.core.values import Actor
from dtafs.errors import (
    ConflictError,
    DisposedError,
    DtafsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StorageFullError,
)
from dtafs.store.condemn import Condemned
from dtafs.store.config import Config, load_config
from dtafs.store.crypto import Signer
from dtafs.store.durable import Disk
from dtafs.store.founding import FOLDERS, found_lake, read_superblock, staging_damage
from dtafs.store.hashstates import HashStates
from dtafs.store.index import DatasetRow, Index, Step, VersionRow
from dtafs.store.lock import WriterLock
from dtafs.store.log import Appended, Log
from dtafs.store.objects import Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import Place
from dtafs.store.pending import open_pending
from dtafs.store.placement.far import Far
from dtafs.store.placement.heat import Heat
from dtafs.store.placement.recalls import Recalls
from dtafs.store.placement.stubs import Placed
from dtafs.store.replay import apply_entry, count_gaps, replay
from dtafs.store.resolving import resolve
from dtafs.store.tiers.opening import Tiers

if TYPE_CHECKING:
    from dtafs.store.staging.area import StagingArea
    from dtafs.store.staging.staging import Staging
    from dtafs.store.tiers.base import Tier


log = logging.getLogger(__name__)

FROM_THE_INDEX = frozenset({"committed", "collected"})
"""Kinds of entries whose bodies follow from the index: one that does not fit keeps the lake shut."""


class Lake:
    """An open lake. Use `Lake.create` or `Lake.open`; close it, or use it as a context manager."""

    def __init__(
        self, path: Path, disk: Disk, superblock: Superblock, lock: WriterLock | None
    ) -> None:
        self.path, self.disk, self.superblock, self.lock = path, disk, superblock, lock
        self.config: Config = load_config(path / "config.toml")
        self.can_write = lock is not None
        self.parity = parity_percent(superblock.optional)
        signer = Signer.load(path / "keys" / "signing.pem") if lock is not None else None
        if signer is not None and signer.public_key.hex() != superblock.public_key:
            raise IntegrityError(
                "the signing key in keys/ is not the one of this lake: restore the right one"
            )
        self.log = Log(disk, superblock, signer)
        self.index = Index(path / "index", write=self.can_write)
        self._retired: list[Index] = []
        self.pending = None
        if self.can_write:
            self.pending = open_pending(path, self.index)
        # Where AWS's own tools look for credentials, a library has to look as well.
        self.tiers = Tiers(path, superblock, self.config.tiers, os.environ)
        """The tiers that this host knows, by name."""
        self.placed = Placed(path, disk)
        self.far = Far(path, disk, self.placed, self.tier, self.config.cache.far_mib << 20)
        self.heat = Heat(path)
        self.files = PackFiles(path, self.far, self.heat.note if self.can_write else None)
        self.disk.relieve = self.files.close_one
        self.condemned = Condemned(disk, path)
        self.objects = Objects(
            self.files,
            self.locate,
            self.config.cache,
            self._renew_index,
            self.condemned.users,
            self.locate_all,
        )
        self.hash_states = HashStates()
        self.append_lock = threading.RLock()
        """Held while an entry is added: who holds it sees a log that stands still."""
        self.recalls = Recalls(self) if self.can_write else None
        self._behind = False
        self.clock: Callable[[], int] = lambda: time.time_ns()
        """What time the host says that it is, in nanoseconds since the epoch."""
        self._area: StagingArea | None = None

    @staticmethod
    def create(
        path: Path,
        *,
        parameters: ChunkParameters | None = None,
        disk: Disk | None = None,
        parity: int = 0,
    ) -> Lake:
        """Make a lake in a directory that is absent or empty, and open it for writing.

        A directory in which making one was interrupted is taken up again. `parity`: in percent.
        """
        path = path.absolute()
        disk = disk or Disk(path)
        found_lake(path, disk, parameters or ChunkParameters(), parity)
        return Lake.open(path, disk=disk)

    @staticmethod
    def open(
        path: Path, *, write: bool = True, wait_s: float = 0.0, disk: Disk | None = None
    ) -> Lake:
        """Open a lake; with `write`, as its only writer (BusyError names who is that now)."""
        path = path.absolute()
        superblock = read_superblock(path)
        disk = disk or Disk(path)
        if not write:
            return Lake(path, disk, superblock, None)
        for folder in FOLDERS:
            disk.make_directory(path / folder)
        lock = WriterLock(path / "run" / "lock", wait_s)
        try:
            disk.clear_directory(path / "tmp")
            lake = Lake(path, disk, superblock, lock)
        except BaseException:
            lock.release()
            raise
        try:
            lake.replay()
            if lake.index.lacks_gaps:
                with contextlib.suppress(IntegrityError):  # `check` names the entry
                    count_gaps(lake.log, lake.index)
            lake._complete_commits()
        except BaseException:
            lake.close()
            raise
        return lake

    def close(self) -> None:
        """Flush staging, close every file, release the lock. May be called twice.

        Staging that cannot be flushed raises once all else is closed.
        """
        with contextlib.ExitStack() as last_first:
            if self.lock is not None:
                last_first.callback(self.lock.release)
                self.lock = None
            if self.pending is not None:
                last_first.callback(self.pending.close)
            for index in (self.index, *self._retired):
                last_first.callback(index.close)
            last_first.callback(self.far.close)
            last_first.callback(self.files.close)
            last_first.callback(self.tiers.close, self.disk if self.can_write else None)
            area, self._area = self._area, None
            if area is not None:
                last_first.callback(area.close)
            if self.can_write and self.tiers:
                with contextlib.suppress(DtafsError):  # what was read lately counts as unread
                    self.heat.save(self.disk)

    def __enter__(self) -> Lake:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def locate(self, chunk: bytes) -> Place | None:
        """Where a chunk of a version, or of uncommitted work, lies; None where nothing has it."""
        place = self.index.place(chunk)
        if place is None and self.pending is not None:
            place = self.pending.place(chunk)
        return place

    def locate_all(self, chunks: Sequence[bytes]) -> dict[bytes, Place]:
        """Where those of some chunks lie that belong to a version."""
        return self.index.places_of(chunks)

    def tier(self, name: str) -> Tier:
        """A tier by its name; `Tiers` says what else than NotFoundError this may raise."""
        return self.tiers[name]

    def _renew_index(self) -> None:
        """Adopt an index that another process has put in the place of the one that is open."""
        if not self.can_write and not self.index.is_current:
            self._retired.append(self.index)  # somebody may be reading from it
            self.index = Index(self.path / "index", write=False)

    def now_ns(self) -> int:
        """The host's clock, but later than every entry: times never run backwards in a lake."""
        return max(self.clock(), self.index.newest_time_ns() + 1)

    # The log and its view

    def replay(self, into: Index | None = None) -> int:
        """Apply what the log has and the index has not, or another index; how many entries."""
        with self.append_lock:
            count = replay(self.path, self.log, self.index if into is None else into)
            self._behind = self._behind and into is not None
            return count

    def catch_up(self) -> None:
        """Have the index follow the log, where that failed before."""
        with self.append_lock:
            if self._behind:
                self.replay()

    def record(self, dataset: str, kind: str, body: dict[str, Any], actor: Actor) -> Appended:
        """Append an entry to a dataset's log, or the lake's own, and apply it to the index.

        ConflictError where the index was behind when the body was made from it: `catch_up` before that.

        When only the index could not follow, StorageFullError says that the fact itself is safe;
        the next call, or the next open, brings the index up to date. IntegrityError when a record of
        retention cannot be applied; nothing is written then.
        """
        self._writable()
        with self.append_lock:
            if self._behind and self.replay() and kind in FROM_THE_INDEX:
                raise ConflictError(
                    f"the index has just caught up with the log: {kind} was decided before"
                )
            own = dataset == LAKE_LOG
            row = self.index.own() if own else self.index.dataset(dataset)
            if not own and (row is None) != (kind == "created"):
                raise ConflictError(
                    f"dataset {dataset!r} {'does not exist' if row is None else 'exists already'}"
                )
            sequence, head = (row.sequence + 1, row.head) if row else (1, None)
            check_place(dataset, sequence, kind)
            time_ns = self.now_ns()
            if kind in LAKE_KINDS or kind in DISPOSITION_KINDS:
                before = (self.superblock.lake, dataset, sequence, head, time_ns)
                self.index.rehearse(Step(make_log_entry(*before, actor, kind, body), b"", ()))
            appended = self.log.append(dataset, sequence, head, time_ns, actor, kind, body)
            self._behind = True
            try:
                apply_entry(self.path, appended, self.index)
            except DtafsError as error:
                raise StorageFullError(
                    f"{kind} is recorded in the log of {dataset!r} and safe, but the index "
                    f"could not follow ({error}); it will when there is room"
                ) from error
            self._behind = False
            return appended

    def _writable(self) -> None:
        if not self.can_write:
            raise RefusedError("the lake is open for reading only")

    # Datasets, versions, tags

    def datasets(self) -> list[DatasetRow]:
        """All datasets, sorted by name."""
        return self.index.datasets()

    def dataset(self, name: str) -> DatasetRow:
        """A dataset; NotFoundError names the nearest that exists, UsageError what no name can be."""
        row = self.index.dataset(name)
        if row is None:
            check_dataset_name(name)
            near = suggest(name, (d.name for d in self.index.datasets()))
            raise NotFoundError(f"there is no dataset {name!r}{near}")
        return row

    def versions(self, dataset: str) -> list[VersionRow]:
        """All versions of a dataset, oldest first."""
        self.dataset(dataset)
        return self.index.versions(dataset)

    def create_dataset(self, name: str, actor: Actor, tags: tuple[str, ...] = ()) -> DatasetRow:
        """Make a dataset; its first version will carry the tags. ConflictError when it exists."""
        check_dataset_name(name)
        body = {"tags": sorted({check_tag(tag) for tag in tags})}
        self.record(name, "created", body, actor)
        return self.dataset(name)

    def set_tags(
        self,
        dataset: str,
        version: int,
        actor: Actor,
        add: tuple[str, ...] = (),
        remove: tuple[str, ...] = (),
    ) -> VersionRow:
        """Add and remove tags of a version; what is so already is left alone. RefusedError where a tag
        keeps the version under a hold or a rule in compliance mode."""
        with self.append_lock:
            row = self.resolve(VersionSpec(dataset, version=version))
            new = sorted({check_tag(tag) for tag in add} - set(row.tags))
            absent = sorted(set(remove) - set(row.tags))
            if remove:
                from dtafs.store.retention_changes import refuse_untagging

                refuse_untagging(self, row, remove)
            if absent:
                near = suggest(absent[0], row.tags)
                raise NotFoundError(f"{row.name} does not carry the tag {absent[0]!r}{near}")
            if new:
                self.record(dataset, "tagged", {"tags": new, "version": version}, actor)
            if remove:
                gone = sorted(set(remove))
                self.record(dataset, "untagged", {"tags": gone, "version": version}, actor)
            return self.resolve(VersionSpec(dataset, version=version))

    def newest_kept(self, dataset: str) -> VersionRow | None:
        """The newest version that was not disposed of; None where there is none."""
        if not self.dataset(dataset).newest:
            return None
        with contextlib.suppress(DisposedError):
            return self.resolve(VersionSpec(dataset))
        return None

    def resolve(self, spec: VersionSpec | str) -> VersionRow:
        """The version that a spec names, the newest where it names only the dataset.

        NotFoundError says what does exist.
        """
        if isinstance(spec, str):
            spec = parse_spec(spec)
        return resolve(self.index, self.dataset(spec.dataset), spec)

    # Staging

    @property
    def area(self) -> StagingArea:
        """The staging of all datasets, opened at its first use."""
        self._writable()
        if self._area is not None:
            return self._area  # without the lock, which an append holds while the disk syncs
        with self.append_lock:
            if self._area is None:
                from dtafs.store.staging.area import StagingArea

                with staging_damage(self.path):
                    self._area = StagingArea(self.path / "staging", self.disk, self.objects)
            return self._area

    def staging(self, dataset: str, owner: tuple[int, int] | None = None) -> Staging:
        """The staging of a dataset; NotFoundError when there is no such dataset.

        `owner` (uid, gid; by default this process's) gets the root of a dataset that has no version.
        """
        from dtafs.store.staging.area import Creator
        from dtafs.store.staging.staging import Base

        row = self.dataset(dataset)
        base = Base(0, b"")
        if row.newest:
            newest = self.resolve(VersionSpec(dataset, version=row.newest))
            base = Base(newest.number, b"" if newest.disposed else newest.root)
        uid, gid = owner if owner is not None else (os.getuid(), os.getgid())
        return self.area.dataset(dataset, base, Creator(uid, gid, row.created_ns))

    def _complete_commits(self) -> None:
        """Finish what a crash left between a commit's entry and its end, and what was discarded."""
        assert self.pending is not None
        if (self.path / "upkeep" / "leaving").exists():
            from dtafs.store.leaving import finish_leaving

            finish_leaving(self)
        intents = self.pending.intents()
        if intents or self.pending.all_packs():
            from dtafs.store.commit import complete_commit, release_pending

            for dataset, number, root in intents:
                complete_commit(self, dataset, number, root)
            release_pending(self)
