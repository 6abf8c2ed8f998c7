"""Putting the areas of one mount together."""

from __future__ import annotations

from collections.abc import Callable

import trio

from dtafs.errors import NotFoundError
from dtafs.fs.area import Area
from dtafs.fs.attributes import Owner
from dtafs.fs.drafts import Drafts
from dtafs.fs.far import FarReads
from dtafs.fs.gate import Gates
from dtafs.fs.handover import Handover, Store
from dtafs.fs.inodes import VIEW_BASE, NumberTable
from dtafs.fs.namespace import Namespace
from dtafs.fs.nodes import NodeReader
from dtafs.fs.readahead import ReadAheadPool
from dtafs.fs.sealed import SealedArea
from dtafs.fs.staged import StagedArea
from dtafs.fs.top import Actions, TopArea
from dtafs.fs.views import Sources, ViewsArea
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.staging.staging import Staging


class Directories:
    """The inode numbers of the datasets' directories, which other areas point back to."""

    def __init__(self) -> None:
        self.numbers = NumberTable()
        self.number_of: Callable[[str], int] = lambda dataset: 0
        self.forget_version: Callable[[int], None] = lambda serial: None
        """Drop what the mount keeps of the version with a serial, which was disposed of."""


def build_namespace(
    lake: Lake,
    nursery: trio.Nursery,
    directories: Directories,
    gates: Gates,
    drafts: Drafts,
    sources: Sources,
    actions: Actions | None,
    on_quiet: Callable[[Staging, int], None],
    store: Store | None = None,
) -> Namespace:
    """The namespace of a lake, on this event loop; `actions` is None for a read-only mount, `store`
    where no kernel is to be given what it has not asked for.

    From now on staging fetches its nodes as the event loop must: from memory, or not at all.
    """
    nodes = NodeReader(lake.objects, lake.placed.where)
    far = FarReads(lake, nodes, nursery)
    status = lake.path.stat()
    owner = Owner(status.st_uid, status.st_gid)

    def directory_of(dataset: str) -> int:
        return directories.number_of(dataset)

    def version_of(serial: int) -> VersionRow:
        row = lake.index.version_by_serial(serial)
        if row is None:
            raise NotFoundError(f"no version has the serial {serial}")
        return row

    pool = ReadAheadPool(nodes, far, nursery)
    handover = Handover(lake.objects, store)
    sealed = SealedArea(lake, nodes, pool, handover, version_of, directory_of)
    staged = None
    if actions is not None:
        lake.area.fetch = nodes.fetch
        staged = StagedArea(lake, nodes, far, gates, drafts, directory_of, on_quiet)
    views = ViewsArea(lake, NumberTable(VIEW_BASE), owner, sources)
    top = TopArea(lake, directories.numbers, owner, sealed, staged, views, actions)
    directories.number_of = top.directory_number
    directories.forget_version = sealed.forget_version
    return Namespace(top, views, sealed, staged if staged is not None else Area())
