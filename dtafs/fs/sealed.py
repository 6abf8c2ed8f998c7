"""Sealed versions: everything below `vN`, immutable and found by number without a table."""

from __future__ import annotations

import contextlib
import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import trio
from msgspec import Struct, structs

from dtafs.core.tree import Located, at_ordinal, find, open_root, scan
from dtafs.core.values import Entry, Kind
from dtafs.errors import DtafsError
from dtafs.fs.area import DOTS, WRITING, Area, Caller, Emit, OpenDirectory, OpenFile, refuse
from dtafs.fs.attributes import MOVING_TIMEOUT_S, Attributes, sealed_attributes
from dtafs.fs.handover import Handover
from dtafs.fs.inodes import SEALED_BASE, group_number, sealed_number, split_sealed
from dtafs.fs.nodes import NodeReader
from dtafs.fs.readahead import ReadAheadPool, SealedReader
from dtafs.fs.retained import Retained
from dtafs.fs.xattrs import RETAINED, TIER, is_described, retained_xattrs, sealed_xattrs
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.objects import ColdNode
from dtafs.store.placement.contents import places_of, share_here

KNOWN_MAX = 8_192
"""Entries kept by number in each of two generations: what `ls -lR` and `cp -a` ask for twice. About
10 MiB."""

VERSIONS_MAX = 256
"""Versions whose top entry is kept."""


DISPOSED_MODE = 0o555
"""Of the directory that stands for a version that was disposed of: it is shown, and cannot be opened."""


def _refuse_disposed(version: Version) -> None:
    """ENODATA for whatever would need the nodes of a version that was disposed of."""
    if version.row.disposed:
        refuse(errno.ENODATA)


class Place(Struct, frozen=True, gc=False):
    """An entry of a version, with the number of its directory."""

    entry: Entry
    ordinal: int
    parent: int


class Version(NamedTuple):
    """A version and the entry of its top directory."""

    row: VersionRow
    top: Entry


