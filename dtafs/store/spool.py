"""The new nodes of a version until it is sealed: in memory, and beyond a few MiB in a temporary file.

A directory of a million new files has 90 MiB of them. They are made before it is known whether the
version is sealed at all, and looked at once more after they are packed.

A crash leaves a file in `tmp/`, which the next exclusive open removes.
"""

from __future__ import annotations

from collections.abc import Iterator

from dtafs.store.durable import Disk, TempFile

HELD_BYTES = 8 << 20
"""So much stays in memory: more than what most commits change."""


class Spool:
    """Nodes by id, in the order in which they came. Used by one thread at a time; close it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._file: TempFile | None = None
        self._written: dict[bytes, int] = {}
        """The size of each node in the file, in its order."""
        self._held: dict[bytes, bytes] = {}
        self._held_bytes = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def add(self, node: bytes, data: bytes) -> None:
        """Keep a node, once however often it comes. Raises StorageFullError when the disk is full."""
        if node in self:
            return
        self._held[node] = data
        self._held_bytes += len(data)
        if self._held_bytes >= HELD_BYTES:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = self._disk.temp()
        self._file.write(b"".join(self._held.values()))
        self._written |= {node: len(data) for node, data in self._held.items()}
        self._held, self._held_bytes = {}, 0

    def __contains__(self, node: bytes) -> bool:
        return node in self._held or node in self._written

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Every node with its bytes."""
        at = 0
        for node, size in self._written.items():
            assert self._file is not None
            yield node, self._file.read(at, size)
            at += size
        yield from self._held.items()

    def clear(self) -> None:
        """Drop all nodes."""
        self.close()
        self._written, self._held, self._held_bytes = {}, {}, 0

    def close(self) -> None:
        """Give back the room on the disk."""
        if self._file is not None:
            self._file.discard()
            self._file = None
