"""The last look before a version is logged: everything that it needs is in packs that are there.

A version that names a chunk which nobody has is the worst that a commit could do, so what sealing
and deduplication say is not taken on trust. Looked at are the new nodes, those of chunk lists too,
and what they refer to. A node that the index places was looked at when it was committed itself, and
with it all that it reaches; only its pack is made sure of again. (A collection keeps that so: it
rewrites metadata packs with nodes that nothing reaches before it deletes what those may lead to.)
"""

from __future__ import annotations

from collections.abc import Iterable

from dtafs.core.chunklist import parts_of
from dtafs.core.format import pack_key
from dtafs.core.nodes import DIRECTORY_NODE, decode_node
from dtafs.core.values import Content, Entry, Kind
from dtafs.errors import IntegrityError
from dtafs.store.lake import Lake
from dtafs.store.packs import Pack


def require_all(lake: Lake, nodes: dict[bytes, bytes], packs: Iterable[Pack]) -> None:
    """Raise IntegrityError, naming a file, when something is missing that `nodes` refer to.

    `packs` are those that the version brings, as their footers were just read.
    """
    look = _Look(lake, nodes, packs)
    for data in nodes.values():
        node = decode_node(data)
        if node.kind != DIRECTORY_NODE or node.level == 0:
            for entry in node.entries:
                look.entry(entry)
        else:
            for branch in node.branches:
                look.node(branch.node, "a directory")
    look.finish()


class _Look:
    def __init__(self, lake: Lake, nodes: dict[bytes, bytes], packs: Iterable[Pack]) -> None:
        self._lake, self._nodes = lake, nodes
        self._brought = {
            chunk.id for pack in packs for frame in pack.frames for chunk in frame.chunks
        }
        self._lists: set[bytes] = set()
        self._packs: set[bytes] = set()
        self._wanted: dict[bytes, str] = {}
        """Chunks and nodes that must be in a pack of an earlier version, with a name that needs each."""

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
        if node in self._lists or node not in self._brought:
            return False
        self._lists.add(node)
        return True

    def _find(self, chunk: bytes, name: str) -> None:
        if chunk not in self._brought:
            self._wanted[chunk] = name

    def finish(self) -> None:
        """Raise for what is missing; all is looked up together, in one txn."""
        packs = self._lake.index.packs_of(self._wanted)
        for chunk, name in self._wanted.items():
            pack = packs.get(chunk)
            if pack is None or not self._is_there(pack):
                self._find_again(chunk, name)

    def _find_again(self, chunk: bytes, name: str) -> None:
        """A collection may just have moved it."""
        place = self._lake.index.place(chunk)
        if place is None:
            raise IntegrityError(
                f"{name} cannot be committed: chunk {chunk.hex()} of it is in no pack; stage it again"
            )
        if not self._is_there(place.pack):
            raise IntegrityError(
                f"{name} cannot be committed: pack {place.pack.hex()} is gone; run dtafsctl check"
            )

    def _is_there(self, pack: bytes) -> bool:
        """Make sure of a pack: a collection that was going to delete it leaves it."""
        if pack not in self._packs:
            self._lake.condemned.spare([pack])
            if not (self._lake.path / pack_key(pack)).is_file():
                return False
            self._packs.add(pack)
        return True
