"""Everything that changes a lake, one method each, with arguments and results that fit in JSON.

`Session` does the work in this process. `dtafs.services.client.RemoteSession` has the same methods
and asks the daemon that has the lake mounted, so that a command need not know which of the two it
holds. Names and paths are `str` here: bytes that are not UTF-8 travel as surrogate escapes
(`os.fsdecode`), which the JSON of the control socket carries.

Threads: a method blocks and may run in any thread. What it asks of staging's metadata it asks
through `gate`, one short call at a time, because staging belongs to one thread: the daemon passes a
function that runs the call on its event loop, and without a daemon the call is made directly. A
node that is not in memory is fetched outside the gate and the call is made again.
"""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import msgspec

from dtafs.core.names import check_dataset_name, check_tag, format_time
from dtafs.core.values import Actor, Source, Transform
from dtafs.errors import BusyError, NotFoundError, UsageError, from_os_error
from dtafs.store.commit import finish
from dtafs.store.config import TierSettings
from dtafs.store.index import VersionRow
from dtafs.store.ingest import Ingest
from dtafs.store.lake import Lake
from dtafs.store.objects import ColdNode
from dtafs.store.progress import Report
from dtafs.store.session_records import RecordsSession, converted

T = TypeVar("T")
Gate = Callable[[Callable[[], Any]], Any]

WRITERS_POLL_S = 0.1
GRACE_MAX_S = 36_500 * 86_400


def actor_here(program: str, uid: int | None = None) -> Actor:
    """The actor for what this process does, or does for the user `uid`."""
    uid = os.getuid() if uid is None else uid
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return Actor(user=user, uid=uid, host=os.uname().nodename, program=program)


def directly(call: Callable[[], T]) -> T:
    """The gate of a process in which nothing else uses staging."""
    return call()


def version_facts(row: VersionRow) -> dict[str, Any]:
    """What every command says of a version."""
    manifest = row.manifest
    return {
        "dataset": row.dataset,
        "version": row.number,
        "id": row.name,
        "sha256": row.manifest_sha256.hex(),
        "time": format_time(row.time_ns),
        "message": manifest.message,
        "tags": list(row.tags),
        "files": manifest.files,
        "size_bytes": manifest.size_bytes,
        "actor": msgspec.to_builtins(row.actor),
        "disposed": row.disposed > 0,
    }


