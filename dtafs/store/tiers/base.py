"""What a tier is: a place for whole objects under the lake's own keys, such as `packs/ab/<64 hex>`.

A tier belongs to one lake, whose `lake.json` lies in it. Objects are created once, whole or not at
all, and never change; there is no rename and no append. All methods block, each wait has a bound,
and any number of threads may call them at once. What they raise:

- NotFoundError: the object, or the bucket or directory behind the tier, is not there; the text says which
- ConflictError: the key has other bytes than those that were to be put
- RecallError: the object is in an archive, and must be recalled before it is read
- RefusedError: the store does not accept the credentials, or does not allow it
- StorageFullError: the store has no room left
- StorageError: it does not answer, or goes on failing after it was asked several times
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from dtafs.errors import IntegrityError, UsageError, from_os_error

T = TypeVar("T")

PART_BYTES = 8 * 1024 * 1024
"""What is read or held of an object at once."""

Source = Path | bytes
"""What is put: a file of this host, which holds still meanwhile, or bytes."""


class State(enum.Enum):
    """Whether an object can be read."""

    READY = "ready"
    ARCHIVED = "archived"
    RECALLING = "recalling"


class ObjectFacts(NamedTuple):
    """What a store says of an object without reading it."""

    size_bytes: int
    state: State


class Tier(Protocol):
    """One tier of a lake."""

    name: str
    """The key of its table in `config.toml`, such as `warm`."""
    url: str
    needs_recall: bool
    """Packs are archived: reading one raises RecallError until `recall` has made it READY. Other
    objects (`lake.json`, the log) can always be read."""

    def put(self, key: str, data: Source) -> None:
        """Create an object unless it is there with these very bytes. It is durable on return."""

    def verify(self, key: str, data: Source) -> None:
        """Raise IntegrityError unless the object is byte for byte `data`, NotFoundError if it is
        not there. It is read back; one in an archive is judged by its size and the checksum that
        the store keeps of it."""

    def facts(self, key: str) -> ObjectFacts | None:
        """Size and state of an object; None when it is not there."""

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes from `offset`, or all to the end; fewer only where the object ends."""

    def view(self, key: str, offset: int, size: int) -> memoryview:
        """As `read`, without a copy where that can be had."""
        return memoryview(self.read(key, offset, size))

    def fetch(self, key: str, sink: Callable[[bytes], object]) -> None:
        """Hand the whole object to `sink` in order, in parts of at most PART_BYTES."""

    def recall(self, key: str) -> None:
        """Ask for an archived object to become READY, which may take hours; asking again is fine."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is fine."""

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every object below `prefix` (empty, or ending in a slash) with its size, in any order."""


def check_key(key: str) -> str:
    """The key; UsageError unless it is a relative path that stays where it is."""
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise UsageError(f"{key!r} is no key of an object")
    return key


def can_be_archived(key: str) -> bool:
    """Only packs are: `lake.json` and the log say what there is, and are read at once."""
    return key.startswith("packs/")


def parts_of(data: Source) -> Iterator[bytes]:
    """The bytes to be put, in parts of at most PART_BYTES."""
    if isinstance(data, bytes):
        for start in range(0, len(data), PART_BYTES):
            yield data[start : start + PART_BYTES]
        return
    try:
        with open(data, "rb", buffering=0) as file:
            while part := file.read(PART_BYTES):
                yield part
    except OSError as error:
        raise from_os_error(error, "reading what goes to a tier") from error


def size_of(data: Source) -> int:
    """How many bytes are to be put."""
    if isinstance(data, bytes):
        return len(data)
    try:
        return data.stat().st_size
    except OSError as error:
        raise from_os_error(error, "reading what goes to a tier") from error


def digest_of(data: Source) -> bytes:
    """The SHA-256 of what is to be put."""
    digest = hashlib.sha256()
    for part in parts_of(data):
        digest.update(part)
    return digest.digest()


READS = 2
"""Times that an object is read before its bytes are said to be other ones: it may be the network that has
altered them."""


def has_hash(
    tier: Tier, key: str, sha256: bytes, sink: Callable[[bytes], object] = lambda part: None
) -> bool:
    """Whether the bytes below a key have this hash; `sink` is given all that is read. Raises as `fetch`."""
    for _ in range(READS):
        digest = hashlib.sha256()

        def take(part: bytes, digest: hashlib._Hash = digest) -> None:
            digest.update(part)
            sink(part)

        tier.fetch(key, take)
        if digest.digest() == sha256:
            return True
    return False


def read_whole(tier: Tier, key: str, decode: Callable[[bytes], T]) -> T:
    """What `decode` makes of an object; its IntegrityError when it cannot, also when it is read once more.
    Raises as `read`."""
    for _ in range(READS - 1):
        data = tier.read(key)
        try:
            return decode(data)
        except IntegrityError:
            continue
    return decode(tier.read(key))
