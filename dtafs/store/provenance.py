"""Provenance.txt: what a version is, for a person who has never heard of dtafs.

The text follows from the signed log entries and the version's tree, so that it can be made again
and compared: an altered one does not pass verification. A release that words it differently states
another layout (`dtafs.store.bag.LAYOUT`).
"""

from __future__ import annotations

from collections.abc import Iterator

from dtafs.core.entries import LogEntry
from dtafs.core.names import format_time
from dtafs.core.nodes import Fetch
from dtafs.core.record_checks import DECODERS
from dtafs.core.tree import walk
from dtafs.core.values import Actor, Entry, Kind, Manifest
from dtafs.store.bag import LAYOUT, MANIFEST, log_name
from dtafs.store.compare import printable
from dtafs.store.crypto import key_id
from dtafs.store.proof import Proof
from dtafs.store.record_texts import describe_record

LISTED_MAX = 1_000
"""A version with more names than this is listed in the manifest only."""


def provenance_lines(proof: Proof, fetch: Fetch, top: Entry) -> Iterator[bytes]:
    """The text, line by line."""
    for line in (*_summary(proof, top), *_history(proof)):
        yield line.encode(errors="backslashreplace") + b"\n"
    for line in _files(fetch, top):
        yield line.encode() + b"\n"
    yield _by_hand(proof).encode()


def _summary(proof: Proof, top: Entry) -> Iterator[str]:
    manifest, sealed = proof.manifest, proof.sealed
    yield f"PROVENANCE OF {proof.version_id}"
    yield ""
    yield _row("Dataset", manifest.dataset)
    yield _row("Version", f"v{manifest.version}")
    yield _row("SHA-256", proof.manifest_sha256.hex())
    yield _row("", "(of the version's manifest, which covers every byte of every file)")
    yield _row("Sealed", _time(sealed.time))
    yield _row("By", describe_actor(sealed.actor))
    for i, line in enumerate(manifest.message.splitlines() or [""]):
        yield _row("" if i else "Message", printable(line))
    yield _row("Tags", ", ".join(manifest.tags) or "none")
    yield _row("Holds", describe_size(manifest, top))
    yield from _origin(manifest)
    yield _row("Previous", _previous(manifest))
    yield _row("Lake", proof.superblock.lake)
    yield _row("Signed with", f"Ed25519 key {proof.superblock.public_key}")
    yield _row("", f"(key id {key_id(proof.public_key)})")
    yield _row("Layout", str(LAYOUT))


def _row(label: str, text: str) -> str:
    return f"{label:<13}{text}".rstrip()


def _time(text: str) -> str:
    return text.replace("T", " ").removesuffix("Z") + " UTC"


def describe_actor(actor: Actor) -> str:
    """Who, on which machine, with which program."""
    user, host, program = map(printable, (actor.user, actor.host, actor.program))
    return f"{user} (uid {actor.uid}) on {host}, with {program}"


def describe_size(manifest: Manifest, top: Entry) -> str:
    """How many files, how many other names, how many bytes."""
    files = manifest.files
    others = top.below.entries - top.below.files
    text = f"{files:,} file{'' if files == 1 else 's'}, {manifest.size_bytes:,} bytes"
    return f"{text}; {others:,} directories and links" if others else text


def _origin(manifest: Manifest) -> Iterator[str]:
    if not manifest.sources:
        yield _row("Made from", "no version of this lake that was recorded")
    for i, source in enumerate(manifest.sources):
        yield _row("" if i else "Made from", f"{source.dataset}:v{source.version}")
        yield _row("", f"  manifest {source.manifest}")
    if manifest.transform is not None:
        transform = manifest.transform
        yield _row("Made by", printable(transform.name))
        for name, value in sorted(transform.parameters.items()):
            yield _row("", f"  {printable(name)} = {printable(value)}")
        if transform.program_sha256:
            yield _row("", f"  program SHA-256 {transform.program_sha256}")


def _previous(manifest: Manifest) -> str:
    if manifest.parent is None:
        return "none: this is the first version"
    return f"v{manifest.version - 1}, SHA-256 {manifest.parent}"


def _history(proof: Proof) -> Iterator[str]:
    yield ""
    yield "HISTORY OF THE DATASET UP TO THIS VERSION"
    yield ""
    for entry in proof.entries:
        yield f"{entry.sequence:>6}  {_time(entry.time)}  {describe_entry(entry)}"
        yield f"        {describe_actor(entry.actor)}"


