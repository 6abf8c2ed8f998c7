"""The packs of a lake as a collection finds them, and when it must not begin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dtafs.core.format import PackKind, pack_key
from dtafs.errors import IntegrityError
from dtafs.store.collect_plan import Origin, PackFacts
from dtafs.store.collect_reach import Reached, spot_of
from dtafs.store.index_packs import PackRow
from dtafs.store.packs import Pack, read_footer
from dtafs.store.placement.stubs import is_away, pack_of_name, stubbed_packs

if TYPE_CHECKING:
    from pathlib import Path

    from dtafs.store.lake import Lake


def refuse_damage(lake: Lake) -> None:
    """Raise IntegrityError where the log has lost entries: what they name is not garbage."""
    with lake.append_lock:
        known = lake.index.heads()
        for name in sorted({*known, *lake.log.names()}):
            there = lake.log.sequences(name)
            if there != list(range(1, known.get(name, (0, b""))[0] + 1)):
                raise IntegrityError(
                    f"the log of {name!r} and the index do not agree, so nothing can be collected; "
                    "run dtafsctl check"
                )


def gather_facts(lake: Lake, reached: Reached) -> list[PackFacts]:
    """Every pack that is there; IntegrityError when one is missing that the log names.

    The files are listed before the tables are asked: a pack that comes meanwhile is not noticed
    rather than mistaken for a stray.
    """
    assert lake.pending is not None
    sizes = all_packs(lake)
    named = dict(lake.index.packs())
    owners: dict[bytes, str] = {}
    for pack, dataset in lake.pending.all_packs():
        owners.setdefault(pack, dataset)
    for pack in (*named, *owners):
        if pack not in sizes and not _is_there(lake, pack):
            if lake.index.pack(pack) is None and not lake.pending.owners(pack):
                continue  # a discard has released it meanwhile
            raise IntegrityError(
                f"pack {pack.hex()} is missing, so nothing can be collected; run dtafsctl check"
            )
    return [
        _facts(lake, reached, pack, size, named.get(pack), owners.get(pack))
        for pack, size in sizes.items()
    ]


def all_packs(lake: Lake) -> dict[bytes, int]:
    """The packs that are here or in another tier, named by anything or not, with their sizes."""
    # Hot packs after stubs: a pack that is fetched meanwhile is seen at least once.
    return dict(_away_packs(lake)) | dict(_pack_files(lake.path))


def _is_there(lake: Lake, pack: bytes) -> bool:
    return (lake.path / pack_key(pack)).exists() or is_away(lake.path, pack)


def _away_packs(lake: Lake) -> Iterator[tuple[bytes, int]]:
    """The packs that only other tiers have, with their sizes."""
    for pack in stubbed_packs(lake.path):
        try:
            stub = lake.placed.stub(pack)
        except IntegrityError:
            continue  # if the pack is needed, it is missing
        if stub is not None and stub.tiers:
            yield pack, stub.size


def _pack_files(root: Path) -> Iterator[tuple[bytes, int]]:
    return ((pack, file.stat().st_size) for pack, file in _files(root))


def _files(root: Path) -> Iterator[tuple[bytes, os.DirEntry[str]]]:
    for folder in os.scandir(root / "packs"):
        if not folder.is_dir():
            continue
        for file in os.scandir(folder):
            pack = pack_of_name(file.name)
            if pack is not None and file.name.startswith(folder.name):
                yield pack, file


def unnamed_packs(lake: Lake) -> list[bytes]:
    """The packs that are here or in another tier and that neither log nor uncommitted work names."""
    assert lake.pending is not None
    there = {*stubbed_packs(lake.path), *(pack for pack, _file in _files(lake.path))}
    pending = {pack for pack, _dataset in lake.pending.all_packs()}
    return sorted(there - pending - lake.index.pack_ids())


def _facts(
    lake: Lake, reached: Reached, pack: bytes, size: int, row: PackRow | None, owner: str | None
) -> PackFacts:
    origin: Origin = "logged" if row is not None else "staged" if owner is not None else "stray"
    dataset = row.dataset if row is not None else owner or ""
    if row is None:
        kind = _kind_of(lake, pack)
        needed = 1 if reached.needs(pack) else 0  # how much of it does not matter
        return PackFacts(pack, origin, dataset, kind, size, 1, needed)
    spots = reached.spots(pack)
    needed = row.plain
    if len(spots) < row.chunks:
        needed = _needed(read_footer(lake.path, pack), spots) if spots else 0
    shared = owner is not None
    return PackFacts(pack, origin, dataset, PackKind(row.kind), size, row.plain, needed, shared)


def _kind_of(lake: Lake, pack: bytes) -> PackKind | None:
    try:
        return read_footer(lake.path, pack).kind
    except IntegrityError:
        return None


def _needed(pack: Pack, spots: set[int]) -> int:
    return sum(place.size for _chunk, place in pack.places() if spot_of(place) in spots)
