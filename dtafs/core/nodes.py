"""Metadata nodes: their bytes, and the content-defined boundaries between them.

`dtafs.core.format` documents the layout. A node is a MessagePack array `[kind, level, items]`; its
id is the SHA-256 of its bytes. Encoding cannot fail; decoding takes bytes from a disk or a network
and raises `IntegrityError` for anything that this module would not have written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from itertools import accumulate
from operator import lt

import msgspec

from dtafs.core.values import (
    HASH_BYTES,
    NAME_MAX_BYTES,
    NOTHING_BELOW,
    SEALABLE,
    Branch,
    Entry,
    Kind,
    Span,
    Totals,
)
from dtafs.errors import IntegrityError

DIRECTORY_NODE = 1
CHUNK_LIST_NODE = 2
ROOT_NODE = 3

NODE_MIN_BYTES = 2 * 1024
NODE_SPREAD_BYTES = 8 * 1024
NODE_CUT_BYTES = 16 * 1024
"""A node never ends before the first, ends after an item of n bytes with probability n / the
second, and always ends once it has reached the third: 8.6 KiB on average, so that a lookup in a directory
of a million entries decodes three nodes and a changed entry rewrites as many."""

NODE_LIMIT_BYTES = 256 * 1024
"""No node is larger: NODE_CUT_BYTES and one entry with the most attributes that staging accepts."""

LEVEL_MAX = 12
"""More levels than 2**63 entries need; a deeper node is damage, or an attack on the reader."""

NUMBER_MAX = 2**63 - 1
"""Sizes and counts fit the signed 64 bits that system calls have for them."""

MODE_MAX = 0o7777
ID_MAX = 2**32 - 1
PLAIN_FILE = int(Kind.FILE)
"""Compared with in a third of the time that an enumeration takes."""

_encoder = msgspec.msgpack.Encoder()
_decode_entries = msgspec.msgpack.Decoder(tuple[int, int, tuple[Entry, ...]]).decode
_decode_branches = msgspec.msgpack.Decoder(tuple[int, int, tuple[Branch, ...]]).decode
_decode_spans = msgspec.msgpack.Decoder(tuple[int, int, tuple[Span, ...]]).decode


class Node:
    """A decoded node with the running sums that searches need. Immutable after construction.

    `keys[i]` is the name (or first name) of item i; `positions[i]` counts the directory's own
    entries before it; `ordinals[i]` counts all entries before it, at any depth; for chunk lists
    `offsets[i]` is the number of plain bytes before it.
    """

    __slots__ = ("items", "keys", "kind", "level", "offsets", "ordinals", "positions", "weight")

    kind: int
    level: int
    items: tuple[Entry, ...] | tuple[Branch, ...] | tuple[Span, ...]
    keys: list[bytes]
    positions: list[int]
    ordinals: list[int]
    offsets: list[int]
    weight: int

    def __init__(
        self,
        kind: int,
        level: int,
        items: tuple[Entry, ...] | tuple[Branch, ...] | tuple[Span, ...],
        weight: int,
    ) -> None:
        self.kind, self.level, self.items, self.weight = kind, level, items, weight
        self.keys, self.positions, self.ordinals, self.offsets = [], [], [], []
        if kind == CHUNK_LIST_NODE:
            sizes = [item.size for item in items if isinstance(item, Span)]
            self.offsets = list(accumulate(sizes, initial=0))
        elif level == 0:
            entries = [item for item in items if isinstance(item, Entry)]
            self.keys = [entry.name for entry in entries]
            self.positions = list(range(len(entries) + 1))
            self.ordinals = list(accumulate((1 + e.below.entries for e in entries), initial=0))
        else:
            branches = [item for item in items if isinstance(item, Branch)]
            self.keys = [branch.first for branch in branches]
            self.positions = list(accumulate((b.names for b in branches), initial=0))
            self.ordinals = list(accumulate((b.totals.entries for b in branches), initial=0))

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The items of a leaf of a directory."""
        return self.items  # type: ignore[return-value]  # decode_node ties kind and level to it

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The items of an inner directory node."""
        return self.items  # type: ignore[return-value]

    @property
    def spans(self) -> tuple[Span, ...]:
        """The items of a chunk list node, inner or leaf."""
        return self.items  # type: ignore[return-value]


Fetch = Callable[[bytes], Node]
"""Gives the node with an id; what it raises passes through every function that takes one."""


def node_id(data: bytes) -> bytes:
    """The id of the node with these bytes."""
    return hashlib.sha256(data).digest()


def encode_item(item: Entry | Branch | Span) -> bytes:
    """One item as it lies in a node."""
    return _encoder.encode(item)


def encode_node(kind: int, level: int, items: Iterable[bytes]) -> bytes:
    """The bytes of a node from its encoded items."""
    parts = list(items)
    count = len(parts)
    if count < 16:
        head = bytes((0x93, kind, level, 0x90 | count))
    else:
        head = bytes((0x93, kind, level, 0xDC)) + count.to_bytes(2, "big")
    return head + b"".join(parts)


def decode_node(data: bytes) -> Node:
    """Decode and check a node; raises IntegrityError for bytes that are not one."""
    if not 4 <= len(data) <= NODE_LIMIT_BYTES or data[0] != 0x93:
        raise IntegrityError("a metadata node is malformed: it does not begin as one")
    kind, level = data[1], data[2]
    if kind not in (DIRECTORY_NODE, CHUNK_LIST_NODE, ROOT_NODE) or level > LEVEL_MAX:
        raise IntegrityError(f"a metadata node has the unknown kind {kind} or level {level}")
    try:
        if kind == CHUNK_LIST_NODE:
            spans = _decode_spans(data)[2]
            _check_spans(spans, level)
            return Node(kind, level, spans, len(data))
        if level:
            branches = _decode_branches(data)[2]
            _check_branches(branches, kind)
            return Node(kind, level, branches, len(data))
        entries = _decode_entries(data)[2]
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"a metadata node is malformed: {error}") from None
    _check_entries(entries, kind)
    return Node(kind, level, entries, len(data))


def _check_spans(spans: tuple[Span, ...], level: int) -> None:
    for span in spans:
        wrong_count = span.chunks != 1 if level == 0 else span.chunks < 1
        if len(span.id) != HASH_BYTES or span.size < 1 or wrong_count:
            raise IntegrityError("a chunk list holds an item with an impossible id, size or count")
    if not spans:
        raise IntegrityError("a chunk list node is empty")
    if sum(span.size for span in spans) > NUMBER_MAX:
        raise IntegrityError("a chunk list covers an impossible size")


def _check_branches(branches: tuple[Branch, ...], kind: int) -> None:
    if kind != DIRECTORY_NODE or not branches:
        raise IntegrityError("an inner metadata node is empty or of a kind that has no levels")
    previous: bytes | None = None
    for branch in branches:
        _check_totals(branch.totals)
        if len(branch.node) != HASH_BYTES or not 1 <= branch.names <= NUMBER_MAX:
            raise IntegrityError("an inner metadata node has an impossible child")
        if previous is not None and branch.first <= previous:
            raise IntegrityError("the names in a metadata node are not in order")
        previous = branch.first


def _check_entries(entries: tuple[Entry, ...], kind: int) -> None:
    if kind == ROOT_NODE:
        if len(entries) != 1 or entries[0].name or entries[0].kind != Kind.DIRECTORY:
            raise IntegrityError("a root node does not describe exactly one directory")
        _check_fields(entries[0])
        return
    if not entries:
        raise IntegrityError("a directory node is empty")
    names = [entry.name for entry in entries]
    if names[0] == b"" or not all(map(lt, names, names[1:])):
        raise IntegrityError("the names in a metadata node are not in order")
    joined = b"/".join(names)
    if joined.count(b"/") >= len(names) or b"\0" in joined or max(map(len, names)) > NAME_MAX_BYTES:
        _refuse_names(names)
    if b"." in names or b".." in names:
        _refuse_names(names)
    for entry in entries:
        # Nearly all are files with nothing special, which is seen in half the time.
        if not (
            entry.kind == PLAIN_FILE
            and len(entry.sha256) == HASH_BYTES
            and 0 <= entry.mode <= MODE_MAX
            and 0 <= entry.size <= NUMBER_MAX
            and entry.nlink == 1
            and entry.link == 0
            and 0 <= entry.uid <= ID_MAX
            and 0 <= entry.gid <= ID_MAX
            and (not entry.ref or len(entry.ref) == HASH_BYTES)
            and entry.below == NOTHING_BELOW
        ):
            _check_fields(entry)


def _refuse_names(names: list[bytes]) -> None:
    for name in names:
        if len(name) > NAME_MAX_BYTES or b"/" in name or b"\0" in name or name in (b".", b".."):
            raise IntegrityError(f"a metadata node holds the impossible file name {name!r}")


def _check_fields(entry: Entry) -> None:
    kind, ref = entry.kind, len(entry.ref)
    if (
        kind not in SEALABLE
        or not 0 <= entry.mode <= MODE_MAX
        or not 0 <= entry.size <= NUMBER_MAX
        or not 0 <= entry.link <= NUMBER_MAX
        or not 1 <= entry.nlink <= NUMBER_MAX
        or not (0 <= entry.uid <= ID_MAX and 0 <= entry.gid <= ID_MAX)
    ):
        raise IntegrityError(f"the metadata of {entry.name!r} is out of range")
    _check_totals(entry.below)
    if kind == Kind.FILE:
        sound = len(entry.sha256) == HASH_BYTES and ref in (0, HASH_BYTES)
    elif kind == Kind.DIRECTORY:
        sound = not entry.sha256 and ref == (HASH_BYTES if entry.below.entries else 0)
        sound = sound and entry.size == entry.below.size
    else:
        sound = not entry.sha256 and (kind == Kind.SYMLINK) == bool(ref)
    if not sound or (kind != Kind.DIRECTORY and entry.below != NOTHING_BELOW):
        raise IntegrityError(f"the metadata of {entry.name!r} contradicts itself")


def _check_totals(totals: Totals) -> None:
    counts = (totals.entries, totals.files, totals.size, totals.linked)
    if min(counts) < 0 or max(counts) > NUMBER_MAX:
        raise IntegrityError("a metadata node counts less than nothing, or more than there can be")


class NodeBuilder:
    """Cuts a sequence of items into the nodes of one level.

    Where a node ends depends only on the items since the last end, so that equal runs of items give
    equal nodes whatever was edited before them (and a test holds an edited tree against one built
    from nothing).
    """

    def __init__(
        self, kind: int, level: int, emit: Callable[[list[Entry | Branch | Span], bytes], None]
    ) -> None:
        self._kind, self._level, self._emit = kind, level, emit
        self._items: list[Entry | Branch | Span] = []
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def at_boundary(self) -> bool:
        """True when the next item starts a node."""
        return not self._items

    def add(self, key: bytes, item: Entry | Branch | Span) -> None:
        """Take the next item; `key` is its name, or the id of a span."""
        part = encode_item(item)
        self._items.append(item)
        self._parts.append(part)
        self._size += len(part)
        if self._size < NODE_MIN_BYTES:
            return
        if self._size >= NODE_CUT_BYTES or self._ends(key, len(part)):
            self.finish()

    def _ends(self, key: bytes, part_bytes: int) -> bool:
        digest = hashlib.sha256(bytes((self._level,)) + key).digest()
        return int.from_bytes(digest[:4], "big") * NODE_SPREAD_BYTES < part_bytes << 32

    def finish(self) -> None:
        """End the node that is open, if one is."""
        if self._items:
            items, parts = self._items, self._parts
            self._items, self._parts, self._size = [], [], 0
            self._emit(items, encode_node(self._kind, self._level, parts))
