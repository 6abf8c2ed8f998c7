"""The tables `[tiers.NAME]` of `config.toml`: whether they make sense, and writing them.

Other lines of the file are kept as they are. Nothing secret is ever in it.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from dtafs.core.names import suggest
from dtafs.core.placement import HOT
from dtafs.errors import ConflictError, NotFoundError, UsageError
from dtafs.store.config import TierSettings, parse_config, read_config
from dtafs.store.durable import Disk
from dtafs.store.tiers.credentials import WITH_CREDENTIALS, AwsFiles

PRIORITIES = ("Standard", "Bulk", "Expedited")
ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")
"""Storage classes of S3 whose objects must be restored before they are read. (GLACIER_IR, in spite of
its name, is read at once.)"""

COLD = "cold"
COLD_CLASS = {"s3": "GLACIER", "file": "TAPE"}
"""What a tier that is called cold is, unless it is said: an archive."""

CLASSES = (
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "REDUCED_REDUNDANCY",
    "EXPRESS_ONEZONE",
    *ARCHIVES,
)
"""Those of S3; a store may have others."""

REGION = "us-east-1"
ORDER = ("url", "endpoint", "region", "profile", "storage_class", "mirror_content")


class Address(NamedTuple):
    """A tier's URL in its parts: `s3` with a bucket and a prefix, or `file` with a directory."""

    scheme: str
    bucket: str
    path: str


def parse_url(url: str) -> Address:
    """The parts of a URL; UsageError unless it is `s3://BUCKET[/PREFIX]` or `file:///DIRECTORY`."""
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0]:
        raise UsageError(WITH_CREDENTIALS.format("tier's URL"))
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        prefix = prefix.strip("/")
        sound = not any(part in ("", ".", "..") for part in prefix.split("/")) if prefix else True
        if re.fullmatch(r"[a-z0-9A-Z][a-zA-Z0-9._-]{1,254}", bucket) and sound:
            return Address("s3", bucket, prefix)
    elif scheme == "file" and rest.startswith("/") and rest.strip("/"):
        return Address("file", "", "/" + urllib.parse.unquote(rest).strip("/"))
    raise UsageError(
        f"{url!r} is no place for a tier: write s3://BUCKET/PREFIX or file:///DIRECTORY"
    )


def check_tier_name(name: str) -> str:
    """The name; UsageError unless it can be one of a tier beyond the hot disk."""
    if name == HOT:
        raise UsageError("the tier hot is the lake's own disk: it needs no table and no URL")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise UsageError(f"{name!r} is no name for a tier: use small letters, such as warm or cold")
    return name


def check_tiers(path: Path, tiers: Mapping[str, TierSettings]) -> None:
    """Raise UsageError where a table is wrong, ConflictError where two tiers share a place."""
    places: dict[str, str] = {}
    for name, settings in tiers.items():
        try:
            check_tier_name(name)
            place = place_of(settings)
        except UsageError as error:
            raise UsageError(f"{path}: [tiers.{name}]: {error}") from None
        for other, where in places.items():
            if place.startswith(where) or where.startswith(place):
                raise ConflictError(
                    f"{path}: the tiers {other} and {name} have one place, {settings.url}: give each its own"
                )
        places[name] = place
        known = settings.storage_class
        if known is not None and known not in CLASSES and (near := suggest(known, CLASSES)):
            raise UsageError(f"{path}: [tiers.{name}]: there is no storage class {known}{near}")
        if settings.recall_priority not in PRIORITIES:
            raise UsageError(
                f"{path}: [tiers.{name}]: recall_priority is one of {', '.join(PRIORITIES)}"
            )
        if min(settings.recall_hours, settings.read_price_gib) < 0:
            raise UsageError(f"{path}: [tiers.{name}]: times and prices cannot be negative")
        if not 0 < settings.timeout_s <= 3_600 or not 0 < settings.recall_days <= 36_500:
            raise UsageError(
                f"{path}: [tiers.{name}]: timeout_s lies in (0, 3600], recall_days in (0, 36500]"
            )


