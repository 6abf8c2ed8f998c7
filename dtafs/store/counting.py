"""Bringing `dtafs.store.references` to where the index is.

New versions are counted, versions that were disposed of are dropped. Where the table says something else
than the log (it was deleted, it is damaged, it is older than a repair of the log, it came from a backup),
it is made anew by one walk over all versions that are kept.

Garbage nodes, which come with a version when a staged file was written over, are noted as dead too: a node
that the lake knows must lead somewhere (`dtafs.store.reachable`), so they go before what they lead to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dtafs.core.format import PackKind
from dtafs.core.nodes import Node, decode_node
from dtafs.errors import IntegrityError
from dtafs.store.collect_facts import unnamed_packs
from dtafs.store.index import VersionRow
from dtafs.store.objects import Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import read_footer
from dtafs.store.progress import Progress, Report
from dtafs.store.reference_walks import CHUNK, NODE
from dtafs.store.references import FOLDER, References

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


class Counting:
    """The references of a lake that is open for writing. Used by one thread; close it."""

    def __init__(self, lake: Lake, report: Report | None = None) -> None:
        self._lake, self._report = lake, report
        self._files = PackFiles(lake.path, lake.far)
        self._objects = Objects(self._files, lake.locate)
        self.references = self._opened()

    def close(self) -> None:
        """Close what is open."""
        self.references.close()
        self._files.close()

    def _opened(self) -> References:
        path, disk = self._lake.path / FOLDER, self._lake.disk
        disk.make_directory(path)
        try:
            found = References(path, self._node, self._objects.chunk_id)
        except IntegrityError:  # a view, so nothing is lost
            disk.remove_tree(path)
            disk.make_directory(path)
            found = References(path, self._node, self._objects.chunk_id)
        disk.sync_directory(path)
        return found

    def _node(self, wanted: bytes) -> Node:
        """A node as it is on the disk, checked, and not from a cache."""
        return decode_node(bytes(self._objects.chunk(wanted)))

    def catch_up(self) -> None:
        """Count what came, drop what was disposed of. IntegrityError where a node cannot be read."""
        try:
            if self._agrees() and self._advance():
                return
        except IntegrityError:  # of a node that is gone, if the table is not what the log says
            pass
        self._begin_anew()
        if not self._advance():
            raise IntegrityError(
                "the index says how many versions were disposed of, and names others"
            )
        self._note_all_unneeded()

    def _agrees(self) -> bool:
        """Whether what was counted is what the index has."""
        serial, manifest = self.references.counted
        if serial == 0:
            return self._lake.index.newest_serial() == 0
        row = self._lake.index.version_by_serial(serial)
        return row is not None and row.manifest_sha256 == manifest

    def _begin_anew(self) -> None:
        self.references.close()
        self._lake.disk.remove_tree(self._lake.path / FOLDER)
        self.references = self._opened()

    def _advance(self) -> bool:
        """Follow the index; False where it cannot be followed from here."""
        references, index = self.references, self._lake.index
        references.settle()
        newest = index.newest_serial()
        while (row := index.version_by_serial(references.counted[0] + 1)) is not None:
            if self._report is not None:
                self._report(Progress("count references", row.serial - 1, 0, newest))
            references.add(row.serial, row.root, row.manifest_sha256, live=not row.disposed)
            references.note_unneeded(self._nodes_brought(row))
        if references.dropped != index.disposed_count():
            for row in [row for row, _gone in index.dispositions()]:
                references.drop(row.serial, row.root)
        return references.dropped == index.disposed_count()

    def _nodes_brought(self, row: VersionRow) -> list[bytes]:
        """The nodes in the packs that a version brought, as far as those are still there."""
        found: list[bytes] = []
        for name in row.manifest.packs:
            pack = bytes.fromhex(name)
            known = self._lake.index.pack(pack)
            if known is not None and known.kind == PackKind.METADATA:
                places = read_footer(self._lake.path, pack).places()
                found += [NODE + chunk for chunk, _place in places]
        return found

    def _note_all_unneeded(self) -> None:
        """After a new beginning: what was disposed of and is still there cannot be told from garbage
        then, in packs that the log names and in others."""
        if not self._lake.index.disposed_count():
            return
        for pack in unnamed_packs(self._lake):
            with contextlib.suppress(IntegrityError):  # `destroy` says what it cannot read
                footer = read_footer(self._lake.path, pack)
                kind = NODE if footer.kind == PackKind.METADATA else CHUNK
                self.references.note_unneeded(kind + chunk for chunk, _ in footer.places())
        kinds = {pack: row.kind for pack, row in self._lake.index.packs()}
        self.references.note_unneeded(
            (NODE if kinds.get(place.pack) == PackKind.METADATA else CHUNK) + chunk
            for chunk, place in self._lake.index.places()
        )


@contextlib.contextmanager
def counting(lake: Lake, report: Report | None = None) -> Iterator[Counting]:
    """The references of a lake, up to date."""
    found = Counting(lake, report)
    try:
        found.catch_up()
        yield found
    finally:
        found.close()
