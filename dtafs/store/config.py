"""`config.toml`: what belongs to this host and not to the lake. Every field has a default."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from dtafs.core.names import suggest
from dtafs.errors import UsageError, from_os_error

CONFIG_LIMIT_BYTES = 1024 * 1024


class Cache(Struct, frozen=True, forbid_unknown_fields=True):
    """Memory for decoded data, and room for data of other tiers, in MiB."""

    frames_mib: int = 48
    """Decoded frames: reading on in a frame that is here costs no decompression."""
    nodes_mib: int = 8
    """Encoded size of the metadata nodes kept decoded; they take about six times as much memory."""
    far_mib: int = 1024
    """On the disk, below `cache/`: what was read from other tiers, for as long as the lake is open."""


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


class TierPlace(Struct, frozen=True, forbid_unknown_fields=True):
    """Another place for packs: `[tiers.NAME]`, where NAME is `warm`, `cold` or any other word."""

    url: str = ""
    """`s3://bucket/prefix`, or `file:///directory`."""
    endpoint: str = ""
    """Of an S3-compatible store other than that of Amazon."""
    region: str = ""
    profile: str = ""
    """Of the AWS configuration, for the credentials."""
    storage_class: str = ""
    """An archive, whose objects must be recalled before they are read; of a directory, any word says
    that it stands for one."""
    recall_days: float = 1.0
    """How long a recalled object can be read from the archive."""
    recall_hours: float = 5.0
    """How long a recall takes until the archive has an object ready: for estimates."""
    read_price_gib: float = 0.0
    """What it costs to read or recall one GiB, in any currency: for estimates."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `config.toml`."""

    cache: Cache = Cache()
    ingest: Ingest = Ingest()
    mount: Mount = Mount()
    collect: Collect = Collect()
    tiers: dict[str, TierPlace] = {}


def _check_names(path: Path, data: dict[str, object], shape: object, prefix: str = "") -> None:
    if isinstance(shape, dict):  # the keys are names that the user gives
        for name, table in data.items():
            if not isinstance(table, dict):
                raise UsageError(f"{path}: {prefix + name!r} is a table, not a value")
            _check_names(path, table, TierPlace(), f"{prefix}{name}.")
        return
    known = {field: getattr(shape, field) for field in shape.__struct_fields__}  # type: ignore[attr-defined]
    for key, value in data.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {prefix + key!r}{suggest(key, known)}")
        if isinstance(value, dict):
            if not isinstance(known[key], Struct | dict):
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
    cache = config.cache
    if min(cache.frames_mib, cache.nodes_mib) < 1 or min(cache.far_mib, config.ingest.threads) < 0:
        raise UsageError(f"{path}: sizes and thread counts cannot be negative, caches not below 1")
    if not (0 <= config.collect.grace_days < 36_500 and 0 < config.collect.rewrite_share <= 1):
        raise UsageError(
            f"{path}: collect.grace_days cannot be negative, collect.rewrite_share lies in (0, 1]"
        )
    _check_tiers(path, config)
    return config


def _check_tiers(path: Path, config: Config) -> None:
    urls: dict[str, str] = {}
    for name, tier in config.tiers.items():
        if name == "hot" or not name.isidentifier():
            raise UsageError(f"{path}: {name!r} cannot be the name of a tier; take warm or cold")
        if not tier.url.startswith(("s3://", "file:///")):
            raise UsageError(
                f"{path}: tiers.{name}.url is s3://bucket/prefix or file:///directory, not {tier.url!r}"
            )
        url = tier.url.rstrip("/")
        if url in urls:
            raise UsageError(f"{path}: the tiers {urls[url]!r} and {name!r} have one url, {url}")
        urls[url] = name
        if min(tier.recall_days, tier.recall_hours, tier.read_price_gib) < 0:
            raise UsageError(f"{path}: times and prices of tiers.{name} cannot be negative")
