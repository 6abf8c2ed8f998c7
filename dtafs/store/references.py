"""What refers to what, upside down: which versions and nodes need a node or a chunk.

With it, what a version alone holds is found without looking at the lake: dropping a version takes its
edge off its root; what has no edge left is dead, and its own edges go. So the work is in proportion to
what dies and to what that refers to.

An LMDB environment of its own, `references/`. It is a view: it may be deleted, and is made again by one
walk over all versions. Versions that came since are counted by walking the nodes that it does not know.

| table | key | value |
|---|---|---|
| `edge` | what is needed, and who needs it: a node's id, or a version's serial (4 bytes BE) | empty |
| `todo` | id of a node that is needed and whose own edges are not in yet | empty |
| `gone` | id of a node that nothing needs and whose own edges are not out yet | empty |
| `dead` | what was needed and is needed no more | empty |
| `meta` | `counted` | the newest serial counted (4 bytes BE), and the hash of that manifest |
| | `dropped` | how many of those are counted no more (4 bytes BE) |

What is needed is `n` (a node) or `c` (a chunk of content), and its id: a node and a file's chunk may
have the same bytes, and so the same id.

Invariant, after each txn: `edge` holds the edges of all nodes that have one, except of those in `todo`,
and of those in `gone`. So a crash leaves a state that `settle` finishes; writing an edge twice is harmless.
`dead` keeps what died until whoever destroys it says that it is done.

Used by one thread at a time. IntegrityError where a node cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from dtafs.core.children import children
from dtafs.core.nodes import Fetch
from dtafs.store.database import Database, Txn
from dtafs.store.reference_walks import (
    CHUNK,
    NODE,
    SERIAL,
    Above,
    Dying,
    Needed,
    Simulation,
    is_needed,
    needed,
)

TABLES = ("edge", "todo", "gone", "dead", "meta")
FOLDER = "references"

EDGES_AT_ONCE = 8_192
"""Edges in one txn: LMDB keeps in memory the pages that one has changed."""


class References:
    """The edges of a lake. Close it."""

    def __init__(self, path: Path, fetch: Fetch, chunk_id: Callable[[bytes], bytes]) -> None:
        """Open or make the environment in the directory `path`. `fetch` gives nodes by id."""
        self._database = Database(path, TABLES)
        self._fetch, self._chunk_id = fetch, chunk_id

    def close(self) -> None:
        """Close the environment."""
        self._database.close()

    # Counting

    @property
    def counted(self) -> tuple[int, bytes]:
        """The serial of the newest version counted and the hash of its manifest; 0 at first."""
        value = self._database.get("meta", b"counted")
        return (0, b"") if value is None else (SERIAL.unpack(value[:4])[0], value[4:])

    @property
    def dropped(self) -> int:
        """How many of the versions up to `counted` have no edge any more."""
        value = self._database.get("meta", b"dropped")
        return 0 if value is None else int(SERIAL.unpack(value)[0])

    def add(self, serial: int, root: bytes, manifest_sha256: bytes, *, live: bool = True) -> None:
        """Count the version after the newest one; one that is not `live` needs nothing."""

        def begin(txn: Txn) -> None:
            if live:
                if not is_needed(txn, NODE + root):
                    txn.put("todo", root, b"")
                txn.put("edge", NODE + root + SERIAL.pack(serial), b"")
                txn.delete("dead", NODE + root)
            else:
                _count_dropped(txn)
            txn.put("meta", b"counted", SERIAL.pack(serial) + manifest_sha256)

        self.settle()
        self._database.write(begin)
        self._count_todo()

    def settle(self) -> None:
        """Finish what was interrupted."""
        self._take_out_gone()
        self._count_todo()

    def _count_todo(self) -> None:
        while nodes := self._some("todo"):
            # Depth first, in the order in which the nodes lie in their packs.
            stack, met = nodes[::-1], set(nodes)
            done: list[bytes] = []
            edges: dict[bytes, bytes] = {}
            while stack and len(edges) < EDGES_AT_ONCE:
                node = stack.pop()
                done.append(node)
                below = []
                for key in self._children(node):
                    edges[key + node] = key
                    below.append(key)
                new = [key[1:] for key in self._unknown(below) if key[1:] not in met]
                met.update(new)
                stack += new[::-1]
            self._write_edges(edges, done, stack)

    def _write_edges(
        self, edges: Mapping[bytes, Needed], done: list[bytes], todo: list[bytes]
    ) -> None:
        def write(txn: Txn) -> None:
            for edge in sorted(edges):
                txn.put("edge", edge, b"")
                txn.delete("dead", edges[edge])
            for node in done:
                txn.delete("todo", node)
            for node in todo:
                txn.put("todo", node, b"")

        self._database.write(write)

    def _unknown(self, keys: Iterable[Needed]) -> list[Needed]:
        """The nodes among some keys that have no edge in the table."""
        with self._database.read() as txn:
            return [key for key in keys if key[:1] == NODE and not is_needed(txn, key)]

    def _children(self, node: bytes) -> dict[Needed, int]:
        """What a node refers to, each once, with the sizes summed."""
        found: dict[Needed, int] = {}
        for child in children(self._fetch(node), self._chunk_id):
            key = needed(child)
            found[key] = found.get(key, 0) + child.size
        return found

    def _some(self, table: str, limit: int = EDGES_AT_ONCE) -> list[bytes]:
        with self._database.read() as txn:
            return [key for key, _ in zip(_keys(txn, table), range(limit), strict=False)]

    # Dropping

    def drop(self, serial: int, root: bytes) -> None:
        """Take a counted version's edges away; what nothing needs then is in `dead`.

        Doing it twice is harmless."""

        def begin(txn: Txn) -> None:
            if txn.delete("edge", NODE + root + SERIAL.pack(serial)):
                _count_dropped(txn)
                if not is_needed(txn, NODE + root):
                    txn.put("gone", root, b"")
                    txn.put("dead", NODE + root, b"")

        self.settle()
        self._database.write(begin)
        self._take_out_gone()

    def _take_out_gone(self) -> None:
        while nodes := self._some("gone", 256):
            batch: list[tuple[bytes, list[Needed]]] = []
            edges = 0
            for node in nodes:
                below = list(self._children(node))
                batch.append((node, below))
                edges += len(below)
                if edges >= EDGES_AT_ONCE:
                    break
            self._take_out(batch)

    def _take_out(self, batch: list[tuple[bytes, list[Needed]]]) -> None:
        def write(txn: Txn) -> None:
            for node, below in batch:
                for key in below:
                    if txn.delete("edge", key + node) and not is_needed(txn, key):
                        txn.put("dead", key, b"")
                        if key[:1] == NODE:
                            txn.put("gone", key[1:], b"")
                txn.delete("gone", node)

        self._database.write(write)

    def dead(self) -> list[Needed]:
        """What died and is not destroyed yet, sorted."""
        with self._database.read() as txn:
            return list(_keys(txn, "dead"))

    def forget_dead(self, keys: Iterable[Needed]) -> None:
        """Some of the dead are destroyed."""
        rest = sorted(keys)
        for start in range(0, len(rest), EDGES_AT_ONCE):
            some = rest[start : start + EDGES_AT_ONCE]
            self._database.write(partial(_delete_dead, some))

    def note_unneeded(self, keys: Iterable[Needed]) -> None:
        """Note as dead what there is among some keys that nothing counted so far needs: garbage that
        came with a version, and what was there when the table had to be made anew."""
        rest = iter(keys)
        while some := sorted(islice(rest, EDGES_AT_ONCE)):
            with self._database.read() as txn:
                unneeded = [key for key in some if not is_needed(txn, key)]
            if unneeded:
                self._database.write(partial(_put_dead, unneeded))

    # Asking

    def unneeded(
        self, chunks: Iterable[bytes], but_for: Collection[Needed] = frozenset()
    ) -> Iterator[bytes]:
        """Those ids that no version needs, neither as a node nor as content, if what is in `but_for`
        were not needed either."""
        with self._database.read() as txn:
            for chunk in chunks:
                both = (NODE + chunk, CHUNK + chunk)
                if not any(key not in but_for and is_needed(txn, key) for key in both):
                    yield chunk

    def alone(self, versions: Sequence[tuple[int, bytes]], besides: Collection[int]) -> set[bytes]:
        """The chunks of content that these counted versions (serial, root) need, and besides them only
        versions with the serials `besides`, or none."""
        with self._database.read() as txn:
            mine = {serial for serial, _root in versions}
            above = Above(txn, mine.union(besides))
            return above.chunks_of((root for _serial, root in versions), self._children)

    def needed_besides(self, chunks: Iterable[bytes], versions: Collection[int]) -> bool:
        """Whether a version other than those with some serials needs any of some chunks."""
        with self._database.read() as txn:
            above = Above(txn, frozenset(versions))
            return any(above.is_needed(kind + chunk) for chunk in chunks for kind in (CHUNK, NODE))

    def dying(self, versions: Iterable[tuple[int, bytes]]) -> Dying:
        """What would die if these counted versions (serial, root) were dropped together.

        Changes nothing. Memory: in proportion to what dies and what it refers to.
        """
        with self._database.read() as txn:
            return Simulation(txn, self._children).run(versions)


def _keys(txn: Txn, table: str) -> Iterator[bytes]:
    for key, _value in txn.scan(table):
        yield key


def _count_dropped(txn: Txn) -> None:
    value = txn.get("meta", b"dropped")
    txn.put("meta", b"dropped", SERIAL.pack(1 + (0 if value is None else SERIAL.unpack(value)[0])))


def _put_dead(keys: Sequence[Needed], txn: Txn) -> None:
    for key in keys:
        txn.put("dead", key, b"")


def _delete_dead(keys: Sequence[Needed], txn: Txn) -> None:
    for key in keys:
        txn.delete("dead", key)
