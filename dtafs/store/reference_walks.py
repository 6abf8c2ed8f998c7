"""Going through the edges of `dtafs.store.references` without changing them: what would die with some
versions, and who else needs something.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from dtafs.core.children import Child
from dtafs.core.values import HASH_BYTES
from dtafs.errors import IntegrityError
from dtafs.store.database import Txn

NODE, CHUNK = b"n", b"c"
SERIAL = struct.Struct(">I")

Needed = bytes
"""`n` or `c`, and an id."""


def needed(child: Child) -> Needed:
    """The key of a child."""
    return (NODE if child.is_node else CHUNK) + child.id


class Held(NamedTuple):
    """What outlives a version: a node or chunk that it refers to, with the plain bytes of content that
    it stands for there, and the serial of a version that goes on needing it."""

    needed: Needed
    size: int
    because_of: int


class Dying(NamedTuple):
    """What would go with some versions, and what of them would stay."""

    dead: frozenset[Needed]
    survivors: tuple[Held, ...]


def is_needed(txn: Txn, key: Needed) -> bool:
    """Whether anything that is counted needs something."""
    return next(iter(txn.scan("edge", key)), None) is not None


class Above:
    """Whether other versions than some need something, found by going up from it."""

    def __init__(self, txn: Txn, ignored: Collection[int]) -> None:
        self._txn, self._ignored = txn, ignored
        self._known: dict[Needed, bool] = {}

    def is_needed(self, key: Needed) -> bool:
        """Whether a version that is not ignored needs it."""
        path = [(key, self._parents(key))]
        while path and key not in self._known:
            at, parents = path[-1]
            parent = next(parents, None)
            if parent is None:
                self._known[at] = False
                path.pop()
            elif len(parent) != HASH_BYTES:
                if SERIAL.unpack(parent)[0] not in self._ignored:
                    self._known.update((step, True) for step, _rest in path)
            elif self._known.get(NODE + parent):
                self._known.update((step, True) for step, _rest in path)
            elif NODE + parent not in self._known:
                path.append((NODE + parent, self._parents(NODE + parent)))
        return self._known[key]

    def _parents(self, key: Needed) -> Iterator[bytes]:
        for edge, _value in self._txn.scan("edge", key):
            yield edge[len(key) :]

    def chunks_of(
        self, roots: Iterable[bytes], children_of: Callable[[bytes], dict[Needed, int]]
    ) -> set[bytes]:
        """The chunks below some nodes that only what is ignored needs."""
        found: set[bytes] = set()
        todo, met = list(roots), set[bytes]()
        while todo:
            node = todo.pop()
            if node in met or self.is_needed(NODE + node):
                continue
            met.add(node)
            for key in children_of(node):
                if key[:1] == NODE:
                    todo.append(key[1:])
                elif not self.is_needed(key):
                    found.add(key[1:])
        return found


class Simulation:
    """Dropping versions without writing. Of everything that lost an edge a *witness* is kept: the first
    edge, in the order of the table, that it still has. It only moves on, so each edge is read once."""

    def __init__(self, txn: Txn, children_of: Callable[[bytes], dict[Needed, int]]) -> None:
        self._txn, self._children = txn, children_of
        self._removed: dict[Needed, set[bytes]] = {}
        self._witness: dict[Needed, bytes] = {}
        self._sizes: dict[Needed, int] = {}
        self._dead: set[Needed] = set()
        self._holders: dict[Needed, int] = {}

    def run(self, versions: Iterable[tuple[int, bytes]]) -> Dying:
        """Drop them all."""
        stack: list[bytes] = []
        for serial, root in versions:
            stack += self._remove(NODE + root, SERIAL.pack(serial), 0)
        while stack:
            node = stack.pop()
            for key, size in self._children(node).items():
                stack += self._remove(key, node, size)
        survivors = [
            Held(key, self._sizes[key], self._holder(key))
            for key in sorted(self._sizes)
            if key not in self._dead
        ]
        return Dying(frozenset(self._dead), tuple(survivors))

    def _remove(self, key: Needed, parent: bytes, size: int) -> list[bytes]:
        """Take an edge away; the node that died by that, if one did."""
        removed = self._removed.setdefault(key, set())
        removed.add(parent)
        self._sizes[key] = self._sizes.get(key, 0) + size
        known = self._witness.get(key)
        if known is not None and known != parent:
            return []
        following = self._first(key, known or b"")
        if following is not None:
            self._witness[key] = following
            return []
        self._dead.add(key)
        return [key[1:]] if key[:1] == NODE else []

    def _first(self, key: Needed, start: bytes = b"") -> bytes | None:
        """The first that needs something, from `start` on, and was not taken away."""
        removed = self._removed.get(key, ())
        for edge, _value in self._txn.scan("edge", key, key + start):
            parent = edge[len(key) :]
            if parent not in removed:
                return parent
        return None

    def _holder(self, key: Needed) -> int:
        """The serial of a version that goes on needing something."""
        path: list[Needed] = []
        at = key
        while at not in self._holders:
            path.append(at)
            parent = self._witness.get(at) or self._first(at)
            if parent is None:
                raise IntegrityError(
                    f"references/ of the lake is damaged (nothing needs {at[1:].hex()}); "
                    "delete it, and it is made again"
                )
            if len(parent) != HASH_BYTES:
                self._holders[at] = SERIAL.unpack(parent)[0]
                break
            at = NODE + parent
        for step in path:
            self._holders[step] = self._holders[at]
        return self._holders[key]
