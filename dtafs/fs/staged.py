"""Staging as the mount shows it: what changes it passes the dataset's gate.

Metadata calls run on the event loop; bytes are read and written in threads. A file stays open in
`Staging` for as long as the kernel has it open, so that a commit knows its writers.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import trio
from msgspec import structs

from dtafs.core.values import Kind
from dtafs.fs.area import Area, Caller, Changes, OpenDirectory, OpenFile, refuse
from dtafs.fs.attributes import KIND_BITS, NO_TIMEOUT_S, Attributes, staged_attributes
from dtafs.fs.drafts import Drafts
from dtafs.fs.far import FarReads
from dtafs.fs.gate import Gates
from dtafs.fs.nodes import NodeReader
from dtafs.fs.staged_handles import SET_ID, WRITE_THREADS, Home, StagedFile, StagedListing
from dtafs.fs.xattrs import PREFIX
from dtafs.store.lake import Lake
from dtafs.store.staging.counts import Counts
from dtafs.store.staging.opens import Opener
from dtafs.store.staging.rows import Inode
from dtafs.store.staging.staging import Staging

SHOWN_MAX = 64
"""More than the calls that can be between showing an inode and remembering it."""

PERMISSIONS = 0o7777

COMM_MAX_BYTES = 64
"""More than the kernel keeps of a program's name."""

FORGOTTEN_AT_ONCE = 32
"""During a commit the kernel may forget a million inodes; a call for each would take 400 MB."""

REFERENCES_BITS = 40
REFERENCES_MASK = (1 << REFERENCES_BITS) - 1


def program_of(pid: int) -> str:
    """The name of a process, "?" when it has gone or is in another namespace."""
    try:
        fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)  # half the time of `open`
        try:
            return os.fsdecode(os.read(fd, COMM_MAX_BYTES).strip())
        finally:
            os.close(fd)
    except OSError:
        return "?"


