"""A namespace without a kernel: `World` asks it what FUSE would ask."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from dtafs.core.values import Actor
from dtafs.errors import DtafsError
from dtafs.fs.area import Caller, Changes, OpenFile
from dtafs.fs.attributes import Attributes
from dtafs.fs.build import Directories, build_namespace
from dtafs.fs.drafts import Drafts
from dtafs.fs.gate import Gates
from dtafs.fs.inodes import ROOT
from dtafs.fs.namespace import Namespace
from dtafs.services.changes import Changes as LakeChanges
from dtafs.services.status import StatusSources
from dtafs.store.lake import Lake
from dtafs.store.staging.outdated import Outdated

ACTOR = Actor("tester", 1000, "host", "tests")
CALLER = Caller(os.getuid(), os.getgid(), os.getpid(), 0o022)


class World:
    """One mount's namespace, by path: every step of a path is a lookup, as the kernel makes it."""

    def __init__(self, lake: Lake, nursery: trio.Nursery, read_only: bool = False) -> None:
        self.lake = lake
        self.gates, self.drafts = Gates(), Drafts()
        self.renewed: list[tuple[str, Outdated]] = []
        self.quiet: list[tuple[str, int]] = []
        self.changes = LakeChanges(
            lake,
            self.gates,
            self.drafts,
            lambda *renewed: self.renewed.append(renewed),
            lambda rows: None,
        )
        self.namespace: Namespace = build_namespace(
            lake,
            nursery,
            Directories(),
            self.gates,
            self.drafts,
            StatusSources(lake, Path("/mnt"), self.changes),
            None if read_only else self.changes,
            lambda staging, ino: self.quiet.append((staging.dataset, ino)),
        )

    async def at(self, path: str | bytes) -> Attributes:
        """What is at a path; symlinks are not followed."""
        found = await self.namespace.area(ROOT).attributes(ROOT)
        for name in os.fsencode(path).split(b"/"):
            if name:
                below = await self.namespace.lookup(found.ino, name)
                if below is None:
                    raise FileNotFoundError(os.fsdecode(path))
                found = below
        return found

    async def names(self, path: str, batch: int = 1_000) -> list[bytes]:
        """What a directory lists, `batch` names to a request."""
        return [name for name, _ in await self.entries(path, batch)]

    async def entries(self, path: str, batch: int = 1_000) -> list[tuple[bytes, Attributes]]:
        """Names and attributes of a directory, without `.` and `..`."""
        ino = (await self.at(path)).ino
        handle = await self.namespace.area(ino).open_directory(ino)
        found: list[tuple[bytes, Attributes]] = []
        cookie, more = 0, True
        while more:
            page: list[tuple[bytes, Attributes, int]] = []

            def emit(
                name: bytes,
                attributes: Attributes,
                after: int,
                page: list[tuple[bytes, Attributes, int]] = page,
            ) -> bool:
                if len(page) == batch:
                    return False
                page.append((name, attributes, after))
                return True

            await self.namespace.list(handle, cookie, emit)
            more = bool(page)
            if page:
                cookie = page[-1][2]
            found += [(name, attributes) for name, attributes, _ in page]
        await handle.release()
        return [(name, attributes) for name, attributes in found if name not in (b".", b"..")]

    async def open(self, path: str, flags: int = os.O_RDONLY) -> OpenFile:
        """Open a file."""
        ino = (await self.at(path)).ino
        return await self.namespace.area(ino).open(ino, flags, CALLER)

    async def read(self, path: str, size: int = 1 << 20) -> bytes:
        """All bytes of a file, read piece by piece."""
        opened = await self.open(path)
        parts: list[bytes] = []
        while piece := await opened.read(sum(map(len, parts)), size):
            parts.append(piece)
        await opened.release()
        return b"".join(parts)

    async def write(self, path: str, data: bytes) -> None:
        """Make a file with these bytes."""
        parent, _, name = path.rpartition("/")
        above = (await self.at(parent)).ino
        opened, _ = await self.namespace.create(
            above, os.fsencode(name), 0o644, os.O_WRONLY, CALLER
        )
        await opened.write(0, data)
        await opened.release()

    async def mkdir(self, path: str) -> Attributes:
        """Make a directory, or, at the top, a dataset."""
        parent, _, name = path.rpartition("/")
        above = (await self.at(parent)).ino
        mode = stat.S_IFDIR | 0o755
        return await self.namespace.make(above, os.fsencode(name), mode, CALLER)

    async def rename(self, path: str, target: str, flags: int = 0) -> None:
        """Rename, as `mv` does."""
        parent, _, name = path.rpartition("/")
        new_parent, _, new_name = target.rpartition("/")
        old, new = (await self.at(parent)).ino, (await self.at(new_parent)).ino
        await self.namespace.rename(
            old, os.fsencode(name), new, os.fsencode(new_name), flags, CALLER
        )

    async def commit(self, dataset: str) -> None:
        """`mv staging vN`."""
        following = self.lake.dataset(dataset).newest + 1
        await self.rename(f"{dataset}/staging", f"{dataset}/v{following}")

    async def refused(self, path: str, changes: Changes) -> int:
        """The errno with which a change of attributes is refused."""
        ino = (await self.at(path)).ino
        with pytest.raises((OSError, DtafsError)) as caught:
            await self.namespace.set_attributes(ino, changes)
        assert isinstance(caught.value, OSError) and caught.value.errno is not None
        return caught.value.errno


@pytest.fixture
async def world(lake: Lake) -> AsyncIterator[World]:
    """The namespace of a new, empty lake."""
    async with trio.open_nursery() as nursery:
        yield World(lake, nursery)
        nursery.cancel_scope.cancel()
