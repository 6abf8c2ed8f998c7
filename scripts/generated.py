"""Versions of which only the metadata is made, by the store's own functions: as large as one likes.

All files share a few small contents, which are real, so that the checker finds nothing missing; or
each has a content of its own by its hash, of which nothing else exists: then no file can be read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from functools import partial

import msgspec

from dtafs.core.nodes import Node
from dtafs.core.tree import edit, seal_root
from dtafs.core.values import NOTHING_BELOW, Actor, Content, Entry, Kind, Manifest
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.packs import read_footer
from dtafs.store.sealing import Sealer

MAKER = Actor("maker", 0, "host", "test")
MTIME_NS = 1_700_000_000_000_000_000
CONTENTS = 16


def content_of(number: int) -> bytes:
    """The bytes of a generated file."""
    return b"reading,%d\n" % (number % CONTENTS)


class Generated:
    """The first version of a new dataset, made directory by directory. Nothing else uses the lake."""

    def __init__(self, lake: Lake, dataset: str, distinct: bool = False) -> None:
        """With `distinct`, all contents differ, and none is there."""
        self._lake, self._dataset, self._distinct = lake, dataset, distinct
        lake.create_dataset(dataset, MAKER)
        self._sealer = Sealer(lake, dataset)
        for number in range(CONTENTS):
            data = content_of(number)
            self._sealer.submit(number, partial(io.BytesIO, data), len(data))
        self._contents: dict[int, Content] = {}
        for sealed in self._sealer.flush():
            assert sealed.content is not None
            self._contents[sealed.key] = sealed.content

    def file(self, name: bytes, number: int) -> Entry:
        """A file whose times and content depend on a number."""
        content = self._contents[number % CONTENTS]
        if self._distinct:
            content = Content(content.size, hashlib.sha256(b"%d" % number).digest())
        mtime_ns = MTIME_NS + number * 1_000_003
        return Entry(name, Kind.FILE, 0o644, 0, 0, mtime_ns, content.size, content.sha256)

    def directory(self, name: bytes, entries: Iterable[Entry]) -> Entry:
        """A directory of entries that are sorted by their names; its nodes are on their way."""
        built = edit(_no_node, b"", ((entry.name, entry) for entry in entries))
        self._sealer.add_nodes(built.nodes.items())
        size, below = built.totals.size, built.totals if built.root else NOTHING_BELOW
        return Entry(name, Kind.DIRECTORY, 0o755, 0, 0, MTIME_NS, size, ref=built.root, below=below)

    def commit(self, entries: Iterable[Entry]) -> VersionRow:
        """Make the version, whose top directory has these entries."""
        top = self.directory(b"", entries)
        root, data = seal_root(top)
        with self._sealer as sealer:
            sealer.add_nodes([(root, data)])
            sealer.flush()
        lake = self._lake
        assert lake.pending is not None
        packs = [read_footer(lake.path, pack) for pack in lake.pending.packs(self._dataset)]
        manifest = Manifest(
            self._dataset,
            1,
            root.hex(),
            None,
            top.below.files,
            top.below.size,
            "generated",
            packs=tuple(pack.id.hex() for pack in sorted(packs, key=lambda p: (p.kind, p.id))),
        )
        lake.record(self._dataset, "committed", msgspec.to_builtins(manifest), MAKER)
        lake.pending.settle(self._dataset, packs)
        version = lake.index.version(self._dataset, 1)
        assert version is not None
        return version


def _no_node(wanted: bytes) -> Node:
    raise AssertionError(f"an empty directory has no node {wanted.hex()}")
