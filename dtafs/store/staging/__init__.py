"""Staging: the writable tree of each dataset, an overlay of inodes over its newest version.

Start reading at `staging` (what it can do), then `rows` (what it keeps), `overlay` (how the two
trees become one), `tables` and `journal` (how it survives).
"""

from dtafs.store.staging.area import Creator, StagingArea
from dtafs.store.staging.listing import DirectoryHandle
from dtafs.store.staging.names import RENAME_EXCHANGE, RENAME_NOREPLACE
from dtafs.store.staging.opens import Base, Opener
from dtafs.store.staging.plans import ReadPlan, StagedSource, execute_read
from dtafs.store.staging.rows import Inode
from dtafs.store.staging.sealing import Build
from dtafs.store.staging.staging import Staging

__all__ = [
    "RENAME_EXCHANGE",
    "RENAME_NOREPLACE",
    "Base",
    "Build",
    "Creator",
    "DirectoryHandle",
    "Inode",
    "Opener",
    "ReadPlan",
    "StagedSource",
    "Staging",
    "StagingArea",
    "execute_read",
]
