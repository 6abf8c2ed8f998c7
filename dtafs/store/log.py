"""The log: signed, chained entries, created if absent and never changed.

The entry object is the commit point of whatever it says. An append either creates the next number
durably or finds it taken; it never leaves half an entry. Reading verifies the signature, and that
the entry is what its key says; whether it follows the one before it is checked where entries are
applied in order (`dtafs.store.index`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dtafs.core.canonical import canonical_json
from dtafs.core.entries import (
    ENTRY_LIMIT_BYTES,
    LogEntry,
    decode_envelope,
    decode_log_entry,
    log_key,
    make_log_entry,
)
from dtafs.core.format import Superblock
from dtafs.core.values import Actor
from dtafs.errors import (
    ConflictError,
    DtafsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    UnsupportedError,
)
from dtafs.store.crypto import Signer, verify_envelope
from dtafs.store.durable import Disk, read_file


class Appended(NamedTuple):
    """An entry with the SHA-256 of its object."""

    entry: LogEntry
    object_hash: bytes


def parse_entry(superblock: Superblock, dataset: str, sequence: int, data: bytes) -> Appended:
    """Decode and verify the object of an entry; IntegrityError says what is wrong with it."""
    what = f"log entry {sequence} of {dataset!r}"
    try:
        envelope = decode_envelope(data)
        verify_envelope(bytes.fromhex(superblock.public_key), envelope, what)
        entry = decode_log_entry(envelope.payload)
    except UnsupportedError:
        raise
    except DtafsError as error:
        text = str(error)
        raise IntegrityError(text if what in text else f"{what}: {text}") from None
    if (entry.lake, entry.dataset, entry.sequence) != (superblock.lake, dataset, sequence):
        raise IntegrityError(f"{what} is an entry of another place that was put here")
    return Appended(entry, hashlib.sha256(data).digest())


class Log:
    """The log of a lake in its home store. Thread-safe; one process at a time appends."""

    def __init__(self, disk: Disk, superblock: Superblock, signer: Signer | None) -> None:
        self._disk, self._superblock, self._signer = disk, superblock, signer

    def path(self, dataset: str, sequence: int) -> Path:
        """Where an entry lies."""
        return self._disk.root / log_key(dataset, sequence)

    def exists(self, dataset: str, sequence: int) -> bool:
        """Whether an entry is there, damaged or not."""
        return self.path(dataset, sequence).exists()

    def names(self) -> list[str]:
        """The names of all logs, sorted: of the datasets, and of the lake's own if it has one."""
        folder = self._disk.root / "log"
        return sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []

    def sequences(self, dataset: str) -> list[int]:
        """The numbers of the entries that are there, sorted; other file names are left out."""
        folder = self._disk.root / "log" / dataset
        names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
        return sorted(int(n) for n in names if len(n) == 10 and n.isascii() and n.isdigit())

    def read_object(self, dataset: str, sequence: int) -> bytes:
        """The bytes of an entry's object."""
        try:
            return read_file(self.path(dataset, sequence), ENTRY_LIMIT_BYTES)
        except NotFoundError:
            raise NotFoundError(f"{dataset!r} has no log entry {sequence}") from None

    def read(self, dataset: str, sequence: int) -> Appended:
        """An entry, its signature verified; NotFoundError or IntegrityError."""
        return parse_entry(self._superblock, dataset, sequence, self.read_object(dataset, sequence))

    def read_from(self, dataset: str, sequence: int) -> Iterator[Appended]:
        """The entries from a number on, as far as they follow each other without a gap."""
        while self.exists(dataset, sequence):
            yield self.read(dataset, sequence)
            sequence += 1

    def settle(self, dataset: str) -> None:
        """Have the entries that are there survive a power failure: a process that was killed right after it
        gave one its name has not seen to that."""
        folder = self._disk.root / "log"
        self._disk.sync_directory(folder / dataset)
        self._disk.sync_directory(folder)

    def append(
        self,
        dataset: str,
        sequence: int,
        previous: bytes | None,
        time_ns: int,
        actor: Actor,
        kind: str,
        body: dict[str, Any],
    ) -> Appended:
        """Create entry `sequence` durably; ConflictError when somebody else made that number.

        RefusedError when it would be too large to be read again. IntegrityError when the entry before
        it is not there as it was: a log grows only where it is whole, or the gap would hide what was
        sealed before.
        """
        if self._signer is None:
            raise RefusedError(
                "this lake has no signing key here, so nothing can be added to its log"
            )
        if previous is not None and self._object_hash(dataset, sequence - 1) != previous:
            raise IntegrityError(
                f"entry {sequence - 1} of {dataset!r} is gone or altered; run dtafsctl check"
            )
        entry = make_log_entry(
            self._superblock.lake, dataset, sequence, previous, time_ns, actor, kind, body
        )
        data = self._signer.seal_entry(canonical_json(entry))
        if len(data) > ENTRY_LIMIT_BYTES:  # nobody could read it, nor what comes after it
            raise RefusedError(
                f"the log of {dataset!r} takes no entry as large as this {kind}: {len(data):,} bytes, "
                f"of {ENTRY_LIMIT_BYTES:,} at most"
            )
        path = self.path(dataset, sequence)
        self._disk.make_directory(path.parent)
        try:
            self._disk.put_new(path, data)
        except ConflictError:
            raise ConflictError(
                f"somebody else wrote entry {sequence} of {dataset!r} meanwhile; try again"
            ) from None
        return Appended(entry, hashlib.sha256(data).digest())

    def _object_hash(self, dataset: str, sequence: int) -> bytes:
        """The SHA-256 of an entry's object; empty when there is none."""
        try:
            return hashlib.sha256(self.read_object(dataset, sequence)).digest()
        except NotFoundError:
            return b""
