"""Verifying a whole lake: every signature, every link of the log, every byte of every version.

Nothing is taken from the index but where chunks lie: versions, trees and hashes come from the log.
Each distinct content is read once, however many files and versions share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from msgspec import Struct

from dtafs.core.entries import decode_manifest, manifest_hash
from dtafs.core.format import encode_superblock
from dtafs.core.names import LAKE_LOG
from dtafs.core.record_checks import DECODERS
from dtafs.core.tree import open_root, walk
from dtafs.core.values import Entry, Kind, Manifest
from dtafs.errors import DtafsError, IntegrityError
from dtafs.store.compare import printable
from dtafs.store.lake import Lake
from dtafs.store.progress import Meter, Progress, Report
from dtafs.store.proof import chained, open_superblock


class Audit(Struct):
    """What was verified; nothing in `findings` means that all of it holds."""

    datasets: int = 0
    versions: int = 0
    entries: int = 0
    files: int = 0
    size_bytes: int = 0
    """Of the distinct contents that were read."""
    findings: list[str] = []


def verify_lake(lake: Lake, report: Report | None = None) -> Audit:
    """Verify the log and everything that it names. Damage becomes findings; it does not stop."""
    audit = Audit(findings=[])
    meter = Meter(report, Progress("verify"))
    known = lake.index.heads()
    read: dict[tuple[bytes, bytes], str] = {}
    for dataset in sorted({*lake.log.names(), *known}):
        audit.datasets += dataset != LAKE_LOG
        try:
            if _verify_log(lake, dataset, audit, read, meter) != known.get(dataset):
                raise IntegrityError("the log and the index disagree; run dtafsctl reindex")
        except DtafsError as error:
            audit.findings.append(f"{dataset}: {error}")
    return audit


def _verify_log(
    lake: Lake,
    dataset: str,
    audit: Audit,
    read: dict[tuple[bytes, bytes], str],
    meter: Meter,
) -> tuple[int, bytes]:
    """Verify one log, and the versions in it; the number and hash of its last entry.

    Raises where the log itself is broken.
    """
    sequences = lake.log.sequences(dataset)
    if sequences != list(range(1, len(sequences) + 1)) or not sequences:
        raise IntegrityError("the log has a gap: entries are missing")
    block = open_superblock(encode_superblock(lake.superblock))
    digest = b""

    def objects() -> Iterator[bytes]:
        nonlocal digest
        for sequence in sequences:
            data = lake.log.read_object(dataset, sequence)
            digest = hashlib.sha256(data).digest()
            yield data

    for entry in chained(block, objects()):
        if entry.dataset != dataset:
            raise IntegrityError(f"entry {entry.sequence} is of the dataset {entry.dataset!r}")
        audit.entries += 1
        if entry.kind == "committed":
            manifest = decode_manifest(entry.body)
            audit.versions += 1
            _verify_version(lake, manifest, audit, read, meter)
        elif entry.kind in DECODERS:
            DECODERS[entry.kind](entry.body)
    return len(sequences), digest


def _verify_version(
    lake: Lake,
    manifest: Manifest,
    audit: Audit,
    read: dict[tuple[bytes, bytes], str],
    meter: Meter,
) -> None:
    name = f"{manifest.dataset}:v{manifest.version}"
    row = lake.index.version(manifest.dataset, manifest.version)
    if row is None or row.manifest_sha256 != manifest_hash(manifest):
        audit.findings.append(f"{name}: the index has another manifest; run dtafsctl reindex")
    if row is not None and row.disposed:
        return  # lawfully gone: the entry that says so was verified, as this one was
    try:
        top = open_root(lake.objects.node, bytes.fromhex(manifest.root))
        if (top.below.files, top.below.size) != (manifest.files, manifest.size_bytes):
            audit.findings.append(
                f"{name}: the manifest counts other files than its root node holds"
            )
        for path, entry in walk(lake.objects.node, top):
            if entry.kind == Kind.FILE:
                key = (entry.sha256, entry.ref)
                if key not in read:
                    read[key] = _verify_content(lake, entry, audit, meter)
                if read[key]:
                    audit.findings.append(f"{name} {printable(b'/'.join(path))}: {read[key]}")
    except DtafsError as error:
        audit.findings.append(f"{name}: {error}")


def _verify_content(lake: Lake, entry: Entry, audit: Audit, meter: Meter) -> str:
    """Read a content and hash it; what is wrong with it, or nothing."""
    digest = hashlib.sha256()
    try:
        for block in lake.objects.stream(entry.content):
            digest.update(block)
            meter(0, len(block))
    except DtafsError as error:
        return str(error)
    meter(1, 0)
    audit.files += 1
    audit.size_bytes += entry.size
    return "" if digest.digest() == entry.sha256 else "its SHA-256 is not the one that was sealed"
