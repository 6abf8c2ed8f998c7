"""The originals of sealed chunks that staging still has, and which staged files need a chunk.

A file of staging that was sealed keeps its own bytes until the commit after. They are read through
the rows as LMDB has them: staging is flushed first, and what changes meanwhile does no harm, since
a chunk counts only if its bytes have the hash that names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from dtafs.core.chunking import Chunker
from dtafs.core.chunklist import ChunkListBuilder, chunks_in
from dtafs.core.format import PackKind
from dtafs.core.values import Content, Kind, Span
from dtafs.errors import DtafsError
from dtafs.store.database import Txn
from dtafs.store.durable import open_for_reading
from dtafs.store.staging import extents
from dtafs.store.staging.plans import ReadPlan, execute_read, pieces_of
from dtafs.store.staging.rows import (
    NOWHERE,
    PATCHES,
    InodeRow,
    decode_dataset,
    decode_inode,
    decode_number,
    from_number,
    number,
)

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

READ_FAILS = (DtafsError, OSError)
RECUT_BYTES = 4 << 20


class Original(NamedTuple):
    """A staged file with bytes of its own: the rows that say where they are."""

    dataset: str
    row: InodeRow
    local: tuple[extents.Extent, ...]
    held: bytes | None


class StagedOriginals:
    """The staged files of a lake that is open for writing, as they are when first asked for."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._places: dict[bytes, list[tuple[Original, int, int]]] | None = None
        self._nodes: dict[bytes, bytes] = {}
        """Nodes of chunk lists that were made again."""

    def chunk(self, wanted: bytes) -> tuple[bytes, PackKind] | None:
        """The bytes of a chunk or of a node of a chunk list, checked against its id, and what kind of
        pack has such; None when staging does not have them."""
        if self._places is None:
            self._places = {}
            for original in self._originals():
                for chunk, offset, size in self._cuts(original):
                    self._places.setdefault(chunk, []).append((original, offset, size))
        if wanted in self._nodes:
            return self._nodes[wanted], PackKind.METADATA
        for original, offset, size in self._places.get(wanted, ()):
            with contextlib.suppress(*READ_FAILS):
                data = self._read(original, offset, size)
                if hashlib.sha256(data).digest() == wanted:
                    return data, PackKind.CONTENT
        return None

    def users(self, wanted: set[bytes]) -> Iterator[tuple[str, int, bytes]]:
        """The staged files that need one of some chunks: dataset, inode, chunk."""
        for dataset, row, _txn in self._rows():
            content = row.whole_content or row.content
            if content is None:
                continue
            for chunk in (content.chunk_list, *(c for c, _o, _s in self._chunks(content))):
                if chunk in wanted:
                    yield dataset, row.ino, chunk

    def _rows(self) -> Iterator[tuple[str, InodeRow, Txn]]:
        area = self._lake.area
        area.flush()
        with area.database.read() as txn:
            for name, value in txn.scan("dataset"):
                for _key, data in txn.scan("inode", decode_dataset(value).tree_prefix):
                    row = decode_inode(data)
                    if row.kind == Kind.FILE:
                        yield name.decode(), row, txn

    def _originals(self) -> list[Original]:
        """The sealed files with bytes of their own."""
        found = []
        trees: dict[str, bytes] = {}
        for name, row, txn in self._rows():
            if row.sealed is None or not (row.local != NOWHERE or row.is_held):
                continue
            if name not in trees:
                value = txn.get("dataset", name.encode())
                assert value is not None
                trees[name] = decode_dataset(value).tree_prefix
            key = trees[name] + number(row.ino)
            local = tuple(
                (from_number(at[len(key) :]), decode_number(end))
                for at, end in (txn.scan("extent", key) if row.local == PATCHES else ())
            )
            held = txn.get("bytes", key) if row.is_held else None
            found.append(Original(name, row, local, held))
        return found

    def _cuts(self, original: Original) -> list[tuple[bytes, int, int]]:
        """The chunks of a file; where its list cannot be read, they are cut again, and it is made."""
        content = original.row.sealed
        assert content is not None
        known = self._chunks(content)
        if sum(size for _chunk, _offset, size in known) == content.size:
            return known
        nodes: dict[bytes, bytes] = {}
        with contextlib.suppress(*READ_FAILS):
            again = self._cut_again(original, ChunkListBuilder(nodes.__setitem__))
            if content.chunk_list in nodes:
                self._nodes |= nodes
                return again
        return known

    def _cut_again(
        self, original: Original, listed: ChunkListBuilder
    ) -> list[tuple[bytes, int, int]]:
        lake, found = self._lake, []
        chunker = Chunker(lake.superblock.chunking)
        offset, size = 0, original.row.size
        while offset < size:
            end = min(size, offset + RECUT_BYTES)
            data = memoryview(self._read(original, offset, end - offset))
            for part in chunker.cuts(data, end == size):
                chunk = lake.objects.chunk_id(hashlib.sha256(part).digest())
                listed.add(Span(chunk, len(part)))
                found.append((chunk, offset, len(part)))
                offset += len(part)
        listed.finish()
        return found

    def _chunks(self, content: Content | None) -> list[tuple[bytes, int, int]]:
        """The chunks of a content with their offsets and sizes, as far as its list can be read."""
        found: list[tuple[bytes, int, int]] = []
        objects = self._lake.objects
        offset = 0
        with contextlib.suppress(*READ_FAILS):
            for piece in chunks_in(objects.node, objects.chunk_id, content or Content(0, b"")):
                found.append((piece.id, offset, piece.size))
                offset += piece.size
        return found

    def _read(self, original: Original, offset: int, size: int) -> bytes:
        row = original.row
        fd = -1
        if row.local != NOWHERE:
            fd = open_for_reading(self._lake.area.data.path(row.ino))
        try:
            pieces = pieces_of(row, list(original.local), offset, size)
            plan = ReadPlan(size, fd, row.content, pieces, original.held)
            return execute_read(plan, self._lake.objects)
        finally:
            if fd >= 0:
                os.close(fd)
