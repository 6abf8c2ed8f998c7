"""What an export of a version looks like: its names, its documents, in which order.

::

    Provenance.txt            who, when, what, from what, and how to verify it by hand
    bagit.txt  bag-info.txt   the package is a BagIt bag (RFC 8493)
    manifest-sha256.txt       SHA-256 of each file, as `sha256sum -c` takes it
    proof/lake.json           the superblock, with the public key
    proof/public-key.pem      the same key as openssl takes it
    proof/log/0000000001 …    the dataset's signed log entries up to the one that sealed the version
    proof/nodes               the metadata nodes, each behind its size (4 bytes, big-endian)
    data/…                    the files, directories and links of the version
    tagmanifest-sha256.txt    SHA-256 of every document above, as `sha256sum -c` takes it

Every byte follows from the version and the log up to it, so that two exports of one version are
equal. The nodes prove the files: each is named by its SHA-256 in the node above it, the root node
in the manifest, and the manifest is the body of the last signed log entry.

BagIt and sha256sum escape a line end in a name differently. The package keeps to sha256sum; where a
name holds a character on which the two disagree, or is not UTF-8, it does not claim to be a bag.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator

from msgspec import Struct

from dtafs.core.entries import log_key
from dtafs.core.nodes import DIRECTORY_NODE, Fetch, Node
from dtafs.core.tree import walk
from dtafs.core.values import Entry, Kind
from dtafs.store.proof import Proof

LAYOUT = 1
"""Number of this layout; Provenance.txt states it."""

PROVENANCE = b"Provenance.txt"
MANIFEST = b"manifest-sha256.txt"
TAG_MANIFEST = b"tagmanifest-sha256.txt"
DECLARATION = b"bagit.txt"
INFO = b"bag-info.txt"
SUPERBLOCK = b"proof/lake.json"
PUBLIC_KEY = b"proof/public-key.pem"
NODES = b"proof/nodes"
LOG = b"proof/log/"
DATA = b"data"

ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before a raw Ed25519 key in a SubjectPublicKeyInfo (RFC 8410)."""

ESCAPES = {ord("\\"): rb"\\", ord("\n"): rb"\n", ord("\r"): rb"\r"}
NOT_IN_BAGS = frozenset(b"\\\n\r%")

Blocks = Iterator[bytes]


class Document(Struct, frozen=True):
    """A document of the package; `blocks` gives its bytes anew at each call."""

    name: bytes
    blocks: Callable[[], Blocks]


def data_name(path: tuple[bytes, ...]) -> bytes:
    """The name in the package of what lies at `path` in the version."""
    return b"/".join((DATA, *path))


def log_name(sequence: int) -> bytes:
    return LOG + log_key("", sequence).rpartition("/")[2].encode()


def checksum_line(digest: bytes, name: bytes) -> bytes:
    """A line for `sha256sum -c`: a name with a backslash or line end is escaped and marked."""
    text = digest.hex().encode()
    if not any(code in ESCAPES for code in name):
        return b"%b  %b\n" % (text, name)
    escaped = b"".join(ESCAPES.get(code, bytes((code,))) for code in name)
    return b"\\%b  %b\n" % (text, escaped)


def checksum_lines(fetch: Fetch, top: Entry) -> Blocks:
    """The manifest of the files of a version, in the order of their paths in its tree."""
    for path, entry in walk(fetch, top):
        if entry.kind == Kind.FILE:
            yield checksum_line(entry.sha256, data_name(path))


def is_bag(fetch: Fetch, top: Entry) -> bool:
    """Whether BagIt and sha256sum agree about every name."""
    return all(_plain(entry.name) for _, entry in walk(fetch, top))


def _plain(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return NOT_IN_BAGS.isdisjoint(name)


def node_ids(fetch: Fetch, root: bytes) -> Iterator[bytes]:
    """Every metadata node of a version once, parents first; chunk lists are not among them."""
    seen: set[bytes] = set()
    pending = [root]
    while pending:
        wanted = pending.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        yield wanted
        pending.extend(reversed(children(fetch(wanted))))


def children(node: Node) -> list[bytes]:
    """The nodes below a node of a directory or version."""
    if node.kind == DIRECTORY_NODE and node.level:
        return [branch.node for branch in node.branches]
    return [e.ref for e in node.entries if e.kind == Kind.DIRECTORY and e.ref]


def pack_nodes(nodes: Iterable[bytes]) -> Blocks:
    """The document that holds nodes."""
    for data in nodes:
        yield len(data).to_bytes(4, "big") + data


def public_key_pem(public_key: bytes) -> bytes:
    """A raw Ed25519 key as openssl and others take it."""
    text = base64.b64encode(ED25519_SPKI + public_key)
    return b"-----BEGIN PUBLIC KEY-----\n%b\n-----END PUBLIC KEY-----\n" % text


def documents(
    proof: Proof, fetch: Fetch, top: Entry, node_bytes: Callable[[bytes], bytes]
) -> Iterator[Document]:
    """Everything of the package but `data/` and the tag manifest, in order."""
    from dtafs.store.provenance import provenance_lines

    root = bytes.fromhex(proof.manifest.root)
    yield Document(PROVENANCE, lambda: provenance_lines(proof, fetch, top))
    if is_bag(fetch, top):
        yield Document(DECLARATION, lambda: iter((_declaration(),)))
        yield Document(INFO, lambda: iter((_info(proof),)))
    yield Document(MANIFEST, lambda: checksum_lines(fetch, top))
    yield Document(SUPERBLOCK, lambda: iter((proof.superblock_bytes,)))
    yield Document(PUBLIC_KEY, lambda: iter((public_key_pem(proof.public_key),)))
    for sequence, data in enumerate(proof.objects, 1):
        yield Document(log_name(sequence), lambda data=data: iter((data,)))  # type: ignore[misc]
    yield Document(NODES, lambda: pack_nodes(map(node_bytes, node_ids(fetch, root))))


def _declaration() -> bytes:
    return b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


def _info(proof: Proof) -> bytes:
    manifest = proof.manifest
    return (
        f"Bag-Software-Agent: dtafs, export layout {LAYOUT}\n"
        f"Bagging-Date: {proof.sealed.time[:10]}\n"
        f"External-Identifier: {proof.version_id}\n"
        f"Payload-Oxum: {manifest.size_bytes}.{manifest.files}\n"
    ).encode()
