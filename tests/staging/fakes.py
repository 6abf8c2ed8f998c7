"""A store below staging without packs: nodes and contents in dicts, sealed by hashing them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from dtafs.core.nodes import Node, decode_node
from dtafs.core.tree import seal_root
from dtafs.core.values import Content, Entry
from dtafs.store.durable import Disk
from dtafs.store.staging import Base, Creator, Staging, StagingArea, execute_read

CREATOR = Creator(1000, 100, 1_000)


class FakeObjects:
    """Stands for `dtafs.store.objects.Objects`."""

    def __init__(self) -> None:
        self.nodes: dict[bytes, bytes] = {}
        self.contents: dict[bytes, bytes] = {}
        self._decoded: dict[bytes, Node] = {}
        self.fetched = 0

    def node(self, wanted: bytes) -> Node:
        self.fetched += 1
        if wanted not in self._decoded:
            self._decoded[wanted] = decode_node(self.nodes[wanted])
        return self._decoded[wanted]

    def read(self, content: Content, offset: int, size: int, near: bool = False) -> bytes:
        return self.contents[content.sha256][offset : offset + size]

    def store(self, data: bytes) -> Content:
        content = Content(len(data), hashlib.sha256(data).digest())
        self.contents[content.sha256] = data
        return content


class Bench:
    """A staging area in a directory that can be closed, opened again, killed and committed."""

    def __init__(self, directory: Path, objects: FakeObjects | None = None) -> None:
        self.directory = directory
        self.objects = objects or FakeObjects()
        self.open()

    def open(self) -> None:
        (self.directory / "tmp").mkdir(parents=True, exist_ok=True)
        area_objects: Any = self.objects
        self.area = StagingArea(self.directory / "staging", Disk(self.directory), area_objects)
        self.staging = self.area.dataset("D", Base(0, b""), CREATOR)

    def reopen(self) -> None:
        """Close properly and open again."""
        self.area.close()
        self.open()

    def kill(self) -> None:
        """What the death of the process leaves: no flush, nothing closed in order."""
        self.area.tables._journal.close()
        self.area.data.close_all()
        self.area.database.close()
        self.open()

    def seal(self, staging: Staging | None = None) -> None:
        """Do what a sealer does."""
        staging = staging or self.staging
        for ino, generation, size in list(staging.unsealed()):
            source = staging.open_source(ino)
            buffer, data = bytearray(7), b""
            while done := source.readinto(buffer):
                data += buffer[:done]
            source.close()
            assert len(data) == size
            assert staging.sealed(ino, generation, self.objects.store(data))

    def commit(self) -> Entry:
        """Seal, build, store and go on from it; the new top entry."""
        self.seal()
        built = self.staging.build(self.objects.node)
        self.objects.nodes.update(built.nodes)
        root, data = seal_root(built.top)
        self.objects.nodes[root] = data
        self.staging.rebase(self.staging.base.version + 1, root, built.directories)
        return built.top

    def write(self, ino: int, offset: int, data: bytes, now_ns: int | None = 5) -> None:
        """Open, write as the mount does, close."""
        handle = self.staging.open(ino, True)
        if offset or not self.staging.hold(ino, data, now_ns):
            fd = self.staging.begin_write(ino)
            os.pwrite(fd, data, offset)
            self.staging.wrote(ino, offset, len(data), now_ns)
        self.staging.close(handle)

    def read(self, ino: int, offset: int = 0, size: int = 1 << 20) -> bytes:
        """Open, read, close."""
        handle = self.staging.open(ino, False)
        objects: Any = self.objects
        data = execute_read(self.staging.plan_read(ino, offset, size), objects)
        self.staging.close(handle)
        return data