class SealedArea(Area):
    """Everything below the versions of a lake.

    `version_of` gives the version with a serial, `directory_of` the inode number of a dataset.
    """

    def __init__(
        self,
        lake: Lake,
        nodes: NodeReader,
        pool: ReadAheadPool,
        handover: Handover,
        version_of: Callable[[int], VersionRow],
        directory_of: Callable[[str], int],
    ) -> None:
        self._lake = lake
        self._nodes = nodes
        self._retained = Retained(lake, nodes.limiter)
        self._pool = pool
        self._handover = handover
        self._version_of = version_of
        self._directory_of = directory_of
        self._versions: OrderedDict[int, Version] = OrderedDict()
        self._known: dict[int, Place] = {}
        self._known_before: dict[int, Place] = {}
        self._groups: dict[int, list[int]] = {}
        # Of each hard-link group that the kernel knows: [number of one of its names, references].

    async def top(self, row: VersionRow) -> Attributes:
        """The attributes of the top directory of a version."""
        return await self.attributes(sealed_number(row.serial, 0))

    async def read_ahead(self, rows: Sequence[VersionRow]) -> None:
        """Have in memory what `top` needs of versions that it is going to be asked for; fewer than
        VERSIONS_MAX. One that cannot be read is left to `top`, which says so."""
        new = [row for row in rows if row.serial not in self._versions and not row.disposed]
        await self._nodes.read_ahead([row.root for row in new])
        for row in new:
            with contextlib.suppress(ColdNode, DtafsError):
                self._keep_version(row)

    async def lookup(self, parent: int, name: bytes) -> Attributes | None:
        version, place = await self._nodes.run(self._find, parent)
        if place.entry.kind != Kind.DIRECTORY:
            refuse(errno.ENOTDIR)
        _refuse_disposed(version)
        return await self._nodes.run(self._look_up, version, place, name)

    def _look_up(self, version: Version, directory: Place, name: bytes) -> Attributes | None:
        found = find(self._nodes.objects.cached_node, directory.entry.ref, name)
        return None if found is None else self.seen(version, directory, found)

    def remember(self, ino: int) -> None:
        if ino in self._groups:
            self._groups[ino][1] += 1

    def release(self, ino: int, count: int) -> None:
        group = self._groups.get(ino)
        if group is not None:
            group[1] -= count
            if group[1] <= 0:
                del self._groups[ino]

    async def attributes(self, ino: int) -> Attributes:
        return await self._nodes.run(self._attributes, ino)

    def _attributes(self, ino: int) -> Attributes:
        version, place = self._find(ino)
        return self._of(version, place.entry, ino)

    def _of(self, version: Version, entry: Entry, ino: int) -> Attributes:
        """The attributes of an entry; those of a file say how much of it is here."""
        sealed_ns = version.row.time_ns
        if entry.kind != Kind.FILE or not self._lake.tiers:
            return sealed_attributes(entry, ino, sealed_ns)
        share = share_here(self._lake, entry.content) if self._lake.placed.is_used() else 1.0
        return sealed_attributes(entry, ino, sealed_ns, share, MOVING_TIMEOUT_S)

    async def open(self, ino: int, flags: int, caller: Caller) -> OpenFile:
        if flags & WRITING:
            refuse(errno.EROFS)
        _, place = await self._nodes.run(self._find, ino)
        if place.entry.kind != Kind.FILE:
            refuse(errno.ENXIO)
        await self._pool.far.opened(place.entry.content, not flags & os.O_NONBLOCK)
        on_release = self._handover.opened(ino, place.entry.content)
        return SealedReader(place.entry.content, self._pool, on_release)

    async def open_directory(self, ino: int) -> OpenDirectory:
        version, place = await self._nodes.run(self._find, ino)
        if place.entry.kind != Kind.DIRECTORY:
            refuse(errno.ENOTDIR)
        _refuse_disposed(version)
        return _Listing(self, self._nodes, version, place)

    async def readlink(self, ino: int) -> bytes:
        _, place = await self._nodes.run(self._find, ino)
        if place.entry.kind != Kind.SYMLINK:
            refuse(errno.EINVAL)
        return place.entry.ref

    async def get_xattr(self, ino: int, name: bytes) -> bytes:
        version, place = await self._nodes.run(self._find, ino)
        said = sealed_xattrs(version.row, place.entry)
        if name in RETAINED and is_described(place.entry):
            said |= retained_xattrs(await self._retained.of(version.row))
        value = said.get(name)
        if value is None:
            refuse(errno.ENODATA)
        if name == TIER and place.entry.kind == Kind.FILE and self._lake.tiers:
            find_places = partial(places_of, self._lake, place.entry.content)
            limiter = self._nodes.limiter
            places = await trio.to_thread.run_sync(find_places, limiter=limiter)
            return ",".join(places or ["hot"]).encode()
        return value

    async def list_xattrs(self, ino: int) -> list[bytes]:
        version, place = await self._nodes.run(self._find, ino)
        said = sealed_xattrs(version.row, place.entry)
        if is_described(place.entry):
            said |= retained_xattrs(await self._retained.of(version.row))
        return sorted(said)

    def dots(self, version: Version, place: Place) -> tuple[Attributes, Attributes]:
        """What a listing says of `.` and `..`: only the numbers count."""
        serial, sealed_ns = version.row.serial, version.row.time_ns
        here = sealed_number(serial, place.ordinal)
        above = sealed_number(serial, place.parent)
        if place.ordinal == 0:
            above = self._directory_of(version.row.dataset)
        return (
            sealed_attributes(place.entry, here, sealed_ns),
            sealed_attributes(place.entry, above, sealed_ns),
        )

    def entries(self, directory: Place, position: int) -> Iterator[Located]:
        """The entries of a directory from a position on."""
        return scan(self._nodes.objects.cached_node, directory.entry.ref, position)

    def seen(self, version: Version, directory: Place, found: Located) -> Attributes:
        """The attributes of an entry that was met in a directory."""
        serial, ordinal = version.row.serial, directory.ordinal + found.ordinal
        number = sealed_number(serial, ordinal)
        shown = self._of(version, found.entry, number)
        self._keep(number, Place(found.entry, ordinal, directory.ordinal))
        if found.entry.link:
            shared = group_number(serial, found.entry.link)
            self._groups.setdefault(shared, [number, 0])
            shown = structs.replace(shown, ino=shared)
        return shown

    def _keep(self, number: int, place: Place) -> None:
        if len(self._known) >= KNOWN_MAX:
            self._known_before = self._known
            self._known = {}
        self._known[number] = place

    def _find(self, ino: int) -> tuple[Version, Place]:
        """The version and entry behind a number; ESTALE for a number that never was given out."""
        if ino < SEALED_BASE:  # the number of a hard-link group
            if ino not in self._groups:
                refuse(errno.ESTALE)
            ino = self._groups[ino][0]
        serial, ordinal = split_sealed(ino)
        version = self._version(serial)
        if ordinal:
            _refuse_disposed(version)
        place = self._known.get(ino) if ordinal else None
        if place is None:
            known = self._known_before.get(ino) if ordinal else None
            place = known or self._locate(version.top, ordinal)
            self._keep(ino, place)
        return version, place

    def _version(self, serial: int) -> Version:
        version = self._versions.get(serial)
        if version is None:
            return self._keep_version(self._version_of(serial))
        self._versions.move_to_end(serial)
        return version

    def forget_version(self, serial: int) -> None:
        """A version was disposed of: what is kept of it is so no longer."""
        self._versions.pop(serial, None)

    def _keep_version(self, row: VersionRow) -> Version:
        if row.disposed:
            top = Entry(b"", Kind.DIRECTORY, DISPOSED_MODE, 0, 0, row.time_ns, 0)
        else:
            top = open_root(self._nodes.objects.cached_node, row.root)
        version = self._versions[row.serial] = Version(row, top)
        while len(self._versions) > VERSIONS_MAX:
            self._versions.popitem(last=False)
        return version

    def _locate(self, top: Entry, ordinal: int) -> Place:
        try:
            _, entry, parent = at_ordinal(self._nodes.objects.cached_node, top, ordinal)
        except KeyError:
            refuse(errno.ESTALE)
        return Place(entry, ordinal, parent)


class _Listing(OpenDirectory):
    """A sealed directory being listed: immutable, so that a position is a cookie for ever."""

    def __init__(self, area: SealedArea, nodes: NodeReader, version: Version, place: Place) -> None:
        self._area, self._nodes = area, nodes
        self._version, self._place = version, place

    async def read(self, start: int, emit: Emit) -> None:
        dots = self._area.dots(self._version, self._place)
        for cookie, name in enumerate((b".", b"..")):
            if start <= cookie and not emit(name, dots[cookie], cookie + 1):
                return
        await self._nodes.run(_Page(self._area, self._version, self._place, start, emit).fill)


class _Page:
    """One `readdir` under way: after a node had to be read, `fill` goes on where it was."""

    def __init__(
        self, area: SealedArea, version: Version, place: Place, start: int, emit: Emit
    ) -> None:
        self._area, self._version, self._place, self._emit = area, version, place, emit
        self._position = max(0, start - DOTS)

    def fill(self) -> None:
        """Emit entries until there is no room or no entry left."""
        for found in self._area.entries(self._place, self._position):
            attributes = self._area.seen(self._version, self._place, found)
            if not self._emit(found.entry.name, attributes, found.position + DOTS + 1):
                return
            self._position = found.position + 1
