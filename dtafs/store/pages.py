"""The pages of an LMDB file, looked at without LMDB, which ends the process over a damaged one.

LMDB trusts its pages: a page number that leads out of the file is a SIGBUS, a page of the wrong kind
an assertion, and a child that is another page makes rows vanish in silence. So `examine` follows the
tree from the top before LMDB does, and holds each page to what its parent says of it. The rows have
checksums of their own (`dtafs.store.database`).

The layout is that of LMDB 0.9 on a 64-bit little-endian machine (mdb.c: MDB_meta, MDB_db, MDB_page,
MDB_node). The caller holds a read txn, so that a writer does not use the pages of its state again.
"""

from __future__ import annotations

import os
import struct
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from dtafs.errors import IntegrityError, from_os_error

PAGE_BYTES = 4096
META_MAGIC, DATA_VERSION = 0xBEEFC0DE, 1
LOOKED_AT = 128
"""So many pages are looked at when a file is opened, the upper ones first: all of a small file in 1 to
3 ms, and of a large one those that lead to all others."""

MISSING_MAX_BYTES = 1 << 30
"""LMDB leaves out no more pages than one txn can have freed; a file that lacks more is damaged."""

_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4
_BIG, _TABLE = 1, 2
"""Flags of a node: its data lies in overflow pages; it is the record of a table."""
_METAS = 2
_DEPTH_MAX = 32
_KEY_MAX = 511
_NONE = 2**64 - 1
_HEAD = struct.Struct("<QHHHH")
_NODE = struct.Struct("<HHHH")
_META = struct.Struct("<II16x48s48sQQ")
_RECORD = struct.Struct("<IHHQQQQQ")
_PAGE_NUMBER = struct.Struct("<Q")


class _Tree(NamedTuple):
    """The record of a B-tree: MDB_db without its padding."""

    flags: int
    depth: int
    branches: int
    leaves: int
    overflow: int
    entries: int
    root: int


def lengthen(file: Path) -> bool:
    """Let the file have all the pages that its newest meta page counts; whether some were missing.

    Raises IntegrityError when it is no LMDB file. Safe while another process writes: it allocates
    one byte and never cuts.
    """
    try:
        with file.open("rb") as handle:
            head = handle.read(2 * PAGE_BYTES)
            size = os.fstat(handle.fileno()).st_size
        if size == 0:
            return False
        if len(head) < 2 * PAGE_BYTES:
            raise IntegrityError(f"{file} is not an LMDB file any more")
        last = 0
        for at in (0, PAGE_BYTES):
            magic, version, _free, _main, counted, _id = _META.unpack_from(head, at + _HEAD.size)
            if (magic, version) != (META_MAGIC, DATA_VERSION):
                raise IntegrityError(f"{file} is not an LMDB file any more")
            last = max(last, counted)
        missing = (last + 1) * PAGE_BYTES - size
        if missing <= 0:
            return False
        if missing > MISSING_MAX_BYTES:
            raise IntegrityError(f"{file} is damaged: it counts pages that it cannot have")
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), size + missing - 1, 1)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os_error(error, f"opening {file}") from error
    return True


def examine(file: Path, state: int, most: int | None = LOOKED_AT) -> bool:
    """Look at `most` pages, or all, of a state (the id of its txn); whether that were all of them.

    Raises IntegrityError for damage, LookupError when the file does not have the state any more.
    """
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _Examination(fd, most).run(state)
    except (_Damage, struct.error) as error:
        raise IntegrityError(f"{file} is damaged ({error})") from None
    finally:
        os.close(fd)


class _Damage(Exception):
    pass


class _Enough(Exception):
    pass


