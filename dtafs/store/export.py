"""Exporting a version as a zip, a tar or a directory with its proof (`dtafs.store.bag`).

Every file is hashed again on its way out and compared with what was sealed: a package that is there
is right. A zip or tar is written front to back, so that it can go into a pipe; a file or directory is
written beside its final name, synced, and given that name at the end. The bytes of a package follow
from the version alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from dtafs.core.format import encode_superblock
from dtafs.core.tree import walk
from dtafs.core.values import Entry, Kind
from dtafs.errors import ConflictError, IntegrityError, UsageError, from_os_error
from dtafs.store.bag import TAG_MANIFEST, checksum_line, data_name, documents
from dtafs.store.durable import Disk
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.progress import Meter, Progress, Report
from dtafs.store.proof import Proof, prove
from dtafs.store.resolving import while_kept
from dtafs.store.sinks import Counted, DirectorySink, Member, Sink, TarSink, ZipSink, regular

FORMATS = ("zip", "tar", "dir")


class Exported(Struct, frozen=True):
    """What was written: bytes of the version's files, and of the package as a whole."""

    files: int
    size_bytes: int
    package_bytes: int = 0
    package_sha256: str = ""
    """Both empty for a directory."""


def export_file(
    lake: Lake,
    version: VersionRow,
    form: str,
    out: Path,
    *,
    compress: bool = True,
    force: bool = False,
    report: Report | None = None,
) -> Exported:
    """Export to a path. ConflictError when it exists, unless it is a file and `force` is given."""
    out = out.absolute()
    if os.path.lexists(out) and not (force and form != "dir" and out.is_file()):
        raise ConflictError(f"{out} exists already")
    if not out.parent.is_dir():
        raise UsageError(f"there is no directory {out.parent} to export into")
    disk = Disk(out.parent)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        if form == "dir":
            return _export_directory(lake, version, disk, part, out, report)
        return _export_stream(lake, version, form, disk, part, out, compress, force, report)
    except OSError as error:
        raise from_os_error(error, f"writing the export {out}") from error


def _export_directory(
    lake: Lake, version: VersionRow, disk: Disk, part: Path, out: Path, report: Report | None
) -> Exported:
    try:
        exported = _fill(DirectorySink(part), lake, version, report)
        disk.sync_everything()
        disk.rename(part, out)
    except BaseException:
        _remove_tree(disk, part)
        raise
    disk.sync_directory(out.parent)
    return exported


def _remove_tree(disk: Disk, top: Path) -> None:
    """Remove an unfinished directory, whose members may not be writable any more."""
    for folder, _, _ in os.walk(os.fsencode(top)):
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
    disk.remove_tree(top)


def _export_stream(
    lake: Lake,
    version: VersionRow,
    form: str,
    disk: Disk,
    part: Path,
    out: Path,
    compress: bool,
    force: bool,
    report: Report | None,
) -> Exported:
    fd = disk.open_file(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(fd, "wb", buffering=1 << 20) as stream:
            exported = export_stream(lake, version, form, stream, compress=compress, report=report)
            stream.flush()
            disk.sync(fd)
        if force:
            disk.rename(part, out)
        elif not disk.link(part, out):
            raise ConflictError(f"{out} exists already")
    finally:
        disk.remove(part)
    disk.sync_directory(out.parent)
    return exported


def export_stream(
    lake: Lake,
    version: VersionRow,
    form: str,
    stream: BinaryIO,
    *,
    compress: bool = True,
    report: Report | None = None,
) -> Exported:
    """Export a zip or tar to a stream, which is never asked to seek."""
    counted = Counted(stream.write)
    sink: Sink
    if form == "zip":
        sink = ZipSink(counted, compress)
    elif form == "tar":
        sink = TarSink(counted)
    else:
        raise UsageError(f"{form!r} cannot be written to a stream: choose zip or tar")
    exported = _fill(sink, lake, version, report)
    digest, size = counted.hexdigest(), counted.size_bytes
    return Exported(exported.files, exported.size_bytes, size, digest)


def proof_of(lake: Lake, version: VersionRow) -> Proof:
    """The signed log up to a version, checked anew from its bytes."""
    log = lake.log
    numbers = range(1, version.sequence + 1)
    proof = prove(
        encode_superblock(lake.superblock), (log.read_object(version.dataset, n) for n in numbers)
    )
    if proof.manifest_sha256 != version.manifest_sha256:
        raise IntegrityError(
            f"the log and the index disagree about {version.name}; run dtafsctl reindex"
        )
    return proof


def provenance_text(lake: Lake, version: VersionRow) -> bytes:
    """The Provenance.txt of a version."""
    from dtafs.store.provenance import provenance_lines

    if version.disposed:
        from dtafs.store.certificate import certificate_text

        return certificate_text(lake, version)
    top = lake.objects.top(version)
    return b"".join(provenance_lines(proof_of(lake, version), lake.objects.node, top))


def _fill(sink: Sink, lake: Lake, version: VersionRow, report: Report | None) -> Exported:
    manifest = version.manifest
    meter = Meter(report, Progress("export", 0, 0, manifest.files, manifest.size_bytes))
    try:
        with while_kept(version, lambda: lake.index):
            for member in _members(lake, version, meter):
                sink.add(member)
        sink.finish()
    finally:
        sink.close()
    return Exported(manifest.files, manifest.size_bytes)


def _members(lake: Lake, version: VersionRow, meter: Meter) -> Iterator[Member]:
    """The package from its first member to its last."""
    objects = lake.objects
    top = objects.top(version)
    proof = proof_of(lake, version)
    tags: list[bytes] = []
    seen = {b""}
    for document in documents(proof, objects.node, top, lambda i: bytes(objects.chunk(i))):
        for folder in _folders(document.name):
            if folder not in seen:
                seen.add(folder)
                yield Member(folder, Kind.DIRECTORY, 0o755, 0, 0, version.time_ns, 0, lambda: ())
        digest, size = hashlib.sha256(), 0
        for block in document.blocks():
            digest.update(block)
            size += len(block)
        tags.append(checksum_line(digest.digest(), document.name))
        yield regular(document.name, version.time_ns, document.blocks, size)
    yield from _data(lake, top, meter)
    yield regular(TAG_MANIFEST, version.time_ns, lambda: iter(tags), sum(map(len, tags)))


def _folders(name: bytes) -> list[bytes]:
    """The directories above a name, outermost first."""
    parts = name.split(b"/")[:-1]
    return [b"/".join(parts[: i + 1]) for i in range(len(parts))]


def _data(lake: Lake, top: Entry, meter: Meter) -> Iterator[Member]:
    first_names: dict[int, bytes] = {}
    for path, entry in walk(lake.objects.node, top):
        name = data_name(path)
        same_as = first_names.setdefault(entry.link, name) if entry.link else name
        yield Member(
            name,
            Kind(entry.kind),
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            entry.size,
            lambda entry=entry, name=name: _checked(lake, entry, name, meter),  # type: ignore[misc]
            entry.ref if entry.kind == Kind.SYMLINK else b"",
            entry.xattrs,
            same_as if same_as != name else b"",
        )


def _checked(lake: Lake, entry: Entry, name: bytes, meter: Meter) -> Iterator[bytes]:
    """The bytes of a file; IntegrityError at its end when they are not those that were sealed."""
    digest = hashlib.sha256()
    for block in lake.objects.stream(entry.content):
        digest.update(block)
        meter(0, len(block))
        yield block
    meter(1, 0)
    if digest.digest() != entry.sha256:
        raise IntegrityError(f"{os.fsdecode(name)!r} is not what was sealed: its SHA-256 differs")
