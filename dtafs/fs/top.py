"""The root of the mount and the directory of each dataset: names that lead somewhere else.

`/` holds `.dtafs` and one directory for each dataset; `mkdir` creates one. A dataset's directory
holds `v1`, `v2`, … (sealed), `latest` and every tag (symlinks), `staging`, and, on lookup only,
`@TIME`. What can be changed here: `mv staging vN` commits, `ln -s vN TAG` tags, `rm TAG` takes a
tag off. Everything else is refused with EPERM: a dataset's name is for ever.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple, Protocol

from dtafs.core.names import (
    LATEST,
    STAGING,
    VersionSpec,
    check_tag,
    parse_time,
    parse_version_name,
    version_name,
)
from dtafs.core.values import Kind
from dtafs.errors import IntegrityError, NotFoundError, StorageError, UsageError
from dtafs.fs.area import Area, Caller, Changes, Emit, OpenDirectory, OpenFile, refuse
from dtafs.fs.attributes import Attributes, Owner, made_up, made_up_directory
from dtafs.fs.inodes import ROOT, NumberTable, sealed_number
from dtafs.fs.sealed import SealedArea
from dtafs.store.index import DatasetRow, VersionRow
from dtafs.store.lake import Lake

log = logging.getLogger(__name__)

VIEWS = b".dtafs"
STAGING_NAME = os.fsencode(STAGING)
DIRECTORY_MODE = 0o755
LINK_MODE = 0o777

READ_AHEAD_NAMES = 64
"""Names of a listing whose versions are read together: a root node takes less than to ask a thread
for it. Far fewer than the versions that are kept, so that they are still there when they are met."""


class Key(NamedTuple):
    """What an inode number of this area stands for: a dataset's directory, or (with a version) a
    symlink in it. A link that is moved to another version becomes another inode."""

    dataset: str
    link: str = ""
    version: int = 0


class Actions(Protocol):
    """What the mount can change in the lake; the daemon does it."""

    async def create(self, dataset: str, caller: Caller) -> None:
        """Create a dataset."""

    async def commit_as(self, dataset: str, number: int, caller: Caller) -> None:
        """Commit staging; ConflictError unless it becomes version `number`."""

    async def tag(self, dataset: str, version: int, tag: str, caller: Caller) -> None:
        """Put a tag on a version."""

    async def untag(self, dataset: str, tag: str, caller: Caller) -> None:
        """Take a tag off every version that carries it."""


class StagedTop(Protocol):
    """What this area needs of the staging area."""

    async def top(self, dataset: str) -> Attributes:
        """The attributes of a dataset's `staging`."""


class ViewsTop(Protocol):
    """What this area needs of the views."""

    def top(self) -> Attributes:
        """The attributes of `.dtafs`."""