class _Examination:
    """One file. Two pages of one state never have the same number, so each is looked at once."""

    def __init__(self, fd: int, most: int | None) -> None:
        self._fd, self._left = fd, most
        self._seen: set[int] = set()
        self._free: set[int] = set()
        self._pages = self._last = self._state = 0

    def run(self, state: int) -> bool:
        metas = [
            _META.unpack_from(os.pread(self._fd, PAGE_BYTES, at), 16) for at in (0, PAGE_BYTES)
        ]
        if any(magic != META_MAGIC for magic, *_rest in metas):
            raise _Damage("a page with its state is altered")
        ids = [meta[-1] for meta in metas]
        if abs(ids[0] - ids[1]) > 1:
            raise _Damage("its two states do not follow each other")
        if state not in ids:
            raise LookupError(state)
        _magic, _version, free, main, last, _id = metas[ids.index(state)]
        self._last, self._state = last, state
        self._pages = min(last + 1, os.fstat(self._fd).st_size // PAGE_BYTES)
        try:
            tables = self._walk(_record(main), by_name=True)
            self._walk(_record(free), by_name=False)
            for table in tables:
                self._walk(table, by_name=True)
        except _Enough:
            return False
        if not self._seen.isdisjoint(self._free):
            raise _Damage("pages in use are listed as free")
        if len(self._seen) + len(self._free) != last + 1 - _METAS:
            raise _Damage("pages are neither in use nor listed as free")
        return True

    def _walk(self, tree: _Tree, *, by_name: bool) -> list[_Tree]:
        """Look at a tree, level by level; the records of the tables in it."""
        if tree.root == _NONE:
            if tree.entries or tree.depth:
                raise _Damage("a table has lost its rows")
            return []
        if not 1 <= tree.depth <= _DEPTH_MAX:
            raise _Damage("a table has an impossible depth")
        level = [tree.root]
        branches = 0
        for _ in range(tree.depth - 1):
            branches += len(level)
            level = [child for page in level for child in self._children(page)]
        tables: list[_Tree] = []
        entries = overflow = 0
        last = None
        for page in level:
            for key, flags, data in self._rows(page):
                order: bytes | int = key if by_name else int.from_bytes(key, "little")
                if last is not None and order <= last:  # type: ignore[operator]  # of one kind each
                    raise _Damage("rows of a table are out of order")
                last = order
                entries += 1
                if flags & _BIG:
                    count, data = self._overflow(data)
                    overflow += count
                if not by_name:
                    self._note_free(data)
                    if order > self._state:  # type: ignore[operator]  # a number, as above
                        raise _Damage("pages are listed as free by a change that was not made")
                if flags & _TABLE:
                    tables.append(_record(data))
        if (branches, len(level), overflow, entries) != (
            tree.branches,
            tree.leaves,
            tree.overflow,
            tree.entries,
        ):
            raise _Damage("a table holds other rows than it counts")
        return tables

    def _page(self, number: int, kind: int) -> tuple[bytes, int, int]:
        """A page of a kind, and the last two numbers of its head."""
        if self._left is not None:
            if self._left <= 0:
                raise _Enough
            self._left -= 1
        if not 2 <= number < self._pages or number in self._seen:
            raise _Damage(f"page {number} cannot be where it is referred to")
        self._seen.add(number)
        page = os.pread(self._fd, PAGE_BYTES, number * PAGE_BYTES)
        said, _pad, flags, lower, upper = _HEAD.unpack_from(page)
        if said != number or flags != kind:
            raise _Damage(f"page {number} is not the page that is referred to")
        return page, lower, upper

    def _nodes(self, number: int, kind: int) -> tuple[bytes, tuple[int, ...]]:
        page, lower, upper = self._page(number, kind)
        if not (_HEAD.size < lower <= upper <= PAGE_BYTES) or lower % 2:
            raise _Damage(f"page {number} has impossible bounds")
        places = struct.unpack_from(f"<{(lower - _HEAD.size) // 2}H", page, _HEAD.size)
        if min(places) < upper or max(places) > PAGE_BYTES - _NODE.size or places[0] % 2:
            raise _Damage(f"page {number} has impossible bounds")
        return page, places

    def _children(self, number: int) -> list[int]:
        page, places = self._nodes(number, _BRANCH)
        found = []
        for place in places:
            low, middle, high, size = _NODE.unpack_from(page, place)
            if place + _NODE.size + size > PAGE_BYTES or size > _KEY_MAX:
                raise _Damage(f"page {number} has impossible bounds")
            found.append(low | middle << 16 | high << 32)
        return found

    def _rows(self, number: int) -> list[tuple[bytes, int, bytes]]:
        """Key, flags and data of the rows of a leaf."""
        page, places = self._nodes(number, _LEAF)
        found = []
        for place in places:
            low, high, flags, size = _NODE.unpack_from(page, place)
            key_end = place + _NODE.size + size
            end = key_end + (_PAGE_NUMBER.size if flags & _BIG else low | high << 16)
            if end > PAGE_BYTES or not 0 < size <= _KEY_MAX or flags not in (0, _BIG, _TABLE):
                raise _Damage(f"page {number} has impossible bounds")
            data = page[key_end:end]
            if flags & _BIG:
                data += (low | high << 16).to_bytes(_PAGE_NUMBER.size, "little")
            found.append((page[place + _NODE.size : key_end], flags, data))
        return found

    def _overflow(self, data: bytes) -> tuple[int, bytes]:
        """Look at the pages of one large value; how many there are, and the value."""
        number, size = struct.unpack("<QQ", data)
        _page, low, high = self._page(number, _OVERFLOW)
        count = low | high << 16
        if count != -(-(_HEAD.size + size) // PAGE_BYTES) or number + count > self._pages:
            raise _Damage(f"page {number} is not as long as what it holds")
        self._seen.update(range(number, number + count))
        return count, os.pread(self._fd, size, number * PAGE_BYTES + _HEAD.size)

    def _note_free(self, data: bytes) -> None:
        """Take a list of free pages: their count, then their numbers."""
        count, *numbers = struct.unpack(f"<{len(data) // _PAGE_NUMBER.size}Q", data)
        if count not in (0, len(numbers)):  # 0: LMDB has made room for a list and not needed it
            raise _Damage("the list of free pages is altered")
        listed = numbers[:count]
        if any(a <= b for a, b in pairwise(listed)) or not all(
            _METAS <= n < self._last + 1 for n in listed
        ):
            raise _Damage("the list of free pages is altered")
        before = len(self._free)
        self._free.update(listed)
        if len(self._free) != before + count:
            raise _Damage("pages are listed as free twice")


def _record(data: bytes) -> _Tree:
    _pad, *fields = _RECORD.unpack(data)
    return _Tree(*fields)
