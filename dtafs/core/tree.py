"""Directories as B-trees of metadata nodes whose boundaries are defined by content.

The tree of a directory depends only on its entries, not on the edits that led to them: equal
directories have equal roots, and two versions share every node that did not change. With n entries
a search reads O(log n) nodes and an edit writes as many.

An *ordinal* numbers everything below a directory in preorder, the directory itself being 0; it is
found from an entry, and the entry from it, in O(depth * log n) without a table. The mount makes its
inode numbers of sealed files from it.

Functions take a `fetch` that gives nodes by id; whatever it raises passes through. An empty
directory has no node: its root is `b""`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from dtafs.core.nodes import (
    DIRECTORY_NODE,
    NODE_MIN_BYTES,
    ROOT_NODE,
    Fetch,
    Node,
    NodeBuilder,
    encode_item,
    encode_node,
    node_id,
)
from dtafs.core.values import NOTHING_BELOW, Branch, Entry, Kind, Span, Totals
from dtafs.errors import IntegrityError

Path = tuple[bytes, ...]


class Located(NamedTuple):
    """An entry with its `position` in its directory (from 0) and `ordinal` below it (from 1)."""

    entry: Entry
    position: int
    ordinal: int


class Built(NamedTuple):
    """A directory tree: its root, what it holds, and by their ids the new nodes, encoded, unless they
    went to a sink."""

    root: bytes
    totals: Totals
    names: int
    nodes: dict[bytes, bytes]


Sink = Callable[[bytes, bytes], None]
"""Takes the id and the bytes of a new node; maybe of one node several times."""


def directory_node(fetch: Fetch, wanted: bytes) -> Node:
    """A node that must belong to a directory tree; IntegrityError when it is something else."""
    node = fetch(wanted)
    if node.kind != DIRECTORY_NODE:
        raise IntegrityError(f"node {wanted.hex()} should describe a directory and does not")
    return node


def find(fetch: Fetch, root: bytes, name: bytes) -> Located | None:
    """The entry called `name`, or None."""
    if not root:
        return None
    node = directory_node(fetch, root)
    position = ordinal = 0
    while node.level:
        i = bisect_right(node.keys, name) - 1
        if i < 0:
            return None
        position += node.positions[i]
        ordinal += node.ordinals[i]
        node = _child(fetch, node, i)
    i = bisect_left(node.keys, name)
    if i == len(node.keys) or node.keys[i] != name:
        return None
    return Located(node.entries[i], position + i, ordinal + node.ordinals[i] + 1)


def _child(fetch: Fetch, node: Node, i: int) -> Node:
    child = directory_node(fetch, node.branches[i].node)
    if child.level != node.level - 1:
        raise IntegrityError(
            f"node {node.branches[i].node.hex()} is at the wrong level of its tree"
        )
    return child


def scan(fetch: Fetch, root: bytes, start: int = 0) -> Iterator[Located]:
    """All entries from position `start` on, in order of their names; nodes are read as needed."""
    if not root:
        return
    stack: list[tuple[Node, int, int, int]] = [(directory_node(fetch, root), 0, 0, 0)]
    while stack:
        node, i, position, ordinal = stack.pop()
        if node.level == 0:
            first = max(0, start - position)
            for k in range(first, len(node.entries)):
                yield Located(node.entries[k], position + k, ordinal + node.ordinals[k] + 1)
            continue
        if start > position + node.positions[i]:
            i = max(i, bisect_right(node.positions, start - position) - 1)
        if i >= len(node.branches):
            continue
        stack.append((node, i + 1, position, ordinal))
        below = _child(fetch, node, i)
        stack.append((below, 0, position + node.positions[i], ordinal + node.ordinals[i]))


def at_ordinal(fetch: Fetch, top: Entry, ordinal: int) -> tuple[Path, Entry, int]:
    """The path and entry with a preorder number below `top`, and the number of its directory.

    0 is `top`, in itself. KeyError past the end.
    """
    if not 0 <= ordinal <= top.below.entries:
        raise KeyError(ordinal)
    path: list[bytes] = []
    entry, rest, directory = top, ordinal, 0
    while rest:
        directory = ordinal - rest
        rest -= 1
        node = directory_node(fetch, entry.ref)
        while True:
            i = bisect_right(node.ordinals, rest) - 1
            if i >= len(node.items):
                raise IntegrityError("a directory holds fewer entries than it says")
            rest -= node.ordinals[i]
            if node.level == 0:
                break
            node = _child(fetch, node, i)
        entry = node.entries[i]
        path.append(entry.name)
    return tuple(path), entry, directory


def walk(fetch: Fetch, top: Entry) -> Iterator[tuple[Path, Entry]]:
    """Everything below `top`, and `top` first with the empty path, in preorder: of what is no
    directory, itself.

    IntegrityError once there is more than `top` says, so that this ends whatever the nodes are.
    """
    yield (), top
    left = top.below.entries
    stack: list[tuple[Path, Iterator[Located]]] = []
    if top.kind == Kind.DIRECTORY and top.ref:
        stack.append(((), scan(fetch, top.ref)))
    while stack:
        prefix, rest = stack[-1]
        located = next(rest, None)
        if located is None:
            stack.pop()
            continue
        if not left:
            raise IntegrityError("a directory holds more entries than it says")
        left -= 1
        path = (*prefix, located.entry.name)
        yield path, located.entry
        if located.entry.kind == Kind.DIRECTORY and located.entry.ref:
            stack.append((path, scan(fetch, located.entry.ref)))


def seal_root(top: Entry) -> tuple[bytes, bytes]:
    """The id and bytes of the root node that describes a version's top directory."""
    data = encode_node(ROOT_NODE, 0, [encode_item(top)])
    return node_id(data), data


