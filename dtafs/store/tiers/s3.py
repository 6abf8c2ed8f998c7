"""A tier in an S3-compatible object store, its objects in a storage class that may be an archive.

An object is created under the condition that it is absent (`If-None-Match: *`). That the condition
failed does not mean that somebody else was first: the answer to a first attempt may have been lost,
so what is there is compared with what was to be put. A store that does not honour the condition
(`conditional` is False) is asked first whether the object is there, which two writers at once can
slip through: only objects that are named by their content may go there.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from dtafs.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    UnsupportedError,
)
from dtafs.store.tiers.base import (
    PART_BYTES,
    READS,
    ObjectFacts,
    Source,
    State,
    Tier,
    can_be_archived,
    check_key,
    digest_of,
    parts_of,
    size_of,
)
from dtafs.store.tiers.bucket import Bucket, Head
from dtafs.store.tiers.patience import Retrying
from dtafs.store.tiers.settings import ARCHIVES


def object_name(key: str) -> str:
    """A key as the store is told it. SeaweedFS takes a backslash, which a dataset's name may have, for a
    slash; so it is written =5C, and = is =3D."""
    return check_key(key).replace("=", "=3D").replace("\\", "=5C")


def key_of(name: str) -> str:
    """The key that an object's name is."""
    return name.replace("=5C", "\\").replace("=3D", "=")


class S3Tier(Tier):
    """A tier whose objects lie in a bucket."""

    def __init__(
        self,
        name: str,
        url: str,
        bucket: Bucket,
        retrying: Retrying,
        *,
        storage_class: str | None = None,
        conditional: bool = True,
        archives: bool = True,
        recall_days: float = 1.0,
        priority: str = "Standard",
    ) -> None:
        """`conditional`, `archives`: whether the store honours conditions, and keeps archived
        objects from being read, as the probe found."""
        self.name, self.url, self.bucket = name, url, bucket
        self.storage_class, self._conditional = storage_class, conditional
        self.needs_recall = storage_class in ARCHIVES and archives
        self._days, self._priority = max(1, round(recall_days)), priority
        self._retrying = retrying

    def put(self, key: str, data: Source) -> None:
        name = object_name(key)
        whole = data if isinstance(data, bytes) else b"".join(parts_of(data))
        if not self._conditional and self.facts(key) is not None:
            created = False
        else:
            wanted = self.storage_class if can_be_archived(key) else None
            created = self.bucket.put(name, whole, create=self._conditional, storage_class=wanted)
        if created:
            return
        try:
            self.verify(key, whole)
        except IntegrityError:
            raise ConflictError(f"{self.name}: {key} is there already with other bytes") from None
        self._retrying.counters.add("lost_answers")

    def verify(self, key: str, data: Source) -> None:
        if self.needs_recall and can_be_archived(key):
            self._verify_archived(key, data)
            return
        if not any(self._is_same(key, data) for _ in range(READS)):
            raise IntegrityError(f"{self.name}: {key} has not the bytes that were put there")

    def _is_same(self, key: str, data: Source) -> bool:
        """Whether reading an object gives these bytes."""
        digest = hashlib.sha256()
        with ThreadPoolExecutor(1, "dtafs-verify") as beside:
            wanted = beside.submit(digest_of, data)
            self.fetch(key, digest.update)
            return digest.digest() == wanted.result()

    def _verify_archived(self, key: str, data: Source) -> None:
        head = self._existing(key)
        if head.checksum:
            known, computed = head.checksum, base64.b64encode(digest_of(data)).decode()
        else:  # of an object that was put in one piece, the ETag is the MD5
            digest = hashlib.md5(usedforsecurity=False)
            for part in parts_of(data):
                digest.update(part)
            known, computed = head.e_tag, digest.hexdigest()
        if head.size_bytes != size_of(data) or known != computed:
            raise IntegrityError(
                f"{self.name}: {key} has not the bytes that were put there, by the store's own checksum"
            )

    def facts(self, key: str) -> ObjectFacts | None:
        head = self.bucket.head(object_name(key))
        return None if head is None else ObjectFacts(head.size_bytes, self._state(head))

    def _state(self, head: Head) -> State:
        if not self.needs_recall or head.storage_class not in ARCHIVES:
            return State.READY
        if 'ongoing-request="true"' in head.restore:
            return State.RECALLING
        return State.READY if 'ongoing-request="false"' in head.restore else State.ARCHIVED

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        if size == 0:
            self._existing(key)
            return b""
        return self.bucket.get(object_name(key), offset, size)[0]

    def view(self, key: str, offset: int, size: int) -> memoryview:
        if size == 0:
            return memoryview(self.read(key, offset, size))
        return self.bucket.view(object_name(key), offset, size)[0]

    def fetch(self, key: str, sink: Callable[[bytes], object]) -> None:
        name, offset, total = object_name(key), 0, 1
        with ThreadPoolExecutor(1, "dtafs-fetch") as ahead:
            # The next part is fetched while `sink` has this one.
            coming = ahead.submit(self.bucket.get, name, 0, PART_BYTES)
            while offset < total and not self.bucket.ignores_ranges:
                part, total = coming.result()
                if not part or self.bucket.ignores_ranges:
                    break
                if offset + len(part) < total:
                    coming = ahead.submit(self.bucket.get, name, offset + len(part), PART_BYTES)
                sink(part)
                offset += len(part)
        if offset < total and self.bucket.ignores_ranges:
            # All of it in memory, or every part would cost as much.
            for part in parts_of(self.bucket.get(name, 0, None)[0][offset:]):
                sink(part)

    def recall(self, key: str) -> None:
        state = self._state(self._existing(key))
        if state is not State.ARCHIVED:
            return
        body = (
            f'<RestoreRequest xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Days>{self._days}</Days>'
            f"<GlacierJobParameters><Tier>{self._priority}</Tier></GlacierJobParameters></RestoreRequest>"
        )
        reply = self.bucket.request(
            "POST",
            object_name(key),
            {"restore": ""},
            body=body.encode(),
            expect=(403, 405, 409, 501),
        )
        if reply.status in (405, 501):
            raise UnsupportedError(
                f"tier {self.name}: the store says that {key} is archived, but cannot restore it"
            )
        in_progress = reply.status == 409 and "RestoreAlreadyInProgress" in reply.body
        if reply.status in (403, 409) and not in_progress:
            raise RefusedError(f"tier {self.name}: restoring {key} was refused: {reply.body[:300]}")

    def delete(self, key: str) -> None:
        self.bucket.delete(object_name(key))

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        folder = object_name(prefix.rstrip("/")) + "/" if prefix else ""
        for name, size in self.bucket.list(folder):
            yield key_of(name), size

    def _existing(self, key: str) -> Head:
        head = self.bucket.head(object_name(key))
        if head is None:
            raise NotFoundError(f"tier {self.name} has no object {key}")
        return head