class Session(RecordsSession):
    """Changes to one lake on behalf of one actor, made in this process.

    The lake is open for writing, and stays open when the session ends: who opened it closes it.
    """

    def __init__(self, lake: Lake, actor: Actor, gate: Gate = directly) -> None:
        self.lake = lake
        self.actor = actor
        self._gate = gate

    def create(self, dataset: str, tags: Sequence[str] = ()) -> dict[str, Any]:
        """Create a dataset; `tags` go to its first version."""
        check_dataset_name(dataset)
        for tag in tags:
            check_tag(tag)
        row = self.lake.create_dataset(dataset, self.actor, tuple(tags))
        return {"dataset": row.name, "created": format_time(row.created_ns), "tags": list(row.tags)}

    def put(
        self,
        dataset: str,
        paths: Sequence[str],
        into: str = "",
        delete: bool = False,
        read_bytes: int = 0,
        progress: Report | None = None,
    ) -> dict[str, Any]:
        """Stage files and trees of this host; `dtafs.store.ingest` says what lands where.

        `read_bytes` is how much of a file each thread reads at once, 0 for the usual.
        """
        self.lake.dataset(dataset)
        staging = self.on_staging(lambda: self.lake.staging(dataset))
        mirrors = self.mirrors(dataset)
        ingest = Ingest(self.lake, dataset, staging, self.on_staging, progress, read_bytes, mirrors)
        counts = ingest.run([os.fsencode(path) for path in paths], os.fsencode(into), delete)
        self.lake.area.sync()  # the sources may be deleted once this has returned
        return {"dataset": dataset, **counts}

    def mirrors(self, dataset: str) -> list[str]:
        """Directories of this host that show the staging of a dataset; the daemon knows some."""
        return []

    def status(self, dataset: str) -> dict[str, Any]:
        """What staging adds, changes and removes against the newest version."""
        from dtafs.store.compare import describe_change, summarise

        row = self.lake.dataset(dataset)
        staging = self.on_staging(lambda: self.lake.staging(dataset))
        changes = list(staging.status(self.lake.objects.node))
        return {
            "dataset": dataset,
            "base": row.newest,
            "totals": summarise(changes),
            "changes": [describe_change(change) for change in changes],
        }

    def commit(
        self,
        dataset: str,
        message: str,
        tags: Sequence[str] = (),
        allow_empty: bool = False,
        wait: bool = False,
        sources: Sequence[dict[str, Any]] = (),
        transform: dict[str, Any] | None = None,
        progress: Report | None = None,
    ) -> dict[str, Any]:
        """Seal staging as the next version; returns its facts.

        `sources` and `transform` are `Source` and `Transform` as plain dicts. NotFoundError when a source
        is no version of this lake: holds could not follow it. BusyError when a file
        is open for writing and stays so, without end of patience when `wait` is given.
        """
        for tag in tags:
            check_tag(tag)
        made_from = tuple(converted(source, Source) for source in sources)
        made_by = converted(transform, Transform) if transform is not None else None
        for source in made_from:
            self._check_source(source)
        row = self.seal(
            dataset, message, tuple(tags), allow_empty, wait, made_from, made_by, progress
        )
        return version_facts(row)

    def _check_source(self, source: Source) -> None:
        from dtafs.store.retention_facts import find_version

        row = find_version(self.lake.index, source.dataset, source.version)
        if row is None or row.manifest_sha256.hex() != source.manifest:
            raise NotFoundError(
                f"the source {source.dataset[:200]}:v{source.version} with the manifest "
                f"{source.manifest[:12]} is no version of this lake, so nothing can be made from it"
            )

    def discard(self, dataset: str) -> dict[str, Any]:
        """Make staging the newest version again, dropping everything that was not committed."""
        row = self.lake.dataset(dataset)
        self.on_staging(lambda: self.lake.staging(dataset).discard())
        return {"dataset": dataset, "base": row.newest}

    def set_tags(
        self, dataset: str, version: int, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Put tags on a version and take others off it; another version may carry the same tag."""
        for tag in (*add, *remove):
            check_tag(tag)
        row = self.lake.set_tags(dataset, version, self.actor, tuple(add), tuple(remove))
        return version_facts(row)

    def record(self, dataset: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Append an entry to the log of a dataset: `exported`, which needs nothing to be checked."""
        if kind != "exported":
            raise UsageError(f"entries of the kind {kind!r} are not written by themselves")
        appended = self.lake.record(dataset, kind, body, self.actor)
        return {"dataset": dataset, "sequence": appended.entry.sequence}

    def stats(self) -> dict[str, Any]:
        """Counts and sizes of the lake."""
        from dtafs.store.stats import collect_stats

        return collect_stats(self.lake)

    def reindex(self, progress: Report | None = None) -> dict[str, Any]:
        """Rebuild the index from the objects; what the new one differs in is in the result."""
        from dtafs.store.reindex import reindex

        return reindex(self.lake, progress)

    def collect(
        self,
        grace_s: float | None = None,
        dry_run: bool = False,
        progress: Report | None = None,
    ) -> dict[str, Any]:
        """Delete what nothing reaches; `dtafs.store.collect` says how. The grace period is that of
        the configuration unless it is given."""
        from dtafs.store.collect import collect
        from dtafs.store.collect_plan import Rule

        wanted = self.lake.config.collect
        if grace_s is None:
            grace_s = wanted.grace_days * 86_400
        if not 0 <= grace_s < GRACE_MAX_S:
            raise UsageError("the grace period is between 0 and 100 years")
        if not dry_run:
            self._tidy()
        rule = Rule(int(grace_s * 1e9), wanted.rewrite_share)
        return collect(self.lake, self.actor, rule, dry_run=dry_run, report=progress)

    def apply(self, plan: str | None = None, progress: Report | None = None) -> dict[str, Any]:
        """Carry out what the rules of retention say; `dtafs.store.apply` says how."""
        from dtafs.store.apply import apply_plan

        self._tidy()
        return apply_plan(self.lake, self.actor, plan, self.hold_still, self.gone, progress)

    def freed(
        self, versions: Sequence[Sequence[Any]], progress: Report | None = None
    ) -> dict[str, Any]:
        """What disposing of versions, each as dataset and number, would free."""
        from dtafs.store.apply import freed

        named = [converted(version, tuple[str, int]) for version in versions]
        return freed(self.lake, named, progress)

    def hold_still(self, dataset: str, call: Callable[[], None]) -> None:
        """Make a call while nobody changes the staging of a dataset. The daemon overrides this."""
        call()

    def gone(self, rows: Sequence[VersionRow]) -> None:
        """Versions were disposed of just now. The daemon overrides this."""

    def repair(
        self, lakes: Sequence[str] = (), dry_run: bool = False, progress: Report | None = None
    ) -> dict[str, Any]:
        """Mend what is damaged, also with what the lakes at these paths have; `dtafs.store.repair`
        says how. What is still lost is in the result."""
        from dtafs.store.repair import repair

        return repair(self.lake, self.actor, lakes, dry_run=dry_run, report=progress)

    def tier_add(self, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Attach a tier; `settings` are the keys of its table, none for a table that is there."""
        from dtafs.store.tiers.attach import attach

        return attach(self.lake, name, converted(settings, TierSettings))

    def tier_remove(self, name: str) -> dict[str, Any]:
        """Take a tier away, unless it holds the only copy of something."""
        from dtafs.store.tiers.attach import detach

        return detach(self.lake, name)

    def tier_list(self, probe: bool = False) -> dict[str, Any]:
        """All tiers, what their stores do, and whether they answer; `probe` tries them out again."""
        from dtafs.store.tiers.attach import list_tiers

        return list_tiers(self.lake, probe)

    def tier_move(
        self, what: Sequence[str], tier: str, progress: Report | None = None
    ) -> dict[str, Any]:
        """Move all packs that something needs to a tier, or back to `hot`."""
        from dtafs.store.placement.calls import tier_move

        return tier_move(self.lake, what, tier, progress)

    def tier_recall(
        self, what: Sequence[str], wait: bool = True, progress: Report | None = None
    ) -> dict[str, Any]:
        """Bring all packs that something needs to the hot disk; with `wait`, when they are there."""
        from dtafs.store.placement.calls import tier_recall

        return tier_recall(self.lake, what, wait, progress)

    def tier_pin(self, what: str = "", remove: bool = False) -> dict[str, Any]:
        """Keep something on the hot disk, or no longer; the pins there are then."""
        from dtafs.store.placement.calls import tier_pin

        return tier_pin(self.lake, what, remove, self.actor)

    def tier_plan(self, apply: bool = False) -> dict[str, Any]:
        """What the policy would move now, and why; with `apply`, it is moved."""
        from dtafs.store.placement.calls import tier_plan

        return tier_plan(self.lake, apply)

    def tier_plan_read(self, what: Sequence[str]) -> dict[str, Any]:
        """What reading something would take: packs, bytes, time, price, by place."""
        from dtafs.store.placement.targets import plan_reading

        return plan_reading(self.lake, what)

    def _tidy(self) -> None:
        """Remove the rows of staging that say what their versions say, also those that an earlier process
        has left: what they name counts as needed by uncommitted work."""
        for name in self.on_staging(self.lake.area.unopened):
            self.on_staging(partial(self.lake.staging, name))
        while self.on_staging(self.lake.area.tidy):
            pass

    def on_staging(self, call: Callable[[], T]) -> T:
        """Make a call on staging's thread; the nodes it misses are read here, between attempts."""
        while True:
            try:
                return cast(T, self._gate(call))
            except ColdNode as cold:
                self.lake.objects.node(cold.id)
            except OSError as error:
                raise from_os_error(error, "changing staging") from error

    def seal(
        self,
        dataset: str,
        message: str,
        tags: tuple[str, ...],
        allow_empty: bool,
        wait: bool,
        sources: tuple[Source, ...],
        transform: Transform | None,
        progress: Report | None,
    ) -> VersionRow:
        """Chunk what is staged, then make the version while nothing writes to staging.

        The daemon overrides this: there, staging is held still by the mount.
        """
        # No `prepare`: nobody else could work meanwhile, and what `put` staged is sealed already.
        self._await_writers(dataset, wait)
        return finish(
            self.lake,
            dataset,
            message=message,
            tags=tags,
            allow_empty=allow_empty,
            sources=sources,
            transform=transform,
            actor=self.actor,
            report=progress,
        )

    def _await_writers(self, dataset: str, wait: bool) -> None:
        while writers := self.on_staging(lambda: self.lake.staging(dataset).writers()):
            if not wait:
                path, opener = writers[0]
                raise BusyError(
                    f"{os.fsdecode(path)} is open for writing by process {opener.pid} "
                    f"({opener.program}); close it, or commit with --wait"
                )
            time.sleep(WRITERS_POLL_S)
