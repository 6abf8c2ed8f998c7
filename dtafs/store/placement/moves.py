"""Moving packs between the hot disk and the tiers.

*Copy*: the stub notes that something may come to lie in the tier; the pack is put there and read back;
the stub says that the tier has it. *Drop*: the tier is asked once more whether it has the pack, and the
file leaves the hot disk. So a pack is readable at every instant, and nothing lies in a tier that no stub
tells of. *Fetch* is the way back: the pack is read to a temporary file, hashed, and named; its stub
stays, so that dropping it again costs nothing. What a crash leaves at any point: a copy that no reader
relies on, which the next move completes, or a temporary file.

A file is dropped only while no collection and no repair runs (`Condemned.undisturbed`), since these open
what they have listed. Nobody else is waited for: an open reader keeps its descriptor, and who looks for
the pack after that finds its stub. Blocks; any thread; never under `Lake.append_lock`.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.format import PackKind, pack_key
from dtafs.core.placed import Stub
from dtafs.core.placement import HOT
from dtafs.errors import (
    BusyError,
    ConflictError,
    DtafsError,
    IntegrityError,
    NotFoundError,
    RecallError,
    RefusedError,
    StorageError,
)
from dtafs.store.durable import TempFile, open_for_reading
from dtafs.store.packs import hash_pack, read_ends, read_footer
from dtafs.store.parity import reader_of
from dtafs.store.placement.copies import ArchivedError
from dtafs.store.placement.stubs import stubbed_packs
from dtafs.store.tiers.base import READS, Tier

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

Pace = Callable[[int], object]
"""Called with each number of bytes that was moved; it may wait."""


def unpaced(size: int) -> None:
    """As fast as it goes."""


# Copying to a tier


def copy_pack(lake: Lake, pack: bytes, tier_name: str, pace: Pace = unpaced) -> int:
    """Have a verified copy of a content pack in a tier; the bytes that were sent, 0 if it was there.

    RefusedError for metadata, IntegrityError when the pack here is not what its name says,
    ConflictError when it is deleted meanwhile, and what `Tier.put` raises. ArchivedError when its
    bytes are only in an archive.
    """
    tier = lake.tier(tier_name)
    with lake.placed.alone(pack):
        return _copy(lake, pack, tier, pace)


def _copy(lake: Lake, pack: bytes, tier: Tier, pace: Pace) -> int:
    placed, tier_name = lake.placed, tier.name
    with placed.lock:
        stub = stub_for(lake, pack)
        if stub.copies.get(tier_name):
            return 0
        if tier_name not in stub.copies:
            placed.save(stub._replace(copies={**stub.copies, tier_name: 0}))
    with _source(lake, pack, stub.size, pace) as path:
        try:
            tier.put(pack_key(pack), path)
        except ConflictError:
            # Nobody relies on what lies there, and what is here was hashed just now.
            tier.delete(pack_key(pack))
            tier.put(pack_key(pack), path)
        tier.verify(pack_key(pack), path)
    with placed.lock:
        known = placed.stub(pack)
        if known is None or tier_name not in known.copies:
            tier.delete(pack_key(pack))
            raise ConflictError(f"pack {pack.hex()} was deleted while it was copied")
        placed.save(known._replace(copies={**known.copies, tier_name: time.time_ns()}))
    return stub.size


def stub_for(lake: Lake, pack: bytes) -> Stub:
    """The stub of a pack, or one for a pack that is only hot."""
    if lake.placed.is_doomed(pack):
        raise BusyError(f"pack {pack.hex()} is still being deleted from a tier; try again later")
    stub = lake.placed.stub(pack)
    if stub is not None:
        return stub
    if read_footer(lake.path, pack).kind != PackKind.CONTENT:
        raise RefusedError(f"pack {pack.hex()} holds metadata, which stays on the hot disk")
    fd = open_for_reading(lake.path / pack_key(pack))
    try:
        size = os.fstat(fd).st_size
        return Stub(pack, size, read_ends(reader_of(fd), size), {})
    finally:
        os.close(fd)


@contextmanager
def _source(lake: Lake, pack: bytes, size: int, pace: Pace) -> Iterator[Path]:
    """A file with the bytes of a pack, which were hashed: the hot one, or one that goes again."""
    path = lake.path / pack_key(pack)
    try:
        digest = hash_pack(lake.path, pack)
    except NotFoundError:
        temp = fetch_to_temp(lake, pack, pace)
        try:
            yield temp.path
        finally:
            temp.discard()
        return
    if digest != pack:
        raise IntegrityError(f"pack {pack.hex()} is damaged, and not moved; run dtafsctl repair")
    pace(size)
    yield path


# Back to the hot disk


def fetch_to_temp(lake: Lake, pack: bytes, pace: Pace = unpaced) -> TempFile:
    """A temporary file with the bytes of a pack from the first tier that has them right.

    ArchivedError when they must be recalled first, IntegrityError when every tier gives other bytes.
    """
    stub = lake.placed.stub(pack)
    if stub is None or not stub.tiers:
        raise NotFoundError(f"pack {pack.hex()} is in no tier")
    archived: ArchivedError | None = None
    failure: DtafsError | None = None
    for name in stub.tiers:
        try:
            tier = lake.tier(name)
            if tier.needs_recall and not _is_ready(tier, pack):
                archived = ArchivedError(pack, name)
                continue
            return fetch_from(lake, tier, pack, pace)
        except DtafsError as error:
            failure = failure or error
    if archived is not None:
        raise archived
    assert failure is not None
    raise failure


def _is_ready(tier: Tier, pack: bytes) -> bool:
    from dtafs.store.tiers.base import State

    facts = tier.facts(pack_key(pack))
    if facts is None:
        raise NotFoundError(f"tier {tier.name!r} has no pack {pack.hex()}; run dtafsctl repair")
    return facts.state == State.READY


def fetch_from(lake: Lake, tier: Tier, pack: bytes, pace: Pace = unpaced) -> TempFile:
    """A temporary file with what a tier has of a pack; IntegrityError when that is wrong, also when it is
    read once more, and what `Tier.fetch` raises, StorageError for NotFoundError."""
    for _ in range(READS):
        temp, digest = _fetched_once(lake, tier, pack, pace)
        if digest == pack:
            return temp
        temp.discard()
    raise IntegrityError(
        f"tier {tier.name!r} gives other bytes than those of pack {pack.hex()}; run dtafsctl repair"
    )


def _fetched_once(lake: Lake, tier: Tier, pack: bytes, pace: Pace) -> tuple[TempFile, bytes]:
    """What a tier gives for a pack, and the hash of that."""
    temp, digest = lake.disk.temp(), hashlib.sha256()

    def take(part: bytes) -> None:
        temp.write(part)
        digest.update(part)
        pace(len(part))

    try:
        tier.fetch(pack_key(pack), take)
    except NotFoundError as error:
        temp.discard()
        raise StorageError(f"pack {pack.hex()} is not where it was put: {error}") from error
    except BaseException:
        temp.discard()
        raise
    return temp, digest.digest()


def fetch_pack(lake: Lake, pack: bytes, hot_until_ns: int, pace: Pace = unpaced) -> int:
    """Have a pack on the hot disk, at least until a time; the bytes that were fetched, 0 if it was
    there. Raises as `fetch_to_temp`, and StorageFullError when there is no room for it."""
    placed, path = lake.placed, lake.path / pack_key(pack)
    size = 0
    if not path.exists():
        stub = placed.stub(pack)
        lake.disk.check_room(lake.path, stub.size if stub is not None else 0)
        temp = fetch_to_temp(lake, pack, pace)
        size = temp.size
        try:
            with placed.lock:
                if placed.stub(pack) is None:
                    raise ConflictError(f"pack {pack.hex()} was deleted while it was fetched")
                lake.disk.make_directory(path.parent)
                temp.publish(path)
                placed.forget(pack)
        finally:
            temp.discard()
        lake.far.forget(pack)
    with placed.lock:
        stub = placed.stub(pack)
        if stub is not None and stub.hot_until_ns < hot_until_ns:
            placed.save(stub._replace(hot_until_ns=hot_until_ns))
    return size


# Away from the hot disk, or from a tier


def drop_pack(lake: Lake, pack: bytes) -> int:
    """Take a pack from the hot disk, of which a tier has a verified copy; the bytes freed.

    BusyError while a collection or a repair runs, RefusedError when no tier has it, and what the
    tier raises that is asked for it.
    """
    with lake.placed.alone(pack):
        _require_copy(lake, pack)
        return _drop(lake, pack)


def _drop(lake: Lake, pack: bytes) -> int:
    placed, path = lake.placed, lake.path / pack_key(pack)
    with lake.condemned.undisturbed(), placed.lock:
        stub = placed.stub(pack)
        # A tier that was taken away since it was asked counts no more.
        if stub is None or not any(name in lake.tiers for name in stub.tiers):
            raise RefusedError(f"no tier has a verified copy of pack {pack.hex()}")
        if pack in lake.condemned.packs:
            raise BusyError(f"pack {pack.hex()} is going to be deleted; it is not moved")
        size = stub.size if lake.disk.unlink(path) else 0
        if stub.hot_until_ns:
            placed.save(stub._replace(hot_until_ns=0))
        placed.forget(pack)
    lake.files.forget(pack)
    return size


def _require_copy(lake: Lake, pack: bytes, besides: str = "") -> None:
    """Raise unless a tier says that it has a pack, whole."""
    stub = lake.placed.stub(pack)
    tiers = [name for name in stub.tiers if name != besides] if stub is not None else []
    if stub is None or not tiers:
        raise RefusedError(f"no other tier has a verified copy of pack {pack.hex()}")
    failure: DtafsError | None = None
    for name in tiers:
        try:
            facts = lake.tier(name).facts(pack_key(pack))
        except DtafsError as error:
            failure = failure or error
            continue
        if facts is not None and facts.size_bytes == stub.size:
            return
        with lake.placed.lock:  # it is not there any more: no reader may rely on it
            known = lake.placed.stub(pack)
            if known is not None:
                lake.placed.save(known._replace(copies={**known.copies, name: 0}))
        text = f"tier {name!r} has lost pack {pack.hex()}, which stays where it is"
        failure = failure or IntegrityError(f"{text}; move it again")
    assert failure is not None
    raise failure


def drop_copy(lake: Lake, pack: bytes, tier_name: str) -> None:
    """Delete the copy of a pack in a tier; RefusedError when it is the only one."""
    with lake.placed.alone(pack):
        _delete_copy(lake, pack, tier_name)


def _delete_copy(lake: Lake, pack: bytes, tier_name: str) -> None:
    placed = lake.placed
    if not placed.is_hot(pack):
        _require_copy(lake, pack, tier_name)
    with lake.condemned.undisturbed(), placed.lock:
        stub = placed.stub(pack)
        if stub is None or tier_name not in stub.copies:
            return
        others = [name for name in stub.tiers if name != tier_name and name in lake.tiers]
        if not others and not placed.is_hot(pack):
            raise RefusedError(f"tier {tier_name!r} has the only copy of pack {pack.hex()}")
        placed.save(stub._replace(copies={**stub.copies, tier_name: 0}))
    lake.tier(tier_name).delete(pack_key(pack))
    with placed.lock:
        stub = placed.stub(pack)
        if stub is not None and stub.copies.get(tier_name) == 0:
            left = {name: at for name, at in stub.copies.items() if name != tier_name}
            placed.save(stub._replace(copies=left))


def move_pack(lake: Lake, pack: bytes, tier_name: str, pace: Pace = unpaced) -> int:
    """Have a pack in one tier, or `hot`, and nowhere nearer than that; the bytes that were moved.

    Copies in other tiers that need not be recalled are given up; those in an archive stay, since
    they cost next to nothing and deleting them early often costs more.
    """
    if tier_name == HOT:
        return fetch_pack(lake, pack, time.time_ns(), pace)
    with lake.placed.alone(pack):
        size = copy_pack(lake, pack, tier_name, pace)
        if lake.placed.is_hot(pack):
            drop_pack(lake, pack)
        stub = lake.placed.stub(pack)
        for other in stub.tiers if stub is not None else ():
            known = other != tier_name and other in lake.tiers
            if known and not lake.tier(other).needs_recall:
                drop_copy(lake, pack, other)
    return size


class Moved(NamedTuple):
    """What `move_packs` has done."""

    packs: int
    size_bytes: int
    left: dict[bytes, str]
    """Packs that stay where they were, and why."""
    must_recall: bool
    """All that keeps them there is that they lie in an archive."""


def move_packs(
    lake: Lake,
    packs: Iterable[bytes],
    tier_name: str,
    tell: Callable[[int, int], object] = lambda done, size_bytes: None,
) -> Moved:
    """Move packs one after the other; what cannot be moved is told, and the others are moved, unless the tier
    does not answer.

    NotFoundError when there is no such tier. `tell` is given how many are done, and their bytes.
    """
    if tier_name != HOT:
        lake.tier(tier_name)
    count = size_bytes = archived = 0
    left: dict[bytes, str] = {}
    trouble: DtafsError | None = None
    for done, pack in enumerate(packs, 1):
        if trouble is not None:
            left[pack] = str(trouble)
            continue
        try:
            size_bytes += move_pack(lake, pack, tier_name)
            count += 1
        except DtafsError as error:
            left[pack] = str(error)
            archived += isinstance(error, RecallError)
            trouble = lake.tiers.trouble(tier_name) if tier_name != HOT else None
        tell(done, size_bytes)
    return Moved(count, size_bytes, left, bool(left) and archived == len(left))


def only_copies(lake: Lake, tier_name: str) -> tuple[int, int]:
    """How many packs, and of how many bytes, have their only verified copy in a tier, of those that this host
    knows."""
    count = size_bytes = 0
    for pack in stubbed_packs(lake.path):
        stub = lake.placed.stub(pack)
        tiers = [name for name in stub.tiers if name in lake.tiers] if stub is not None else []
        if stub is not None and tiers == [tier_name] and not lake.placed.is_hot(pack):
            count, size_bytes = count + 1, size_bytes + stub.size
    return count, size_bytes
