"""The extended attributes that the mount gives to sealed files and directories.

| name | value |
|---|---|
| user.dtafs.sha256 | of a file's bytes; of a directory's root node, which covers all below it |
| user.dtafs.version | DATASET:vN |
| user.dtafs.manifest | SHA-256 of the version's manifest: the version's hash |
| user.dtafs.tier | where the bytes are: `hot`, or the tiers that a reader depends on, with commas |
| user.dtafs.retain_until | until when rules and holds keep the version: a time, or `for ever` |
| user.dtafs.holds | the holds on it, with commas, if there are any |
| user.dtafs.disposed | of a version that was disposed of: the entry of the dataset's log that says so |
| user.dtafs.lineage | the versions it was made from and how, one a line |

They are read-only, and so is the whole `user.dtafs.` prefix: no file can have one of its own, so
that what a reader finds there was said by the lake.
"""

from __future__ import annotations

from dtafs.core.values import Entry, Kind, Manifest
from dtafs.fs.retained import Retention
from dtafs.store.index import VersionRow

PREFIX = b"user.dtafs."
MESSAGE = b"user.dtafs.message"
TAGS = b"user.dtafs.tags"

TIER = b"user.dtafs.tier"
HOT = b"hot"
RETAIN_UNTIL = b"user.dtafs.retain_until"
HOLDS = b"user.dtafs.holds"
RETAINED = frozenset({RETAIN_UNTIL, HOLDS})
"""What changes while the version stays what it is: asked for each time."""


def lineage_text(manifest: Manifest) -> str:
    """One line for each source; "by NAME(parameter=value)" where a transform is recorded."""
    made_by = ""
    if manifest.transform is not None:
        parameters = ", ".join(f"{k}={v}" for k, v in sorted(manifest.transform.parameters.items()))
        made_by = f" by {manifest.transform.name}({parameters})"
    lines = [f"{s.dataset}:v{s.version} {s.manifest}{made_by}" for s in manifest.sources]
    return "\n".join(lines)


def is_described(entry: Entry) -> bool:
    """Whether the lake gives attributes to an entry."""
    return entry.kind in (Kind.FILE, Kind.DIRECTORY)


def retained_xattrs(retention: Retention | None) -> dict[bytes, bytes]:
    """The attributes that say how long a version is kept; none of one that was disposed of."""
    if retention is None:
        return {}
    found = {RETAIN_UNTIL: retention.keep_until.encode()}
    return {**found, HOLDS: retention.holds.encode()} if retention.holds else found


def sealed_xattrs(version: VersionRow, entry: Entry) -> dict[bytes, bytes]:
    """All extended attributes of a sealed entry, its own and those of the lake."""
    found = dict(entry.xattrs)
    if not is_described(entry):
        return found
    digest = entry.sha256 if entry.kind == Kind.FILE else entry.ref
    if digest:
        found[b"user.dtafs.sha256"] = digest.hex().encode()
    found[b"user.dtafs.version"] = f"{version.dataset}:v{version.number}".encode()
    found[b"user.dtafs.manifest"] = version.manifest_sha256.hex().encode()
    if version.disposed:
        found[b"user.dtafs.disposed"] = b"entry %d" % version.disposed
    else:
        found[TIER] = HOT
    lineage = lineage_text(version.manifest)
    if lineage:
        found[b"user.dtafs.lineage"] = lineage.encode()
    return found