def describe_entry(entry: LogEntry) -> str:
    """What a log entry says, in a few words."""
    body, version = entry.body, entry.body.get("version")
    tags = ", ".join(str(tag) for tag in body.get("tags", ()))
    match entry.kind:
        case "created":
            return f"created{f', first version to be tagged {tags}' if tags else ''}"
        case "committed":
            message = (str(body.get("message", "")).splitlines() or [""])[0]
            return f"v{version} committed: {printable(message)}"
        case "tagged":
            return f"v{version} tagged {tags}"
        case "untagged":
            return f"v{version} no longer tagged {tags}"
        case "exported":
            return f"v{version} exported as {body.get('format', 'unknown')}"
        case "collected":
            removed, added = len(body.get("removed", ())), len(body.get("added", ()))
            return f"collected: packs removed {removed}, written in their place {added}"
    return describe_record(entry) if entry.kind in DECODERS else entry.kind


def _files(fetch: Fetch, top: Entry) -> Iterator[str]:
    yield ""
    yield "FILES"
    yield ""
    if top.below.entries > LISTED_MAX:
        yield f"{top.below.entries:,} names; {MANIFEST.decode()} lists every file with its SHA-256."
        yield ""
        return
    for path, entry in walk(fetch, top):
        if path:
            yield _file(b"/".join(path), entry)
    yield ""


def _file(path: bytes, entry: Entry) -> str:
    kind = {Kind.DIRECTORY: "d", Kind.SYMLINK: "l", Kind.FIFO: "p"}.get(Kind(entry.kind), "-")
    text = f"{kind} {entry.mode:04o} {entry.uid:>5} {entry.gid:>5} {entry.size:>15,}  "
    text += f"{_time(format_time(entry.mtime_ns))}  {printable(path)}"
    if entry.kind == Kind.SYMLINK:
        return f"{text} -> {printable(entry.ref)}"
    return f"{text}\n    SHA-256 {entry.sha256.hex()}" if entry.kind == Kind.FILE else text


BY_HAND = """\
HOW TO VERIFY THIS

With dtafs, everything at once, without the lake:

    dtafsctl verify THE-PACKAGE

By hand, in the directory that holds this file (sha256sum, openssl and any Python 3):

1. The files are those of the manifest, the documents are complete:

    sha256sum -c manifest-sha256.txt tagmanifest-sha256.txt

2. The last log entry says what this text says, and holds the version's manifest. Print it:

    python3 -c "import base64, json
    print(base64.b64decode(json.load(open('{entry}'))['payload']).decode())"

   The SHA-256 of the manifest, which is its `body` in canonical JSON (RFC 8785), is that above:

    python3 -c "import base64, hashlib, json
    entry = json.loads(base64.b64decode(json.load(open('{entry}'))['payload']))
    text = json.dumps(entry['body'], sort_keys=True, separators=(',', ':'), ensure_ascii=False)
    print(hashlib.sha256(text.encode()).hexdigest())"

3. Each log entry is chained to the one before it: `previous` in it is that one's SHA-256:

    sha256sum proof/log/*

4. Each log entry is signed (DSSE, Ed25519). This writes what was signed and the signature:

    python3 -c "import base64, json
    entry = json.load(open('{entry}'))
    kind, text = entry['payloadType'].encode(), base64.b64decode(entry['payload'])
    open('/tmp/signed', 'wb').write(b'DSSEv1 %d %s %d %s' % (len(kind), kind, len(text), text))
    open('/tmp/signature', 'wb').write(base64.b64decode(entry['signatures'][0]['sig']))"
    openssl pkeyutl -verify -pubin -inkey proof/public-key.pem -rawin \\
        -in /tmp/signed -sigfile /tmp/signature

   Ask the keeper of the lake, by another way than this package, whether the key above is theirs.

5. proof/nodes ties the files to the manifest: metadata nodes (MessagePack), each behind its size in
   four bytes. The `root` of the manifest is the SHA-256 of the first; each node names its children
   and each file by SHA-256. proof/lake.json says which lake this is and which key signs.
"""


def _by_hand(proof: Proof) -> str:
    return BY_HAND.replace("{entry}", log_name(len(proof.entries)).decode())
