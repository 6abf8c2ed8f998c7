"""`Staging`: the writable tree of one dataset, for the mount, for `put` and for a commit.

Errors of a file system are OSError with the errno that POSIX names; what cannot be read or written
below raises the errors of `dtafs.errors`. Names and paths are bytes. `now_ns` is the time that a
change gets. Numbers of inodes are never reused and below 2**61.

Threads: every method may be called from any thread; a lock per dataset serialises them. Those that
change something, and those that list or look up, do no I/O but on memory, LMDB and (making
it) one data file; they fetch through `StagingArea.fetch`, which may raise for a node that is not in
memory, and then have changed nothing and can be called again. Methods that say "Blocks" read nodes
and bytes or sync, and hold the lock only for moments. While `build` and until `rebase`, the caller
lets nothing change staging; looking and reading may go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from dtafs.core import tree
from dtafs.core.difference import Change
from dtafs.core.nodes import Fetch
from dtafs.core.tree import Sink
from dtafs.core.values import Content, Kind
from dtafs.store.staging import attributes, changes, names, walk
from dtafs.store.staging.by_path import ByPath
from dtafs.store.staging.data import FileData
from dtafs.store.staging.listing import DirectoryHandle, list_directory
from dtafs.store.staging.opens import Base, Opener, Opens
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.outdated import Outdated, note_all, take
from dtafs.store.staging.overlay import Overlay
from dtafs.store.staging.plans import ReadPlan, StagedSource
from dtafs.store.staging.rows import Inode, inode_of_row
from dtafs.store.staging.sealing import Build, Edit
from dtafs.store.staging.spilling import spill
from dtafs.store.staging.status import status
from dtafs.store.staging.tidy import Tidier
from dtafs.store.staging.walk import Problem

if TYPE_CHECKING:
    from dtafs.store.objects import Objects
    from dtafs.store.staging.area import StagingArea

__all__ = ["Base", "Opener", "Staging"]

LISTED_AT_ONCE = 64
NOBODY = Opener()


class Staging(ByPath):
    """The staging of one dataset. Made by `StagingArea`, one per dataset."""

    def __init__(self, area: StagingArea, overlay: Overlay) -> None:
        self._area, self._overlay = area, overlay
        self._lock = threading.RLock()
        self._files = FileData(overlay)
        self.remembered, self.life = self._files.remembered, overlay.life
        self._opens = Opens(overlay, self._files)
        self._listings: set[DirectoryHandle] = set()
        self._tidier = Tidier(overlay, self._files, self._listings)
        self._tidier.drop_orphans()
        self.on_quiet: Callable[[int], None] = lambda ino: None
        """Called with an inode when the last who could write to it has closed it."""

    @property
    def dataset(self) -> str:
        return self._overlay.name

    @property
    def root_ino(self) -> int:
        return self._overlay.root_ino

    @property
    def base(self) -> Base:
        return Base(self._overlay.row.version, self._overlay.row.root)

    @property
    def epoch(self) -> int:
        return self._overlay.epoch

    @property
    def tree_prefix(self) -> bytes:
        """With what the keys of this staging's rows begin at present."""
        return self._overlay.prefix

    # Looking.

    def lookup(self, parent: int, name: bytes) -> Inode | None:
        """What a name leads to, or None."""
        with self._lock:
            spill(self._overlay)
            node = self._overlay.find(parent, name)
            return None if node is None else self._files.shown(node)

    def inode(self, ino: int) -> Inode:
        """The attributes of an inode; ESTALE for a number that means nothing any more."""
        with self._lock:
            return self._files.shown(self._overlay.node(ino))

    def remember(self, ino: int, count: int = 1) -> None:
        """The kernel was told of the inode; its number stays valid until it is forgotten."""
        with self._lock:
            self._overlay.remember(ino, count)

    def forget(self, ino: int, count: int = 1) -> None:
        """The kernel has forgotten the inode so many times; without a name it goes."""
        with self._lock:
            self._release(ino, count)

    def _release(self, ino: int, count: int = 1) -> None:
        if self._overlay.release(ino, count):
            row = self._overlay.find_row(ino)
            if row is not None and row.nlink == 0:
                op = Operation(self._overlay)
                names.remove_inode(op, row)
                op.commit()

    def readlink(self, ino: int) -> bytes:
        """The target of a symlink; EINVAL for anything else."""
        with self._lock:
            return attributes.readlink(self._overlay, ino)

    def path_of(self, ino: int) -> bytes:
        """One path of an inode below the root, b"" for the root or for what has lost its names."""
        with self._lock:
            return self._overlay.path_of(ino)

    def open_directory(self, ino: int) -> DirectoryHandle:
        """Begin to list a directory; end it with `close_directory`."""
        with self._lock:
            handle = DirectoryHandle(ino, self._overlay.directory(ino), self._overlay.epoch)
            self._overlay.remember(ino)
            self._listings.add(handle)
            return handle

    def list(self, handle: DirectoryHandle, cookie: int = 0) -> Iterator[tuple[bytes, int, Inode]]:
        """Names from a cookie on, each with the cookie after it; not `.` and `..`."""
        following: int | None = cookie
        while following is not None:
            some, following = self.list_some(handle, following)
            yield from some

    def list_some(
        self, handle: DirectoryHandle, cookie: int
    ) -> tuple[Sequence[tuple[bytes, int, Inode]], int | None]:
        """As `list`, a bounded number at once, maybe none, and the cookie to go on with or None."""
        with self._lock:
            spill(self._overlay)
            found = [*islice(list_directory(self._overlay, handle, cookie), LISTED_AT_ONCE)]
            some = [(name, after, self._files.shown(node)) for name, after, node in found if node]
        return some, found[-1][1] if len(found) == LISTED_AT_ONCE else None

    def close_directory(self, handle: DirectoryHandle) -> None:
        """The inverse of `open_directory`."""
        with self._lock:
            self._listings.discard(handle)
            self._release(handle.ino)

    def list_xattr(self, ino: int) -> Sequence[bytes]:
        """The names of the extended attributes, sorted."""
        with self._lock:
            return [name for name, _ in attributes.get_xattrs(self._overlay, ino)]

    def get_xattr(self, ino: int, name: bytes) -> bytes:
        """A value; ENODATA without one, EOPNOTSUPP outside of `user.`."""
        with self._lock:
            return attributes.get_xattr(self._overlay, ino, name)

    # Changing names and attributes.

    def make(
        self,
        parent: int,
        name: bytes,
        kind: Kind,
        mode: int,
        uid: int,
        gid: int,
        now_ns: int,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        """Create a file, directory, symlink, fifo, socket or device."""
        with self._lock:
            row = names.make(
                self._overlay, parent, name, kind, mode, uid, gid, now_ns, rdev, target
            )
            return inode_of_row(row)

    def link(self, ino: int, parent: int, name: bytes, now_ns: int) -> Inode:
        """Give a file another name."""
        with self._lock:
            return inode_of_row(names.link(self._overlay, ino, parent, name, now_ns))

    def unlink(self, parent: int, name: bytes, now_ns: int) -> None:
        """Remove a name that is not a directory's; who has the file open keeps it."""
        with self._lock:
            names.unlink(self._overlay, parent, name, now_ns)

    def rmdir(self, parent: int, name: bytes, now_ns: int) -> None:
        """Remove an empty directory."""
        with self._lock:
            names.rmdir(self._overlay, parent, name, now_ns)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, now_ns: int
    ) -> None:
        """Move a name; `flags` as renameat2(2): 0, RENAME_NOREPLACE or RENAME_EXCHANGE."""
        with self._lock:
            names.rename(self._overlay, parent, name, new_parent, new_name, flags, now_ns)

    def set_attributes(
        self,
        ino: int,
        *,
        now_ns: int,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        drop_set_id: bool = False,
    ) -> Inode:
        """Change what is given, all together; `size` as `truncate`. `drop_set_id` takes the set-id
        bits away, as a change by somebody without privileges does."""
        with self._lock:
            row = attributes.set_attributes(
                self._overlay,
                self._files,
                ino,
                now_ns,
                mode=mode,
                uid=uid,
                gid=gid,
                size=size,
                atime_ns=atime_ns,
                mtime_ns=mtime_ns,
                ctime_ns=ctime_ns,
                drop_set_id=drop_set_id,
            )
            return self._files.shown(row)

    def left_to_cut(self, ino: int) -> Callable[[], None] | None:
        """What gives back the bytes that a smaller size has left, if there are any; it blocks."""
        return self._files.left_to_cut(ino)

    def truncate(self, ino: int, size: int, now_ns: int) -> Inode:
        """Set the size of a file; what is new reads as zeros. Blocks."""
        shown = self.set_attributes(ino, now_ns=now_ns, size=size)
        if cut := self.left_to_cut(ino):
            cut()
        return shown

    def set_xattr(self, ino: int, name: bytes, value: bytes, now_ns: int, flags: int = 0) -> None:
        """Set a value; `flags` as setxattr(2)."""
        with self._lock:
            attributes.set_xattr(self._overlay, ino, name, value, flags, now_ns)

    def remove_xattr(self, ino: int, name: bytes, now_ns: int) -> None:
        """Remove a value; ENODATA without one."""
        with self._lock:
            attributes.remove_xattr(self._overlay, ino, name, now_ns)

    # Bytes.

    def open(self, ino: int, writing: bool, opener: Opener = NOBODY) -> int:
        """Open a file, to read or write its bytes; returns a handle for `close`."""
        with self._lock:
            return self._opens.open(ino, writing, opener)

    def close(self, handle: int) -> None:
        """Close a handle of `open`."""
        with self._lock:
            ino, quiet = self._opens.close(handle)
            self._release(ino)
        if quiet:
            self.on_quiet(ino)

    def writers(self) -> Sequence[tuple[bytes, Opener]]:
        """Who has files open for writing, by path."""
        with self._lock:
            return self._opens.writers()

    def plan_read(self, ino: int, offset: int, size: int) -> ReadPlan:
        """Where bytes of an open file are, for `execute_read`."""
        with self._lock:
            return self._files.plan_read(ino, offset, size)

    def hold(self, ino: int, data: bytes, now_ns: int | None) -> bool:
        """As `begin_write` and `wrote`, for a small new file; False where that is not for now."""
        with self._lock:
            return self._files.hold(ino, data, now_ns)

    def left_to_empty(self, ino: int) -> Callable[[], None] | None:
        """What `begin_write` would wait for, if there is anything: for a thread, before it."""
        with self._lock:
            return self._files.left_to_empty(ino)

    def begin_write(self, ino: int) -> int:
        """The descriptor to write bytes of an open file to, at their offsets; then call `wrote`."""
        with self._lock:
            return self._files.begin_write(ino)

    def wrote(self, ino: int, offset: int, size: int, now_ns: int | None) -> Inode:
        """Record what was written; `now_ns` None leaves the times to the kernel."""
        with self._lock:
            return inode_of_row(self._files.wrote(ino, offset, size, now_ns))

    def write_failed(self, ino: int) -> None:
        """Say, instead of `wrote`, that nothing or only a part was written."""
        with self._lock:
            self._files.write_failed(ino)

    def fsync(self, ino: int) -> None:
        """Return when the file with its names survives a crash of the machine. Blocks."""
        self._files.sync(ino)
        self._area.sync()

    # Without the kernel.

    def take_outdated(self) -> Outdated:
        """What the kernel has to forget since the methods of `ByPath`, and `discard`, were called."""
        return take(self._overlay, self._lock)

    # Sealing and committing.

    def unsealed(self) -> Iterator[tuple[int, int, int]]:
        """Files whose bytes a sealer has to read: inode, generation, size. Any thread, any time."""
        return walk.unsealed(self._overlay)

    def generation(self, ino: int) -> tuple[int, int] | None:
        """Generation and size of a file that a sealer has to read, None for anything else."""
        row = self._overlay.peek_row(ino)
        if row is None or row.kind != Kind.FILE or not row.nlink or row.whole_content is not None:
            return None
        return row.generation, row.size

    def open_source(self, ino: int, objects: Objects | None = None) -> StagedSource:
        """The bytes of a file as they are now, to be read in any thread and closed. Blocks."""
        return self._files.open_source(self._lock, ino, objects or self._area.objects)

    def sealed(self, ino: int, generation: int, content: Content) -> bool:
        """Packs have the bytes of a file now; False when it has changed since that generation."""
        with self._lock:
            return changes.sealed(self._overlay, ino, generation, content)

    def problems(self) -> Sequence[Problem]:
        """What a commit would refuse, by path. Any thread."""
        return tuple(walk.problems(self._overlay))

    def is_clean(self) -> bool:
        """True when nothing was touched since the base."""
        return walk.is_clean(self._overlay)

    def status(self, fetch: Fetch | None = None) -> Iterator[Change]:
        """What differs from the base. Blocks when `fetch` does."""
        return status(self._overlay, fetch or self._area.fetch)

    def build(self, fetch: Fetch, edit: Edit = tree.edit, sink: Sink | None = None) -> Build:
        """The tree that staging would become; see `sealing.build`. Blocks; `fetch` may block.

        When it returns, all rows are durable: after a crash, the same tree can be built again.
        """
        return changes.build(self._overlay, self._lock, fetch, edit, sink)

    def rebase(self, version: int, root: bytes, directories: Mapping[int, bytes]) -> None:
        """Go on from the version that a build became (its number and the id of its root node).

        `directories` is what `Build` says. Blocks until that is durable.
        """
        with self._lock:
            changes.rebase(self._overlay, version, root, directories)
        self._area.flush()

    def discard(self, onto: Base | None = None) -> None:
        """Make staging the base again, or another. Open files, numbers but the root's become stale."""
        note_all(self._overlay, self._lock)
        with self._lock:
            changes.start_again(self._overlay, self._files, self._area, onto or self.base)
        self._area.flush()

    def tidy(self, limit: int = 256) -> bool:
        """Remove some rows that say nothing any more; True while there are more to look at."""
        return self._tidier.step(self._lock, limit)

    def shut(self) -> None:
        """Close descriptors; what was open without a name goes when staging is next opened."""
        with self._lock:
            self._opens.close_all()
