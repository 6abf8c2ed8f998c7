"""Open files and directories of staging, and the gate and threads that they share.

What only looks goes on while a commit holds the dataset still; what changes something waits.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

import trio

from dtafs.errors import StorageFullError
from dtafs.fs.area import DOTS, Emit, OpenDirectory, OpenFile, refuse
from dtafs.fs.attributes import Attributes
from dtafs.fs.far import FarReads
from dtafs.fs.gate import Gate
from dtafs.fs.nodes import NodeReader
from dtafs.store.durable import Disk
from dtafs.store.packfiles import FarFrame
from dtafs.store.staging.area import StagingArea
from dtafs.store.staging.listing import DirectoryHandle
from dtafs.store.staging.plans import execute_read
from dtafs.store.staging.rows import FILE_MAX_BYTES, HELD_MAX_BYTES, Inode
from dtafs.store.staging.staging import Staging

P = ParamSpec("P")
T = TypeVar("T")

WRITE_THREADS = 8
"""Writes and syncs under way at once. Reads have their own: a slow disk queue holds up none."""

WRITTEN_INLINE_BYTES = 64 * 1024
"""So much goes to the page cache in 20 us, like a record of the journal; the way to a thread and back
takes 100. Larger writes, and so those of whoever fills the disk, wait in threads."""

BEGUN_BYTES = 8 * 1024 * 1024
"""So much of a file goes to the disk at once while its writer goes on, which then finds most of an
`fsync` done."""

SET_ID = stat.S_ISUID | stat.S_ISGID


class Home:
    """The staging of one dataset with its gate."""

    def __init__(
        self,
        name: str,
        staging: Staging,
        gate: Gate,
        nodes: NodeReader,
        disk: Disk,
        writes: trio.CapacityLimiter,
        area: StagingArea,
        far: FarReads,
    ) -> None:
        self._area, self.far = area, far
        self.name, self.staging, self.gate = name, staging, gate
        self.nodes, self.disk, self.writes = nodes, disk, writes
        self._beginning: trio.Event | None = None
        # Set when the disk has begun with what it was told to.

    async def look(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that changes nothing: at any time."""
        return await self.nodes.run(call, *args, **kwargs)

    async def change(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a call that changes something, when the gate is open."""
        await self.drain()
        await self.gate.enter()
        return await self._change(call, *args, **kwargs)

    async def open(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `change`, for the call that opens a file for writing."""
        await self.drain()
        await self.gate.enter_to_write()
        return await self._change(call, *args, **kwargs)

    async def _change(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            try:
                return await self.nodes.run(call, *args, **kwargs)
            except StorageFullError:
                await self._make_room()
                return await self.nodes.run(call, *args, **kwargs)
        finally:
            self.gate.leave()

    async def drain(self) -> None:
        """Wait while as many changed rows as may be in memory are written, where the loop need not."""
        if self._area.is_full:
            await self.writing(self._area.drain)

    async def close_left(self) -> None:
        """Close, in a thread, what the loop must not close."""
        data = self._area.data
        if data.has_left:
            await self.writing(data.close_left)

    async def resize(self, ino: int, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `change`, for a call that may cut a file: what takes long is done in a thread."""
        result = await self.change(call, *args, **kwargs)
        left = self.staging.left_to_cut(ino)
        if left is not None:
            await self.writing(left)
        return result

    async def drop_set_id(self, ino: int) -> None:
        """Take a file's set-id bits away, if it has any. The gate is open.

        Under the write-back cache it is the kernel that keeps ctime.
        """
        inode = await self.nodes.run(self.staging.inode, ino)
        if inode.mode & SET_ID:
            change = self.staging.set_attributes
            await self.nodes.run(change, ino, now_ns=inode.ctime_ns, drop_set_id=True)

    async def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write to a data file, inline what is small."""
        if len(data) <= WRITTEN_INLINE_BYTES:
            with suppress(StorageFullError):
                self.disk.write_content(fd, data, offset)
                return
        try:
            await self.writing(self.disk.write_content, fd, data, offset)
        except StorageFullError:
            await self._make_room()
            await self.writing(self.disk.write_content, fd, data, offset)

    def begin_sync(self, fd: int, offset: int, size: int) -> bool:
        """Have the disk begin with some bytes; False when it is at others.

        Nobody waits for it: however slow the disk is, writers go on, and one thread is held up.
        """
        if self._beginning is not None:
            return False
        try:
            own = os.dup(fd)  # the writer may close its own meanwhile
        except OSError:
            return False
        self._beginning = trio.Event()
        trio.lowlevel.spawn_system_task(self._begin_sync, own, offset, size, self._beginning)
        return True

    async def _begin_sync(self, fd: int, offset: int, size: int, begun: trio.Event) -> None:
        def begin() -> None:
            try:
                self.disk.begin_sync(fd, offset, size)
            finally:
                os.close(fd)

        try:
            with trio.CancelScope(shield=True):  # for the thread closes the descriptor
                await self.writing(begin)
        except RuntimeError:  # no thread can be started
            os.close(fd)
        self._beginning = None
        begun.set()

    async def _make_room(self) -> None:
        """Return when what was removed has given its room back."""
        await self.writing(self._area.flush)
        if self._beginning is not None:  # which has a descriptor of what may be removed by now
            await self._beginning.wait()

    async def writing(self, call: Callable[..., T], *args: object) -> T:
        """Make a call that blocks on a write, in a thread."""
        return await trio.to_thread.run_sync(call, *args, limiter=self.writes)


class StagedFile(OpenFile):
    """An open staged file. The kernel keeps its pages: nobody else writes to it.

    `drops_set_id`: whoever opened it has no privileges, so that the set-id bits go with what is written.
    """

    keep_cache = True

    def __init__(self, home: Home, ino: int, handle: int, *, drops_set_id: bool) -> None:
        self._home, self._ino, self._handle = home, ino, handle
        self._drops_set_id = drops_set_id
        self._begun = 0
        # The disk has begun with what was written before this offset.

    async def read(self, offset: int, size: int) -> bytes:
        home = self._home
        nodes = home.nodes
        with nodes.objects.users.at_work():  # what the plan says must not be collected meanwhile
            plan = await home.look(home.staging.plan_read, self._ino, offset, size)
            if plan.is_in_memory:
                return execute_read(plan, nodes.objects)
            read = partial(execute_read, plan, nodes.objects)
            try:
                return await trio.to_thread.run_sync(
                    partial(read, near=True), limiter=nodes.limiter
                )
            except FarFrame:
                return await home.far.read(read)

    async def write(self, offset: int, data: bytes) -> int:
        # Without a time: under the write-back cache the kernel keeps mtime and ctime and sets them.
        home, staging = self._home, self._home.staging
        if offset + len(data) > FILE_MAX_BYTES:
            refuse(errno.EFBIG)
        await home.drain()
        await home.gate.enter()
        try:
            if self._drops_set_id:
                await home.drop_set_id(self._ino)
            if not offset and len(data) <= HELD_MAX_BYTES:
                with suppress(StorageFullError):  # which the way by a data file deals with
                    if await home.nodes.run(staging.hold, self._ino, data, None):
                        return len(data)
            if (left := staging.left_to_empty(self._ino)) is not None:
                await home.writing(left)
            fd = await home.nodes.run(staging.begin_write, self._ino)
            try:
                await home.write(fd, data, offset)
            except BaseException:
                staging.write_failed(self._ino)
                raise
            await home.nodes.run(staging.wrote, self._ino, offset, len(data), None)
            end = offset + len(data)
            new = end - self._begun
            if new >= BEGUN_BYTES and home.begin_sync(fd, self._begun, new):
                self._begun = end
        finally:
            home.gate.leave()
        return len(data)

    async def fsync(self) -> None:
        await self._home.writing(self._home.staging.fsync, self._ino)

    async def release(self) -> None:
        home = self._home
        home.gate.soon(lambda: home.staging.close(self._handle))
        await home.close_left()


class StagedListing(OpenDirectory):
    """A staged directory being listed; `show` prepares an inode to be shown to the kernel."""

    def __init__(
        self,
        home: Home,
        handle: DirectoryHandle,
        dots: Callable[[], tuple[Attributes, Attributes]],
        show: Callable[[Inode], Attributes],
    ) -> None:
        self._home, self._handle, self._dots, self._show = home, handle, dots, show

    async def read(self, start: int, emit: Emit) -> None:
        await self._home.drain()  # names that the kernel gets to know may have to become rows
        page = _Page(self._home, self._handle, self._dots, self._show, start, emit)
        while not await self._home.look(page.fill):
            await trio.lowlevel.checkpoint()

    async def fsync(self) -> None:
        await self._home.writing(self._home.staging.fsync, self._handle.ino)

    async def release(self) -> None:
        staging = self._home.staging
        self._home.gate.soon(lambda: staging.close_directory(self._handle))


class _Page:
    """One `readdir` under way: after a node had to be read, `fill` goes on where it was."""

    def __init__(
        self,
        home: Home,
        handle: DirectoryHandle,
        dots: Callable[[], tuple[Attributes, Attributes]],
        show: Callable[[Inode], Attributes],
        start: int,
        emit: Emit,
    ) -> None:
        self._home, self._handle, self._dots = home, handle, dots
        self._show, self._cookie, self._emit = show, start, emit

    def fill(self) -> bool:
        """Emit some names; True when there is no room or no name left.

        Of a directory from which many names were removed, what is left may be far between.
        """
        if self._cookie < DOTS:
            dots = self._dots()
            for position in range(self._cookie, DOTS):
                if not self._emit((b".", b"..")[position], dots[position], position + 1):
                    return True
                self._cookie = position + 1
        staging = self._home.staging
        some, following = staging.list_some(self._handle, self._cookie - DOTS)
        for name, after, inode in some:
            if not self._emit(name, self._show(inode), after + DOTS):
                return True
            self._cookie = after + DOTS
        if following is None:
            return True
        self._cookie = following + DOTS
        return False
