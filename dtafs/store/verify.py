"""Verifying an export without the lake, and the whole lake against its log.

The chain of proof, from the key to the bytes: the superblock states the public key and is signed by
it; each log entry is signed and names the one before it; the last one holds the manifest, whose
hash is the version's; the manifest names the root node, nodes name nodes, and these name every file
by its SHA-256. The documents of an export follow from all this: they are made again and compared.

What a stranger could still have forged is all of it, with a key of their own: `verify_package`
reports the key, and takes the one that is expected.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from msgspec import Struct

from dtafs.core.entries import ENTRY_LIMIT_BYTES
from dtafs.core.nodes import NODE_LIMIT_BYTES, Node, decode_node, node_id
from dtafs.core.tree import open_root, walk
from dtafs.core.values import Entry, Kind
from dtafs.errors import IntegrityError, UnsupportedError
from dtafs.store import bag
from dtafs.store.compare import printable
from dtafs.store.packages import Found, Package, opened
from dtafs.store.progress import Meter, Progress, Report
from dtafs.store.proof import Proof, prove
from dtafs.store.zipwriter import regrouped

FINDINGS_MAX = 1_000
"""A verification that has found so much wrong stops."""
HEAD_BYTES = 64 * 1024
LAYOUT_LINE = re.compile(rb"^Layout +(\d{1,6})$", re.M)
SUPERBLOCK_LIMIT_BYTES = 64 * 1024


class Verified(Struct):
    """What a verification found; nothing in `findings` means that it is proved."""

    id: str
    facts: dict[str, Any]
    findings: list[str]


def verify_package(
    path: Path, expected_key: str | None = None, report: Report | None = None
) -> Verified:
    """Verify an export; `expected_key` is the public key in hex that must have signed it.

    Raises when it cannot be read as an export or its proof does not hold; what does not agree with
    the proof is in the findings.
    """
    with opened(path) as package, tempfile.TemporaryFile() as spool:
        return _Verification(package, spool, report).run(expected_key)


class _TooMany(Exception):
    pass


class _Verification:
    """One package. Names are held in memory, bytes are not."""

    def __init__(self, package: Package, spool: IO[bytes], report: Report | None) -> None:
        self._package, self._spool, self._report = package, spool, report
        self.findings: list[str] = []
        self._names: dict[bytes, Found] = {}
        self._places: dict[bytes, tuple[int, int]] = {}

    def run(self, expected_key: str | None) -> Verified:
        for found in package_names(self._package, self._find):
            self._names[found.name] = found
        self._check_layout()
        superblock = self._small(bag.SUPERBLOCK, SUPERBLOCK_LIMIT_BYTES)
        proof = prove(superblock, self._entries())
        if expected_key is not None and proof.superblock.public_key != expected_key.lower():
            raise IntegrityError(
                f"this was signed with the key {proof.superblock.public_key}, "
                f"not with {expected_key}"
            )
        self._index_nodes()
        top = open_root(self._node, bytes.fromhex(proof.manifest.root))
        if top.below.entries > len(self._names) + FINDINGS_MAX:
            raise IntegrityError(
                f"the package holds {len(self._names):,} names of {top.below.entries:,}: "
                "this is not a complete export of dtafs"
            )
        try:
            self._check_documents(proof, top)
            self._check_data(proof, top)
        except _TooMany:
            pass
        return Verified(proof.version_id, _facts(proof), self.findings)

    def _find(self, text: str) -> None:
        self.findings.append(text)
        if len(self.findings) >= FINDINGS_MAX:
            raise _TooMany

    def _file(self, name: bytes) -> Found:
        found = self._names.get(name)
        if found is None or found.kind != Kind.FILE:
            raise IntegrityError(
                f"{printable(name)} is missing: this is not a complete export of dtafs"
            )
        return found

    def _small(self, name: bytes, limit: int) -> bytes:
        found = self._file(name)
        if found.size_bytes > limit:
            raise IntegrityError(f"{printable(name)} is impossibly large")
        return b"".join(self._package.blocks(found))

    def _check_layout(self) -> None:
        head = next(self._package.blocks(self._file(bag.PROVENANCE)), b"")[:HEAD_BYTES]
        stated = LAYOUT_LINE.search(head)
        if stated is not None and int(stated[1]) > bag.LAYOUT:
            raise UnsupportedError(
                f"this export has layout {int(stated[1])} and this release of dtafs reads layout "
                f"{bag.LAYOUT}; install a newer dtafs"
            )

    def _entries(self) -> Iterator[bytes]:
        sequence = 1
        while bag.log_name(sequence) in self._names:
            yield self._small(bag.log_name(sequence), ENTRY_LIMIT_BYTES)
            sequence += 1

    def _index_nodes(self) -> None:
        """Copy the nodes to a temporary file and note where each lies, by its true id."""
        reader = _Reader(self._package.blocks(self._file(bag.NODES)))
        while head := reader.take(4):
            size = int.from_bytes(head, "big")
            data = reader.take(size) if size <= NODE_LIMIT_BYTES else b""
            if len(head) < 4 or not data or len(data) < size:
                raise IntegrityError(f"{printable(bag.NODES)} is malformed")
            self._places[node_id(data)] = (self._spool.tell(), size)
            self._spool.write(data)

    def _node_bytes(self, wanted: bytes) -> bytes:
        place = self._places.get(wanted)
        if place is None:
            raise IntegrityError(f"the metadata node {wanted.hex()} is missing or was altered")
        self._spool.seek(place[0])
        return self._spool.read(place[1])

    def _node(self, wanted: bytes) -> Node:
        return decode_node(self._node_bytes(wanted))

    def _check_documents(self, proof: Proof, top: Entry) -> None:
        """Make every document again and compare."""
        tags: list[bytes] = []
        expected = {b"proof", bag.LOG.rstrip(b"/")}
        for document in bag.documents(proof, self._node, top, self._node_bytes):
            digest = hashlib.sha256()
            same = self._same(document.name, _hashed(document.blocks(), digest.update))
            tags.append(bag.checksum_line(digest.digest(), document.name))
            expected.add(document.name)
            if not same:
                self._find(f"{printable(document.name)} is not what follows from the signed log")
        expected.add(bag.TAG_MANIFEST)
        if not self._same(bag.TAG_MANIFEST, tags):
            self._find(f"{printable(bag.TAG_MANIFEST)} is not what follows from the signed log")
        for name in self._names:
            if name not in expected and name != bag.DATA and not name.startswith(bag.DATA + b"/"):
                self._find(f"{printable(name)} is not part of the export")

    def _same(self, name: bytes, blocks: Iterable[bytes]) -> bool:
        """Whether a document has these bytes; `blocks` is read to its end."""
        found = self._names.get(name)
        there: Iterable[bytes] = ()
        if found is not None and found.kind == Kind.FILE:
            there = self._package.blocks(found)
        same = True
        pairs = zip_longest(regrouped(blocks, HEAD_BYTES), regrouped(there, HEAD_BYTES))
        for wanted, got in pairs:
            if wanted is None:
                return False
            same = same and wanted == got
        return same and found is not None

    def _check_data(self, proof: Proof, top: Entry) -> None:
        manifest = proof.manifest
        total = Progress("verify", 0, 0, manifest.files, manifest.size_bytes)
        meter = Meter(self._report, total)
        expected: set[bytes] = set()
        for path, entry in walk(self._node, top):
            name = bag.data_name(path)
            expected.add(name)
            self._check_name(name, entry, meter)
        if (top.below.files, top.below.size) != (manifest.files, manifest.size_bytes):
            self._find("the manifest counts other files than its root node holds")
        for name in self._names:
            if (name == bag.DATA or name.startswith(bag.DATA + b"/")) and name not in expected:
                self._find(f"{printable(name)} is not in {proof.version_id}")

    def _check_name(self, name: bytes, entry: Entry, meter: Meter) -> None:
        found = self._names.get(name)
        if found is None:
            self._find(f"{printable(name)} is missing")
            return
        if found.kind != entry.kind:
            wrong = f"is a {found.kind.name.lower()}; sealed was a {Kind(entry.kind).name.lower()}"
        elif entry.kind == Kind.SYMLINK and found.target != entry.ref:
            wrong = f"leads to {printable(found.target)}; sealed was {printable(entry.ref)}"
        elif found.mode not in (None, entry.mode) and entry.kind != Kind.SYMLINK:
            wrong = f"has the mode {found.mode:04o}; sealed was {entry.mode:04o}"
        elif entry.kind == Kind.FILE and found.size_bytes != entry.size:
            wrong = f"has {found.size_bytes:,} bytes; sealed were {entry.size:,}"
        else:
            wrong = ""
        if wrong:
            self._find(f"{printable(name)} {wrong}")
            return
        if entry.kind == Kind.FILE:
            self._check_bytes(found, entry, meter)

    def _check_bytes(self, found: Found, entry: Entry, meter: Meter) -> None:
        digest = hashlib.sha256()
        try:
            for block in self._package.blocks(found):
                digest.update(block)
                meter(0, len(block))
        except IntegrityError as error:
            self._find(f"{printable(found.name)} cannot be read: {error}")
            return
        meter(1, 0)
        if digest.digest() != entry.sha256:
            self._find(
                f"{printable(found.name)} was altered: its SHA-256 is {digest.hexdigest()}; "
                f"sealed was {entry.sha256.hex()}"
            )


def package_names(package: Package, find: Callable[[str], None]) -> Iterator[Found]:
    """The names of a package; one that comes twice could show each reader other bytes."""
    seen: set[bytes] = set()
    for found in package.names():
        if found.name in seen:
            find(f"{printable(found.name)} is in the package twice")
        seen.add(found.name)
        yield found


def _hashed(blocks: Iterable[bytes], update: Callable[[bytes], object]) -> Iterator[bytes]:
    for block in blocks:
        update(block)
        yield block


class _Reader:
    """`take` over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block, self._at = b"", 0

    def take(self, size: int) -> bytes:
        """`size` bytes; fewer only at the end."""
        parts: list[bytes] = []
        while size:
            if self._at == len(self._block):
                self._block, self._at = next(self._blocks, b""), 0
                if not self._block:
                    break
            part = self._block[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)


def _facts(proof: Proof) -> dict[str, Any]:
    manifest, sealed = proof.manifest, proof.sealed
    return {
        "id": proof.version_id,
        "dataset": manifest.dataset,
        "version": manifest.version,
        "sha256": proof.manifest_sha256.hex(),
        "time": sealed.time,
        "actor": {"user": sealed.actor.user, "uid": sealed.actor.uid, "host": sealed.actor.host},
        "message": manifest.message,
        "files": manifest.files,
        "size_bytes": manifest.size_bytes,
        "entries": len(proof.entries),
        "lake": proof.superblock.lake,
        "public_key": proof.superblock.public_key,
    }
