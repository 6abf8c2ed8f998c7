"""What differs between two versions, or between staging and its base, in words and counts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from dtafs.core.difference import Change
from dtafs.core.values import Entry, Kind

ASPECTS = ("mode", "uid", "gid", "mtime_ns", "xattrs")


def describe_change(change: Change) -> dict[str, Any]:
    """A change as plain values: `change` is added, removed or changed; `aspects` says what of it.

    An aspect is one of kind, content, target, mode, uid, gid, mtime_ns, xattrs and links.
    """
    before, after = change.before, change.after
    there = after if after is not None else before
    assert there is not None
    facts: dict[str, Any] = {
        "change": "changed" if before and after else "added" if after else "removed",
        **describe_path(b"/".join(change.path)),
        "kind": Kind(there.kind).name.lower(),
        "size_before": before.size if before is not None and before.kind == Kind.FILE else None,
        "size_after": after.size if after is not None and after.kind == Kind.FILE else None,
    }
    if before is not None and after is not None:
        facts["aspects"] = _aspects(before, after)
    return facts


def describe_path(path: bytes) -> dict[str, str]:
    """A path for JSON: readable under `path`, exact under `path_hex` where it is not UTF-8."""
    try:
        return {"path": path.decode()}
    except UnicodeDecodeError:
        return {"path": path.decode(errors="backslashreplace"), "path_hex": path.hex()}


def _aspects(before: Entry, after: Entry) -> list[str]:
    if before.kind != after.kind:
        return ["kind"]
    found = []
    if before.kind == Kind.FILE and (before.size, before.sha256) != (after.size, after.sha256):
        found.append("content")
    if before.kind == Kind.SYMLINK and before.ref != after.ref:
        found.append("target")
    found += [name for name in ASPECTS if getattr(before, name) != getattr(after, name)]
    if before.nlink != after.nlink or bool(before.link) != bool(after.link):
        found.append("links")
    return found


def summarise(changes: Iterable[Change]) -> dict[str, int]:
    """How many names were added, removed and changed, and the bytes of files that came and went."""
    counts = {"added": 0, "removed": 0, "changed": 0, "bytes_added": 0, "bytes_removed": 0}
    for change in changes:
        before, after = change.before, change.after
        counts["changed" if before and after else "added" if after else "removed"] += 1
        if before is not None and after is not None and before.sha256 == after.sha256:
            continue
        if after is not None and after.kind == Kind.FILE:
            counts["bytes_added"] += after.size
        if before is not None and before.kind == Kind.FILE:
            counts["bytes_removed"] += before.size
    return counts


def printable(name: bytes | str) -> str:
    """A name as text that no terminal misreads: controls and what is not UTF-8 are escaped."""
    raw = os.fsencode(name)
    text = raw.decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
