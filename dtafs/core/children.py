"""What a metadata node refers to directly: the nodes and the chunks of content below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from dtafs.core.nodes import CHUNK_LIST_NODE, Node
from dtafs.core.values import Kind


class Child(NamedTuple):
    """A node, or a chunk of content, with the plain bytes of file content that it stands for there."""

    id: bytes
    is_node: bool
    size: int


def children(node: Node, chunk_id: Callable[[bytes], bytes]) -> Iterator[Child]:
    """What a node refers to, in its order; what it refers to twice comes twice.

    `chunk_id` gives the id of the chunk whose plain bytes have a SHA-256.
    """
    if node.kind == CHUNK_LIST_NODE:
        for span in node.spans:
            yield Child(span.id, node.level > 0, span.size)
    elif node.level:
        for branch in node.branches:
            yield Child(branch.node, True, branch.totals.size)
    else:
        for entry in node.entries:
            if entry.kind in (Kind.DIRECTORY, Kind.FILE) and entry.ref:
                yield Child(entry.ref, True, entry.size)
            elif entry.kind == Kind.FILE and entry.size:
                yield Child(chunk_id(entry.sha256), False, entry.size)
