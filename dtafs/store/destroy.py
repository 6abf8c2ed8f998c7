"""Destroying what is dead: every pack that holds some of it goes, and what it also holds lives on.

`dtafs.store.references` says what no version needs any more. Of that, what uncommitted work needs is left
alone. The rest is looked for in all packs: those that the log names, those of uncommitted work, and those
that nothing names, as a collection or a crash leaves them. Then, as in a collection
(`dtafs.store.collect`) but at once and not after a grace period:

1. the packs are condemned, so that deduplication trusts them no longer; who was at work is waited
   for, and staging and versions are looked at once more;
2. what a pack also holds is written to new packs, durably, metadata before content;
3. a `collected` entry in the log names the new packs and takes the old ones out;
4. the index follows, and the bytes go.

A crash at any point leaves what the next call finishes: what is dead stays noted until it is in no pack.
What cannot be done now is left, with the reason, and stays noted as well: nothing is called destroyed that
may still be there. A pack that cannot be read in full is never given up for what it also holds.

Blocks; one at a time, inside `Condemned.collecting`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from dtafs.core.entries import Collection
from dtafs.core.format import PackKind, pack_key
from dtafs.core.values import Actor
from dtafs.errors import DtafsError, IntegrityError
from dtafs.store.collect_facts import unnamed_packs
from dtafs.store.collect_reach import Reached, spot_of
from dtafs.store.collect_rewrite import rewrite_packs
from dtafs.store.counting import Counting
from dtafs.store.destroy_aside import destroy_aside
from dtafs.store.packs import Pack, read_footer
from dtafs.store.placement.copies import ArchivedError
from dtafs.store.placement.moves import fetch_pack
from dtafs.store.placement.removal import delete_from, doom, finish_removals
from dtafs.store.placement.stubs import is_away, tiers_of
from dtafs.store.progress import Progress, Report

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

SETTLE_S = 10.0
"""How long a `put` or commit that began before is waited for; then its packs are left."""

MIRROR_WAIT_S = 60.0
"""How long a pass of the mirror is waited for: it may just be putting there what is deleted."""

ATTEMPTS = 3
"""How often packs are tried that somebody came to need meanwhile for something else in them."""

GROUP_PACKS = 64
"""Packs that one log entry replaces."""

DISPOSED = "disposed"
"""Why a pack goes, in its mark and in the `collected` entry."""


class Destroyed(NamedTuple):
    """What a call has done; sizes in bytes, stored."""

    packs: tuple[bytes, ...]
    """Packs that are gone."""
    size_bytes: int
    written: tuple[Pack, ...]
    """Packs that have taken over what the others also held."""
    left: dict[str, str]
    """What is still there and may hold what is dead, by its key, and why."""
    back: dict[str, list[bytes]]
    """Packs that were written in place of some that lay in a tier, to be moved there, by its name."""
    recalled: bool
    """Whether an archive has to bring something back first."""


class Holders(NamedTuple):
    """The packs that hold something dead, by what they are to the lake."""

    logged: dict[bytes, str]
    """Named by the log, with the dataset whose entry brought each."""
    others: frozenset[bytes]
    """Of uncommitted work, or named by nothing."""

    def all(self) -> set[bytes]:
        """Each of them."""
        return {*self.logged, *self.others}


def destroy(
    lake: Lake,
    actor: Actor,
    counted: Counting,
    *,
    settle_s: float = SETTLE_S,
    report: Report | None = None,
) -> Destroyed:
    """Destroy what is noted as dead in the references of the lake.

    IntegrityError when it cannot be known what is needed: then nothing is touched.
    """
    work = _Destruction(lake, actor, counted, report)
    try:
        return work.run(settle_s)
    finally:
        work.close()


class _Destruction:
    def __init__(
        self,
        lake: Lake,
        actor: Actor,
        counted: Counting,
        report: Report | None,
    ) -> None:
        self._lake, self._actor = lake, actor
        self._counted, self._report = counted, report
        assert lake.pending is not None
        self._pending = lake.pending
        self._reached = Reached(lake)
        self._dead: set[bytes] = set()
        """Ids of what is to go."""
        self._gone: list[bytes] = []
        self._size = 0
        self._written: list[Pack] = []
        self._left: dict[str, str] = {}
        self._unreadable: dict[str, str] = {}
        self._unnamed = unnamed_packs(lake)
        self._back: dict[str, list[bytes]] = {}
        self._recalled = False

    def close(self) -> None:
        """Close what was read."""
        self._reached.close()

    def run(self, settle_s: float) -> Destroyed:
        lake = self._lake
        noted = self._counted.references.dead()
        self._look(noted)
        for _ in range(ATTEMPTS):
            self._left.clear()
            self._recalled = False
            holders = self._holders()
            if not holders.all():
                break
            self._attempt(noted, holders, settle_s)
        self._size += destroy_aside(lake, self._holds_dead, self._left)
        self._left |= self._unreadable
        self._from_tiers()
        lake.objects.clear()
        if not self._left:
            # What staging needs stays noted, for it may be discarded.
            self._counted.references.forget_dead(key for key in noted if key[1:] in self._dead)
        return Destroyed(
            tuple(self._gone),
            self._size,
            tuple(self._written),
            dict(self._left),
            self._back,
            self._recalled,
        )

    # What is dead, and where it is

    def _look(self, noted: Iterable[bytes]) -> None:
        """Set `_dead` to what neither versions nor uncommitted work need, as of now."""
        self._reached.look_at_staging()
        self._counted.catch_up()
        ids = sorted({key[1:] for key in noted})
        dead = set(self._counted.references.unneeded(ids))
        self._dead = {chunk for chunk in dead if not self._reached.needs_chunk(chunk)}

    def _holders(self) -> Holders:
        lake, packs = self._lake, set[bytes]()
        for chunk in self._dead:
            place = lake.index.place(chunk)
            known = [] if place is None else [place, *lake.index.copies(chunk)]
            packs.update(place.pack for place in (*known, *self._pending.places(chunk)))
        self._unreadable.clear()
        for pack in self._unnamed:
            if lake.index.pack(pack) is not None or self._owners(pack):
                continue  # it has come to be named since
            try:
                footer = read_footer(lake.path, pack)
            except IntegrityError as error:
                if (lake.path / pack_key(pack)).exists() or is_away(lake.path, pack):
                    self._unreadable[pack_key(pack)] = f"{error}; dtafsctl repair puts it aside"
                continue
            if self._holds_dead(footer):
                packs.add(pack)
        rows = {pack: lake.index.pack(pack) for pack in packs}
        logged = {pack: row.dataset for pack, row in rows.items() if row is not None}
        return Holders(logged, frozenset(packs - logged.keys()))

    def _holds_dead(self, pack: Pack) -> bool:
        return any(chunk.id in self._dead for frame in pack.frames for chunk in frame.chunks)

    # One attempt

    def _attempt(self, noted: Iterable[bytes], holders: Holders, settle_s: float) -> None:
        marks = self._lake.condemned
        packs = holders.all()
        marks.condemn(dict.fromkeys(packs, DISPOSED))
        try:
            settled = marks.settled(packs, settle_s)
            for pack in packs - settled:
                self._left[pack_key(pack)] = "a put or commit that may need it is running"
            self._look(noted)
            again = self._holders()
            due = settled & again.all()
            self._act({p: d for p, d in again.logged.items() if p in due}, again.others & due)
        finally:
            marks.spare(packs - set(self._gone))

    def _act(self, logged: dict[bytes, str], others: Iterable[bytes]) -> None:
        footers: list[Pack] = []
        nodes_left = bool(self._left)
        for pack in sorted((*logged, *others)):
            try:
                footers.append(self._footer(pack))
            except DtafsError as error:
                row = self._lake.index.pack(pack)
                nodes_left |= row is None or row.kind == PackKind.METADATA
                self._left[pack_key(pack)] = str(error)
        done = 0
        for kind in (PackKind.METADATA, PackKind.CONTENT):
            # Metadata first: a node that is known must not lead to what is gone.
            nodes_left |= any(pack_key(pack.id) in self._left for pack in footers)
            if kind == PackKind.CONTENT and nodes_left:
                rest = [pack.id for pack in footers if pack.kind == kind]
                why = "what may lead to it has to go first"
                self._left |= {pack_key(p): why for p in rest if pack_key(p) not in self._left}
                return
            for dataset, group in _groups([p for p in footers if p.kind == kind], logged):
                self._tell(done, len(footers))
                self._replace(kind, dataset, group)
                done += len(group)
        self._tell(done, len(footers))

    def _footer(self, pack: bytes) -> Pack:
        """What a pack holds. One that is lost, or does not say, and of which all is dead by the index, is
        as good as empty: there is nothing in it to be saved."""
        try:
            return read_footer(self._lake.path, pack)
        except DtafsError:
            row = self._lake.index.pack(pack)
            if row is None or self._count_dead(pack) < row.chunks:
                raise
            return Pack(pack, PackKind(row.kind), row.size, ())

    def _count_dead(self, pack: bytes) -> int:
        index = self._lake.index
        places = index.places_of(self._dead)
        return sum(
            pack in {place.pack, *(copy.pack for copy in index.copies(chunk))}
            for chunk, place in places.items()
        )

    def _tell(self, done: int, total: int) -> None:
        if self._report is not None:
            self._report(Progress("destroy", done, 0, total))

    def _replace(self, kind: PackKind, dataset: str | None, packs: Sequence[Pack]) -> None:
        """Write what packs also hold to new ones; then log entry, index, bytes."""
        lake, marks = self._lake, self._lake.condemned
        owners = {pack.id: self._owners(pack.id) for pack in packs}
        needed = [
            (pack, {spot_of(at) for chunk, at in pack.places() if chunk not in self._dead})
            for pack in packs
            if dataset is not None or owners[pack.id]
        ]
        kept = [(pack, spots) for pack, spots in needed if spots]
        away = {tier for pack, _spots in kept for tier in self._tiers_of(pack)}
        try:
            for pack, _spots in kept:
                if is_away(lake.path, pack.id):
                    fetch_pack(lake, pack.id, 0)
            added = rewrite_packs(lake, kind, kept)
        except ArchivedError as error:
            self._ask_back(error.pack)
            self._left |= {pack_key(pack.id): str(error) for pack in packs}
            self._recalled = True
            return
        except IntegrityError as error:
            self._left |= {pack_key(pack.id): f"{error}; repair it first" for pack in packs}
            return
        except DtafsError as error:
            self._left |= {pack_key(pack.id): str(error) for pack in packs}
            return
        with lake.append_lock, marks.lock:
            free = [p for p in packs if p.id in marks.packs and self._owners(p.id) == owners[p.id]]
            for pack in packs:
                row = lake.index.pack(pack.id)
                if pack not in free or (None if row is None else row.dataset) != dataset:
                    self._left[pack_key(pack.id)] = "something else in it is needed again"
            free = [pack for pack in free if pack_key(pack.id) not in self._left]
            if not free:
                return
            for owner in {owner for pack in free for owner in owners[pack.id]}:
                for one in added:
                    self._pending.add(owner, one)
            if dataset is not None:
                lake.record(dataset, "collected", _body(free, added), self._actor)
            for pack in free:
                for owner in owners[pack.id]:
                    self._pending.drop(owner, [pack])
                self._delete(pack)
        self._written += added
        for tier in sorted(away):
            self._back.setdefault(tier, []).extend(pack.id for pack in added)

    def _owners(self, pack: bytes) -> list[str]:
        return self._pending.owners(pack)

    def _delete(self, pack: Pack) -> None:
        lake = self._lake
        doom(lake, pack.id)
        lake.condemned.forget([pack.id])
        self._gone.append(pack.id)
        self._size += pack.size

    # Other tiers

    def _tiers_of(self, pack: Pack) -> list[str]:
        """The tiers that have a pack which is not on the hot disk."""
        where = tiers_of(self._lake.path, pack.id)
        return (
            [name for name, at in where.items() if at] if is_away(self._lake.path, pack.id) else []
        )

    def _ask_back(self, pack: bytes) -> None:
        """Have an archive bring back what must be written anew; the next run goes on with it."""
        for name in tiers_of(self._lake.path, pack):
            with contextlib.suppress(DtafsError):
                tier = self._lake.tier(name)
                if tier.needs_recall:
                    tier.recall(pack_key(pack))

    def _from_tiers(self) -> None:
        """Delete what tiers have of packs that are gone, whatever the stubs say, and look whether it is."""
        if not self._lake.tiers.mirroring.acquire(timeout=MIRROR_WAIT_S):
            self._left["tier warm"] = (
                "the mirror is being brought up to date; the next run looks again"
            )
            return
        try:
            self._look_into_tiers()
        finally:
            self._lake.tiers.mirroring.release()

    def _look_into_tiers(self) -> None:
        removal = finish_removals(self._lake)
        self._left |= {pack_key(pack): why for pack, why in removal.left.items()}
        for name in sorted(self._lake.tiers):
            try:
                tier = self._lake.tier(name)
                for pack in self._gone:
                    with self._lake.placed.alone(pack):
                        is_back = self._lake.index.pack(pack) is not None
                        if pack not in removal.left and not is_back:
                            delete_from(tier, pack)
            except DtafsError as error:
                self._left[f"tier {name}"] = str(error)


def _groups(
    packs: Sequence[Pack], logged: Mapping[bytes, str]
) -> Iterator[tuple[str | None, list[Pack]]]:
    """Packs that one log entry can replace, by the dataset that brought them; others one by one."""
    for dataset in sorted(set(logged.values())):
        some = [pack for pack in packs if logged.get(pack.id) == dataset]
        for start in range(0, len(some), GROUP_PACKS):
            yield dataset, some[start : start + GROUP_PACKS]
    yield from ((None, [pack]) for pack in packs if pack.id not in logged)


def _body(removed: Sequence[Pack], added: Sequence[Pack]) -> dict[str, Any]:
    collection = Collection(
        removed={pack.id.hex(): DISPOSED for pack in removed},
        added=tuple(sorted(pack.id.hex() for pack in added)),
        removed_bytes=sum(pack.size for pack in removed),
        added_bytes=sum(pack.size for pack in added),
    )
    body: dict[str, Any] = msgspec.to_builtins(collection)
    return body
