"""Object Lock of buckets follows the lattice: packs are kept there as long as a rule or a hold keeps them.

A pack is kept until the latest time until which a version that needs any of it is kept; what no rule
disposes of, for a year, which is renewed when half of it has passed. A legal hold is on it as long as a
hold is on such a version. So a lock is never shorter than what the rules say, and dates are only ever
extended. Locks are a second fence, for accidents and for whoever gets hold of the bucket: what the lattice
lets go is deleted by bypassing them (`dtafs.store.tiers.versions`).

Done at the end of each `retain apply`, for tiers whose bucket has Object Lock. One walk over the metadata of
all versions that are kept. Blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.children import children
from dtafs.core.format import PackKind, pack_key
from dtafs.core.nodes import decode_node
from dtafs.core.periods import DAY_NS
from dtafs.errors import DtafsError
from dtafs.store.index import VersionRow
from dtafs.store.objects import Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.placement.stubs import tiers_of
from dtafs.store.retention_facts import Standing
from dtafs.store.tiers.s3 import S3Tier, object_name
from dtafs.store.tiers.state import read_state
from dtafs.store.tiers.versions import extend_retention, read_lock, set_legal_hold

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

FOR_EVER_NS = 365 * DAY_NS
"""How long what is kept without an end is locked, to begin with."""

PLACES_AT_ONCE = 8_192


class Wanted(NamedTuple):
    """What the lattice wants of a pack; `until_ns` None: without an end."""

    until_ns: int | None
    held: bool


def locked_tiers(lake: Lake) -> list[str]:
    """The tiers whose bucket has Object Lock."""
    found = []
    for name, settings in lake.tiers.settings.items():
        state = read_state(lake.path, name, settings.url)
        if state.capabilities.object_lock == "enabled":
            found.append(name)
    return found


def follow_lattice(lake: Lake, now_ns: int) -> dict[str, str]:
    """Bring the locks of all tiers that have them up to date; what could not be locked, and why."""
    names = locked_tiers(lake)
    left: dict[str, str] = {}
    if not names:
        return left
    wanted = wanted_of_packs(lake, now_ns)
    for name in names:
        try:
            tier = lake.tier(name)
        except DtafsError as error:
            left[f"tier {name}"] = str(error)
            continue
        if not isinstance(tier, S3Tier):
            continue
        for pack, want in wanted.items():
            if name not in tiers_of(lake.path, pack):
                continue
            try:
                _lock(tier, object_name(pack_key(pack)), want, now_ns)
            except DtafsError as error:
                left[f"{name}: {pack_key(pack)}"] = str(error)
    return left


def _lock(tier: S3Tier, key: str, want: Wanted, now_ns: int) -> None:
    known = read_lock(tier.bucket, key)
    until_ns = want.until_ns
    if until_ns is None:
        half_gone = known.until_ns < now_ns + FOR_EVER_NS // 2
        until_ns = now_ns + FOR_EVER_NS if half_gone else 0
    if until_ns > max(known.until_ns, now_ns):
        extend_retention(tier.bucket, key, until_ns)
    if want.held != known.held:
        set_legal_hold(tier.bucket, key, want.held)


def wanted_of_packs(lake: Lake, now_ns: int) -> dict[bytes, Wanted]:
    """What the lattice wants of each pack of content that a kept version needs."""
    standing = Standing(lake.index)
    decided = []
    for row in _kept(lake):
        decision = standing.decide(row, now_ns)
        decided.append((row, decision.keep_until_ns, bool(decision.holds)))
    until: dict[bytes, int | None] = {}
    with _Walk(lake) as walk:
        # The longest first: what was met before needs no second look.
        for row, keep_ns, _held in sorted(decided, key=lambda one: _order(one[1])):
            for pack in walk.packs_of(row):
                until.setdefault(pack, keep_ns)
    with _Walk(lake) as walk:
        held = {pack for row, _keep, on in decided if on for pack in walk.packs_of(row)}
    return {pack: Wanted(keep_ns, pack in held) for pack, keep_ns in until.items()}


def _order(keep_until_ns: int | None) -> tuple[bool, int]:
    return keep_until_ns is not None, -(keep_until_ns or 0)


def _kept(lake: Lake) -> Iterable[VersionRow]:
    for serial in range(1, lake.index.newest_serial() + 1):
        row = lake.index.version_by_serial(serial)
        if row is not None and not row.disposed:
            yield row


class _Walk:
    """The packs of content that versions need, each node looked at once."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._files = PackFiles(lake.path, lake.far)
        self._objects = Objects(self._files, lake.index.place)
        self._met: set[bytes] = set()
        self._content = {p for p, row in lake.index.packs() if row.kind == PackKind.CONTENT}

    def __enter__(self) -> _Walk:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._files.close()

    def packs_of(self, row: VersionRow) -> set[bytes]:
        """Those of a version that nodes lead to which no earlier one led to."""
        packs: set[bytes] = set()
        chunks: set[bytes] = set()
        todo = [row.root]
        while todo:
            node = todo.pop()
            if node in self._met:
                continue
            self._met.add(node)
            decoded = decode_node(bytes(self._objects.chunk(node)))
            for child in children(decoded, self._objects.chunk_id):
                if child.is_node:
                    todo.append(child.id)
                else:
                    chunks.add(child.id)
            if len(chunks) >= PLACES_AT_ONCE:
                packs.update(self._lake.index.packs_of(chunks).values())
                chunks.clear()
        packs.update(self._lake.index.packs_of(chunks).values())
        return packs & self._content
