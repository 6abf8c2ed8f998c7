"""The chunks of a file as a bounded tree.

A file of one chunk needs no list: its chunk's id follows from its SHA-256. A longer file has a tree
of nodes like that of a directory, with spans instead of names; where a node ends depends on the ids
in it, so that two versions of a file share the nodes of what did not change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from dtafs.core.nodes import CHUNK_LIST_NODE, Fetch, Node, NodeBuilder, node_id
from dtafs.core.values import Branch, Content, Entry, Span
from dtafs.errors import IntegrityError

ChunkId = Callable[[bytes], bytes]
"""From the SHA-256 of plain bytes to the id of the chunk that holds them."""


class Piece(NamedTuple):
    """A range of one chunk: `size` bytes from `start` of chunk `id`, which has `chunk_size`."""

    id: bytes
    start: int
    size: int
    chunk_size: int


class ChunkListBuilder:
    """Makes the list of a file's chunks, which come in order; a node is handed on when it is whole.

    So the memory that a list needs does not grow with the file.
    """

    def __init__(self, emit: Callable[[bytes, bytes], None]) -> None:
        """`emit` takes the id and the bytes of each node, at times of one node again and again."""
        self._emit = emit
        self._levels: list[NodeBuilder] = []
        self._roots: list[list[bytes]] = []
        """For each level its first node and, once there are two, the second."""
        self._grow()

    def _grow(self) -> None:
        level = len(self._levels)

        def take(items: list[Entry | Branch | Span], data: bytes) -> None:
            own = [item for item in items if isinstance(item, Span)]
            new = node_id(data)
            self._emit(new, data)
            if len(self._roots[level]) < 2:
                self._roots[level].append(new)
            if len(self._levels) == level + 1:
                self._grow()
            branch = Span(new, sum(s.size for s in own), sum(s.chunks for s in own))
            self._levels[level + 1].add(new, branch)

        self._levels.append(NodeBuilder(CHUNK_LIST_NODE, level, take))
        self._roots.append([])

    def add(self, span: Span, count: int = 1) -> None:
        """Take the next chunk, or so many equal ones."""
        leaf = self._levels[0]
        for _ in range(count):
            leaf.add(span.id, span)

    def finish(self) -> bytes:
        """The root of the list of at least two chunks."""
        level = 0
        while True:
            self._levels[level].finish()
            if not self._roots[level]:
                raise ValueError("a chunk list needs chunks")
            if len(self._roots[level]) == 1:
                return self._roots[level][0]
            level += 1


def build_chunk_list(spans: Iterable[Span]) -> tuple[bytes, dict[bytes, bytes]]:
    """The root and the encoded nodes (by id) of the list of at least two chunks."""
    nodes: dict[bytes, bytes] = {}
    builder = ChunkListBuilder(nodes.__setitem__)
    for span in spans:
        builder.add(span)
    return builder.finish(), nodes


def chunks_in(
    fetch: Fetch, chunk_id: ChunkId, content: Content, offset: int = 0, size: int | None = None
) -> Iterator[Piece]:
    """The pieces that make up `size` bytes from `offset` (to the end without a size), in order.

    Raises IntegrityError when the list does not cover the size that the content says.
    """
    end = content.size if size is None else min(content.size, offset + size)
    if offset >= end:
        return
    if not content.chunk_list:
        yield Piece(chunk_id(content.sha256), offset, end - offset, content.size)
        return
    root = _list_node(fetch, content.chunk_list)
    if root.offsets[-1] != content.size:
        raise IntegrityError(
            f"chunk list {content.chunk_list.hex()} covers "
            f"{root.offsets[-1]} bytes of {content.size}"
        )
    stack = [(root, 0, 0)]
    while stack:
        node, i, base = stack.pop()
        i = max(i, bisect_right(node.offsets, max(0, offset - base)) - 1)
        if node.level == 0:
            for k in range(i, len(node.spans)):
                at = base + node.offsets[k]
                if at >= end:
                    return
                start = max(0, offset - at)
                span = node.spans[k]
                yield Piece(span.id, start, min(span.size, end - at) - start, span.size)
            continue
        if i >= len(node.spans) or base + node.offsets[i] >= end:
            continue
        stack.append((node, i + 1, base))
        child = _list_node(fetch, node.spans[i].id)
        if child.level != node.level - 1 or child.offsets[-1] != node.spans[i].size:
            raise IntegrityError(f"node {node.spans[i].id.hex()} does not fit its chunk list")
        stack.append((child, 0, base + node.offsets[i]))


def ranges_with(
    fetch: Fetch, chunk_id: ChunkId, content: Content, wanted: Container[bytes]
) -> Iterator[tuple[int, int]]:
    """Where the bytes of a content lie in some chunks, or below some nodes of its list: from the
    first to the one after the last, in order. Nodes that are wanted are not fetched."""
    if not content.chunk_list:
        if content.size and chunk_id(content.sha256) in wanted:
            yield 0, content.size
        return
    todo = [(Span(content.chunk_list, content.size), 0)]
    while todo:
        branch, start = todo.pop()
        if branch.id in wanted:
            yield start, start + branch.size
            continue
        node = _list_node(fetch, branch.id)
        below = [(span, start + at) for span, at in zip(node.spans, node.offsets, strict=False)]
        if node.level:
            todo.extend(reversed(below))
        else:
            yield from ((at, at + span.size) for span, at in below if span.id in wanted)


def _list_node(fetch: Fetch, wanted: bytes) -> Node:
    node = fetch(wanted)
    if node.kind != CHUNK_LIST_NODE:
        raise IntegrityError(f"node {wanted.hex()} should be a chunk list and is not")
    return node


def list_nodes(fetch: Fetch, content: Content) -> Iterator[bytes]:
    """The ids of all nodes of a content's chunk list."""
    todo = [(content.chunk_list, -1)] if content.chunk_list else []
    while todo:
        wanted, level = todo.pop()
        yield wanted
        node = _list_node(fetch, wanted)
        if level not in (-1, node.level):
            raise IntegrityError(f"node {wanted.hex()} does not fit its chunk list")
        if node.level:
            todo.extend((span.id, node.level - 1) for span in node.spans)


def parts_of(fetch: Fetch, content: Content, descend: Callable[[bytes], bool]) -> Iterator[bytes]:
    """The ids of the nodes and chunks of a content's list, of equal neighbours one.

    What is below a node is given only where `descend` says so of it. Raises IntegrityError when a
    list does not fit the size that the content, or the node above, says.
    """
    todo = [(Span(content.chunk_list, content.size), -1)] if content.chunk_list else []
    while todo:
        branch, level = todo.pop()
        yield branch.id
        if not descend(branch.id):
            continue
        node = _list_node(fetch, branch.id)
        if node.offsets[-1] != branch.size or level not in (-1, node.level):
            raise IntegrityError(f"node {branch.id.hex()} does not fit its chunk list")
        if node.level:
            todo.extend((span, node.level - 1) for span in node.spans)
        else:
            yield from (chunk for chunk, _same in groupby(span.id for span in node.spans))
