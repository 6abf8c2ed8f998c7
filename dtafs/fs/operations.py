"""The adapter between pyfuse3 and the namespace: arguments, attributes and errors, nothing else.

Any exception but `FUSEError` that leaves a handler ends the mount for every user, so each handler
is wrapped by `guarded`, which turns errors into an errno and logs what nobody expected. A handler
never blocks the event loop and never waits without bound: FUSE delivers no interrupts here, and a
killed process stays until it is answered.
"""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio

from dtafs.core.values import NAME_MAX_BYTES
from dtafs.errors import DtafsError, IntegrityError, RecallError, StorageError, outcome_of
from dtafs.fs.area import Caller, Changes, OpenDirectory, OpenFile, refuse
from dtafs.fs.attributes import Attributes
from dtafs.fs.namespace import Namespace
from dtafs.fs.requests import under_way

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PREFERRED_BYTES = 4096

STATFS_FIELDS = (
    *("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail"),
    *("f_files", "f_ffree", "f_favail"),
)
"""What `df` is told of the file system that the lake is on."""

FORGOTTEN_AT_ONCE = 256
"""Inodes taken back in one step of the loop: the kernel forgets up to 65,000 in one request."""

UNSUPPORTED_XATTRS = (b"security.", b"system.", b"trusted.")
"""Not `user.`: answered at once, because the kernel asks for `security.capability` before the first
write(2) to a file that it has come to know."""


