"""A disk that loses what was not synced, for a whole directory tree, at every point of a scenario.

The scenario runs once, for real, in a directory. `Recorder` stands between it and the kernel: every
call of `os` that changes names or data, or syncs, is a boundary at which the tree is compared with
what it was at the boundary before. What differs becomes an event, whoever caused it: a name that
appeared through `link`, a page that LMDB wrote, bytes that a C library wrote into a data file. So
the record is complete even for code that does not go through `dtafs.store.durable`, and such code
is caught: what it did not sync through the same door counts as not synced.

`images(trace)` then yields the trees that a power failure may leave after each event. The disk
modelled promises only what POSIX and every Linux file system do:

- a file's bytes are on it from `fsync` of the file on; until then they may be there, be missing, be
  there in part, be a run of zeros of the right length (what delayed allocation leaves: a hole), or be
  anything at all;
- a name is on it from `fsync` of its directory on; until then it may be there or not, independently
  of other names, and independently of whether the file was synced;
- `rename` is one step: never both names gone, never half of each.

LMDB's own files count as synced at the end of each of its transactions, since its commits are
outside of what is tested here (they are killed for real in `test_kill.py`), but their names are
under the same rules as all others: LMDB never syncs the directory that it creates a file in.
"""

from __future__ import annotations

import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from dtafs.store import durable
from tests.crash.fates import FATES, UNSEALED, Fate

IGNORED = frozenset({"run", "cache"})
"""Top-level names that hold sockets, locks and what is rebuilt: nothing there has to survive."""

DATABASE = "data.mdb"
LOCK_FILE = "lock.mdb"

BOUNDARIES = (
    "open close write pwrite writev pwritev ftruncate truncate posix_fallocate link rename replace "
    "unlink remove mkdir rmdir symlink copy_file_range fsync fdatasync"
).split()


@dataclass(frozen=True)
class Wrote:
    """A file's bytes became `content`; `atomic` when no crash can separate them from a sync."""

    node: int
    content: bytes
    mode: int
    atomic: bool = False


@dataclass(frozen=True)
class Named:
    """Names changed in one step: (directory, name, what it leads to now or None)."""

    changes: tuple[tuple[int, str, int | None], ...]


@dataclass(frozen=True)
class Synced:
    """`fsync` of a file or of a directory returned."""

    node: int


@dataclass(frozen=True)
class Reached:
    """The scenario got to here: from now on what `label` stands for was promised to its caller."""

    label: str


Event = Wrote | Named | Synced | Reached


@dataclass
class Trace:
    """What a scenario did to a tree, in order; the first `start` events are what was there."""

    events: list[Event] = field(default_factory=list)
    start: int = 0
    directories: dict[int, int] = field(default_factory=dict)
    """Directory nodes -> mode. Node 0 is the root of the tree."""


