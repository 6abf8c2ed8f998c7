"""Where bytes that a lake has lost may still be: its other packs, its tiers, other lakes, staged originals.

Nothing that is found is trusted: a pack must have the SHA-256 that names it, a chunk the one that is
its id. So another lake may be damaged itself, or belong to somebody else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.format import PackKind, Superblock, decode_pack_header, pack_key
from dtafs.core.nodes import decode_node
from dtafs.errors import DtafsError, IntegrityError, UsageError, from_os_error
from dtafs.store.durable import Disk, TempFile, open_for_reading, read_at
from dtafs.store.founding import read_superblock
from dtafs.store.index import Index
from dtafs.store.packs import Place, decode_frame, read_footer_of
from dtafs.store.repair_tiers import from_tiers

if TYPE_CHECKING:
    from dtafs.store.lake import Lake
    from dtafs.store.repair_staged import StagedOriginals

COPY_BYTES = 1 << 20


class Found(NamedTuple):
    """A chunk that was found, checked against its id: its bytes, what kind of pack has such, and
    where it was."""

    data: bytes
    kind: PackKind
    where: str


class OtherLake:
    """A lake to take from. It is only read, and none of it need be sound."""

    def __init__(self, path: Path) -> None:
        """UsageError when there is nothing like a lake there."""
        self.path = path
        try:
            if not (path / "packs").is_dir():
                raise UsageError(f"--from {path}: there is no lake there")
        except OSError as error:
            raise from_os_error(error, "opening the other lake") from error
        self.superblock: Superblock | None = None
        self.index: Index | None = None
        with contextlib.suppress(DtafsError):
            self.superblock = read_superblock(path)
        with contextlib.suppress(DtafsError):
            self.index = Index(path / "index", write=False)
        self._files = PacksByChunk(lambda: sorted((path / "packs").glob("*/" + "?" * 64)))

    def close(self) -> None:
        """Close its index."""
        if self.index is not None:
            self.index.close()

    def chunk(self, wanted: bytes) -> Found | None:
        """A chunk, by the index or, without one, by the footers of its packs."""
        if self.index is None:
            return self._files.chunk(wanted, f"lake {self.path}")
        with contextlib.suppress(DtafsError):
            place = self.index.place(wanted)
            for known in ([] if place is None else [place]) + self.index.copies(wanted):
                found = read_chunk(self.path / pack_key(known.pack), known, wanted)
                if found is not None:
                    return found._replace(where=f"lake {self.path}")
        return None


@contextlib.contextmanager
def other_lakes(lake: Path, paths: Sequence[str]) -> Iterator[list[OtherLake]]:
    """Open the lakes to take from, for as long as the block runs."""
    found: list[OtherLake] = []
    try:
        for text in paths:
            path = Path(text).absolute()
            if path.exists() and lake.exists() and os.path.samefile(path, lake):
                raise UsageError(f"--from {path} is the lake that is to be repaired")
            found.append(OtherLake(path))
        yield found
    finally:
        for other in found:
            other.close()


def read_chunk(path: Path, place: Place, wanted: bytes) -> Found | None:
    """A chunk at its place in the file of a pack; None unless its bytes are right."""
    try:
        fd = open_for_reading(path)
    except DtafsError:
        return None
    try:
        plain = decode_frame(read_at(fd, place.stored, place.offset), place.plain, place.codec)
        data = plain[place.start : place.start + place.size]
        if hashlib.sha256(data).digest() != wanted:
            return None
        return Found(data, _kind_of(fd, data), str(path))
    except DtafsError:
        return None
    finally:
        os.close(fd)


def _kind_of(fd: int, data: bytes) -> PackKind:
    """The kind of a pack; where even its header is damaged, by whether the chunk is a node."""
    try:
        return decode_pack_header(os.pread(fd, 16, 0))
    except (IntegrityError, OSError):
        return kind_of_chunk(data)


def kind_of_chunk(data: bytes) -> PackKind:
    """What a chunk looks like: a metadata node, or content."""
    try:
        decode_node(data)
    except DtafsError:
        return PackKind.CONTENT
    return PackKind.METADATA


class PacksByChunk:
    """The chunks of some pack files by their footers, which are read when the first is asked for."""

    def __init__(self, paths: Callable[[], list[Path]]) -> None:
        self._paths = paths
        self._places: dict[bytes, list[tuple[Path, Place]]] | None = None

    def chunk(self, wanted: bytes, where: str) -> Found | None:
        """A chunk, or None."""
        if self._places is None:
            self._places = {}
            for path in self._paths():
                with contextlib.suppress(DtafsError):
                    pack = read_footer_of(path, bytes(32))
                    for chunk, place in pack.places():
                        self._places.setdefault(chunk, []).append((path, place))
        for path, place in self._places.get(wanted, ()):
            found = read_chunk(path, place, wanted)
            if found is not None:
                return found._replace(where=where)
        return None


class Sources:
    """Everywhere that a lake's lost chunks and packs may be. Used by one thread."""

    def __init__(
        self,
        lake: Lake,
        others: Sequence[OtherLake],
        staged: StagedOriginals,
        loose: list[Path],
        exchanged: dict[bytes, Path],
    ) -> None:
        """`loose` are files of packs that nothing names; `exchanged` are files of this lake that have
        the very bytes of another pack than the one that they are named after."""
        self._lake, self._others, self._staged = lake, others, staged
        self._loose = PacksByChunk(lambda: loose)
        self._exchanged = exchanged

    def chunk(self, wanted: bytes, besides: bytes = b"") -> Found | None:
        """A chunk from wherever it can be had, but for one pack; or None."""
        for place in self._own_places(wanted):
            if place.pack == besides:
                continue
            found = read_chunk(self._lake.path / pack_key(place.pack), place, wanted)
            if found is not None:
                return found._replace(where="another pack of this lake")
        found = self._loose.chunk(wanted, "a pack that nothing names")
        if found is None:
            staged = self._staged.chunk(wanted)
            found = Found(*staged, "staging") if staged is not None else None
        for other in self._others:
            found = found or other.chunk(wanted)
        return found

    def moved(self, path: Path, now: Path) -> None:
        """A file that may have the bytes of another pack lies somewhere else now."""
        for pack, known in self._exchanged.items():
            if known == path:
                self._exchanged[pack] = now

    def _own_places(self, wanted: bytes) -> list[Place]:
        index, pending = self._lake.index, self._lake.pending
        assert pending is not None
        place = index.place(wanted)
        own = [] if place is None else [place]
        return [*own, *index.copies(wanted), *pending.places(wanted)]

    def pack(self, disk: Disk, pack: bytes) -> tuple[TempFile, str] | None:
        """A whole pack that lies elsewhere, in a temporary file, and where it was; or None."""
        if pack in self._exchanged:
            path = self._exchanged[pack]
            temp = copy_pack(disk, path, pack)
            if temp is not None:
                return temp, str(path.relative_to(self._lake.path))
        found = from_tiers(self._lake, pack)
        if found is not None:
            return found
        for other in self._others:
            temp = copy_pack(disk, other.path / pack_key(pack), pack)
            if temp is not None:
                return temp, f"lake {other.path}"
        return None


def copy_pack(disk: Disk, path: Path, pack: bytes) -> TempFile | None:
    """A temporary copy of a file that has the bytes of a pack; None when it has not."""
    try:
        fd = open_for_reading(path)
    except DtafsError:
        return None
    temp, digest = disk.temp(), hashlib.sha256()
    try:
        while part := os.read(fd, COPY_BYTES):
            digest.update(part)
            temp.write(part)
    except OSError:
        temp.discard()
        return None
    except BaseException:
        temp.discard()
        raise
    finally:
        os.close(fd)
    if digest.digest() != pack:
        temp.discard()
        return None
    return temp
