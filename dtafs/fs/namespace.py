"""What the mount looks like: one tree made of four areas, chosen by inode number.

No FUSE in here: tests call it directly, `dtafs.fs.operations` adapts it to pyfuse3. Everything runs
on one event loop.
"""

from __future__ import annotations

import errno

from dtafs.fs.area import Area, Caller, Changes, Emit, OpenDirectory, OpenFile, refuse
from dtafs.fs.attributes import Attributes
from dtafs.fs.inodes import GROUP_BASE, ROOT, TABLE_BASE, VIEW_BASE


class Namespace:
    """The areas of one mount, and the calls that concern more than one of them.

    Every reply that hands an inode to the kernel counts as one reference (`remember`); the kernel
    gives them back with `release`.
    """

    def __init__(self, top: Area, views: Area, sealed: Area, staged: Area) -> None:
        self._top, self._views, self._sealed, self._staged = top, views, sealed, staged

    def area(self, ino: int) -> Area:
        """The area that an inode belongs to (`region_of`, in the order of how often it is asked)."""
        if ino >= GROUP_BASE:
            return self._sealed
        if ino < TABLE_BASE:
            return self._top if ino == ROOT else self._staged
        return self._views if ino >= VIEW_BASE else self._top

    def remember(self, ino: int) -> None:
        """The kernel has been given one reference to an inode."""
        if ino != ROOT:
            self.area(ino).remember(ino)

    def release(self, ino: int, count: int) -> None:
        """The kernel has given references back."""
        if ino != ROOT:
            self.area(ino).release(ino, count)

    async def lookup(self, parent: int, name: bytes) -> Attributes | None:
        """The entry of a directory; None when there is none and never will be."""
        found = await self.area(parent).lookup(parent, name)
        if found is not None:
            self.remember(found.ino)
        return found

    async def list(self, directory: OpenDirectory, start: int, emit: Emit) -> None:
        """Emit names of an open directory; those that were taken count as references."""

        def counted(name: bytes, attributes: Attributes, cookie: int) -> bool:
            taken = emit(name, attributes, cookie)
            if taken and name not in (b".", b".."):
                self.remember(attributes.ino)
            return taken

        await directory.read(start, counted)

    async def set_attributes(self, ino: int, changes: Changes) -> Attributes:
        """Change attributes."""
        return await self.area(ino).set_attributes(ino, changes)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Attributes]:
        """Create and open a regular file."""
        opened, found = await self.area(parent).create(parent, name, mode, flags, caller)
        self.remember(found.ino)
        return opened, found

    async def make(
        self, parent: int, name: bytes, st_mode: int, caller: Caller, rdev: int = 0
    ) -> Attributes:
        """Make a file, directory, fifo, socket or device."""
        found = await self.area(parent).make(parent, name, st_mode, caller, rdev)
        self.remember(found.ino)
        return found

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        """Make a symlink."""
        found = await self.area(parent).symlink(parent, name, target, caller)
        self.remember(found.ino)
        return found

    async def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        """Give a file another name: within one area only."""
        area = self.area(parent)
        if area is not self.area(ino):
            refuse(errno.EXDEV)
        found = await area.link(ino, parent, name)
        self.remember(found.ino)
        return found

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        """Rename within one area; into or out of something sealed it is EROFS, otherwise EXDEV."""
        area, other = self.area(parent), self.area(new_parent)
        if area is other:
            await area.rename(parent, name, new_parent, new_name, flags, caller)
            return
        immutable = (self._sealed, self._views)
        refuse(errno.EROFS if area in immutable or other in immutable else errno.EXDEV)
