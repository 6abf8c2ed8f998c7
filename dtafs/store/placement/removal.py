"""Deleting packs everywhere: for collections, discarded work, and dispositions.

Whoever deletes a pack has taken away what refers to it, in log and index. `doom` takes it from the hot
disk and keeps its stub apart; `finish_removals` deletes what is in the tiers and then that stub. A tier
that does not answer keeps the stub, nothing is said to be gone, and the next run goes on. The pack may
be written again meanwhile, but is not moved before that is done. Blocks; any thread; only `doom` may be
called under `Lake.append_lock`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.format import pack_key
from dtafs.core.placed import Stub
from dtafs.errors import BusyError, DtafsError, NotFoundError, StorageError
from dtafs.store.parity import remove_parity
from dtafs.store.placement.stubs import doomed_packs, doomed_stub
from dtafs.store.tiers.base import Tier

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


MIRROR = "warm"
"""The tier that `dtafs.store.tiers.mirror` fills: it may have something of any pack."""


def footer_key(pack: bytes) -> str:
    """The key under which the mirror has how a content pack begins and ends."""
    name = pack.hex()
    return f"footers/{name[:2]}/{name}"


class Removal(NamedTuple):
    """What is gone from which tier, and what is not."""

    gone: dict[str, list[bytes]]
    """Tier -> packs that it does not have any more."""
    left: dict[bytes, str]
    """Packs of which a tier may still have something, and why."""


def doom(lake: Lake, pack: bytes) -> None:
    """Take a pack to which nothing refers any more from the hot disk, its parity before, durably;
    `finish_removals` deletes what tiers have of it. Quick: asks no tier."""
    with lake.placed.lock:
        lake.placed.doom(pack)
        if MIRROR in lake.tiers and not lake.placed.is_doomed(pack):
            lake.placed.note_doomed(Stub(pack, 0, b"", {MIRROR: 0}))
        remove_parity(lake.disk, lake.path, pack)
        lake.disk.unlink(lake.path / pack_key(pack))
    lake.files.forget(pack)


def finish_removals(lake: Lake) -> Removal:
    """Delete from the tiers what is left there of packs that are doomed. A tier that does not answer is
    asked no more in this run."""
    gone: dict[str, list[bytes]] = {}
    left: dict[bytes, str] = {}
    silent: dict[str, str] = {}
    for pack, stub in doomed_packs(lake.path).items():
        names = _tiers_of(lake, stub)
        unanswered = [silent[name] for name in names if name in silent]
        if unanswered:
            left[pack] = unanswered[0]
            continue
        with lake.placed.alone(pack):
            if not lake.placed.is_doomed(pack):  # somebody else was at it, and it may be here again
                continue
            cleared, failure = _finish(lake, pack, names)
        for name in cleared:
            gone.setdefault(name, []).append(pack)
        if failure is None:
            continue
        left[pack] = str(failure)
        name = names[len(cleared)]
        trouble = lake.tiers.trouble(name)
        if trouble is not None:
            silent[name] = str(trouble)
    return Removal(gone, left)


def finish_removal(lake: Lake, pack: bytes) -> None:
    """Delete from the tiers what is left there of one pack, if it is doomed; BusyError when it is not gone.

    Whoever is alone with a pack calls this: two who went through all that are doomed would wait for each
    other.
    """
    with lake.placed.alone(pack), suppress(NotFoundError):
        names = _tiers_of(lake, doomed_stub(lake.path, pack))
        _cleared, failure = _finish(lake, pack, names)
        if failure is not None:
            raise BusyError(f"pack {pack.hex()} is still being deleted from a tier: {failure}")


def _tiers_of(lake: Lake, stub: Stub | None) -> list[str]:
    """The tiers that may have something of a doomed pack."""
    # What a damaged stub cannot say is looked for in every tier.
    known = set(stub.copies) if stub is not None else set(lake.tiers)
    return sorted(known | ({MIRROR} & set(lake.tiers)))


def _finish(lake: Lake, pack: bytes, names: list[str]) -> tuple[list[str], DtafsError | None]:
    """Delete a doomed pack from tiers, one after the other, and then its stub: the tiers that have nothing
    of it any more, and what keeps it in the next one. Alone with the pack."""
    cleared: list[str] = []
    for name in names:
        try:
            delete_from(lake.tier(name), pack)
        except DtafsError as error:
            return cleared, error
        cleared.append(name)
    with lake.placed.lock:
        lake.placed.gone(pack)
    return cleared, None


def delete_from(tier: Tier, pack: bytes) -> None:
    """Delete what a tier has of a pack; StorageError when it still has it then."""
    keys = [pack_key(pack), *([footer_key(pack)] if tier.name == MIRROR else [])]
    for key in keys:
        tier.delete(key)
        if tier.facts(key) is not None:
            raise StorageError(f"tier {tier.name!r} still has {key} after deleting it")


def remove_packs(lake: Lake, packs: Iterable[bytes]) -> Removal:
    """Delete packs everywhere; the caller has removed what refers to them, from log and index."""
    for pack in packs:
        doom(lake, pack)
    return finish_removals(lake)