def open_root(fetch: Fetch, root: bytes) -> Entry:
    """The entry of a version's top directory, from its root node."""
    node = fetch(root)
    if node.kind != ROOT_NODE:
        raise IntegrityError(f"node {root.hex()} should be the root of a version and is not")
    return node.entries[0]


Item = Entry | Branch
Change = tuple[bytes, Item | None]


def edit(
    fetch: Fetch,
    root: bytes,
    changes: Iterable[tuple[bytes, Entry | None]],
    sink: Sink | None = None,
) -> Built:
    """A directory with some entries put in (or replaced) and others taken out (None).

    `changes` are sorted by name, each name once. Taking out what is not there is allowed. They are
    taken one by one: of a directory of a million names the encoded nodes are in memory, not more. A
    `sink` gets its leaves, 99 of 100 nodes, as they are made.
    """
    rest = iter(changes)
    some: Sequence[Change] = list(islice(rest, SMALL_CHANGES))
    small = _edit_small(fetch, root, some) if len(some) < SMALL_CHANGES else None
    if small is not None:
        return small if sink is None else _poured(small, sink)
    editor = _Editor(fetch, root, sink)
    pending: Iterable[Change] = chain(some, rest)
    level = 0
    while True:
        produced = editor.apply(level, pending)
        if not produced:
            return editor.result(root)
        survivors = [(key, item) for key, item in produced if item is not None]
        if level >= editor.height:
            if len(survivors) <= 1:
                new_root = survivors[0][1].node if survivors else b""  # type: ignore[union-attr]
                return editor.result(new_root)
            produced = list(survivors)
        pending = produced
        level += 1


def _poured(built: Built, sink: Sink) -> Built:
    for node, data in built.nodes.items():
        sink(node, data)
    return built._replace(nodes={})


SMALL_CHANGES = 128
"""So many changes, unless most take names out, make a directory that is not small."""


def _edit_small(fetch: Fetch, root: bytes, changes: Sequence[Change]) -> Built | None:
    """The edit of a directory that is and stays smaller than any node is cut; None for another one.

    It gives what `_Editor` gives, in a third of the time: most directories hold a few names.
    """
    node = directory_node(fetch, root) if root else None
    if not changes or (node is not None and node.level):
        return None
    items, parts, size = [], [], 0
    for _, item in _merge(node, changes):
        items.append(item)
        parts.append(encode_item(item))
        size += len(parts[-1])
        if size >= NODE_MIN_BYTES:
            return None
    if not items:
        return Built(b"", NOTHING_BELOW, 0, {})
    data = encode_node(DIRECTORY_NODE, 0, parts)
    new = node_id(data)
    names, totals = _count(items)
    return Built(new, totals, names, {} if new == root else {new: data})


