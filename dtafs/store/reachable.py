"""The last look before a version is logged: everything that it needs is in packs that are there.

A version that names a chunk which nobody has is the worst that a commit could do, so what sealing
and deduplication say is not taken on trust. Looked at are the new nodes, those of chunk lists too,
and what they refer to. A node that the index places was looked at when it was committed itself, and
with it all that it reaches; only its pack is made sure of again. (A collection keeps that so: it
rewrites metadata packs with nodes that nothing reaches before it deletes what those may lead to.)

A version may refer to millions of chunks, so none of them stays in memory: they are looked up some
thousands at a time, in the rows of uncommitted work and then in the index.
"""

from __future__ import annotations

from collections.abc import Collection

from dtafs.core.chunklist import parts_of
from dtafs.core.nodes import DIRECTORY_NODE, decode_node
from dtafs.core.values import Content, Entry, Kind
from dtafs.errors import IntegrityError
from dtafs.store.lake import Lake
from dtafs.store.packs import PackPresence, read_footer
from dtafs.store.spool import Spool

AT_ONCE = 8_192
"""Chunks that are looked up in one txn, which costs more than a lookup."""


def require_all(lake: Lake, dataset: str, nodes: Spool, packs: Collection[bytes]) -> None:
    """Raise IntegrityError, naming a file, when something is missing that `nodes` refer to.

    `packs` are those of the dataset's uncommitted work that the version brings; that their footers
    can be read was just made sure of.
    """
    look = _Look(lake, dataset, nodes, packs)
    for _, data in nodes.items():
        node = decode_node(data)
        if node.kind != DIRECTORY_NODE or node.level == 0:
            for entry in node.entries:
                look.entry(entry)
        else:
            for branch in node.branches:
                look.node(branch.node, "a directory")
    look.finish()


class _Look:
    def __init__(self, lake: Lake, dataset: str, nodes: Spool, packs: Collection[bytes]) -> None:
        self._lake, self._dataset, self._nodes = lake, dataset, nodes
        self._brought = frozenset(packs)
        self._lists: set[bytes] = set()
        self._packs: set[bytes] = set()
        self._present = PackPresence(lake.path)
        self._wanted: dict[bytes, str] = {}
        """Chunks and nodes that are still to be looked up, with a name that needs each."""

    def entry(self, entry: Entry) -> None:
        """Look at what one name needs."""
        name = entry.name.decode(errors="backslashreplace")
        if entry.kind == Kind.DIRECTORY and entry.ref:
            self.node(entry.ref, name)
        elif entry.kind == Kind.FILE and entry.size:
            self._file(entry.content, name)

    def node(self, node: bytes, name: str) -> None:
        """Look at a node that is one of the new ones or must be there already."""
        if node not in self._nodes:
            self._find(node, name)

    def _file(self, content: Content, name: str) -> None:
        lake = self._lake
        if not content.chunk_list:
            self._find(lake.objects.chunk_id(content.sha256), name)
            return
        for part in parts_of(lake.objects.node, content, self._is_new_list):
            self._find(part, name)

    def _is_new_list(self, node: bytes) -> bool:
        """Whether what is below a node of a chunk list was not looked at yet, now or ever."""
        if node in self._lists:
            return False
        if not self._in_brought([node]) and self._lake.index.place(node) is not None:
            return False
        self._lists.add(node)
        return True

    def _find(self, chunk: bytes, name: str) -> None:
        self._wanted[chunk] = name
        if len(self._wanted) >= AT_ONCE:
            self.finish()

    def finish(self) -> None:
        """Look up what was met since the last time; raise for what is missing."""
        wanted, self._wanted = self._wanted, {}
        brought = self._in_brought(wanted)
        rest = [chunk for chunk in wanted if chunk not in brought]
        packs = self._lake.index.packs_of(rest)
        for chunk in rest:
            pack = packs.get(chunk)
            if pack is None or not self._is_there(pack):
                self._find_again(chunk, wanted[chunk])

    def _in_brought(self, chunks: Collection[bytes]) -> set[bytes]:
        """Those of some chunks that a pack which the version brings has, as the rows say."""
        assert self._lake.pending is not None
        packs = self._lake.pending.packs_of(chunks, self._dataset)
        return {chunk for chunk, pack in packs.items() if pack in self._brought}

    def _find_again(self, chunk: bytes, name: str) -> None:
        """A collection may just have moved it; or two packs have it, and the row went with one."""
        place = self._lake.index.place(chunk)
        if place is None and self._in_footers(chunk):
            return
        if place is None:
            raise IntegrityError(
                f"{name} cannot be committed: chunk {chunk.hex()} of it is in no pack; stage it again"
            )
        if not self._is_there(place.pack):
            raise IntegrityError(
                f"{name} cannot be committed: pack {place.pack.hex()} is gone; run dtafsctl check"
            )

    def _in_footers(self, chunk: bytes) -> bool:
        """Whether a pack that the version brings has a chunk, whatever the rows say."""
        for pack in self._brought:
            for frame in read_footer(self._lake.path, pack).frames:
                if any(held.id == chunk for held in frame.chunks):
                    return True
        return False

    def _is_there(self, pack: bytes) -> bool:
        """Make sure of a pack: a collection that was going to delete it leaves it."""
        if pack not in self._packs:
            self._lake.condemned.spare([pack])
            if not self._present(pack):
                return False
            self._packs.add(pack)
        return True
