"""Paths in a sealed version that behave like `pathlib`'s, and files that can be read and sought.

A path is a value: it names a place and looks at it when asked. Nothing here can change anything.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import IO, Any, Literal, overload

from dtafs.core.names import suggest
from dtafs.core.tree import find, scan
from dtafs.core.values import Content, Entry, Kind
from dtafs.errors import NotFoundError, SealedError, UsageError
from dtafs.store.handle import Handle
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.sinks import TYPES
from dtafs.store.sources import Path, split_path

BUFFER_BYTES = 1 << 20
LINKS_MAX = 40
"""How many symlinks one path may lead through: Linux's own limit."""


class VersionPath:
    """A path in a version, relative to its top directory."""

    def __init__(self, handle: Handle, version: VersionRow, parts: Path) -> None:
        self._handle, self._version, self._parts = handle, version, parts

    @classmethod
    def top_of(cls, handle: Handle, version: VersionRow) -> VersionPath:
        """The top directory of a version."""
        return cls(handle, version, ())

    def __truediv__(self, name: str | bytes | os.PathLike[str]) -> VersionPath:
        more = split_path(os.fsencode(name))
        return VersionPath(self._handle, self._version, (*self._parts, *more))

    def __str__(self) -> str:
        return os.fsdecode(b"/".join(self._parts)) or "."

    def __repr__(self) -> str:
        return f"VersionPath({self._version.name!r}, {str(self)!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, VersionPath):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __lt__(self, other: VersionPath) -> bool:
        return self._key < other._key

    @property
    def _key(self) -> tuple[str, Path]:
        return self._version.name, self._parts

    @property
    def name(self) -> str:
        """The last name, "" for the top directory."""
        return os.fsdecode(self._parts[-1]) if self._parts else ""

    @property
    def suffix(self) -> str:
        """The extension of the last name, with its dot."""
        return os.path.splitext(self.name)[1]

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(map(os.fsdecode, self._parts))

    @property
    def parent(self) -> VersionPath:
        """The directory above; that of the top directory is itself."""
        return VersionPath(self._handle, self._version, self._parts[:-1])

    @property
    def entry(self) -> Entry:
        """What the version says of the name, a symlink not followed; NotFoundError when absent."""
        with self._handle.reading() as lake:
            return self._locate(lake, self._parts)

    @property
    def sha256(self) -> str:
        """The hash of a file's bytes, in hex, as it was sealed."""
        return self._file().sha256.hex()

    def exists(self) -> bool:
        """Whether there is something, at the end of symlinks if it is one."""
        try:
            self._followed()
        except NotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        return self._is(Kind.FILE)

    def is_dir(self) -> bool:
        return self._is(Kind.DIRECTORY)

    def is_symlink(self) -> bool:
        """Whether the name itself is a symlink."""
        try:
            return self.entry.kind == Kind.SYMLINK
        except NotFoundError:
            return False

    def _is(self, kind: Kind) -> bool:
        try:
            return self._followed().kind == kind
        except NotFoundError:
            return False

    def readlink(self) -> str:
        """The target of a symlink."""
        entry = self.entry
        if entry.kind != Kind.SYMLINK:
            raise UsageError(f"{self!r} is not a symlink")
        return os.fsdecode(entry.ref)

    def stat(self) -> os.stat_result:
        """Mode, owner, size and times as `os.stat` gives them; inode and device are 0."""
        return _stat_result(self._followed())

    def lstat(self) -> os.stat_result:
        """The same of a symlink itself."""
        return _stat_result(self.entry)

    def iterdir(self) -> Iterator[VersionPath]:
        """The names in a directory, sorted by their bytes."""
        entry = self._followed()
        if entry.kind != Kind.DIRECTORY:
            raise UsageError(f"{self!r} is not a directory")
        with self._handle.reading() as lake:
            names = [located.entry.name for located in scan(lake.objects.node, entry.ref)]
        for name in names:
            yield VersionPath(self._handle, self._version, (*self._parts, name))

    def walk(self) -> Iterator[VersionPath]:
        """Everything below, in the order of the tree, symlinks not followed."""
        pending = [self]
        while pending:
            here = pending.pop()
            if here is not self:
                yield here
            if here.entry.kind == Kind.DIRECTORY:
                pending.extend(reversed(list(here.iterdir())))

    @overload
    def open(self, mode: Literal["rb"], encoding: None = None) -> io.BufferedReader: ...

    @overload
    def open(self, mode: str = "r", encoding: str | None = None) -> IO[Any]: ...

    def open(self, mode: str = "r", encoding: str | None = None) -> IO[Any]:
        """Open for reading: "rb" gives a seekable binary file, "r" text (UTF-8 unless said)."""
        if set(mode) - set("rbt"):
            raise SealedError(f"{self!r} is sealed: it can be opened for reading only")
        raw = SealedFile(self._handle, self._file().content)
        binary = io.BufferedReader(raw, BUFFER_BYTES)
        if "b" in mode:
            return binary
        return io.TextIOWrapper(binary, encoding=encoding or "utf-8")

    def read_bytes(self) -> bytes:
        """All bytes of a file."""
        content = self._file().content
        with self._handle.reading() as lake:
            return b"".join(lake.objects.stream(content))

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of a text file."""
        return self.read_bytes().decode(encoding)

    def _file(self) -> Entry:
        entry = self._followed()
        if entry.kind != Kind.FILE:
            raise UsageError(f"{self!r} is a {Kind(entry.kind).name.lower()}, not a file")
        return entry

    def _locate(self, lake: Lake, parts: Path) -> Entry:
        fetch = lake.objects.node
        entry = lake.objects.top(self._version)
        for name in parts:
            located = None
            if entry.kind == Kind.DIRECTORY:
                located = find(fetch, entry.ref, name)
            if located is None:
                path = os.fsdecode(b"/".join(parts))
                near = ""
                if entry.kind == Kind.DIRECTORY:
                    names = (os.fsdecode(e.entry.name) for e in scan(fetch, entry.ref))
                    near = suggest(os.fsdecode(name), names)
                raise NotFoundError(f"{self._version.name} has no {path!r}{near}")
            entry = located.entry
        return entry

    def _followed(self) -> Entry:
        """What the path leads to, through symlinks that stay inside the version."""
        with self._handle.reading() as lake:
            return self._follow(lake)

    def _follow(self, lake: Lake) -> Entry:
        pending, links = list(self._parts), 0
        at: list[bytes] = []
        entry = self._locate(lake, ())
        while pending:
            name = pending.pop(0)
            if name == b"..":
                at = at[:-1]
                entry = self._locate(lake, tuple(at))
                continue
            entry = self._locate(lake, (*at, name))
            if entry.kind != Kind.SYMLINK:
                at.append(name)
                continue
            links += 1
            if entry.ref.startswith(b"/") or links > LINKS_MAX:
                raise NotFoundError(f"{self!r} leads out of the version, or round in circles")
            pending[:0] = [part for part in entry.ref.split(b"/") if part not in (b"", b".")]
            entry = self._locate(lake, tuple(at))
        return entry


def _stat_result(entry: Entry) -> os.stat_result:
    seconds = entry.mtime_ns // 1_000_000_000
    mode = TYPES[Kind(entry.kind)] | stat.S_IMODE(entry.mode)
    whole = (mode, 0, 0, entry.nlink, entry.uid, entry.gid, entry.size, seconds, seconds, seconds)
    exact = entry.mtime_ns / 1e9
    extra = {"st_mtime": exact, "st_mtime_ns": entry.mtime_ns, "st_ctime_ns": entry.mtime_ns}
    return os.stat_result(whole, extra)


class SealedFile(io.RawIOBase):
    """The bytes of a sealed file. Each chunk is checked before any of it is returned."""

    def __init__(self, handle: Handle, content: Content) -> None:
        super().__init__()
        self._handle, self._content = handle, content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move; past the end is allowed, before the start is not."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._content.size}[whence]
        if base + offset < 0:
            raise ValueError("a file has no bytes before its start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Fill as much of `buffer` as there is left."""
        with self._handle.reading() as lake:
            data = lake.objects.read(self._content, self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