class _Rest:
    """Changes that are still to be made; `next` is the first of them, or None."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = iter(changes)
        self.next = next(self._changes, None)

    def before(self, key: bytes | None) -> Iterator[Change]:
        """Take those of a smaller key; all of them for None."""
        while self.next is not None and (key is None or self.next[0] < key):
            change = self.next
            self.next = next(self._changes, None)
            yield change


class _Editor:
    """Rewrites the nodes that an edit touches, one level at a time from the leaves up."""

    def __init__(self, fetch: Fetch, root: bytes, sink: Sink | None) -> None:
        self._fetch, self._root, self._sink = fetch, root, sink
        self.height = directory_node(fetch, root).level if root else -1
        self._nodes: dict[bytes, bytes] = {}
        self._counts: dict[bytes, tuple[int, Totals]] = {}
        self._children: dict[bytes, list[Branch]] = {}
        # Of the new nodes: what is in them and, of inner ones, their items.

    def apply(self, level: int, changes: Iterable[Change]) -> list[Change]:
        """Apply `changes` to the nodes of one level; returns the changes for the level above."""
        above: dict[bytes, Branch | None] = {}
        builder = NodeBuilder(DIRECTORY_NODE, level, lambda i, d: self._emit(level, i, d, above))
        rest = _Rest(changes)
        while rest.next is not None:
            node, following = self._locate(level, rest.next[0])
            while True:
                if node is not None and node.keys:
                    above.setdefault(node.keys[0], None)
                for key, item in _merge(node, rest.before(following)):
                    builder.add(key, item)
                if builder.at_boundary:
                    break
                if following is None:
                    builder.finish()
                    break
                node, following = self._locate(level, following)
        return sorted(above.items())

    def _emit(
        self,
        level: int,
        items: list[Entry | Branch | Span],
        data: bytes,
        above: dict[bytes, Branch | None],
    ) -> None:
        new = node_id(data)
        if self._sink is None or level:
            self._nodes[new] = data
        else:
            self._sink(
                new, data
            )  # a leaf with names in it is in the tree, whatever comes of the rest
        own = [item for item in items if not isinstance(item, Span)]
        self._counts[new] = _count(own)
        if level:
            self._children[new] = [item for item in own if isinstance(item, Branch)]
        first = _key(own[0])
        above[first] = Branch(first, new, *self._counts[new])

    def _locate(self, level: int, key: bytes) -> tuple[Node | None, bytes | None]:
        """The old node of a level that covers `key`, and the first key of the one after it."""
        if level > self.height:
            return None, None
        node = directory_node(self._fetch, self._root)
        following: bytes | None = None
        while node.level > level:
            i = max(0, bisect_right(node.keys, key) - 1)
            if i + 1 < len(node.keys):
                following = node.keys[i + 1]
            node = _child(self._fetch, node, i)
        return node, following

    def result(self, root: bytes) -> Built:
        """The finished tree; a chain of inner nodes with one child each is cut off at the top."""
        while len(self._children.get(root, ())) == 1:
            root = self._children[root][0].node
        if root in self._counts:
            names, totals = self._counts[root]
        elif root:
            root, names, totals = self._settle(root)
        else:
            names, totals = 0, NOTHING_BELOW
        built = Built(root, totals, names, self._reachable(root))
        return built if self._sink is None else _poured(built, self._sink)

    def _settle(self, root: bytes) -> tuple[bytes, int, Totals]:
        node = directory_node(self._fetch, root)
        while node.level and len(node.items) == 1:
            root = node.branches[0].node
            node = directory_node(self._fetch, root)
        names, totals = _count(node.entries if node.level == 0 else node.branches)
        return root, names, totals

    def _reachable(self, root: bytes) -> dict[bytes, bytes]:
        """The new nodes that the result needs: a cut-off chain leaves some that nobody does."""
        kept: dict[bytes, bytes] = {}
        todo = [root]
        while todo:
            node = todo.pop()
            if node in self._nodes and node not in kept:
                kept[node] = self._nodes[node]
                todo.extend(branch.node for branch in self._children.get(node, ()))
        return kept


def _key(item: Item) -> bytes:
    return item.name if isinstance(item, Entry) else item.first


def _count(items: Sequence[Item]) -> tuple[int, Totals]:
    names, totals = 0, [0, 0, 0, 0]
    for item in items:
        names += 1 if isinstance(item, Entry) else item.names
        own = item.totals
        totals[0] += own.entries
        totals[1] += own.files
        totals[2] += own.size
        totals[3] += own.linked
    return names, Totals(*totals)


def _merge(node: Node | None, changes: Iterable[Change]) -> Iterator[tuple[bytes, Item]]:
    """The items of an old node with changes applied, in order."""
    keys: list[bytes] = node.keys if node is not None else []
    items: Sequence[Item] = node.items if node is not None else ()  # type: ignore[assignment]
    at = 0
    for key, item in changes:
        upto = bisect_left(keys, key, at)
        yield from zip(keys[at:upto], items[at:upto], strict=True)
        at = upto + (upto < len(keys) and keys[upto] == key)
        if item is not None:
            yield key, item
    yield from zip(keys[at:], items[at:], strict=True)