def guarded(handler: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let nothing but `FUSEError` leave a handler, and count it while it is under way."""

    @functools.wraps(handler)
    async def guard(*args: P.args, **kwargs: P.kwargs) -> T:
        under_way.count += 1
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except OSError as error:
            raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
        except (IntegrityError, StorageError) as error:
            log.error("%s: %s", handler.__name__, error)
            raise pyfuse3.FUSEError(outcome_of(error).errno) from None
        except DtafsError as error:
            log.info("%s refused: %s", handler.__name__, error)
            number = outcome_of(error).errno
            if number == errno.ENOENT and args and isinstance(args[0], Operations):
                number = args[0].missing()
            raise pyfuse3.FUSEError(number) from None
        except Exception:
            log.exception("%s failed unexpectedly", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None
        finally:
            under_way.count -= 1

    return guard


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


def _entry(found: Attributes) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = found.ino
    entry.generation = found.life
    entry.st_mode = found.st_mode
    entry.st_nlink = found.nlink
    entry.st_uid = found.uid
    entry.st_gid = found.gid
    entry.st_rdev = found.rdev
    entry.st_size = found.size
    entry.st_blksize = PREFERRED_BYTES
    entry.st_blocks = found.blocks
    entry.st_atime_ns = found.atime_ns
    entry.st_mtime_ns = found.mtime_ns
    entry.st_ctime_ns = found.ctime_ns
    entry.entry_timeout = found.name_timeout_s
    entry.attr_timeout = found.timeout_s
    return entry


def _never(timeout_s: float) -> pyfuse3.EntryAttributes:
    """A lookup's answer that says "no such name", to be believed for a while."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = timeout_s
    return entry


class Operations(pyfuse3.Operations):
    """What pyfuse3 calls. One number for each open file and directory."""

    enable_writeback_cache = True
    supports_dot_lookup = False

    def __init__(
        self, namespace: Namespace, lake: os.PathLike[str], negative_timeout_s: float
    ) -> None:
        super().__init__()
        self._namespace = namespace
        self._lake = os.fspath(lake)
        self._negative_timeout_s = negative_timeout_s
        self._handles = itertools.count(1)
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self.on_ready: Callable[[], None] = lambda: None
        """Called once, when the kernel has agreed to the connection."""

    def init(self) -> None:
        self.on_ready()

    def missing(self) -> int:
        """The errno for something that the lake should have: EIO when its directory is gone."""
        there = os.path.exists(os.path.join(self._lake, "lake.json"))
        return errno.ENOENT if there else errno.EIO

    @guarded
    async def lookup(
        self, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        found = await self._namespace.lookup(parent, name)
        return _never(self._negative_timeout_s) if found is None else _entry(found)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for done, (ino, count) in enumerate(inode_list, 1):
            if done % FORGOTTEN_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            try:
                self._namespace.release(ino, count)
            except DtafsError as error:
                log.error("forget: %s", error)
            except Exception:  # nobody is told of it: the other numbers still have to go
                log.exception("forget failed unexpectedly")

    @guarded
    async def getattr(self, ino: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return _entry(await self._namespace.area(ino).attributes(ino))

    @guarded
    async def setattr(
        self,
        ino: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        others = (fields.update_mode, fields.update_uid, fields.update_gid, fields.update_size)
        times = (fields.update_atime, fields.update_mtime)
        touched = not any(others + times)
        changes = Changes(
            mode=stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            ctime_ns=attr.st_ctime_ns if fields.update_ctime else None,
            drop_set_id=fields.update_size and ctx.uid != 0,
            touched_by=ctx.uid if touched else None,
        )
        return _entry(await self._namespace.set_attributes(ino, changes))

    @guarded
    async def readlink(self, ino: int, ctx: pyfuse3.RequestContext) -> bytes:
        return await self._namespace.area(ino).readlink(ino)

    @guarded
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return _entry(await self._namespace.make(parent, name, mode, _caller(ctx), rdev))

    @guarded
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return _entry(await self._namespace.make(parent, name, mode, _caller(ctx)))

    @guarded
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return _entry(await self._namespace.symlink(parent, name, target, _caller(ctx)))

    @guarded
    async def link(
        self, ino: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return _entry(await self._namespace.link(ino, parent, name))

    @guarded
    async def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._namespace.area(parent).unlink(parent, name, _caller(ctx))

    @guarded
    async def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._namespace.area(parent).rmdir(parent, name)

    @guarded
    async def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        if flags & ~(pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE):
            raise pyfuse3.FUSEError(errno.EINVAL)
        caller = _caller(ctx)
        await self._namespace.rename(parent, name, new_parent, new_name, flags, caller)

    @guarded
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        opened, found = await self._namespace.create(
            parent, name, stat.S_IMODE(mode), flags, _caller(ctx)
        )
        return self._info(opened), _entry(found)

    @guarded
    async def open(self, ino: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return self._info(await self._namespace.area(ino).open(ino, flags, _caller(ctx)))

    @guarded
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        try:
            # Any buffer will do for the binding, whatever its annotation says.
            return await self._files[fh].read(offset, size)  # type: ignore[return-value]
        except RecallError:
            # Not EAGAIN, which readers of a file take for its end: Python's `read` would return what it
            # has by then, and say nothing.
            refuse(errno.ETIMEDOUT)

    @guarded
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        return await self._files[fh].write(offset, data)

    @guarded
    async def flush(self, fh: int) -> None:
        # The kernel writes dirty pages before it asks, and does not ask again after this answer.
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @guarded
    async def release(self, fh: int) -> None:
        await self._files.pop(fh).release()

    @guarded
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._files[fh].fsync()

    @guarded
    async def opendir(self, ino: int, ctx: pyfuse3.RequestContext) -> int:
        opened = await self._namespace.area(ino).open_directory(ino)
        fh = next(self._handles)
        self._directories[fh] = opened
        return fh

    @guarded
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        def emit(name: bytes, found: Attributes, cookie: int) -> bool:
            return bool(pyfuse3.readdir_reply(token, name, _entry(found), cookie))

        await self._namespace.list(self._directories[fh], start_id, emit)

    @guarded
    async def releasedir(self, fh: int) -> None:
        await self._directories.pop(fh).release()

    @guarded
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._directories[fh].fsync()

    @guarded
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        try:
            below = os.statvfs(self._lake)
        except FileNotFoundError:
            refuse(errno.EIO)
        data = pyfuse3.StatvfsData()
        for field in STATFS_FIELDS:
            setattr(data, field, getattr(below, field))
        data.f_namemax = NAME_MAX_BYTES
        return data

    @guarded
    async def getxattr(self, ino: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        if name.startswith(UNSUPPORTED_XATTRS):
            raise pyfuse3.FUSEError(errno.ENODATA)
        return await self._namespace.area(ino).get_xattr(ino, name)

    @guarded
    async def listxattr(self, ino: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        return await self._namespace.area(ino).list_xattrs(ino)

    @guarded
    async def setxattr(
        self, ino: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext
    ) -> None:
        await self._namespace.area(ino).set_xattr(ino, name, value)

    @guarded
    async def removexattr(self, ino: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        await self._namespace.area(ino).remove_xattr(ino, name)

    async def release_all(self) -> None:
        """Release what is still open when the mount has ended; what fails with one keeps no other."""
        still_open: list[OpenFile | OpenDirectory] = [*self._files.values()]
        still_open += self._directories.values()
        self._files.clear()
        self._directories.clear()
        for opened in still_open:
            try:
                await opened.release()
            except (DtafsError, OSError) as error:
                log.error("releasing what was open at the end: %s", error)

    def _info(self, opened: OpenFile) -> pyfuse3.FileInfo:
        fh = next(self._handles)
        self._files[fh] = opened
        return pyfuse3.FileInfo(fh=fh, keep_cache=opened.keep_cache, direct_io=opened.direct)
