"""`config.toml`: what belongs to this host and not to the lake. Every field has a default."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from dtafs.core.names import suggest
from dtafs.errors import UsageError, from_os_error

CONFIG_LIMIT_BYTES = 1024 * 1024


class Cache(Struct, frozen=True, forbid_unknown_fields=True):
    """Memory for decoded data, in MiB."""

    frames_mib: int = 48
    """Decoded frames: reading on in a frame that is here costs no decompression."""
    nodes_mib: int = 8
    """Encoded size of the metadata nodes kept decoded; they take about six times as much memory."""


class Ingest(Struct, frozen=True, forbid_unknown_fields=True):
    """How files become chunks."""

    threads: int = 0
    """Worker threads; 0 means one for each core."""


class Mount(Struct, frozen=True, forbid_unknown_fields=True):
    """The mount."""

    read_ahead_kib: int = 1024
    """The kernel's read-ahead, raised where permitted: its 128 KiB cost five sixths of the speed."""
    writer_wait_s: float = 2.0
    """How long a commit waits for writers that are just closing before it refuses."""


class Collect(Struct, frozen=True, forbid_unknown_fields=True):
    """Deleting what nothing reaches."""

    grace_days: float = 7.0
    """How long a pack stays condemned before it is deleted: time to notice a mistake, and longer
    than any reader keeps what it looked up."""
    rewrite_share: float = 0.5
    """From what share of garbage a pack is rewritten: at a half, each byte freed costs one written."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `config.toml`."""

    cache: Cache = Cache()
    ingest: Ingest = Ingest()
    mount: Mount = Mount()
    collect: Collect = Collect()


def _check_names(path: Path, data: dict[str, object], shape: object, prefix: str = "") -> None:
    known = {field: getattr(shape, field) for field in shape.__struct_fields__}  # type: ignore[attr-defined]
    for key, value in data.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {prefix + key!r}{suggest(key, known)}")
        if isinstance(value, dict):
            if not isinstance(known[key], Struct):
                raise UsageError(f"{path}: {prefix + key!r} is a value, not a table")
            _check_names(path, value, known[key], f"{prefix}{key}.")


def load_config(path: Path) -> Config:
    """The configuration in a file, or the defaults where there is none; UsageError names a wrong key."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise from_os_error(error, "reading the configuration") from error
    import tomllib  # most lakes have no such file

    try:
        data = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    _check_names(path, data, Config())
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from None
    if config.cache.frames_mib < 1 or config.cache.nodes_mib < 1 or config.ingest.threads < 0:
        raise UsageError(f"{path}: sizes and thread counts cannot be negative, caches not below 1")
    if not (0 <= config.collect.grace_days < 36_500 and 0 < config.collect.rewrite_share <= 1):
        raise UsageError(
            f"{path}: collect.grace_days cannot be negative, collect.rewrite_share lies in (0, 1]"
        )
    return config
