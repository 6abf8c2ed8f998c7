"""Where a lake is, or can be made: judging a directory, making one, reading its superblock."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dtafs.core.chunking import ChunkParameters
from dtafs.core.format import FORMAT_VERSION, Superblock, decode_superblock, encode_superblock
from dtafs.core.names import format_time
from dtafs.core.parity import parity_feature
from dtafs.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    UsageError,
    from_os_error,
)
from dtafs.store.crypto import Signer, verify_superblock
from dtafs.store.durable import Disk, read_file
from dtafs.store.lock import WriterLock

SUPERBLOCK_LIMIT_BYTES = 64 * 1024
FOLDERS = ("packs", "log", "keys", "index", "staging", "cache", "tmp", "run")


def read_superblock(path: Path) -> Superblock:
    """The verified superblock of the lake in a directory; the error says why there is none."""
    if not path.is_dir():
        what = "is not a directory" if path.exists() else "does not exist"
        raise NotFoundError(f"{path} {what}; make a lake there with: dtafsctl --lake {path} init")
    try:
        os.listdir(path)
        data = read_file(path / "lake.json", SUPERBLOCK_LIMIT_BYTES)
    except PermissionError as error:
        raise from_os_error(error, "opening the lake") from error
    except NotFoundError:
        if _begun(path):
            raise NotFoundError(
                f"making the lake {path} was interrupted; finish it with: dtafsctl --lake {path} init"
            ) from None
        raise NotFoundError(f"{path} is not a lake: it has no lake.json") from None
    block = decode_superblock(data)
    verify_superblock(block)
    return block


def _begun(path: Path) -> bool:
    """Whether a directory holds nothing but what an interrupted `Lake.create` leaves."""
    names = set(os.listdir(path)) - {"config.toml"}
    made = {"keys", "run", "tmp"}  # where it makes files before the superblock
    return (
        bool(names)
        and names <= set(FOLDERS)
        and all((path / name).is_dir() for name in names)
        and not any(any((path / name).iterdir()) for name in names - made)
    )


def check_place_for_new(path: Path) -> None:
    """Raise UsageError or ConflictError unless a lake can be made in this directory."""
    for above in path.parents:
        if (above / ".dtafs" / "catalog.sqlite").exists():
            raise UsageError(f"{path} lies in the mount of a lake; make a lake somewhere else")
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise UsageError(f"{path} is not a directory")
    if (path / "lake.json").exists():
        raise ConflictError(f"{path} is a lake already")
    try:
        names = os.listdir(path)
    except OSError as error:
        raise from_os_error(error, "making the lake") from error
    if names and not _begun(path):
        raise ConflictError(f"{path} is not empty; a lake needs a directory of its own")


def found_lake(path: Path, disk: Disk, parameters: ChunkParameters, parity: int) -> None:
    """Make a lake in a directory, with so many percent of parity; one that was begun is taken up."""
    import secrets  # once in the life of a lake

    check_place_for_new(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, "making the lake") from error
    for folder in FOLDERS:
        disk.make_directory(path / folder, 0o700 if folder in ("keys", "run") else 0o755)
    lock = WriterLock(path / "run" / "lock")
    try:
        check_place_for_new(path)
        disk.clear_directory(path / "tmp")
        signer, pem = Signer.generate()
        disk.replace(path / "keys" / "signing.pem", pem, 0o600)
        block = Superblock(
            format=FORMAT_VERSION,
            lake=secrets.token_hex(16),
            created=format_time(time.time_ns()),
            public_key=signer.public_key.hex(),
            chunking=parameters,
            optional=(parity_feature(parity),) if parity else (),
        )
        disk.put_new(path / "lake.json", encode_superblock(signer.seal_superblock(block)))
    finally:
        lock.release()


@contextlib.contextmanager
def staging_damage(path: Path) -> Iterator[None]:
    """Say of damaged staging what is safe and how to go on."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(
            f"{error}; sealed versions are safe and can be read. To go on without what was staged "
            f"and not committed, move {path / 'staging'} away"
        ) from None