def place_of(settings: TierSettings) -> str:
    """Where a tier lies, with a slash at its end: two tiers overlap if one begins with the other."""
    address = parse_url(settings.url)
    if address.scheme == "file":
        return f"file:{Path(address.path).resolve()}/"
    if settings.endpoint is not None:
        from dtafs.store.tiers.signed import check_endpoint

        check_endpoint(settings.endpoint)
    path = f"{address.path}/" if address.path else ""
    return f"s3:{settings.endpoint or ''}/{address.bucket}/{path}"


def settled(name: str, settings: TierSettings, environment: Mapping[str, str]) -> TierSettings:
    """The settings with what is not said filled in, as it will be in the file: endpoint and region from
    where the AWS tools look for them, and for a tier that is called cold, that it is an archive."""
    address = parse_url(settings.url)
    storage_class = settings.storage_class
    if storage_class is None and name == COLD:
        storage_class = COLD_CLASS[address.scheme]
    if address.scheme == "file":
        extra = [key for key in ("endpoint", "region", "profile") if getattr(settings, key)]
        if extra:
            raise UsageError(f"a directory has no {extra[0]}")
        return msgspec.structs.replace(settings, storage_class=storage_class)
    profile = settings.profile or environment.get("AWS_PROFILE") or "default"
    known = AwsFiles(environment).profile(profile)
    endpoint = (
        settings.endpoint
        or environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or known.get("endpoint_url")
    )
    region = (
        settings.region
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or known.get("region")
        or REGION
    )
    return msgspec.structs.replace(
        settings, endpoint=endpoint, region=region, storage_class=storage_class
    )


def with_tier(path: Path, text: bytes, name: str, settings: TierSettings) -> bytes:
    """The text of a configuration with one tier more; ConflictError when it has it already."""
    config = parse_config(path, text)
    if name in config.tiers:
        raise ConflictError(
            f"there is a tier {name} already, at {config.tiers[name].url}; "
            f"remove it first: dtafsctl tier remove {name}"
        )
    lines = [f"[tiers.{check_tier_name(name)}]"]
    for key in ORDER:
        value = getattr(settings, key)
        if value:
            lines.append(f"{key} = {'true' if value is True else _toml_string(value)}")
    before = text if not text or text.endswith(b"\n") else text + b"\n"
    grown = before + (b"\n" if before else b"") + ("\n".join(lines) + "\n").encode()
    parse_config(path, grown)
    return grown


def without_tier(path: Path, text: bytes, name: str) -> bytes:
    """The text without the table of a tier; NotFoundError when it has none."""
    config = parse_config(path, text)
    if name not in config.tiers:
        known = ", ".join(sorted(config.tiers)) or "none"
        raise NotFoundError(f"there is no tier {name!r}; there are: {known}")
    kept, inside = [], False
    for line in text.decode().splitlines(keepends=True):
        header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
        if header is not None:
            parts = [part.strip().strip("\"'") for part in header[1].split(".")]
            inside = parts[:2] == ["tiers", name]
        if not inside:
            kept.append(line)
    shrunk = "".join(kept).rstrip("\n").encode()
    shrunk += b"\n" if shrunk else b""
    if name in parse_config(path, shrunk or b"\n").tiers:
        raise UsageError(f"{path}: tier {name} is written in a way that only you can remove")
    return shrunk


def write_tiers(disk: Disk, text: bytes) -> None:
    """Put a new text in the place of `config.toml`."""
    disk.replace(disk.root / "config.toml", text)


def config_text(root: Path) -> bytes:
    """The text of `config.toml` as it is."""
    return read_config(root / "config.toml")


def _toml_string(text: str) -> str:
    """A basic string: JSON's form is one, but for what it says of characters beyond the 16-bit ones."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
