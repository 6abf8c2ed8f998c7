"""`config.toml`: what belongs to this host and not to the lake. Every field has a default."""

from __future__ import annotations

from math import inf
from pathlib import Path

import msgspec
from msgspec import Struct

from dtafs.core.names import suggest
from dtafs.errors import UsageError, from_os_error


class Cache(Struct, frozen=True, forbid_unknown_fields=True):
    """Memory for decoded data, and room for data of other tiers, in MiB."""

    frames_mib: int = 32
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


class Retention(Struct, frozen=True, forbid_unknown_fields=True):
    """Rules of retention."""

    clock_span_days: float = 30.0
    """How far the clock may be ahead of the newest log entry before nothing is disposed of by it."""


class Tiering(Struct, frozen=True, forbid_unknown_fields=True):
    """Moving packs between the hot disk and the tiers. `inf` switches a rule off."""

    after_days: float = 90.0
    """A pack leaves the hot disk when nobody has read or written it for so long."""
    superseded_after_days: float = 14.0
    """The same, for a pack that no newest version needs."""
    aged_after_days: float = inf
    """A pack leaves that was written so long ago, whoever reads it."""
    archive_after_days: float = 365.0
    """A pack goes on from a tier that can be read to an archive."""
    settle_hours: float = 24.0
    """What was read or written so lately stays, while there is room."""
    size_min_kib: float = 256.0
    """Smaller packs stay, while there is room: a request costs more than they take."""
    keep_tags: tuple[str, ...] = ()
    """Versions that carry one of these tags stay on the hot disk, or come back."""
    archive_tags: tuple[str, ...] = ()
    """What only versions need that carry one of these tags goes to the archive at once."""
    high_water: float = 0.85
    """The share of the hot disk from which packs leave whatever their age, until `low_water`."""
    low_water: float = 0.75
    hot_gib: float = 0.0
    """What packs of content may take on the hot disk; 0 is all of its file system."""
    rate_mib: float = 0.0
    """How much is moved in a second; 0 is as much as goes."""
    every_s: float = 60.0
    """How often the daemon looks what is to be moved."""
    recall_wait_s: float = 30.0
    """How long opening a file waits for an archive; the recall goes on after that."""
    recalled_days: float = 7.0
    """How long a recalled pack stays on the hot disk at least."""
    recall_limit_hours: float = 48.0
    """When a recall that did not come is given up."""


class TierSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One tier: a table `[tiers.NAME]`. Credentials are never here."""

    url: str = ""
    """`s3://BUCKET/PREFIX`, or `file:///DIRECTORY`."""
    endpoint: str | None = None
    """Of an S3-compatible store, such as `http://127.0.0.1:8333`; None is AWS."""
    region: str | None = None
    """None is what the AWS files say, else `us-east-1`."""
    profile: str | None = None
    """A profile of the AWS files."""
    storage_class: str | None = None
    """For packs. GLACIER and DEEP_ARCHIVE must be recalled before they are read; so must any class of a
    directory, which then stands for a tape library."""
    recall_days: float = 1.0
    """How long the store keeps a recalled object readable, unless it is fetched before."""
    recall_priority: str = "Standard"
    """Standard, Bulk or Expedited: what AWS charges by, and how long it takes."""
    recall_hours: float = 5.0
    """How long a recall takes until the archive has an object ready: for estimates."""
    read_price_gib: float = 0.0
    """What it costs to read or recall one GiB, in any currency: for estimates."""
    mirror_content: bool = False
    """Of `warm`: also copy content packs there as soon as they exist, not only what describes them."""
    timeout_s: float = 60.0
    """One request with its answer: time enough to move a pack of 32 MiB at 0.5 MiB/s."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All of `config.toml`."""

    cache: Cache = Cache()
    ingest: Ingest = Ingest()
    mount: Mount = Mount()
    collect: Collect = Collect()
    retention: Retention = Retention()
    tiering: Tiering = Tiering()
    tiers: dict[str, TierSettings] = {}


def _check_names(path: Path, data: dict[str, object], shape: object, prefix: str = "") -> None:
    if isinstance(shape, dict):  # the keys are names that the user gives
        for name, table in data.items():
            if not isinstance(table, dict):
                raise UsageError(f"{path}: {prefix + name!r} is a table, not a value")
            _check_names(path, table, TierSettings(), f"{prefix}{name}.")
        return
    known = {field: getattr(shape, field) for field in shape.__struct_fields__}  # type: ignore[attr-defined]
    for key, value in data.items():
        if key not in known:
            raise UsageError(f"{path}: unknown key {prefix + key!r}{suggest(key, known)}")
        if isinstance(value, dict):
            if not isinstance(known[key], Struct | dict):
                raise UsageError(f"{path}: {prefix + key!r} is a value, not a table")
            _check_names(path, value, known[key], f"{prefix}{key}.")


def read_config(path: Path) -> bytes:
    """The text of a configuration; empty where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise from_os_error(error, "reading the configuration") from error


def load_config(path: Path) -> Config:
    """The configuration in a file, or the defaults where there is none; UsageError names a wrong key."""
    text = read_config(path)
    return parse_config(path, text) if text else Config()


def parse_config(path: Path, text: bytes) -> Config:
    """The configuration that a text is; `path` is what errors name."""
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
    _check_numbers(path, config)
    if config.tiers:
        from dtafs.store.tiers.settings import check_tiers

        check_tiers(path, config.tiers)
    return config


def _check_numbers(path: Path, config: Config) -> None:
    """Raise UsageError for a number that cannot be meant."""
    cache, mount = config.cache, config.mount
    if min(cache.frames_mib, cache.nodes_mib) < 1 or min(cache.far_mib, config.ingest.threads) < 0:
        raise UsageError(f"{path}: sizes and thread counts cannot be negative, caches not below 1")
    if mount.read_ahead_kib < 0 or not 0 <= mount.writer_wait_s < inf:
        raise UsageError(
            f"{path}: mount.read_ahead_kib and mount.writer_wait_s are numbers from 0 up"
        )
    if not (0 <= config.collect.grace_days < 36_500 and 0 < config.collect.rewrite_share <= 1):
        raise UsageError(
            f"{path}: collect.grace_days cannot be negative, collect.rewrite_share lies in (0, 1]"
        )
    if not 0 < config.retention.clock_span_days < 36_500:
        raise UsageError(f"{path}: retention.clock_span_days lies between 0 and 36,500")
    tiering = config.tiering
    numbers = {f: getattr(tiering, f) for f in tiering.__struct_fields__ if not f.endswith("_tags")}
    for name, value in numbers.items():
        if not value >= 0 or (value == inf and not name.endswith("after_days")):
            raise UsageError(f"{path}: tiering.{name} is a number from 0 up, not {value}")
    if not tiering.low_water <= tiering.high_water <= 1 or tiering.every_s == 0:
        raise UsageError(
            f"{path}: tiering.low_water, tiering.high_water and 1 are in ascending order, "
            "and tiering.every_s is not 0"
        )
