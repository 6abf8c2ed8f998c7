"""Reading an export back: a zip, a tar or a directory, as names with types and bytes.

What is read here comes from strangers. Nothing is unpacked, nothing is read that was not asked for,
and what is malformed raises IntegrityError.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from msgspec import Struct

from dtafs.core.values import Kind
from dtafs.errors import IntegrityError, NotFoundError, UsageError, from_os_error
from dtafs.store.sinks import TYPES

BLOCK_BYTES = 1 << 20
HEADER_TYPES = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
HEADER_MAX_BYTES = 1 << 20
"""Names, targets and attributes of one member of a tar take no more."""
KIND_OF = {type_bits: kind for kind, type_bits in TYPES.items()}


class Found(Struct, frozen=True):
    """One name in a package. `mode` is None where the container cannot be trusted to keep it."""

    name: bytes
    kind: Kind
    mode: int | None
    size_bytes: int
    target: bytes = b""


class Package(Protocol):
    """An export that lies somewhere."""

    def names(self) -> Iterator[Found]:
        """Every name, in the order of the package; a name may come twice in a forged one."""

    def blocks(self, found: Found) -> Iterator[bytes]:
        """The bytes of a file."""

    def close(self) -> None:
        """Close what is open."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Package]:
    """The package at a path, whatever its form; UsageError when it is none of them."""
    package: Package
    try:
        if path.is_dir():
            package = DirectoryPackage(path)
        elif zipfile.is_zipfile(path):
            with _malformed("a damaged zip"):
                package = ZipPackage(path)
        else:
            package = _tar(path)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise from_os_error(error, "opening the package") from error
    try:
        yield package
    except OSError as error:
        raise from_os_error(error, "reading the package") from error
    finally:
        package.close()


_FOREIGN = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, struct.error),
    *(ValueError, OverflowError, LookupError, RuntimeError),  # of which recursion is one
)


@contextlib.contextmanager
def _malformed(what: str) -> Iterator[None]:
    """Translate what `zipfile`, `tarfile` and their decompressors raise for malformed input.

    Only their own calls stand in the block: most of these are errors of a program elsewhere.
    """
    try:
        yield
    except NotImplementedError as error:
        raise IntegrityError(f"the package is not a zip that dtafs writes: {error}") from None
    except _FOREIGN as error:
        raise IntegrityError(f"the package is {what}: {error or type(error).__name__}") from None


def _tar(path: Path) -> Package:
    with open(path, "rb") as file:
        if file.read(4) == b"PK\3\4":
            raise IntegrityError(f"{path} is a zip that is cut short: its directory is missing")
    try:
        return TarPackage(path)
    except _FOREIGN:
        raise UsageError(f"{path} is neither a zip, a tar nor a directory") from None


class ZipPackage:
    """A zip file."""

    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._infos: dict[bytes, zipfile.ZipInfo] = {}

    def names(self) -> Iterator[Found]:
        """Every name; symlinks' targets are read on the way."""
        for info in self._zip.infolist():
            with _malformed("damaged"):
                found = self._found(info)
            self._infos[found.name] = info
            yield found

    def _found(self, info: zipfile.ZipInfo) -> Found:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise IntegrityError(
                "the package is not a zip that dtafs writes: a member is compressed in another way"
            )
        encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
        name = info.orig_filename.encode(encoding)
        mode = info.external_attr >> 16
        unsaid = stat.S_IFDIR if name.endswith(b"/") else stat.S_IFREG
        kind = KIND_OF.get(stat.S_IFMT(mode) or unsaid)
        if kind is None:
            raise IntegrityError(f"{os.fsdecode(name)!r} is of a kind that no export holds")
        target = b""
        if kind == Kind.SYMLINK:
            if info.file_size > os.pathconf("/", "PC_PATH_MAX"):
                raise IntegrityError(f"the link {os.fsdecode(name)!r} is impossibly long")
            target = self._zip.read(info)
        return Found(name.rstrip(b"/"), kind, stat.S_IMODE(mode), info.file_size, target)

    def blocks(self, found: Found) -> Iterator[bytes]:
        """The bytes of a member, its CRC-32 checked at the end."""
        with _malformed("damaged"), self._zip.open(self._infos[found.name]) as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block

    def close(self) -> None:
        self._zip.close()


class _Member(tarfile.TarInfo):
    """A header; one that says that megabytes of header follow is refused, since they are read whole."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in HEADER_TYPES and member.size > HEADER_MAX_BYTES:
            raise tarfile.ReadError("a header is impossibly large")
        return member


class TarPackage:
    """A tar file, plain or compressed."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, tarinfo=_Member)  # noqa: SIM115
        self._infos: dict[bytes, tarfile.TarInfo] = {}

    def names(self) -> Iterator[Found]:
        """Every name; another name of an earlier file counts as a file."""
        while True:
            with _malformed("damaged"):
                info = self._tar.next()
                if info is None:
                    return
                found = self._found(info)
            yield found

    def _found(self, info: tarfile.TarInfo) -> Found:
        name = os.fsencode(info.name)
        if info.isreg() or info.islnk():
            kind = Kind.FILE
        elif info.isdir():
            kind = Kind.DIRECTORY
        elif info.issym():
            kind = Kind.SYMLINK
        elif info.isfifo():
            kind = Kind.FIFO
        else:
            raise IntegrityError(f"{os.fsdecode(name)!r} is of a kind that no export holds")
        self._infos[name] = info
        target = os.fsencode(info.linkname) if kind == Kind.SYMLINK else b""
        return Found(name, kind, info.mode & 0o7777, self._source(info).size, target)

    def _source(self, info: tarfile.TarInfo) -> tarfile.TarInfo:
        if not info.islnk():
            return info
        source = self._infos.get(os.fsencode(info.linkname))
        if source is None or source.islnk():
            raise IntegrityError(f"{info.name!r} is a link to what does not come before it")
        return source

    def blocks(self, found: Found) -> Iterator[bytes]:
        """The bytes of a member."""
        with _malformed("damaged"):
            stream = self._tar.extractfile(self._source(self._infos[found.name]))
            if stream is None:
                raise IntegrityError(f"{os.fsdecode(found.name)!r} has no bytes")
            with stream:
                while block := stream.read(BLOCK_BYTES):
                    yield block

    def close(self) -> None:
        self._tar.close()


class DirectoryPackage:
    """An export as a directory, or one that was unpacked."""

    def __init__(self, top: Path) -> None:
        self._top = os.fsencode(top)

    def names(self) -> Iterator[Found]:
        """Every name. Modes are left out: whoever unpacked it had a umask."""
        pending = [b""]
        while pending:
            folder = pending.pop()
            for name in sorted(os.listdir(os.path.join(self._top, folder)), reverse=True):
                path = os.path.join(folder, name)
                whole = os.path.join(self._top, path)
                status = os.lstat(whole)
                kind = KIND_OF.get(stat.S_IFMT(status.st_mode))
                if kind is None:
                    raise IntegrityError(f"{os.fsdecode(path)!r} is of a kind that no export holds")
                if kind == Kind.DIRECTORY:
                    pending.append(path)
                target = os.readlink(whole) if kind == Kind.SYMLINK else b""
                yield Found(path, kind, None, status.st_size, target)

    def blocks(self, found: Found) -> Iterator[bytes]:
        """The bytes of a file; a symlink is not followed."""
        path = os.path.join(self._top, found.name)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        stream: BinaryIO
        with open(fd, "rb", buffering=0) as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block

    def close(self) -> None:
        """Nothing is held open."""
