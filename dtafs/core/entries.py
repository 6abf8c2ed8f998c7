"""Log entries, the envelopes that sign them, and the manifest that is the body of some.

`dtafs.core.format` specifies the bytes. Decoding takes bytes from a disk or a network and raises
`IntegrityError` for what is not an entry, `UnsupportedError` for one of a newer release.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from msgspec import Struct

from dtafs.core.canonical import canonical_json
from dtafs.core.names import LAKE_LOG, format_time, parse_time
from dtafs.core.records import DISPOSITION_KINDS, LAKE_KINDS
from dtafs.core.values import HASH_BYTES, Actor, Manifest
from dtafs.errors import IntegrityError, UnsupportedError, UsageError

ENTRY_LIMIT_BYTES = 64 * 1024 * 1024
"""A reader takes no larger log entry."""

VERSION_MAX = 2**32 - 1
"""The index keeps a version's number in four bytes."""

PAYLOAD_TYPE = "application/vnd.dtafs.entry+json"
KINDS = frozenset(
    {"created", "committed", "tagged", "untagged", "exported", "collected"}
    | LAKE_KINDS
    | DISPOSITION_KINDS
)
"""The kinds of log entries that this release reads."""


class LogEntry(Struct, frozen=True, forbid_unknown_fields=True):
    """One fact about one dataset, or in the lake's own log about any; `previous` is the hash of the
    object before it, if any."""

    lake: str
    dataset: str
    sequence: int
    previous: str | None
    time: str
    actor: Actor
    kind: str
    body: dict[str, Any]
    skippable: bool = False

    @property
    def time_ns(self) -> int:
        return parse_time(self.time)


class Collection(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `collected` entry: packs that the log needs no longer, and what replaces them.

    `removed` gives for each pack (its id in hex) why: "unreached", no version and nothing staged
    needed any of it; "rewritten", what was still needed of it is in the packs `added`; "disposed", the
    same, and the rest was disposed of with a version; "damaged", what a repair could still have of it is
    there. A repair may also add what no pack had any more.
    """

    removed: dict[str, str]
    added: tuple[str, ...] = ()
    removed_bytes: int = 0
    added_bytes: int = 0


class Signature(Struct, frozen=True, forbid_unknown_fields=True):
    """One signature of a DSSE envelope."""

    keyid: str
    sig: bytes


class Envelope(Struct, frozen=True, rename={"payload_type": "payloadType"}):
    """A DSSE envelope; msgspec writes `bytes` as base64."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes whose SHA-256 is the version's hash."""
    return canonical_json(manifest)


def manifest_hash(manifest: Manifest) -> bytes:
    """The hash of a version; IntegrityError for a manifest that canonical JSON cannot hold."""
    try:
        return hashlib.sha256(encode_manifest(manifest)).digest()
    except UsageError as error:
        raise IntegrityError(f"a manifest is malformed: {error}") from None


def decode_manifest(body: dict[str, Any]) -> Manifest:
    """The manifest in the body of a `committed` entry."""
    try:
        manifest = msgspec.convert(body, Manifest)
        hashes = (manifest.root, *manifest.packs, *((manifest.parent,) if manifest.parent else ()))
        if any(len(bytes.fromhex(h)) != HASH_BYTES for h in hashes) or not (
            1 <= manifest.version <= VERSION_MAX
        ):
            raise IntegrityError("a manifest holds an impossible hash or version")
    except (msgspec.MsgspecError, ValueError) as error:
        raise IntegrityError(f"a manifest is malformed: {error}") from None
    return manifest


def decode_collection(body: dict[str, Any]) -> Collection:
    """The body of a `collected` entry."""
    try:
        collection = msgspec.convert(body, Collection)
        hashes = (*collection.removed, *collection.added)
        if any(len(bytes.fromhex(h)) != HASH_BYTES for h in hashes):
            raise IntegrityError("a collection holds an impossible hash")
    except (msgspec.MsgspecError, ValueError) as error:
        raise IntegrityError(f"a collection is malformed: {error}") from None
    return collection


def pre_authentication(payload: bytes) -> bytes:
    """What DSSE signs: the payload with its type and both lengths (DSSE protocol, PAE)."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def encode_envelope(payload: bytes, keyid: str, signature: bytes) -> bytes:
    """The bytes of a log entry object."""
    envelope = Envelope(payload, PAYLOAD_TYPE, (Signature(keyid, signature),))
    return canonical_json(envelope) + b"\n"


def decode_envelope(data: bytes) -> Envelope:
    """Raises IntegrityError for what is not an envelope of ours."""
    if len(data) > ENTRY_LIMIT_BYTES:
        raise IntegrityError("a log entry is impossibly large")
    try:
        envelope = msgspec.json.decode(data, type=Envelope)
        canonical = canonical_json(envelope) + b"\n"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, UsageError) as error:
        raise IntegrityError(f"a log entry is malformed: {error}") from None
    if envelope.payload_type != PAYLOAD_TYPE or not envelope.signatures:
        raise IntegrityError("a log entry is of a foreign type or not signed")
    if canonical != data:
        raise IntegrityError("a log entry is not in canonical form: it was altered")
    return envelope


def decode_log_entry(payload: bytes) -> LogEntry:
    """The fact in an envelope; UnsupportedError for a kind that must be understood and is not."""
    try:
        entry = msgspec.json.decode(payload, type=LogEntry)
        if not 0 <= parse_time(entry.time) < 2**63:
            raise UsageError(f"its time, {entry.time}, cannot be")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, UsageError) as error:
        raise IntegrityError(f"a log entry is malformed: {error}") from None
    if entry.kind not in KINDS and not entry.skippable:
        raise UnsupportedError(
            f"entry {entry.sequence} of {entry.dataset!r} is of the kind {entry.kind!r}, "
            "which this release of dtafs does not know; install a newer dtafs"
        )
    return entry


def check_place(dataset: str, sequence: int, kind: str) -> None:
    """IntegrityError when an entry of this kind cannot be at this place of a log.

    A dataset's log begins with `created`; the lake's own begins with its first fact. A kind that may
    be skipped can be anywhere.
    """
    own = dataset == LAKE_LOG
    misplaced = (kind in LAKE_KINDS) != own if kind in KINDS else False
    if misplaced or (not own and (kind == "created") != (sequence == 1)):
        raise IntegrityError(f"entry {sequence} of {dataset!r} cannot be of the kind {kind!r}")


def log_key(dataset: str, sequence: int) -> str:
    """The key of a log entry below the lake."""
    return f"log/{dataset}/{sequence:010d}"


def make_log_entry(
    lake: str,
    dataset: str,
    sequence: int,
    previous: bytes | None,
    time_ns: int,
    actor: Actor,
    kind: str,
    body: dict[str, Any],
) -> LogEntry:
    """The fact to sign as entry `sequence`; `previous` is the hash of the object before it."""
    before = previous.hex() if previous else None
    return LogEntry(lake, dataset, sequence, before, format_time(time_ns), actor, kind, body)