class TopArea(Area):
    """The root and the datasets' directories. `staged` is None in a read-only mount."""

    def __init__(
        self,
        lake: Lake,
        numbers: NumberTable,
        owner: Owner,
        sealed: SealedArea,
        staged: StagedTop | None,
        views: ViewsTop,
        actions: Actions | None,
    ) -> None:
        self._lake, self._numbers, self._owner = lake, numbers, owner
        self._sealed, self._staged, self._views = sealed, staged, views
        self._actions = actions

    async def lookup(self, parent: int, name: bytes) -> Attributes | None:
        word = os.fsdecode(name)
        if parent == ROOT:
            return self._views.top() if name == VIEWS else self._directory(self._row(word))
        return await self._below(self._dataset(parent), word)

    async def attributes(self, ino: int) -> Attributes:
        if ino == ROOT:
            created_ns = max((row.created_ns for row in self._lake.datasets()), default=0)
            return made_up_directory(ROOT, self._owner, created_ns, DIRECTORY_MODE)
        key = self._key(ino)
        if not key.version:
            return self._directory(self._row(key.dataset))
        return self._link(self._row(key.dataset), key.link, key.version)

    async def open(self, ino: int, flags: int, caller: Caller) -> OpenFile:
        refuse(errno.EISDIR)

    async def open_directory(self, ino: int) -> OpenDirectory:
        if ino == ROOT:
            return _Listing(self._root_names, self._root_entry, await self.attributes(ROOT))
        dataset = self._dataset(ino)

        met: dict[bytes, VersionRow] = {}

        async def entry(name: bytes) -> Attributes | None:
            if name in met:
                return await self._listed(met[name])
            return await self._below(dataset, os.fsdecode(name))

        async def ahead(names: list[bytes]) -> None:
            met.clear()
            met.update(self._versions(dataset, names))
            await self._sealed.read_ahead(list(met.values()))

        here = self._directory(self._row(dataset))
        return _Listing(lambda: self._dataset_names(dataset), entry, here, ahead)

    async def readlink(self, ino: int) -> bytes:
        number = 0 if ino == ROOT else self._key(ino).version
        if not number:
            refuse(errno.EINVAL)
        return os.fsencode(version_name(number))

    async def set_attributes(self, ino: int, changes: Changes) -> Attributes:
        refuse(errno.EPERM)

    async def set_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        refuse(errno.EPERM)

    async def remove_xattr(self, ino: int, name: bytes) -> None:
        refuse(errno.EPERM)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Attributes]:
        refuse(errno.EPERM)

    async def make(
        self, parent: int, name: bytes, st_mode: int, caller: Caller, rdev: int = 0
    ) -> Attributes:
        if parent != ROOT or not stat.S_ISDIR(st_mode):
            refuse(errno.EPERM)
        word = os.fsdecode(name)
        await self._acting().create(word, caller)
        return self._directory(self._row(word))

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        if parent == ROOT:
            refuse(errno.EPERM)
        dataset, tag = self._dataset(parent), check_tag(os.fsdecode(name))
        number = parse_version_name(os.fsdecode(target))
        if number is None:
            raise UsageError(
                f"a tag points at a version such as v1, not at {os.fsdecode(target)!r}"
            )
        self._lake.resolve(VersionSpec(dataset, version=number))
        await self._acting().tag(dataset, number, tag, caller)
        return self._link(self._row(dataset), tag, number)

    async def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        refuse(errno.EPERM)

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        word = os.fsdecode(name)
        if parent == ROOT or word not in self._lake.index.tags(self._dataset(parent)):
            refuse(errno.EPERM)
        await self._acting().untag(self._dataset(parent), word, caller)

    async def rmdir(self, parent: int, name: bytes) -> None:
        refuse(errno.EPERM)

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        number = parse_version_name(os.fsdecode(new_name))
        commits = name == STAGING_NAME and parent == new_parent != ROOT and number
        if not commits or self._staged is None:
            refuse(errno.EPERM)
        assert number is not None
        await self._acting().commit_as(self._dataset(parent), number, caller)

    def remember(self, ino: int) -> None:
        self._numbers.remember(ino)

    def release(self, ino: int, count: int) -> None:
        self._numbers.release(ino, count)

    def directory_number(self, dataset: str) -> int:
        """The inode number of a dataset's directory."""
        return self._numbers.number(Key(dataset))

    def _acting(self) -> Actions:
        if self._actions is None:
            refuse(errno.EROFS)
        return self._actions

    def _key(self, ino: int) -> Key:
        try:
            return self._numbers.key(ino)  # type: ignore[return-value]
        except KeyError:
            refuse(errno.ESTALE)

    def _dataset(self, ino: int) -> str:
        key = self._key(ino)
        if key.version:
            refuse(errno.ENOTDIR)
        return key.dataset

    def _row(self, dataset: str) -> DatasetRow:
        row = self._lake.index.dataset(dataset)
        if row is None:
            refuse(errno.ENOENT)
        return row

    def _directory(self, row: DatasetRow) -> Attributes:
        newest = self._lake.index.version(row.name, row.newest) if row.newest else None
        changed_ns = row.created_ns if newest is None else newest.time_ns
        number = self.directory_number(row.name)
        return made_up_directory(number, self._owner, changed_ns, DIRECTORY_MODE)

    def _link(self, row: DatasetRow, name: str, number: int) -> Attributes:
        version = self._lake.index.version(row.name, number)
        if version is None:
            refuse(errno.ENOENT)
        ino = self._numbers.number(Key(row.name, name, number))
        size = len(version_name(number))
        time_ns = version.time_ns
        return made_up(ino, Kind.SYMLINK, self._owner, time_ns, mode=LINK_MODE, size=size)

    async def _listed(self, version: VersionRow) -> Attributes:
        """A version as its dataset lists it. Damage to one hides no other: who looks at it is told."""
        try:
            return await self._sealed.top(version)
        except (IntegrityError, StorageError) as error:
            log.error("listing %s: %s", version.name, error)
            ino = sealed_number(version.serial, 0)
            return made_up(ino, Kind.DIRECTORY, self._owner, version.time_ns, mode=0, size=0)

    async def _below(self, dataset: str, word: str) -> Attributes:
        """The entry `word` of a dataset's directory."""
        row = self._row(dataset)
        number = parse_version_name(word)
        if number is not None:
            version = self._lake.index.version(dataset, number)
            if version is None:
                refuse(errno.ENOENT)
            return await self._sealed.top(version)
        if word == STAGING and self._staged is not None:
            return await self._staged.top(dataset)
        return self._link(row, word, self._target(row, word))

    def _versions(self, dataset: str, names: list[bytes]) -> Iterator[tuple[bytes, VersionRow]]:
        """The versions among some names of a dataset's directory."""
        for name in names:
            number = parse_version_name(os.fsdecode(name))
            row = self._lake.index.version(dataset, number) if number else None
            if row is not None:
                yield name, row

    def _target(self, row: DatasetRow, word: str) -> int:
        """The number of the version that a name of a dataset's directory leads to."""
        if word == LATEST and row.newest:
            return self._kept(row, None, row.newest)
        if word.startswith("@"):
            try:
                spec = VersionSpec(row.name, at_ns=parse_time(word[1:]))
                return self._lake.resolve(spec).number
            except (UsageError, NotFoundError):
                refuse(errno.ENOENT)
        number = self._lake.index.tags(row.name).get(word)
        if number is None:
            refuse(errno.ENOENT)
        return self._kept(row, word, number)

    def _kept(self, row: DatasetRow, tag: str | None, newest: int) -> int:
        """The newest version that carries a tag and was not disposed of, or else simply the newest."""
        try:
            return self._lake.resolve(VersionSpec(row.name, tag=tag)).number
        except NotFoundError:
            return newest

    def _root_names(self) -> Iterator[bytes]:
        yield VIEWS
        for row in self._lake.datasets():
            yield os.fsencode(row.name)

    async def _root_entry(self, name: bytes) -> Attributes | None:
        return await self.lookup(ROOT, name)

    def _dataset_names(self, dataset: str) -> Iterator[bytes]:
        numbers = self._lake.index.version_numbers(dataset)
        for number in numbers:
            yield os.fsencode(version_name(number))
        if numbers:
            yield os.fsencode(LATEST)
        if self._staged is not None:
            yield STAGING_NAME
        for tag in sorted(self._lake.index.tags(dataset)):
            yield os.fsencode(tag)


class _Listing(OpenDirectory):
    """A listing of names that are fixed when it begins; a cookie counts the names before it.

    `ahead`, where given, is told some names before `entry` is asked for them.
    """

    def __init__(
        self,
        names: Callable[[], Iterator[bytes]],
        entry: Callable[[bytes], Awaitable[Attributes | None]],
        here: Attributes,
        ahead: Callable[[list[bytes]], Awaitable[None]] | None = None,
    ) -> None:
        self._make_names, self._entry, self._here = names, entry, here
        self._ahead = ahead
        self._names: list[bytes] = []
        self._told = range(0)
        """Positions of the names that `ahead` was told last."""

    async def read(self, start: int, emit: Emit) -> None:
        if start == 0 or not self._names:
            self._names = [b".", b"..", *self._make_names()]
        for position in range(start, len(self._names)):
            name = self._names[position]
            if self._ahead is not None and position >= 2 and position not in self._told:
                self._told = range(position, position + READ_AHEAD_NAMES)
                await self._ahead(self._names[position : position + READ_AHEAD_NAMES])
            try:
                found = self._here if position < 2 else await self._entry(name)
            except FileNotFoundError:
                continue  # it went since the listing began
            if found is not None and not emit(name, found, position + 1):
                return
