"""Attaching a tier to a lake, taking it away again, and what there is to say of each.

A tier belongs to the lake whose `lake.json` lies in it. Attaching goes: the place is looked at (is it there,
is it another lake's, is it empty); the store is tried out; `lake.json` is put; `config.toml` gets its
table. A crash between the last two leaves a tier that can be attached again. Taking a tier away changes
`config.toml` only: what lies in the tier stays there.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dtafs.core.format import pack_key
from dtafs.core.names import format_time
from dtafs.core.quantities import counted
from dtafs.errors import (
    ConflictError,
    DtafsError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    UsageError,
    outcome_of,
)
from dtafs.store.config import TierSettings, load_config
from dtafs.store.durable import Disk, read_file
from dtafs.store.founding import SUPERBLOCK_LIMIT_BYTES
from dtafs.store.placement.moves import only_copies
from dtafs.store.placement.removal import MIRROR
from dtafs.store.placement.stubs import stubbed_packs
from dtafs.store.placement.stubs import tiers_of as holders
from dtafs.store.tiers.mirror import forget_mirrored, mirror_facts
from dtafs.store.tiers.opening import SUPERBLOCK_KEY, lake_in, open_tier
from dtafs.store.tiers.patience import SHORT
from dtafs.store.tiers.settings import (
    COLD,
    COLD_CLASS,
    check_tier_name,
    config_text,
    parse_url,
    settled,
    with_tier,
    without_tier,
    write_tiers,
)
from dtafs.store.tiers.state import (
    Capabilities,
    forget_state,
    read_state,
    write_state,
)

if TYPE_CHECKING:
    from dtafs.store.lake import Lake


class Tried(NamedTuple):
    """What is found of the place of a tier."""

    settings: TierSettings
    """With all filled in."""
    capabilities: Capabilities
    is_new: bool
    """It belongs to no lake yet."""


def try_place(
    name: str, settings: TierSettings, environment: Any, lake: str | None, known: bool = False
) -> Tried:
    """Look at the place of a new tier and try the store out.

    `lake` is the id of the lake that it is for, None of one that is not made yet; `known`: it was attached
    there before. RefusedError when the place is another lake's or holds anything that looks like one.
    """
    from dtafs.store.tiers.probe import probe  # loads the client of object stores

    settings = settled(check_tier_name(name), settings, environment)
    address = parse_url(settings.url)
    if address.scheme == "file":
        _make_directory(Path(address.path))
    tier = open_tier(name, settings, environment, Capabilities(), SHORT).tier
    found = lake_in(tier)
    if found is not None and found.lake != lake:
        raise RefusedError(
            f"{settings.url} belongs to another lake, {found.lake}: give this one a prefix of its own"
        )
    if found is None and not known:
        for prefix in ("packs/", "log/"):
            key = next(tier.keys(prefix), None)
            if key is not None:
                raise RefusedError(
                    f"{settings.url} has {key[0]} but no lake.json: choose an empty place for the tier"
                )
    return Tried(settings, probe(tier), found is None)


def _make_directory(path: Path) -> None:
    """Make the directory of a tier, but not the ones above it: a disk may not be mounted there."""
    if path.is_dir():
        return
    if not path.parent.is_dir():
        raise NotFoundError(f"{path.parent} is not there: make it, or mount what it stands for")
    Disk(path).make_directory(path)


def attach(lake: Lake, name: str, settings: TierSettings) -> dict[str, Any]:
    """Attach a tier to an open lake; a table that is there already is completed. What it is found to be."""
    text = config_text(lake.path)
    listed = load_config(lake.path / "config.toml").tiers.get(name)
    if not settings.url and listed is None:
        raise UsageError(f"where is tier {name}? dtafsctl tier add {name} s3://BUCKET/PREFIX")
    if listed is not None and settings.url in ("", listed.url):
        _require_same(name, settings, listed)
        settings, changed = listed, None
    else:
        filled = settled(name, settings, lake.tiers.environment)
        changed = with_tier(lake.path / "config.toml", text, name, filled)
    known = read_state(lake.path, name, settings.url).probed is not None
    environment = lake.tiers.environment
    filled, capabilities, is_new = try_place(
        name, settings, environment, lake.superblock.lake, known
    )
    tier = open_tier(name, filled, lake.tiers.environment, capabilities).tier
    tier.put(SUPERBLOCK_KEY, read_file(lake.path / SUPERBLOCK_KEY, SUPERBLOCK_LIMIT_BYTES))
    _remember(lake, name, filled.url, capabilities)
    if changed is not None:
        write_tiers(lake.disk, changed)
    lake.tiers.renew(load_config(lake.path / "config.toml").tiers, lake.disk)
    missing = _forget_copies(lake, name) if is_new else 0
    return {**tier_facts(lake, name), "missing_packs": missing}


def _require_same(name: str, said: TierSettings, listed: TierSettings) -> None:
    """ConflictError where a table has something else than what is said besides the URL."""
    cold = COLD_CLASS.values() if name == COLD else ()
    for key in ("endpoint", "profile", "storage_class", "mirror_content"):
        value, known = getattr(said, key), getattr(listed, key)
        if value and value != known and not (key == "storage_class" and value in cold):
            raise ConflictError(
                f"tier {name} is in config.toml already, with {key} = {known!r}, not {value!r}: "
                "change it there, then dtafsctl tier add " + name
            )


def _forget_copies(lake: Lake, name: str) -> int:
    """Count on nothing in a tier that is found empty: what lies elsewhere, too, is put there again, and so
    is the mirror. How many packs had their only copy there; their stubs go on saying so, since what was
    there may be brought back."""
    missing = 0
    for pack in [*stubbed_packs(lake.path)]:
        with lake.placed.lock, suppress(IntegrityError):  # a damaged stub is for the check to say
            stub = lake.placed.stub(pack)
            if stub is None or name not in stub.copies:
                continue
            left = {other: at_ns for other, at_ns in stub.copies.items() if other != name}
            if lake.placed.is_hot(pack) or any(
                left[other] for other in left if other in lake.tiers
            ):
                lake.placed.save(stub._replace(copies=left))
            else:
                missing += bool(stub.copies[name])
    if name == MIRROR:
        forget_mirrored(lake)
    return missing


def _remember(lake: Lake, name: str, url: str, capabilities: Capabilities) -> None:
    state = read_state(lake.path, name, url)
    state.capabilities, state.probed = capabilities, format_time(time.time_ns())
    write_state(lake.disk, name, state)


def detach(lake: Lake, name: str) -> dict[str, Any]:
    """Take a tier away; RefusedError while it holds the only copy of a pack of the lake."""
    without_tier(lake.path / "config.toml", config_text(lake.path), name)
    _require_elsewhere(lake, name)
    unknown = _nowhere_else(lake, name)
    if unknown:
        raise RefusedError(
            f"tier {name} has {counted(unknown, 'pack')} that this lake needs and knows nowhere: "
            "run dtafsctl repair, which notes where they are, before it is removed"
        )
    facts = {"name": name, "url": lake.tiers.settings[name].url}
    with lake.placed.lock:  # a move that is under way drops nothing in between
        _require_elsewhere(lake, name)
        changed = without_tier(lake.path / "config.toml", config_text(lake.path), name)
        write_tiers(lake.disk, changed)
        lake.tiers.renew(load_config(lake.path / "config.toml").tiers, lake.disk)
    forget_state(lake.disk, name)
    return facts


def _require_elsewhere(lake: Lake, name: str) -> None:
    packs, size_bytes = only_copies(lake, name)
    if packs:
        raise RefusedError(
            f"tier {name} holds the only copy of {counted(packs, 'pack')} of {size_bytes:,} bytes: "
            "recall them, or move them to another tier, before it is removed"
        )


def _nowhere_else(lake: Lake, name: str) -> int:
    """How many packs of the lake lie in a tier, and as far as is known nowhere."""
    unknown = {
        pack_key(pack)
        for pack, _row in lake.index.packs()
        if not lake.placed.is_hot(pack)
        and not any(holder in lake.tiers for holder in holders(lake.path, pack))
    }
    return sum(key in unknown for key, _size in lake.tiers[name].keys("packs/")) if unknown else 0


def probe_again(lake: Lake, name: str) -> None:
    """Try the store of a tier out once more, and go by what is found."""
    from dtafs.store.tiers.probe import probe

    _remember(lake, name, lake.tiers.settings[name].url, probe(lake.tiers[name]))
    lake.tiers.renew(lake.tiers.settings, lake.disk)


def tier_facts(lake: Lake, name: str) -> dict[str, Any]:
    """What is known of a tier without asking it."""
    settings = lake.tiers.settings[name]
    state = read_state(lake.path, name, settings.url)
    counters = dict(state.counters)
    for key, count in lake.tiers.counters(name).items():
        counters[key] = counters.get(key, 0) + count
    found = state.capabilities
    return {
        "name": name,
        "url": settings.url,
        "endpoint": settings.endpoint,
        "region": settings.region,
        "storage_class": settings.storage_class,
        "probed": state.probed,
        "capabilities": {
            "conditional_put": found.conditional_put,
            "overwrite": found.overwrite,
            "ranges": found.ranges,
            "archive": found.archive,
            "object_lock": found.object_lock,
        },
        "counters": counters,
        "since": state.since,
    }


def reach(lake: Lake, name: str) -> dict[str, Any]:
    """Whether a tier answers now: `answers`, and else the `problem`, its `kind` and sentence."""
    try:
        lake.tiers.ask(name)
    except DtafsError as error:
        return _unanswered(error)
    return {"answers": True, "problem": None}


def _unanswered(error: DtafsError) -> dict[str, Any]:
    return {
        "answers": False,
        "problem": {"kind": outcome_of(error).kind, "message": str(error)},
    }


def list_tiers(lake: Lake, again: bool) -> dict[str, Any]:
    """Every tier: what is known of it, and whether it answers; tried out once more with `again`. And how
    far the mirror lags, None without one."""
    found = []
    for name in lake.tiers:
        reached = reach(lake, name)
        if again and reached["answers"]:
            try:
                probe_again(lake, name)
            except DtafsError as error:
                reached = _unanswered(error)
        found.append({**tier_facts(lake, name), **reached})
    return {"tiers": found, "mirror": mirror_facts(lake) if MIRROR in lake.tiers else None}
