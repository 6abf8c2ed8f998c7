"""The certificate of a disposition: what the signed log says of it, for people.

Everything in it is read from the log, and each entry that it rests on is verified first: the one that
sealed the version, the one that disposed of it, those that confirm that the bytes are gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.entries import decode_manifest, manifest_hash
from dtafs.core.names import format_time
from dtafs.core.quantities import counted
from dtafs.core.record_checks import decode_destroyed, decode_disposed
from dtafs.core.records import Amount
from dtafs.core.values import Actor
from dtafs.errors import IntegrityError, NotFoundError
from dtafs.store.compare import printable
from dtafs.store.log import Appended

if TYPE_CHECKING:
    from dtafs.store.index import VersionRow
    from dtafs.store.lake import Lake


def certificate(lake: Lake, row: VersionRow) -> dict[str, Any]:
    """What is certified of a version, in plain values.

    NotFoundError where it was not disposed of, IntegrityError where an entry is not what was signed.
    """
    if not row.disposed:
        raise NotFoundError(f"{row.name} was not disposed of, so there is nothing to certify")
    sealed = lake.log.read(row.dataset, row.sequence)
    if manifest_hash(decode_manifest(sealed.entry.body)) != row.manifest_sha256:
        raise IntegrityError(f"the log has another manifest of {row.name}; run dtafsctl reindex")
    appended = lake.log.read(row.dataset, row.disposed)
    disposed = decode_disposed(appended.entry.body)
    if not any(ref.manifest == row.manifest_sha256.hex() for ref in disposed.versions):
        raise IntegrityError(f"entry {row.disposed} of {row.dataset!r} disposes of something else")
    manifest = row.manifest
    return {
        "lake": lake.superblock.lake,
        "public_key": lake.superblock.public_key,
        "version": row.name,
        "sha256": row.manifest_sha256.hex(),
        "message": manifest.message,
        "files": manifest.files,
        "size_bytes": manifest.size_bytes,
        "sealed": _entry_facts(sealed),
        "disposed": _entry_facts(appended),
        "together_with": [
            f"{ref.dataset}:v{ref.version}"
            for ref in disposed.versions
            if ref.version != row.number
        ],
        "rule": disposed.rule,
        "rule_sha256": disposed.rule_sha256,
        "authority": disposed.authority,
        "plan": disposed.plan,
        "reason": disposed.reason,
        "approvers": msgspec.to_builtins(disposed.approvers),
        "destroyed": msgspec.to_builtins(disposed.destroyed),
        "survives": msgspec.to_builtins(disposed.survives),
        "before": msgspec.to_builtins(disposed.before),
        "after": msgspec.to_builtins(disposed.after),
        "confirmed": _confirmed(lake, row),
    }


def _entry_facts(appended: Appended) -> dict[str, Any]:
    entry = appended.entry
    return {
        "sequence": entry.sequence,
        "entry_sha256": appended.object_hash.hex(),
        "time": format_time(entry.time_ns),
        "actor": msgspec.to_builtins(entry.actor),
    }


def _confirmed(lake: Lake, row: VersionRow) -> dict[str, Any]:
    """By tier, the entry that says that the bytes are in none of its objects any more."""
    head = lake.index.head(row.dataset)
    found: dict[str, Any] = {}
    for sequence in range(row.disposed + 1, (head[0] if head else 0) + 1):
        appended = lake.log.read(row.dataset, sequence)
        if appended.entry.kind != "destroyed":
            continue
        destroyed = decode_destroyed(appended.entry.body)
        if destroyed.disposed == row.disposed:
            for tier in destroyed.tiers:
                found.setdefault(tier, _entry_facts(appended))
    return found


def certificate_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The certificate as names and values to be printed."""
    waiting = [tier for tier in facts["destroyed"] if tier not in facts["confirmed"]]
    lines = [
        ("Certificate of disposition", facts["version"]),
        ("SHA-256 of its manifest", facts["sha256"]),
        ("It held", f"{facts['files']:,} files, {facts['size_bytes']:,} bytes"),
        ("Sealed", _entry_text(facts["sealed"])),
        ("Disposed of", _entry_text(facts["disposed"])),
        ("Together with", ", ".join(facts["together_with"])),
        ("Rule", facts["rule"]),
        ("Authority", facts["authority"]),
        ("Reason", facts["reason"]),
        ("Approved by", "\n".join(_actor_text(a) for a in facts["approvers"]) or "nobody had to"),
        ("Destroyed", "\n".join(_destroyed(facts)) or "nothing: other versions need all of it"),
        ("Survives", "\n".join(map(_survivor, facts["survives"])) or "nothing of it"),
        ("The lake before", _amount(facts["before"])),
        ("The lake after", _amount(facts["after"])),
        ("Not confirmed yet", ", ".join(waiting)),
        ("Lake", facts["lake"]),
        ("Signed with", facts["public_key"]),
    ]
    return [(name, text) for name, text in lines if text]


def certificate_text(lake: Lake, row: VersionRow) -> bytes:
    """The certificate as a text for people."""
    lines = []
    for name, text in certificate_lines(certificate(lake, row)):
        first, *more = text.splitlines() or [""]
        lines += [f"{name:<27}{first}", *(f"{'':<27}{line}" for line in more)]
    return "".join(f"{printable(line)}\n" for line in lines).encode(errors="backslashreplace")


def _entry_text(facts: dict[str, Any]) -> str:
    when, who = facts["time"][:19].replace("T", " "), _actor_text(facts["actor"])
    return f"{when} UTC, by {who}\nentry {facts['sequence']} of the log, {facts['entry_sha256']}"


def _actor_text(facts: dict[str, Any]) -> str:
    actor = msgspec.convert(facts, Actor)
    return f"{actor.user} (uid {actor.uid}) on {actor.host}, with {actor.program}"


def _amount(facts: dict[str, Any]) -> str:
    amount = msgspec.convert(facts, Amount)
    parts = ((amount.packs, "pack"), (amount.chunks, "chunk"), (amount.size_bytes, "byte"))
    return ", ".join(counted(number, what) for number, what in parts)


def _destroyed(facts: dict[str, Any]) -> list[str]:
    found = []
    for tier, amount in facts["destroyed"].items():
        sure = facts["confirmed"].get(tier)
        when = (
            f"confirmed {sure['time'][:19].replace('T', ' ')} UTC" if sure else "not confirmed yet"
        )
        found.append(f"{tier}: {_amount(amount)}; {when}")
    return found


def _survivor(facts: dict[str, Any]) -> str:
    because = facts["because"]
    return (
        f"{facts['size_bytes']:,} bytes, which {because['dataset']}:v{because['version']} "
        f"({because['manifest'][:12]}) needs too"
    )
