"""The proof of a version: superblock and signed, chained log entries, checked from their bytes.

Both an export and its verification start here, so that what is attached to a version is exactly
what is checked later, without the lake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from msgspec import Struct

from dtafs.core.entries import (
    LogEntry,
    check_place,
    decode_envelope,
    decode_log_entry,
    decode_manifest,
    manifest_hash,
)
from dtafs.core.format import Superblock, decode_superblock
from dtafs.core.values import Manifest
from dtafs.errors import IntegrityError
from dtafs.store.crypto import verify_envelope, verify_superblock


class Proof(Struct, frozen=True):
    """The log of a dataset up to the entry that sealed a version, every signature checked."""

    superblock_bytes: bytes
    superblock: Superblock
    objects: tuple[bytes, ...]
    """The entries as they lie in the lake, from the first on."""
    entries: tuple[LogEntry, ...]
    manifest: Manifest
    manifest_sha256: bytes

    @property
    def sealed(self) -> LogEntry:
        """The entry that sealed the version."""
        return self.entries[-1]

    @property
    def version_id(self) -> str:
        return f"{self.manifest.dataset}:v{self.manifest.version}"

    @property
    def public_key(self) -> bytes:
        return bytes.fromhex(self.superblock.public_key)


def open_superblock(data: bytes) -> Superblock:
    """Decode `lake.json` and check its signature."""
    block = decode_superblock(data)
    verify_superblock(block)
    return block


def chained(block: Superblock, objects: Iterable[bytes]) -> Iterator[LogEntry]:
    """The entries of one dataset, or of the lake's own log, from the first on, each checked before it
    is yielded.

    Raises IntegrityError that names the entry when a signature does not verify, when a link of the
    chain is missing, or when versions are out of order.
    """
    first: LogEntry | None = None
    previous: str | None = None
    sealed: dict[int, str] = {}
    for sequence, data in enumerate(objects, 1):
        entry = open_entry(block, data, f"log entry {sequence}")
        _check_link(block, entry, sequence, previous, first)
        if entry.kind == "committed":
            _check_ancestry(entry, sealed)
        previous = hashlib.sha256(data).hexdigest()
        first = first or entry
        yield entry


def prove(superblock_bytes: bytes, objects: Iterable[bytes]) -> Proof:
    """Check a chain of entries that must end with the one that seals a version."""
    block = open_superblock(superblock_bytes)
    kept = tuple(objects)
    entries = tuple(chained(block, kept))
    if not entries or entries[-1].kind != "committed":
        raise IntegrityError("the last log entry does not seal a version")
    manifest = decode_manifest(entries[-1].body)
    digest = manifest_hash(manifest)
    return Proof(superblock_bytes, block, kept, entries, manifest, digest)


def open_entry(block: Superblock, data: bytes, what: str) -> LogEntry:
    """Decode a log entry and check its signature against the key in the superblock."""
    envelope = decode_envelope(data)
    verify_envelope(bytes.fromhex(block.public_key), envelope, what)
    return decode_log_entry(envelope.payload)


def _check_link(
    block: Superblock, entry: LogEntry, sequence: int, previous: str | None, first: LogEntry | None
) -> None:
    where = f"log entry {sequence}"
    if entry.lake != block.lake:
        raise IntegrityError(f"{where} is of another lake")
    if first is not None and entry.dataset != first.dataset:
        raise IntegrityError(f"{where} is of another dataset")
    if entry.sequence != sequence or entry.previous != previous:
        raise IntegrityError(f"{where} does not follow the one before it: the chain is broken")
    check_place(entry.dataset, sequence, entry.kind)


def _check_ancestry(entry: LogEntry, sealed: dict[int, str]) -> None:
    manifest = decode_manifest(entry.body)
    number = manifest.version
    if manifest.dataset != entry.dataset or number != len(sealed) + 1:
        raise IntegrityError(f"log entry {entry.sequence} seals a version out of order")
    if manifest.parent != sealed.get(number - 1):
        raise IntegrityError(f"v{number} does not name the version before it")
    sealed[number] = manifest_hash(manifest).hex()