class Recorder:
    """Context manager: records into `trace` all that this process does below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trace = Trace()
        self._names: dict[tuple[int, str], int] = {}
        self._nodes: dict[int, int] = {}
        self._contents: dict[int, tuple[tuple[int, int, int], bytes]] = {}
        self._next = 1
        self._lock = threading.RLock()
        self._real: dict[str, Callable[..., Any]] = {}
        self._inside = False

    def __enter__(self) -> Recorder:
        self._observe()
        for node in list(self._contents) + list(self.trace.directories):
            self.trace.events.append(Synced(node))
        self.trace.start = len(self.trace.events)
        for name in BOUNDARIES:
            self._real[name] = getattr(os, name)
            setattr(os, name, self._wrapped(name, self._real[name]))
        self._real_sync, durable.sync_file_system = durable.sync_file_system, self._sync_all
        return self

    def __exit__(self, *_: object) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        durable.sync_file_system = self._real_sync
        self._observe()

    def _sync_all(self, _fd: int) -> None:
        """What `syncfs` does: all files and all names."""
        with self._lock:
            self._observe()
            for node in [*self._contents, *self.trace.directories]:
                self.trace.events.append(Synced(node))

    def reached(self, label: str) -> None:
        """The scenario promised `label` to its caller (a commit returned, a put returned)."""
        with self._lock:
            self._observe()
            self.trace.events.append(Reached(label))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            with self._lock:
                if self._inside:
                    return real(*args, **keywords)
                self._inside = True
                try:
                    self._observe()
                    result = real(*args, **keywords)
                    self._observe()
                    if name in ("fsync", "fdatasync"):
                        self._synced(args[0])
                    return result
                finally:
                    self._inside = False

        return call

    def _synced(self, fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        status = os.fstat(number)
        node = self._nodes.get(status.st_ino)
        if node is None:
            if not stat.S_ISREG(status.st_mode) or status.st_nlink:
                return  # not of this tree
            node = self._new_node(status.st_ino)  # made by O_TMPFILE: it has no name yet
        if stat.S_ISREG(status.st_mode):
            self._look_at(node, Path(f"/proc/self/fd/{number}"), status, "")
        self.trace.events.append(Synced(node))

    def _new_node(self, inode: int) -> int:
        node = self._nodes[inode] = self._next
        self._next += 1
        return node

    def _observe(self) -> None:
        """Append the events that lead from the tree last seen to the tree as it is now."""
        names: dict[tuple[int, str], int] = {}
        seen: set[int] = set()
        top = os.stat(self.root)
        self._nodes[top.st_ino] = 0
        seen.add(top.st_ino)
        self.trace.directories[0] = stat.S_IMODE(top.st_mode)
        pending = [(0, self.root)]
        while pending:
            directory, path = pending.pop()
            for child in sorted(_children(path)):
                if (directory == 0 and child in IGNORED) or child == LOCK_FILE:
                    continue
                try:
                    status = os.lstat(path / child)
                except FileNotFoundError:
                    continue  # another thread removed it meanwhile
                known = self._nodes.get(status.st_ino)
                node = self._new_node(status.st_ino) if known is None else known
                seen.add(status.st_ino)
                names[directory, child] = node
                if stat.S_ISDIR(status.st_mode):
                    self.trace.directories[node] = stat.S_IMODE(status.st_mode)
                    pending.append((node, path / child))
                elif stat.S_ISREG(status.st_mode):
                    self._look_at(node, path / child, status, child)
                elif stat.S_ISLNK(status.st_mode) and node not in self._contents:
                    # A target is part of its inode, and is on the disk with it.
                    target = os.fsencode(os.readlink(path / child))
                    self._contents[node] = ((0, 0, 0), target)
                    self.trace.events.append(Wrote(node, target, status.st_mode, atomic=True))
        changes = [
            (*key, names.get(key))
            for key in self._names.keys() | names.keys()
            if self._names.get(key) != names.get(key)
        ]
        if changes:
            changes.sort(key=lambda change: (change[2] is None, change[0], change[1]))
            self.trace.events.append(Named(tuple(changes)))
        self._names = names
        for inode in [number for number in self._nodes if number not in seen]:
            if self._nodes[inode] in {change[0] for change in changes} | {
                node for node in self._contents if node not in names.values()
            }:
                del self._nodes[inode]  # its number may be given to another file from now on

    def _look_at(self, node: int, path: Path, status: os.stat_result, name: str) -> None:
        stamp = (status.st_size, status.st_mtime_ns, status.st_mode)
        before = self._contents.get(node)
        if before is not None and before[0] == stamp and name != DATABASE:
            content = before[1] if status.st_size > 1 << 16 else _read(path)
        else:
            content = _read(path)
        if before is None or before[1] != content:
            mode = stat.S_IMODE(status.st_mode)
            self.trace.events.append(Wrote(node, content, mode, name == DATABASE))
        self._contents[node] = (stamp, content)


def _children(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@dataclass
class Image:
    """A tree that a crash after `point` events may leave; `write` makes it."""

    point: int
    fate: Fate
    reached: tuple[str, ...]
    files: dict[str, tuple[bytes, int]]
    directories: dict[str, int]
    holes: dict[str, int]
    """Files that end in a run of zeros for which nothing was ever written, and where it begins."""

    def write(self, root: Path) -> None:
        for name, mode in sorted(self.directories.items()):
            (root / name).mkdir(mode=mode | stat.S_IRWXU, exist_ok=True)
        for name, (content, mode) in self.files.items():
            if stat.S_ISLNK(mode):
                os.symlink(content, os.fsencode(root / name))
                continue
            (root / name).write_bytes(content[: self.holes.get(name)])
            os.truncate(root / name, len(content))
            (root / name).chmod(mode)

    def fingerprint(self) -> bytes:
        """Equal for images that a reopening program cannot tell apart: it looks at nothing hidden."""
        digest = sha256(repr(self.reached).encode())
        for name in sorted(self.directories):
            if "/." not in name:
                digest.update(os.fsencode(name) + b"/\0")
        for name, (content, mode) in sorted(self.files.items()):
            if "/." not in name:
                digest.update(os.fsencode(f"{name}\0{mode}\0{len(content)}\0") + content)
        return digest.digest()


class _Disk:
    """The state after a prefix of a trace: what is certain, and what is still up to the crash."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.now: dict[int, bytes] = {}
        self.safe: dict[int, bytes] = {}
        self.modes: dict[int, int] = {}
        self.names: dict[tuple[int, str], int] = {}
        self.pending: list[Named] = []
        self.reached: list[str] = []

    def apply(self, event: Event) -> None:
        if isinstance(event, Wrote):
            self.now[event.node] = event.content
            self.modes[event.node] = event.mode
            if event.atomic:
                self.safe[event.node] = event.content
        elif isinstance(event, Named):
            self.pending.append(event)
        elif isinstance(event, Reached):
            self.reached.append(event.label)
        elif event.node in self.now:
            self.safe[event.node] = self.now[event.node]
        else:
            done = [op for op in self.pending if any(c[0] == event.node for c in op.changes)]
            self.pending = [op for op in self.pending if op not in done]
            for op in done:
                _rename(self.names, op)

    def image(self, point: int, fate: Fate) -> Image:
        names = dict(self.names)
        coin = random.Random(point)
        for op in self.pending:
            if fate.names == "kept" or (fate.names == "mixed" and coin.random() < 0.5):
                _rename(names, op)
        files: dict[str, tuple[bytes, int]] = {}
        directories: dict[str, int] = {}
        holes: dict[str, int] = {}
        below: dict[int, list[tuple[str, int]]] = {}
        for (directory, name), node in names.items():
            below.setdefault(directory, []).append((name, node))
        walk = [("", 0)]
        while walk:
            prefix, directory = walk.pop()
            for name, node in below.get(directory, ()):
                path = f"{prefix}{name}"
                if node in self.trace.directories:
                    directories[path] = self.trace.directories[node]
                    walk.append((path + "/", node))
                else:
                    unsealed = fate.data == "garbled" and path.startswith(UNSEALED)
                    fallen = "zeros" if unsealed else fate.data
                    files[path] = (self._bytes(node, fallen), self.modes.get(node, 0o600))
                    if fallen == "zeros" and self.now.get(node) != self.safe.get(node):
                        holes[path] = self._same(node)
        return Image(point, fate, tuple(self.reached), files, directories, holes)

    def _same(self, node: int) -> int:
        """How many first bytes of a file were synced as they are."""
        now, safe = self.now.get(node, b""), self.safe.get(node, b"")
        return next(
            (i for i, (a, b) in enumerate(zip(now, safe, strict=False)) if a != b),
            min(len(now), len(safe)),
        )

    def _bytes(self, node: int, fate: str) -> bytes:
        now, safe = self.now.get(node, b""), self.safe.get(node, b"")
        if fate == "kept" or now == safe:
            return now
        if fate == "lost":
            return safe
        same = self._same(node)
        if fate == "zeros":
            return now[:same] + bytes(len(now) - same)
        if fate == "garbled":
            return now[:same] + random.Random(same).randbytes(len(now) - same)
        middle = same + (max(len(now), len(safe)) - same) // 2
        return now[:middle] + safe[middle:]


def _rename(names: dict[tuple[int, str], int], op: Named) -> None:
    for directory, name, node in op.changes:
        if node is None:
            names.pop((directory, name), None)
        else:
            names[directory, name] = node


def images(trace: Trace, fates: tuple[Fate, ...] = FATES) -> Iterator[Image]:
    """Every distinguishable tree that a crash at any point of the scenario may leave."""
    disk = _Disk(trace)
    for event in trace.events[: trace.start]:
        disk.apply(event)
    for op in disk.pending:
        _rename(disk.names, op)
    disk.pending.clear()
    known: set[bytes] = set()
    for point in range(trace.start, len(trace.events) + 1):
        if point > trace.start:
            disk.apply(trace.events[point - 1])
        for fate in fates:
            image = disk.image(point - trace.start, fate)
            mark = image.fingerprint()
            if mark not in known:
                known.add(mark)
                yield image
