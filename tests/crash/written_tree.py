"""What somebody who writes in a mount was promised, and comparing it with what is there.

The model of a directory is a tree of `Node`; names of one file share theirs. Bytes that were
written to a file but neither closed nor synced are `loose`: each of them may be there or not.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path

RESERVED = "user.dtafs."


@dataclass
class Node:
    """What a name leads to. `content` is also the target of a symlink."""

    kind: int
    mode: int
    content: bytes = b""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    loose: bytes | None = None
    """The content as written, while `content` is as acknowledged."""
    mtime_ns: int | None = None
    """None for a time that nobody set."""


Tree = dict[str, Node]


def read_tree(top: Path) -> Tree:
    """A directory as it reads through the mount, every byte of it."""
    tree: Tree = {}
    known: dict[int, Node] = {}
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(top / prefix) as entries:
            listed = list(entries)
        for found in listed:
            path = prefix + found.name
            status = os.lstat(found.path)
            kind = stat.S_IFMT(status.st_mode)
            node = known.get(status.st_ino)
            if node is None:
                node = Node(kind, stat.S_IMODE(status.st_mode), mtime_ns=status.st_mtime_ns)
                known[status.st_ino] = node
                if kind == stat.S_IFREG:
                    node.content = Path(found.path).read_bytes()
                    assert len(node.content) == status.st_size, path
                elif kind == stat.S_IFLNK:
                    node.content = os.fsencode(os.readlink(found.path))
                for name in os.listxattr(found.path, follow_symlinks=False):
                    if not name.startswith(RESERVED):
                        value = os.getxattr(found.path, name, follow_symlinks=False)
                        node.xattrs[name] = value
            tree[path] = node
            if kind == stat.S_IFDIR:
                pending.append(path + "/")
    return tree


def difference(expected: Tree, found: Tree) -> str:
    """What a tree that was found has otherwise than may be; "" when it is right."""
    for path in sorted(expected.keys() | found.keys()):
        if path not in found or path not in expected:
            return f"{path!r} is {'missing' if path in expected else 'there'}"
        node, other = expected[path], found[path]
        if (node.kind, node.mode, node.xattrs) != (other.kind, other.mode, other.xattrs):
            return f"{path!r} is {other.kind:o} {other.mode:o} {other.xattrs}, not {node}"
        if node.mtime_ns not in (None, other.mtime_ns):
            return f"{path!r} is of {other.mtime_ns} ns, not {node.mtime_ns} ns"
        if node.loose is None and node.content != other.content:
            return f"{path!r} {_where(node.content, other.content)}"
        if node.loose is not None and not _may_be(node, other.content):
            return f"{path!r} has bytes that nobody wrote"
    groups = {id(node): found[path] for path, node in expected.items()}
    if any(found[path] is not groups[id(node)] for path, node in expected.items()):
        return "names that belong to one file do not"
    return ""


def _where(expected: bytes, found: bytes) -> str:
    """Where two contents differ, and how often the found one has a zero there."""
    pairs = enumerate(zip_longest(expected, found))
    wrong = [(at, other) for at, (byte, other) in pairs if byte != other]
    zeros = sum(other == 0 for _, other in wrong)
    return (
        f"has {len(found)} bytes, not {len(expected)}; {len(wrong)} between {wrong[0][0]} and "
        f"{wrong[-1][0]} are wrong, {zeros} of them zeros"
    )


def _may_be(node: Node, found: bytes) -> bool:
    """Each byte as it was acknowledged, as it was written since, or not yet filled in."""
    old, new = node.content, node.loose or b""
    if not min(len(old), len(new)) <= len(found) <= max(len(old), len(new)):
        return False
    return all(
        byte in (0, before, after)
        for byte, before, after in zip_longest(found, old, new)
        if byte is not None
    )
