"""Versioned buckets: what a deletion leaves there, and Object Lock.

In a bucket that keeps versions a DELETE only hides an object: its bytes stay as an older version. So what is
to be gone is deleted version by version. Object Lock needs such a bucket; it keeps a version from being
deleted until a date (*retention*), or as long as a *legal hold* is on it. Retention is set in GOVERNANCE
mode, which who may can bypass, and only ever extended: a pack may also hold what has to go earlier, and is
then written anew and deleted.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from dtafs.errors import RefusedError, StorageError

if TYPE_CHECKING:
    from dtafs.store.tiers.bucket import Bucket

_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
_HOLD = f"<LegalHold {_XMLNS}><Status>{{}}</Status></LegalHold>"
_RETENTION = f"<Retention {_XMLNS}><Mode>GOVERNANCE</Mode><RetainUntilDate>{{}}</RetainUntilDate></Retention>"
BYPASS = {"x-amz-bypass-governance-retention": "true"}
"""Who may, deletes what only a governance lock keeps: the lattice has decided by then."""


PAGE_VERSIONS = 40
"""How many versions are asked for at once: of an answer no more than `signed.BODY_LIMIT_BYTES` is read."""


class Lock(NamedTuple):
    """What keeps an object from being deleted; `until_ns` is 0 where no retention does."""

    until_ns: int
    held: bool


def delete_versions(bucket: Bucket, name: str) -> None:
    """Delete every version of an object, and the marks of deletions; RefusedError when one is locked.

    A legal hold is taken off: what it is on for was written to another pack before this one goes.
    """
    for version in list(_versions(bucket, name)):
        if _delete(bucket, name, version):
            continue
        if read_lock(bucket, name, version).held:
            _put(bucket, name, {"legal-hold": "", "versionId": version}, _HOLD.format("OFF"))
            if _delete(bucket, name, version):
                continue
        raise RefusedError(
            f"{name} is locked in its bucket, and not deleted; who may can bypass that"
        )
    if next(_versions(bucket, name), None) is not None:
        raise StorageError(f"{name} is still in its bucket, as an older version")


def _delete(bucket: Bucket, name: str, version: str) -> bool:
    """Delete one version; False when it is locked."""
    query = {"versionId": version}
    reply = bucket.request("DELETE", name, query, headers=BYPASS, expect=(400, 403, 404))
    return reply.status not in (400, 403)


def _versions(bucket: Bucket, name: str) -> Iterator[str]:
    """The ids of all versions of one object, marks of deletions too."""
    whole = f"{bucket.prefix}/{name}" if bucket.prefix else name
    marks: dict[str, str] = {}
    while True:
        reply = bucket.request(
            "GET", "", {"versions": "", "prefix": whole, "max-keys": str(PAGE_VERSIONS), **marks}
        )
        top = _parsed(reply.body)
        for kind in ("Version", "DeleteMarker"):
            for found in _all(top, kind):
                if _of(found, "Key") == whole:
                    yield _of(found, "VersionId")
        if _of(top, "IsTruncated") != "true":
            return
        marks = {
            "key-marker": _of(top, "NextKeyMarker"),
            "version-id-marker": _of(top, "NextVersionIdMarker"),
        }


def read_lock(bucket: Bucket, name: str, version: str = "") -> Lock:
    """What keeps an object, its newest version or another one, as HEAD says."""
    query = {"versionId": version} if version else {}
    found = bucket.request("HEAD", name, query, expect=(400, 403, 404, 405)).headers
    until = found.get("x-amz-object-lock-retain-until-date", "")
    held = found.get("x-amz-object-lock-legal-hold", "") == "ON"
    return Lock(_time_of(until) if until else 0, held)


def extend_retention(bucket: Bucket, name: str, until_ns: int) -> None:
    """Keep an object until a time, which must be later than what keeps it now."""
    _put(bucket, name, {"retention": ""}, _RETENTION.format(_text_of(until_ns)))


def set_legal_hold(bucket: Bucket, name: str, held: bool) -> None:
    """Put a legal hold on an object, or take it off."""
    _put(bucket, name, {"legal-hold": ""}, _HOLD.format("ON" if held else "OFF"))


def _put(bucket: Bucket, name: str, query: dict[str, str], body: str) -> None:
    data = body.encode()
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    headers = {"content-md5": base64.b64encode(digest).decode()}
    bucket.request("PUT", name, query, body=data, headers=headers)


def _parsed(text: str) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise StorageError(f"the store answered what is no XML: {error}") from None


def _all(top: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return (child for child in top if child.tag.rpartition("}")[2] == tag)


def _of(top: ElementTree.Element, tag: str) -> str:
    return next((child.text or "" for child in _all(top, tag)), "")


def _text_of(time_ns: int) -> str:
    """A time to the second, not earlier than it is."""
    whole = -(-time_ns // 10**9)
    return f"{datetime.datetime.fromtimestamp(whole, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def _time_of(text: str) -> int:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise StorageError(f"the store says {text!r}, which is no time") from None
    return int(moment.timestamp()) * 10**9
