"""The chunks of a file as a bounded tree.

A file of one chunk needs no list: its chunk's id follows from its SHA-256. A longer file has a tree
of nodes like that of a directory, with spans instead of names; where a node ends depends on the ids
in it, so that two versions of a file share the nodes of what did not change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
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


def build_chunk_list(spans: Iterable[Span]) -> tuple[bytes, dict[bytes, bytes]]:
    """The root and the encoded nodes (by id) of the list of at least two chunks."""
    nodes: dict[bytes, bytes] = {}
    level, todo = 0, spans
    while True:
        above: list[Span] = []

        def emit(items: list[Entry | Branch | Span], data: bytes, into: list[Span] = above) -> None:
            own = [item for item in items if isinstance(item, Span)]
            new = node_id(data)
            nodes[new] = data
            into.append(Span(new, sum(s.size for s in own), sum(s.chunks for s in own)))

        builder = NodeBuilder(CHUNK_LIST_NODE, level, emit)
        for span in todo:
            builder.add(span.id, span)
        builder.finish()
        if len(above) == 1:
            return above[0].id, nodes
        if not above:
            raise ValueError("a chunk list needs chunks")
        level, todo = level + 1, above


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


def _list_node(fetch: Fetch, wanted: bytes) -> Node:
    node = fetch(wanted)
    if node.kind != CHUNK_LIST_NODE:
        raise IntegrityError(f"node {wanted.hex()} should be a chunk list and is not")
    return node


def list_nodes(fetch: Fetch, content: Content) -> Iterator[bytes]:
    """The ids of all nodes of a content's chunk list."""
    todo = [content.chunk_list] if content.chunk_list else []
    while todo:
        wanted = todo.pop()
        yield wanted
        node = _list_node(fetch, wanted)
        if node.level:
            todo.extend(span.id for span in node.spans)