class StagedArea(Area):
    """The staging directories of all datasets.

    `directory_of` gives the inode number of a dataset's directory; `on_quiet(staging, inode)` is
    called when the last writer of a file has closed it.
    """

    def __init__(
        self,
        lake: Lake,
        nodes: NodeReader,
        far: FarReads,
        gates: Gates,
        drafts: Drafts,
        directory_of: Callable[[str], int],
        on_quiet: Callable[[Staging, int], None],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._lake, self._nodes, self._gates, self._drafts = lake, nodes, gates, drafts
        self._directory_of, self._on_quiet, self._now_ns = directory_of, on_quiet, now_ns
        self._far = far
        self._writes = trio.CapacityLimiter(WRITE_THREADS)
        self._homes: dict[str, Home] = {}
        self._numbered: list[Home] = []
        self._known = Counts()
        # Of each inode that the kernel knows: how many references there are, and above
        # REFERENCES_BITS the place of its home in _numbered.
        self._forgotten: dict[str, array[int]] = {}
        # Of each dataset: what waits for its gate and is not full yet.
        self._shown: OrderedDict[int, Home] = OrderedDict()
        # What was shown last and may be remembered next.

    async def top(self, dataset: str) -> Attributes:
        """The attributes of a dataset's `staging`."""
        home = await self._home(dataset)
        inode = await home.look(home.staging.inode, home.staging.root_ino)
        self._show(home, inode.ino)
        return staged_attributes(inode, name_timeout_s=NO_TIMEOUT_S)

    async def lookup(self, parent: int, name: bytes) -> Attributes | None:
        home = self._of(parent)
        inode = await home.look(home.staging.lookup, parent, name)
        if inode is None:
            refuse(errno.ENOENT)
        return self._seen(home, inode)

    def remember(self, ino: int) -> None:
        # Called right after the call that showed the inode, before anything else can run, so that
        # a commit which waits at the gate has not begun.
        known = self._known.get(ino)
        if not known:
            known = self._numbered.index(self._shown[ino]) << REFERENCES_BITS
        self._known.set(ino, known + 1)
        self._numbered[known >> REFERENCES_BITS].staging.remember(ino)

    def release(self, ino: int, count: int) -> None:
        known = self._known.get(ino)
        if not known:
            return
        home = self._numbered[known >> REFERENCES_BITS]
        left = (known & REFERENCES_MASK) - count
        self._known.set(ino, known - count if left > 0 else 0)
        waiting = self._forgotten.get(home.name)
        if waiting is not None and len(waiting) < 2 * FORGOTTEN_AT_ONCE:
            waiting.extend((ino, count))
            return
        waiting = self._forgotten[home.name] = array("Q", (ino, count))
        home.gate.soon(partial(self._forget, home, waiting))

    def _forget(self, home: Home, some: array[int]) -> None:
        """Have staging forget inodes: a number and a count of references each, one after another."""
        if self._forgotten.get(home.name) is some:
            del self._forgotten[home.name]
        for at in range(0, len(some), 2):
            home.staging.forget(some[at], some[at + 1])

    async def attributes(self, ino: int) -> Attributes:
        home = self._of(ino)
        return self._seen(home, await home.look(home.staging.inode, ino))

    async def open(self, ino: int, flags: int, caller: Caller) -> OpenFile:
        home = self._of(ino)
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        opened = await self._open(home, ino, writing, caller)
        if flags & os.O_TRUNC:
            # The kernel leaves this truncation to us, and with it what only root is spared.
            cut = partial(home.staging.set_attributes, ino, now_ns=self._now_ns(), size=0)
            try:
                await home.resize(ino, cut, drop_set_id=caller.uid != 0)
            except BaseException:
                await opened.release()
                raise
        return opened

    async def _open(self, home: Home, ino: int, writing: bool, caller: Caller) -> OpenFile:
        program = program_of(caller.pid) if writing else ""
        call = home.open if writing else home.look
        handle = await call(home.staging.open, ino, writing, Opener(caller.pid, program))
        return StagedFile(home, ino, handle, drops_set_id=caller.uid != 0)

    async def open_directory(self, ino: int) -> OpenDirectory:
        home = self._of(ino)
        handle = await home.look(home.staging.open_directory, ino)
        dots, show = partial(self._dots, home, ino), partial(self._seen, home)
        return StagedListing(home, handle, dots, show)

    async def readlink(self, ino: int) -> bytes:
        home = self._of(ino)
        return await home.look(home.staging.readlink, ino)

    async def get_xattr(self, ino: int, name: bytes) -> bytes:
        home = self._of(ino)
        if name.startswith(PREFIX):
            if ino != home.staging.root_ino:
                refuse(errno.ENODATA)
            return self._drafts.get(home.name, name)
        return await home.look(home.staging.get_xattr, ino, name)

    async def list_xattrs(self, ino: int) -> list[bytes]:
        home = self._of(ino)
        found = list(await home.look(home.staging.list_xattr, ino))
        return found + (self._drafts.names(home.name) if ino == home.staging.root_ino else [])

    async def set_xattr(self, ino: int, name: bytes, value: bytes) -> None:
        home = self._of(ino)
        if not name.startswith(PREFIX):
            await home.change(home.staging.set_xattr, ino, name, value, self._now_ns())
        elif ino == home.staging.root_ino:
            self._drafts.set(home.name, name, value)
        # Elsewhere what the lake says of a sealed file is no attribute of its copy, and a copy
        # that takes attributes along (cp -a, rsync -X) must not fail for it.

    async def remove_xattr(self, ino: int, name: bytes) -> None:
        home = self._of(ino)
        if not name.startswith(PREFIX):
            await home.change(home.staging.remove_xattr, ino, name, self._now_ns())
            return
        if ino == home.staging.root_ino:
            self._drafts.get(home.name, name)
            self._drafts.set(home.name, name, None)
            return
        refuse(errno.ENODATA)

    async def set_attributes(self, ino: int, changes: Changes) -> Attributes:
        home = self._of(ino)
        if changes.touched_by is not None:
            changes = await self._touched(home, ino, changes, changes.touched_by)
        asked = changes._asdict()
        del asked["touched_by"]
        change = partial(home.staging.set_attributes, ino, now_ns=self._now_ns(), **asked)
        if changes.size is None:
            return self._seen(home, await home.change(change))
        return self._seen(home, await home.resize(ino, change))

    async def _touched(self, home: Home, ino: int, changes: Changes, uid: int) -> Changes:
        """What chown(2) of neither owner nor group changes: without kill-privileges v2 the kernel
        works out the mode, and whether the user may set it.

        Of a regular file, a ctime comes with it. Without one the kernel announces a write by somebody
        without privileges, who needs no more than to have opened the file.
        """
        inode = await home.look(home.staging.inode, ino)
        if inode.kind == Kind.DIRECTORY or not inode.mode & SET_ID:
            return changes
        announced = inode.kind == Kind.FILE and changes.ctime_ns is None
        if not announced and uid not in (0, inode.uid):
            refuse(errno.EPERM)
        return changes._replace(drop_set_id=True)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[OpenFile, Attributes]:
        home, staging, now_ns = self._of(parent), self._of(parent).staging, self._now_ns()
        writing = flags & os.O_ACCMODE != os.O_RDONLY
        opener = Opener(caller.pid, program_of(caller.pid) if writing else "")

        def make() -> tuple[Inode, int]:
            # In one step: a commit in between would seal the file before anything is in it.
            inode = staging.make(parent, name, Kind.FILE, mode, caller.uid, caller.gid, now_ns)
            return inode, staging.open(inode.ino, writing, opener)

        inode, handle = await (home.open if writing else home.change)(make)
        opened = StagedFile(home, inode.ino, handle, drops_set_id=caller.uid != 0)
        return opened, self._seen(home, inode)

    async def make(
        self, parent: int, name: bytes, st_mode: int, caller: Caller, rdev: int = 0
    ) -> Attributes:
        home = self._of(parent)
        kind, mode = _kind_of(st_mode), st_mode & PERMISSIONS
        uid, gid, now_ns = caller.uid, caller.gid, self._now_ns()
        inode = await home.change(
            home.staging.make, parent, name, kind, mode, uid, gid, now_ns, rdev
        )
        return self._seen(home, inode)

    async def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Attributes:
        home = self._of(parent)
        kind, uid, gid, now_ns = Kind.SYMLINK, caller.uid, caller.gid, self._now_ns()
        inode = await home.change(
            home.staging.make, parent, name, kind, 0o777, uid, gid, now_ns, 0, target
        )
        return self._seen(home, inode)

    async def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        home = self._same(ino, parent)
        now_ns = self._now_ns()
        return self._seen(home, await home.change(home.staging.link, ino, parent, name, now_ns))

    async def unlink(self, parent: int, name: bytes, caller: Caller) -> None:
        home = self._of(parent)
        await home.change(home.staging.unlink, parent, name, self._now_ns())

    async def rmdir(self, parent: int, name: bytes) -> None:
        home = self._of(parent)
        await home.change(home.staging.rmdir, parent, name, self._now_ns())

    async def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, caller: Caller
    ) -> None:
        home = self._same(parent, new_parent)
        now_ns = self._now_ns()
        rename = home.staging.rename
        await home.change(rename, parent, name, new_parent, new_name, flags, now_ns)

    def _dots(self, home: Home, ino: int) -> tuple[Attributes, Attributes]:
        """What a listing says of `.` and `..`: only the numbers count."""
        staging = home.staging
        here = staged_attributes(staging.inode(ino))
        path = staging.path_of(ino).split(b"/")
        above = staging.resolve(tuple(path[:-1])) if ino != staging.root_ino else None
        number = self._directory_of(home.name) if above is None else above.ino
        return here, structs.replace(here, ino=number)

    async def _home(self, dataset: str) -> Home:
        home = self._homes.get(dataset)
        if home is None:
            staging = await self._nodes.run(self._lake.staging, dataset)
            gate = self._gates.of(dataset)
            home = Home(
                dataset,
                staging,
                gate,
                self._nodes,
                self._lake.disk,
                self._writes,
                self._lake.area,
                self._far,
            )
            home = self._homes.setdefault(dataset, home)
            if home not in self._numbered:
                self._numbered.append(home)
            staging.on_quiet = partial(self._on_quiet, staging)
        return home

    def _of(self, ino: int) -> Home:
        known = self._known.get(ino)
        if not known:
            refuse(errno.ESTALE)
        return self._numbered[known >> REFERENCES_BITS]

    def _same(self, ino: int, other: int) -> Home:
        home = self._of(ino)
        if home is not self._of(other):
            refuse(errno.EXDEV)
        return home

    def _seen(self, home: Home, inode: Inode) -> Attributes:
        self._show(home, inode.ino)
        return staged_attributes(inode, home.staging.life(inode.ino))

    def _show(self, home: Home, ino: int) -> None:
        if ino not in self._known:
            self._shown[ino] = home
            while len(self._shown) > SHOWN_MAX:
                self._shown.popitem(last=False)


def _kind_of(st_mode: int) -> Kind:
    for kind, bits in KIND_BITS.items():
        if stat.S_IFMT(st_mode) == bits:
            return Kind(kind)
    return Kind.FILE  # mknod(2): no kind means a regular file
