"""The gate to obstore: the requests that a tier makes to one bucket, each asked until it is answered.

obstore's own retries are off, so that every attempt is counted, has jitter, and uses the credentials of
the moment. What it cannot ask (the class of an archived object, whether it is being restored, a restore
itself, Object Lock) goes through `dtafs.store.tiers.signed`.

obstore has threads of its own, which a fork does not copy: whoever uses it in a forked child of a process
that did so would wait for ever. So that is refused here; the daemon forks before it opens a lake.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from dtafs.errors import NotFoundError, StorageError
from dtafs.store.tiers.answers import Answer, StaleCredentials, failure_of, parse_answer
from dtafs.store.tiers.credentials import Credentials
from dtafs.store.tiers.patience import Passing, Patience, Retrying
from dtafs.store.tiers.signed import Reply, Target, request
from dtafs.store.tiers.versions import delete_versions

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import S3Config

T = TypeVar("T")

_used_by: set[int] = set()
"""The process in which obstore was used first."""

SUCCESS = range(200, 300)

LISTED_AT_ONCE = 1_000
"""What a store tells in one answer; the client would hand out 50 of them and be asked again."""


class Head(NamedTuple):
    """What a HEAD request says of an object. `checksum`: base64 of its SHA-256, or ""."""

    size_bytes: int
    storage_class: str
    restore: str
    e_tag: str
    checksum: str


class Bucket:
    """A bucket, or the part of one below a prefix. Keys are without the prefix. Thread-safe."""

    def __init__(
        self,
        tier: str,
        target: Target,
        prefix: str,
        find: Callable[[], Credentials],
        patience: Patience,
        retrying: Retrying,
    ) -> None:
        self.target, self.prefix = target, prefix
        self._tier, self._find, self._patience, self._retrying = tier, find, patience, retrying
        self.ignores_ranges = False
        """The store sends whole objects instead of ranges, as was seen."""
        self._lock = threading.Lock()
        self._client: tuple[S3Store, Credentials] | None = None

    def put(self, key: str, data: bytes, *, create: bool, storage_class: str | None) -> bool:
        """Write an object; with `create` only if it is absent, and False when it is not."""
        attributes = {"Storage-Class": storage_class} if storage_class else None
        mode: Literal["create", "overwrite"] = "create" if create else "overwrite"

        def call(store: S3Store) -> bool:
            try:
                obstore.put(store, key, data, mode=mode, attributes=attributes, use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

        created = self._ask(f"writing {key}", key, call)
        self._retrying.counters.add("bytes_put", len(data))
        return created

    def get(self, key: str, offset: int, size: int | None) -> tuple[bytes, int]:
        """Bytes of an object from an offset on, none beyond its end; and the size of all of it."""
        data, total = self.view(key, offset, size)
        return bytes(data), total

    def view(self, key: str, offset: int, size: int | None) -> tuple[memoryview, int]:
        """As `get`, without a copy of what the client has received."""
        whole = (offset, size) == (0, None)
        if not whole and not self.ignores_ranges:
            wanted = {"offset": offset} if size is None else (offset, offset + size)
            try:
                return self._get(key, {"range": cast(Any, wanted)})
            except _BeyondTheEnd:
                return memoryview(b""), offset
            except _WholeInstead:
                self.ignores_ranges = True
        data, total = self._get(key, {})
        return (data if whole else data[offset : None if size is None else offset + size]), total

    def _get(self, key: str, options: GetOptions) -> tuple[memoryview, int]:
        def call(store: S3Store) -> tuple[memoryview, int]:
            result = obstore.get(store, key, options=options)
            return memoryview(result.bytes()), result.meta["size"]

        data, total = self._ask(f"reading {key}", key, call)
        self._retrying.counters.add("bytes_read", len(data))
        return data, total

    def head(self, key: str) -> Head | None:
        """What the store says of an object; None when it is absent, though the bucket is there."""
        headers = {"x-amz-checksum-mode": "ENABLED"}
        reply = self.request("HEAD", key, headers=headers, expect=(400, 403, 404))
        if reply.status not in SUCCESS:
            self.require()  # an answer to HEAD has no body that would say why
            if reply.status == 404:
                return None
            answer = Answer(reply.status, "", "")
            raise failure_of(answer, self._tier, self.target.bucket, key)
        found = reply.headers
        return Head(
            int(found.get("content-length", "0")),
            found.get("x-amz-storage-class", "STANDARD"),
            found.get("x-amz-restore", ""),
            found.get("etag", "").strip('"'),
            found.get("x-amz-checksum-sha256", ""),
        )

    def delete(self, key: str) -> None:
        """Remove an object, with all its versions; one that is absent is fine, a bucket that is absent
        is not. RefusedError when it is locked."""
        reply = self.request("DELETE", key, expect=(404,))
        if reply.status == 404:
            self.require()
        if "x-amz-version-id" in reply.headers or "x-amz-delete-marker" in reply.headers:
            delete_versions(self, key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every object below a prefix that ends in a slash, or is empty, with its size."""
        last: str | None = None
        while True:

            def call(store: S3Store, offset: str | None = last) -> list[tuple[str, int]]:
                below = prefix.rstrip("/") or None
                pages = obstore.list(store, prefix=below, offset=offset, chunk_size=LISTED_AT_ONCE)
                return [(meta["path"], meta["size"]) for meta in next(iter(pages), [])]

            page = self._ask(f"listing {prefix or 'everything'}", prefix, call)
            if not page:
                return
            yield from page
            last = page[-1][0]

    def require(self) -> None:
        """Raise NotFoundError, naming it, unless the bucket is there."""
        self.request("GET", "", query={"list-type": "2", "max-keys": "1"})

    def request(
        self,
        method: str,
        key: str,
        query: Mapping[str, str] | None = None,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        expect: tuple[int, ...] = (),
    ) -> Reply:
        """A request that obstore cannot make; its answer, if it is a success or in `expect`."""

        def attempt() -> Reply:
            used = self._credentials()
            reply = request(
                self.target,
                used,
                method,
                f"{self.prefix}/{key}" if self.prefix and key else key,
                query or {},
                timeout_s=self._patience.timeout_s,
                body=body,
                headers=headers,
            )
            if reply.status in SUCCESS or reply.status in expect:
                return reply
            wait_s = _seconds(reply.headers.get("retry-after", ""))
            raise self._failure(parse_answer(reply.status, reply.body), key, wait_s)

        return self._retrying.run(
            f"{method} of {key or 'the bucket'}", lambda: self._renewing(attempt)
        )

    # Making an attempt

    def _ask(self, doing: str, key: str, call: Callable[[S3Store], T]) -> T:
        def attempt() -> T:
            store, _used = self._connected()
            try:
                return call(store)
            except (BaseError, OSError) as error:
                raise self._translated(error, key) from None

        return self._retrying.run(doing, lambda: self._renewing(attempt))

    def _renewing(self, attempt: Callable[[], T]) -> T:
        """Make an attempt; once more, where the credentials were refused and there are other ones."""
        used = self._credentials()
        try:
            return attempt()
        except StaleCredentials as stale:
            with self._lock:
                if self._client is not None and self._client[1] == used:
                    self._client = None
            if self._credentials() == used:
                raise stale.refusal from None
            self._retrying.counters.add("credentials_renewed")
        try:
            return attempt()
        except StaleCredentials as stale:
            raise stale.refusal from None

    def _credentials(self) -> Credentials:
        return self._connected()[1]

    def _connected(self) -> tuple[S3Store, Credentials]:
        """The client, and the credentials that it uses."""
        _used_by.add(os.getpid())
        if len(_used_by) > 1:
            raise StorageError(
                f"tier {self._tier}: this process was forked from one that had used it, which the client of "
                "object stores cannot bear; start a new process (multiprocessing: the method 'spawn')"
            )
        with self._lock:
            if self._client is None:
                used = self._find()
                self._client = self._new_client(used), used
            return self._client

    def _new_client(self, used: Credentials) -> S3Store:
        config: S3Config = {
            "endpoint": self.target.endpoint,
            "region": self.target.region,
            "access_key_id": used.access_key,
            "secret_access_key": used.secret_key,
            "virtual_hosted_style_request": False,
        }
        if used.token:
            config["session_token"] = used.token
        return S3Store(
            self.target.bucket,
            prefix=self.prefix or None,
            config=config,
            client_options={
                "allow_http": self.target.endpoint.startswith("http:"),
                "connect_timeout": f"{self._patience.connect_s * 1000:.0f}ms",
                "timeout": f"{self._patience.timeout_s * 1000:.0f}ms",
            },
            retry_config={"max_retries": 0},
        )

    def _failure(self, answer: Answer, key: str, wait_s: float = 0.0) -> Exception:
        return failure_of(answer, self._tier, self.target.bucket, key, wait_s)

    def _translated(self, error: Exception, key: str) -> Exception:
        """What an exception of obstore means. Its text is all that it has: `… Server returned
        non-2xx status code: 503 Service Unavailable: <the body>`, and more below `Debug source`."""
        text = str(error).partition("\n\nDebug source:")[0]
        answered = re.search(r"status code: (\d{3})[^:]*:?", text)
        if answered is not None:
            answer = parse_answer(int(answered[1]), text[answered.end() :])
            return _BeyondTheEnd() if answer.status == 416 else self._failure(answer, key)
        whole = str(error)
        if "non-partial response" in whole:
            return _WholeInstead()
        if isinstance(error, FileNotFoundError):
            return NotFoundError(f"tier {self._tier} has no object {key}")
        if "TimedOut" in whole or "timed out" in whole:
            return Passing(f"no answer within {self._patience.timeout_s:g} s", "timeouts")
        reason = text.rpartition(" - ")[2].rpartition(": ")[2].strip() or type(error).__name__
        said = f"the connection to {self.target.endpoint} failed ({reason})"
        return Passing(said, "connection_errors")


class _BeyondTheEnd(Exception):
    """A range was asked for that begins where the object has ended (status 416)."""


class _WholeInstead(Exception):
    """A range was asked for, and the store sent the whole object (status 200)."""


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0
