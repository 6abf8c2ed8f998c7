"""The last look before a version is logged: everything that it needs is in packs that are there.

A version that names a chunk which nobody has is the worst that a commit could do, so what sealing
and deduplication say is not taken on trust. Looked at are the new nodes and what they refer to. A
node or chunk list that the index places was looked at when it was committed itself, and with it all
that it reaches; only its pack is made sure of again.
"""

from __future__ import annotations

from collections.abc import Iterable

from dtafs.core.chunklist import chunks_in, list_nodes
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


class _Look:
    def __init__(self, lake: Lake, nodes: dict[bytes, bytes], packs: Iterable[Pack]) -> None:
        self._lake, self._nodes = lake, nodes
        self._brought = {
            chunk.id for pack in packs for frame in pack.frames for chunk in frame.chunks
        }
        self._contents: set[bytes] = set()
        self._packs: set[bytes] = set()

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
        elif content.chunk_list not in self._contents:
            self._contents.add(content.chunk_list)
            self._find(content.chunk_list, name)
            if content.chunk_list in self._brought:
                for node in list_nodes(lake.objects.node, content):
                    self._find(node, name)
                for piece in chunks_in(lake.objects.node, lake.objects.chunk_id, content):
                    self._find(piece.id, name)

    def _find(self, chunk: bytes, name: str) -> None:
        if chunk in self._brought:
            return
        lake = self._lake
        place = lake.index.place(chunk)
        if place is None:
            raise IntegrityError(
                f"{name} cannot be committed: chunk {chunk.hex()} of it is in no pack; stage it again"
            )
        if place.pack not in self._packs:
            if not (lake.path / pack_key(place.pack)).is_file():
                raise IntegrityError(
                    f"{name} cannot be committed: pack {place.pack.hex()} is gone; run dtafsctl check"
                )
            self._packs.add(place.pack)
