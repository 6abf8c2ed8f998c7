"""A POSIX tree of small files as Python objects, to hold staging against."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field

from dtafs.core.values import Kind
from dtafs.store.staging import RENAME_EXCHANGE, RENAME_NOREPLACE


@dataclass(eq=False)
class Thing:
    """An inode of the model."""

    kind: Kind
    mode: int
    mtime_ns: int
    data: bytes = b""
    names: dict[bytes, Thing] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    nlink: int = 1

    @property
    def is_directory(self) -> bool:
        return self.kind == Kind.DIRECTORY


class Tree:
    """The calls of `Staging` that change names and bytes, by path; errors are OSError too."""

    def __init__(self) -> None:
        self.root = Thing(Kind.DIRECTORY, 0o755, 1_000)

    def at(self, path: tuple[bytes, ...]) -> Thing | None:
        thing: Thing | None = self.root
        for name in path:
            if thing is None or not thing.is_directory:
                return None
            thing = thing.names.get(name)
        return thing

    def make(self, above: Thing, name: bytes, kind: Kind, data: bytes, now_ns: int) -> Thing:
        if name in above.names:
            raise OSError(errno.EEXIST, name)
        thing = above.names[name] = Thing(kind, 0o700, now_ns, data)
        above.mtime_ns = now_ns
        return thing

    def link(self, thing: Thing, above: Thing, name: bytes, now_ns: int) -> None:
        if thing.is_directory:
            raise OSError(errno.EPERM, name)
        if name in above.names:
            raise OSError(errno.EEXIST, name)
        above.names[name] = thing
        thing.nlink += 1
        above.mtime_ns = now_ns

    def unlink(self, above: Thing, name: bytes, now_ns: int) -> None:
        if name not in above.names:
            raise OSError(errno.ENOENT, name)
        if above.names[name].is_directory:
            raise OSError(errno.EISDIR, name)
        above.names.pop(name).nlink -= 1
        above.mtime_ns = now_ns

    def rmdir(self, above: Thing, name: bytes, now_ns: int) -> None:
        if name not in above.names:
            raise OSError(errno.ENOENT, name)
        thing = above.names[name]
        if not thing.is_directory:
            raise OSError(errno.ENOTDIR, name)
        if thing.names:
            raise OSError(errno.ENOTEMPTY, name)
        above.names.pop(name).nlink = 0
        above.mtime_ns = now_ns

    def rename(
        self, above: Thing, name: bytes, to: Thing, new: bytes, flags: int, now_ns: int
    ) -> None:
        source, target = above.names.get(name), to.names.get(new)
        if source is None:
            raise OSError(errno.ENOENT, name)
        if flags == RENAME_NOREPLACE and target is not None:
            raise OSError(errno.EEXIST, new)
        if flags == RENAME_EXCHANGE and target is None:
            raise OSError(errno.ENOENT, new)
        if source.is_directory and holds(source, to):
            raise OSError(errno.EINVAL, new)
        if target is not None and target.is_directory and holds(target, above):
            code = errno.EINVAL if flags == RENAME_EXCHANGE else errno.ENOTEMPTY
            raise OSError(code, new)
        if source is target:
            return
        if flags == RENAME_EXCHANGE:
            assert target is not None
            above.names[name], to.names[new] = target, source
        else:
            self._check_replace(source, target)
            if target is not None:
                target.nlink -= 1
            del above.names[name]
            to.names[new] = source
        above.mtime_ns = to.mtime_ns = now_ns

    def _check_replace(self, source: Thing, target: Thing | None) -> None:
        if target is None:
            return
        if source.is_directory and not target.is_directory:
            raise OSError(errno.ENOTDIR, b"")
        if target.is_directory and not source.is_directory:
            raise OSError(errno.EISDIR, b"")
        if target.names:
            raise OSError(errno.ENOTEMPTY, b"")

    def write(self, thing: Thing, offset: int, data: bytes, now_ns: int) -> None:
        padded = thing.data.ljust(offset, b"\0")
        thing.data = padded[:offset] + data + padded[offset + len(data) :]
        thing.mtime_ns = now_ns

    def truncate(self, thing: Thing, size: int, now_ns: int) -> None:
        if len(thing.data) != size:
            thing.mtime_ns = now_ns
        thing.data = thing.data[:size].ljust(size, b"\0")

    def paths(self) -> dict[tuple[bytes, ...], Thing]:
        """Everything by path; the root as ()."""
        found: dict[tuple[bytes, ...], Thing] = {}
        stack = [((), self.root)]
        while stack:
            path, thing = stack.pop()
            found[path] = thing
            stack += [((*path, name), below) for name, below in thing.names.items()]
        return found

    def copy(self) -> Tree:
        """As it is now, hard links included."""
        known: dict[int, Thing] = {}

        def copied(thing: Thing) -> Thing:
            if id(thing) not in known:
                known[id(thing)] = Thing(
                    thing.kind, thing.mode, thing.mtime_ns, thing.data,
                    {name: copied(below) for name, below in thing.names.items()},
                    dict(thing.xattrs), thing.nlink,
                )  # fmt: skip
            return known[id(thing)]

        tree = Tree()
        tree.root = copied(self.root)
        return tree


def holds(above: Thing, below: Thing) -> bool:
    """True when `below` is `above` or lies in it."""
    return above is below or any(holds(t, below) for t in above.names.values() if t.is_directory)


def errno_of(call: object) -> int:
    """The errno that a call fails with, 0 when it does not."""
    assert callable(call)
    try:
        call()
    except OSError as error:
        assert error.errno is not None
        return error.errno
    return 0
