"""`.dtafs`: what people and auditors read about the lake, as files that nobody has to write.

    catalog.sqlite                     the lake's history for any SQLite client, always current
    provenance/<dataset>/vN.txt        who made a version, from what, with which program; of one that was
                                       disposed of, the certificate
    status                             what the daemon is doing, made anew for each open

A generation of the catalog, and the provenance of a version, have inodes of their own and never
change: a name may come to mean another inode, but what was opened stays what it was.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

import trio

from dtafs.core.names import parse_version_name, version_name
from dtafs.core.values import Kind
from dtafs.fs.area import WRITING, Area, Caller, Emit, OpenDirectory, OpenFile, refuse
from dtafs.fs.attributes import Attributes, Owner, made_up, made_up_directory
from dtafs.fs.inodes import ROOT, NumberTable
from dtafs.store.catalog import Catalog
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake

DIRECTORY_MODE = 0o555
FILE_MODE = 0o444
CATALOG, PROVENANCE, STATUS = "catalog.sqlite", "provenance", "status"
SUFFIX = ".txt"

TEXTS_KEPT = 16
"""Texts of versions in memory: their length is bounded where they are made."""


Key = tuple[str, ...]


class Sources(Protocol):
    """Where the texts come from. `provenance` blocks and may run in any thread."""

    def provenance(self, version: VersionRow) -> bytes:
        """The text of a version: always the same."""

    def status(self) -> bytes:
        """What the daemon is doing; called on the event loop."""


class ViewsArea(Area):
    """Everything below `.dtafs`."""

    def __init__(self, lake: Lake, numbers: NumberTable, owner: Owner, sources: Sources) -> None:
        self._lake, self._numbers, self._owner, self._sources = lake, numbers, owner, sources
        self._catalog = Catalog(lake)
        self._texts: OrderedDict[Key, bytes] = OrderedDict()
        self._top = numbers.number(("top",))
        numbers.remember(self._top)  # never forgotten: the root shows it

    def top(self) -> Attributes:
        """The attributes of `.dtafs` itself."""
        return self._directory(("top",))

    async def lookup(self, parent: int, name: bytes) -> Attributes | None:
        key, word = self._key(parent), os.fsdecode(name)
        if key == ("top",):
            if word == CATALOG:
                return await self._current_catalog()
            if word == PROVENANCE:
                return self._directory((PROVENANCE,))
            if word == STATUS:
                return self._file((STATUS,), 0, 0)
        elif key[0] == PROVENANCE and len(key) == 1:
            if self._lake.index.dataset(word) is not None:
                return self._directory((PROVENANCE, word))
        elif key[0] == PROVENANCE and len(key) == 2 and word.endswith(SUFFIX):
            number = parse_version_name(word.removesuffix(SUFFIX))
            version = self._lake.index.version(key[1], number) if number else None
            if version is not None:
                return await self._provenance(self._text_key(version), version)
        refuse(errno.ENOENT)

    async def attributes(self, ino: int) -> Attributes:
        key = self._key(ino)
        if key[0] == CATALOG:
            return self._catalog_attributes(key)
        if key[0] == STATUS:
            return self._file(key, 0, 0)
        if len(key) == 3:
            return await self._provenance(key, self._version(key))
        return self._directory(key)

    async def open(self, ino: int, flags: int, caller: Caller) -> OpenFile:
        if flags & WRITING:
            refuse(errno.EROFS)
        key = self._key(ino)
        if key[0] == CATALOG:
            return _OpenCatalog(os.open(key[1], os.O_RDONLY | os.O_CLOEXEC))
        if key[0] == STATUS:
            return _OpenText(self._sources.status(), direct=True)
        if len(key) == 3:
            return _OpenText(await self._text(key, self._version(key)), direct=False)
        refuse(errno.EISDIR)

    async def open_directory(self, ino: int) -> OpenDirectory:
        key = self._key(ino)
        if key[0] not in ("top", PROVENANCE) or len(key) == 3:
            refuse(errno.ENOTDIR)
        return _Listing(self, key)

    def remember(self, ino: int) -> None:
        self._numbers.remember(ino)

    def release(self, ino: int, count: int) -> None:
        self._numbers.release(ino, count)

    async def entries(self, key: Key) -> list[tuple[bytes, Attributes]]:
        """What a directory lists. Sizes of texts are left to `lookup`, which has to make them."""
        above = made_up_directory(ROOT, self._owner, 0, DIRECTORY_MODE)
        found = [(b".", self._directory(key)), (b"..", above)]
        if key == ("top",):
            found.append((os.fsencode(CATALOG), await self._current_catalog()))
            found.append((os.fsencode(PROVENANCE), self._directory((PROVENANCE,))))
            found.append((os.fsencode(STATUS), self._file((STATUS,), 0, 0)))
        elif len(key) == 1:
            for row in self._lake.datasets():
                found.append((os.fsencode(row.name), self._directory((PROVENANCE, row.name))))
        else:
            for version in self._lake.versions(key[1]):
                text = self._text_key(version)
                name = version_name(version.number) + SUFFIX
                found.append((os.fsencode(name), self._file(text, 0, version.time_ns)))
        return found

    def _key(self, ino: int) -> Key:
        try:
            return self._numbers.key(ino)  # type: ignore[return-value]
        except KeyError:
            refuse(errno.ESTALE)

    def _directory(self, key: Key) -> Attributes:
        ino = self._numbers.number(key)
        return made_up_directory(ino, self._owner, 0, DIRECTORY_MODE)

    def _file(self, key: Key, size: int, time_ns: int) -> Attributes:
        ino = self._numbers.number(key)
        return made_up(ino, Kind.FILE, self._owner, time_ns, mode=FILE_MODE, size=size)

    async def _current_catalog(self) -> Attributes:
        path, generation = await trio.to_thread.run_sync(self._catalog.snapshot)
        status = os.stat(path)
        facts = (generation, status.st_size, status.st_mtime_ns)
        return self._catalog_attributes((CATALOG, str(path), *map(str, facts)))

    def _catalog_attributes(self, key: Key) -> Attributes:
        """By the key alone: who has a generation open may ask when its file is gone."""
        return self._file(key, int(key[3]), int(key[4]))

    def _version(self, key: Key) -> VersionRow:
        version = self._lake.index.version(key[1], int(key[2].partition(".")[0]))
        if version is None:
            refuse(errno.ENOENT)
        if version.disposed and key != self._text_key(version):
            self._texts.pop(key, None)  # it has the names of files that are gone
            refuse(errno.ENODATA)
        return version

    def _text_key(self, version: VersionRow) -> Key:
        """The text of a version that was disposed of is its certificate, which the log may go on to."""
        head = self._lake.index.head(version.dataset) if version.disposed else None
        state = f".{head[0]}" if head is not None else ""
        return (PROVENANCE, version.dataset, f"{version.number}{state}")

    async def _provenance(self, key: Key, version: VersionRow) -> Attributes:
        return self._file(key, len(await self._text(key, version)), version.time_ns)

    async def _text(self, key: Key, version: VersionRow) -> bytes:
        text = self._texts.get(key)
        if text is None:
            text = await trio.to_thread.run_sync(self._sources.provenance, version)
            self._texts[key] = text
            while len(self._texts) > TEXTS_KEPT:
                self._texts.popitem(last=False)
        return text


class _OpenText(OpenFile):
    def __init__(self, data: bytes, direct: bool) -> None:
        self._data, self.direct = data, direct

    async def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


class _OpenCatalog(OpenFile):
    """One generation: its bytes are the same whenever they are opened."""

    keep_cache = True

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def read(self, offset: int, size: int) -> bytes:
        return await trio.to_thread.run_sync(os.pread, self._fd, size, offset)

    async def release(self) -> None:
        os.close(self._fd)


class _Listing(OpenDirectory):
    def __init__(self, area: ViewsArea, key: Key) -> None:
        self._area, self._key = area, key
        self._entries: list[tuple[bytes, Attributes]] = []

    async def read(self, start: int, emit: Emit) -> None:
        if start == 0 or not self._entries:
            self._entries = await self._area.entries(self._key)
        for position, (name, attributes) in self._from(start):
            if not emit(name, attributes, position + 1):
                return

    def _from(self, start: int) -> Iterator[tuple[int, tuple[bytes, Attributes]]]:
        return enumerate(self._entries[start:], start)
