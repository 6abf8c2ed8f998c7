"""Rows and keys of the index for datasets and versions; `dtafs.store.index` has the tables."""

from __future__ import annotations

import os
import struct

import msgspec
from msgspec import Struct

from dtafs.core.names import DATASET_NAME_MAX_BYTES
from dtafs.core.values import Actor, Manifest
from dtafs.store.database import Txn, row_decoder

NUMBER = struct.Struct(">I")
TIME = struct.Struct(">Q")


class DatasetRow(Struct, frozen=True, array_like=True):
    """A dataset as the log has it up to entry `sequence`, whose object has the hash `head`."""

    name: str
    created_ns: int
    tags: tuple[str, ...]
    """Given at creation; the first version carries them."""
    newest: int
    """Number of the newest version, 0 where there is none."""
    sequence: int
    head: bytes


class VersionRow(Struct, frozen=True, array_like=True):
    """A sealed version. `serial` numbers all versions of the lake in the order of their commits."""

    dataset: str
    number: int
    serial: int
    manifest: Manifest
    manifest_sha256: bytes
    time_ns: int
    sequence: int
    actor: Actor
    tags: tuple[str, ...]
    """Tags now; those at the commit are in the manifest."""
    disposed: int = 0
    """The entry of the dataset's log that disposed of it; 0 while it is kept."""

    @property
    def root(self) -> bytes:
        """Id of the root node."""
        return bytes.fromhex(self.manifest.root)

    @property
    def name(self) -> str:
        """`DATASET:vN`."""
        return f"{self.dataset}:v{self.number}"


encode_row = msgspec.msgpack.Encoder().encode
decode_dataset = row_decoder(DatasetRow)
decode_version = row_decoder(VersionRow)


def version_key(dataset: str, number: int) -> bytes:
    """The key of a version; those of a dataset follow each other in order."""
    return dataset.encode() + b"\0" + NUMBER.pack(number)


def tag_key(dataset: str, tag: str, number: int) -> bytes:
    """The key of a tag that a version carries."""
    return b"%b\0%b\0%b" % (dataset.encode(), tag.encode(), NUMBER.pack(number))


def get_dataset(txn: Txn, name: str) -> DatasetRow | None:
    """The row of a dataset, or None."""
    key = os.fsencode(name)  # any name may be asked for, also one that is not UTF-8
    if not 0 < len(key) <= DATASET_NAME_MAX_BYTES:
        return None
    value = txn.get("dataset", key)
    return None if value is None else decode_dataset(value)
