"""What a collection must keep: every chunk that a version or uncommitted work reaches, by its place.

`look` may be called again and again: each call adds what has come since. It looks at staging before
it looks at versions, since a commit moves what is needed from the one to the other. A chunk counts
where the index places it; one that staging needs counts in every pack that places it, since the
commit may go by either. Nodes are read from the disk, not from a cache, and checked: where one
cannot be read, nothing can be said about what is not needed, and IntegrityError ends the collection.

Memory: 8 bytes for each chunk of the lake, and 100 for each metadata node.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dtafs.core.children import children
from dtafs.core.format import PackKind
from dtafs.core.nodes import Node, decode_node
from dtafs.core.tree import open_root
from dtafs.core.values import Content
from dtafs.errors import IntegrityError
from dtafs.store.index import VersionRow
from dtafs.store.objects import Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import Place, read_footer
from dtafs.store.staging.rows import decode_dataset, decode_inode

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

Spot = int
"""Where in a pack a chunk lies, as one number: `offset << 32 | start`."""


def spot_of(place: Place) -> Spot:
    """The spot of a place in its pack."""
    return place.offset << 32 | place.start


class Reached:
    """The places that are needed. Used by one thread; close it."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._files = PackFiles(lake.path, lake.far)
        self._objects = Objects(self._files, lake.locate)
        self._spots: dict[bytes, array[int]] = {}
        self._sets: dict[bytes, tuple[int, set[Spot]]] = {}
        """Of some packs the spots as a set, and how many there were when it was made."""
        self._nodes: set[bytes] = set()
        self._contents: set[Content] = set()
        self._serial = 0
        """The newest version that was looked at."""

    def close(self) -> None:
        """Close the packs that were read."""
        self._files.close()

    def look(self) -> None:
        """Add everything that is needed now. Blocks; staging's rows are flushed for it."""
        self._look_at_staged()
        while (row := self._lake.index.version_by_serial(self._serial + 1)) is not None:
            if not row.disposed:
                self.look_at(row)
            self._serial = row.serial
        self._pending_nodes()

    def look_at_staging(self, but_for: str = "") -> None:
        """Add what uncommitted work needs, but for that of one dataset, and not what versions do."""
        self._look_at_staged(but_for)
        self._pending_nodes()

    def _look_at_staged(self, but_for: str = "") -> None:
        for content in sorted(self._staged(but_for), key=lambda content: content.sha256):
            if content not in self._contents:
                self._contents.add(content)
                self._content(content, staged=True)

    def look_at(self, row: VersionRow) -> None:
        """Add what one version needs."""
        root = row.root
        self._mark(root, staged=False)
        top = open_root(self._node, root)
        if top.ref:
            self._walk([top.ref], staged=False)

    def packs(self) -> list[bytes]:
        """The packs of which something is needed."""
        return list(self._spots)

    def spots(self, pack: bytes) -> set[Spot]:
        """The chunks of a pack that are needed."""
        return set(self._spots.get(pack, ()))

    def needs(self, pack: bytes) -> bool:
        """Whether any chunk of a pack is needed."""
        return pack in self._spots

    def needs_chunk(self, chunk: bytes) -> bool:
        """Whether uncommitted work needs a chunk, where only that was looked at."""
        lake = self._lake
        assert lake.pending is not None
        place = lake.index.place(chunk)
        known = [] if place is None else [place]
        return any(self._has(place) for place in (*known, *lake.pending.places(chunk)))

    def _has(self, place: Place) -> bool:
        spots = self._spots.get(place.pack)
        if spots is None:
            return False
        known, found = self._sets.get(place.pack, (0, set[Spot]()))
        if known != len(spots):
            known, found = self._sets[place.pack] = len(spots), set(spots)
        return spot_of(place) in found

    # Roots

    def _staged(self, but_for: str) -> Iterator[Content]:
        """The sealed contents that staged files consist of, or that sealing may fall back on."""
        area = self._lake.area
        # What a file had before it was changed moves between a row and memory, so memory is asked
        # before and after.
        yield from area.remembered(but_for)
        area.flush()
        found: set[Content] = set()
        with area.database.read() as txn:
            for name, value in txn.scan("dataset"):
                if name == but_for.encode():
                    continue
                for _key, row_value in txn.scan("inode", decode_dataset(value).tree_prefix):
                    row = decode_inode(row_value)
                    if row.sealed is not None:
                        found.add(row.sealed)
                    if row.content is not None and row.limit:
                        found.add(row.content)
        yield from found
        yield from area.remembered(but_for)

    def _pending_nodes(self) -> None:
        """Follow all nodes in metadata packs of uncommitted work of which something is needed.

        Deduplication may take up any node that the lake knows, and a node that is known must lead
        somewhere.
        """
        pending = self._lake.pending
        assert pending is not None
        for pack in sorted({pack for pack, _dataset in pending.all_packs()}):
            if not self.needs(pack):
                continue
            footer = read_footer(self._lake.path, pack)
            if footer.kind == PackKind.METADATA:
                self._walk([chunk for chunk, _ in footer.places()], staged=True)

    # The walk

    def _content(self, content: Content, *, staged: bool) -> None:
        if content.chunk_list:
            self._walk([content.chunk_list], staged=staged)
        elif content.size:
            self._mark(self._objects.chunk_id(content.sha256), staged=staged)

    def _walk(self, nodes: Iterable[bytes], *, staged: bool) -> None:
        todo = list(nodes)
        while todo:
            wanted = todo.pop()
            if wanted in self._nodes:
                continue
            self._nodes.add(wanted)
            self._mark(wanted, staged=staged)
            for child in children(self._node(wanted), self._objects.chunk_id):
                if child.is_node:
                    todo.append(child.id)
                else:
                    self._mark(child.id, staged=staged)

    def _node(self, wanted: bytes) -> Node:
        return decode_node(bytes(self._objects.chunk(wanted)))

    def _mark(self, chunk: bytes, *, staged: bool) -> None:
        lake = self._lake
        place = lake.index.place(chunk)
        places = [] if place is None else [place]
        if staged:
            assert lake.pending is not None
            places += lake.pending.places(chunk)
            if not places:  # a commit may just have moved it from the one table to the other
                place = lake.index.place(chunk)
                places = [] if place is None else [place]
        if not places:
            raise IntegrityError(
                f"chunk {chunk.hex()} is needed and in no pack that the index knows, so nothing can "
                "be collected; run dtafsctl check"
            )
        for known in places:
            spots = self._spots.get(known.pack)
            if spots is None:
                spots = self._spots[known.pack] = array("Q")
            spots.append(spot_of(known))
