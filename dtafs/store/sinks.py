"""Where the members of an export go: a zip or tar stream, or a directory."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from dtafs.core.values import Kind, Xattrs
from dtafs.errors import IntegrityError
from dtafs.store.zipwriter import Output, ZipWriter

TYPES = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
}
TAR_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.DIRECTORY: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}


class Member(Struct, frozen=True):
    """One name in an export, its path relative to the package."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int
    blocks: Callable[[], Iterable[bytes]]
    """The bytes of a file, anew at each call."""
    target: bytes = b""
    xattrs: Xattrs = ()
    same_as: bytes = b""
    """The name of an earlier member that is another name of the same file."""


class Sink(Protocol):
    """Takes members in order; a directory comes before what is in it."""

    def add(self, member: Member) -> None:
        """Write the next member; what its blocks raise passes through."""

    def finish(self) -> None:
        """Write what comes after the last member."""

    def close(self) -> None:
        """Let go of what is held, finished or not; the output itself is the caller's."""
        return


class ZipSink(Sink):
    """A zip: modes, symlinks and names are kept, hard links become copies, owners are left out."""

    def __init__(self, out: Output, compress: bool) -> None:
        self._zip = ZipWriter(out, compress)

    def add(self, member: Member) -> None:
        blocks: Iterable[bytes] = ()
        name = member.name
        if member.kind == Kind.FILE:
            blocks = member.blocks()
        elif member.kind == Kind.SYMLINK:
            blocks = (member.target,)
        elif member.kind == Kind.DIRECTORY:
            name += b"/"
        size = member.size_bytes if member.kind in (Kind.FILE, Kind.SYMLINK) else 0
        self._zip.add(name, TYPES[member.kind] | member.mode, member.mtime_ns, size, blocks)

    def finish(self) -> None:
        self._zip.finish()

    def close(self) -> None:
        self._zip.close()


class TarSink(Sink):
    """A POSIX (pax) tar: everything is kept, times to the nanosecond and users' xattrs included."""

    def __init__(self, out: Counted) -> None:
        # Not tarfile's stream mode: its stream writes when it is collected, even after a failure.
        self._tar = tarfile.TarFile(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, member: Member) -> None:
        info = tarfile.TarInfo(os.fsdecode(member.name))
        info.mode, info.uid, info.gid = member.mode, member.uid, member.gid
        info.type = TAR_TYPES[member.kind]
        info.mtime = member.mtime_ns // 1_000_000_000
        info.pax_headers = _pax_headers(member)
        if member.same_as:
            info.type, info.linkname = tarfile.LNKTYPE, os.fsdecode(member.same_as)
        elif member.kind == Kind.SYMLINK:
            info.linkname = os.fsdecode(member.target)
        elif member.kind == Kind.FILE:
            info.size = member.size_bytes
            reader = BlockReader(member.blocks())
            self._tar.addfile(info, reader)
            reader.finish()
            return
        self._tar.addfile(info)

    def finish(self) -> None:
        self._tar.close()


def _pax_headers(member: Member) -> dict[str, str]:
    """What a plain tar header cannot say: nanoseconds, extended attributes."""
    headers = {
        f"SCHILY.xattr.{os.fsdecode(name)}": os.fsdecode(value) for name, value in member.xattrs
    }
    seconds, rest = divmod(abs(member.mtime_ns), 1_000_000_000)
    if rest:
        headers["mtime"] = f"{'-' if member.mtime_ns < 0 else ''}{seconds}.{rest:09d}"
    return headers


class BlockReader:
    """`read` over an iterator of blocks, for `tarfile`."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._rest = b""

    def read(self, size: int = 0, /) -> bytes:
        """`size` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while size > 0:
            if not self._rest:
                self._rest = next(self._blocks, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:size], self._rest[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def finish(self) -> None:
        """Read to the end, which is where the source of the blocks says whether they were right."""
        if self._rest or any(self._blocks):
            raise IntegrityError("a file is larger than its metadata says")


class DirectorySink(Sink):
    """A directory that does not exist yet: everything is kept; owners where permitted (as root)."""

    def __init__(self, top: Path) -> None:
        self._top = os.fsencode(top)
        self._own = os.geteuid() == 0
        self._directories: list[Member] = []
        os.mkdir(self._top)

    def add(self, member: Member) -> None:
        path = os.path.join(self._top, member.name)
        if member.kind == Kind.DIRECTORY:
            os.mkdir(path, 0o700)
            self._directories.append(member)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if member.same_as:
            os.link(os.path.join(self._top, member.same_as), path)
            return
        if member.kind == Kind.SYMLINK:
            os.symlink(member.target, path)
        elif member.kind == Kind.FIFO:
            os.mkfifo(path)
        else:
            _write_file(path, member.blocks())
        self._dress(path, member)

    def _dress(self, path: bytes, member: Member) -> None:
        """Attributes last, owner before mode: changing the owner clears set-id bits."""
        for name, value in member.xattrs:
            os.setxattr(path, name, value, follow_symlinks=False)
        if self._own:
            os.chown(path, member.uid, member.gid, follow_symlinks=False)
        if member.kind != Kind.SYMLINK:
            os.chmod(path, member.mode)
        os.utime(path, ns=(member.mtime_ns, member.mtime_ns), follow_symlinks=False)

    def finish(self) -> None:
        for member in reversed(self._directories):
            self._dress(os.path.join(self._top, member.name), member)


def _write_file(path: bytes, blocks: Iterable[bytes]) -> None:
    with open(path, "xb") as file:
        for block in blocks:
            file.write(block)


class Counted(io.RawIOBase):
    """An output that hashes and counts what goes through it."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        import hashlib

        super().__init__()
        self._write = write
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size_bytes

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Pass `data` on, all of it."""
        self._write(data)
        self._digest.update(data)
        self.size_bytes += len(data)
        return len(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def regular(
    name: bytes, mtime_ns: int, blocks: Callable[[], Iterator[bytes]], size_bytes: int
) -> Member:
    """A document of the package itself."""
    return Member(name, Kind.FILE, 0o644, 0, 0, mtime_ns, size_bytes, blocks)
