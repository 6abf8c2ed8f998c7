"""tier move, recall, pin, plan, plan-read: where packs lie, and should."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dtafs.cli.base import Call, Failed, standard
from dtafs.cli.words import size_text
from dtafs.core.quantities import counted
from dtafs.errors import RecallError, StorageError, UsageError
from dtafs.store.compare import printable

WHAT = "WHAT…"
SHOWN_MAX = 20
"""Steps of a plan that are printed; --json gives all."""


def named(what: tuple[str, ...]) -> list[str]:
    """What a command names, with paths of a mount as `DATASET:V/PATH`."""
    return [_in_mount(text) or text for text in what]


def _in_mount(text: str) -> str | None:
    """The version and path that a path of a mounted lake shows; None for anything else."""
    if not os.path.lexists(text):
        return None
    from dtafs.services.mountpoints import mounts

    path = Path(os.path.realpath(text))
    for mount in mounts():
        if path.is_relative_to(mount.mountpoint):
            return _named_by(text, path.relative_to(mount.mountpoint).parts)
    return None


def _named_by(text: str, parts: tuple[str, ...]) -> str:
    """What the parts of a path below a mount name; UsageError for what lies in no pack."""
    if not parts or parts[0].startswith("."):
        raise UsageError(
            f"{text} is no dataset: name one, such as {text}/DATASET or DATASET:latest"
        )
    if parts[1:2] == ("staging",):
        raise UsageError(
            f"{text} is in staging, which stays on this disk: name a version of {parts[0]}"
        )
    if len(parts) == 1:
        return parts[0]
    mark = "" if parts[1].startswith("@") else ":"
    return f"{parts[0]}{mark}{parts[1]}" + "".join(f"/{part}" for part in parts[2:])


@click.command()
@click.argument("what", metavar=WHAT, nargs=-1, required=True)
@click.option("--to", "tier", required=True, metavar="TIER", help="warm, cold, …, or hot.")
@standard
def move(call: Call, what: tuple[str, ...], tier: str) -> None:
    """Move the packs of DATASET[:V[/PATH]], or of a path in a mount, to a tier.

    Whole packs move, with what else they hold.
    """
    with call.progress() as report, call.session() as session:
        facts = session.tier_move(named(what), tier, progress=report)
    if facts.get("left") and tier != "hot":
        reason = next(iter(facts["left"].values()))
        number = counted(len(facts["left"]), "pack")
        kind = RecallError if facts["must_recall"] else StorageError
        raise Failed(kind(f"{number} could not be moved: {reason}"), facts)
    moved = f"{counted(facts['packs'], 'pack')}, {size_text(facts['size_bytes'])} moved"
    call.answer(facts, [f"{moved} to {tier}"])


@click.command()
@click.argument("what", metavar=WHAT, nargs=-1, required=True)
@click.option("--no-wait", is_flag=True, help="Ask for it and return; a daemon brings it.")
@standard
def recall(call: Call, what: tuple[str, ...], no_wait: bool) -> None:
    """Bring the packs of DATASET[:V[/PATH]], or of a path in a mount, to the hot disk.

    They stay there for a while (tiering.recalled_days).
    """
    with call.progress() as report, call.session() as session:
        facts = session.tier_recall(named(what), wait=not no_wait, progress=report)
    if not facts["packs"]:
        call.answer(facts, ["All of it is on the hot disk"])
        return
    text = f"{counted(facts['packs'], 'pack')}, {size_text(facts['size_bytes'])}"
    done = f"Asked for {text}; {_estimate(facts)}" if facts["left"] else f"Brought back {text}"
    call.answer(facts, [done])


@click.command()
@click.argument("what", required=False, default="")
@click.option("--remove", is_flag=True, help="Pin it no longer.")
@standard
def pin(call: Call, what: str, remove: bool) -> None:
    """Keep DATASET, DATASET:V or DATASET:V/PATH on the hot disk; without it, list the pins.

    What is pinned and not there comes back.
    """
    name = named((what,))[0] if what else ""
    with call.session() as session:
        facts = session.tier_pin(name, remove)
    lines = [printable(f"{one['name']}  by {one['user']}, {one['time']}") for one in facts["pins"]]
    call.answer(facts, lines or ["Nothing is pinned"])


@click.command()
@click.option("--apply", is_flag=True, help="Do it now, instead of waiting for the daemon.")
@standard
def plan(call: Call, apply: bool) -> None:
    """Show what the policy in config.toml would move now, and why: what the daemon does."""
    with call.session() as session:
        facts = session.tier_plan(apply)
    call.answer(facts, _plan_lines(facts))


def _plan_lines(facts: dict[str, Any]) -> Iterator[str]:
    steps = facts["steps"]
    for step in steps[:SHOWN_MAX]:
        where = f"{step['action']} {step['tier']}"
        size = size_text(step["size_bytes"])
        yield f"{step['pack'][:12]}  {where:<12} {size:>10}  {step['reason']}"
    if len(steps) > SHOWN_MAX:
        yield f"… and {len(steps) - SHOWN_MAX:,} more (--json)"
    if not steps:
        yield "Everything lies where it should"
        return
    yield (
        f"{counted(len(steps), 'pack')}: {size_text(facts['size_bytes'])} to move, "
        f"{size_text(facts['freed_bytes'])} freed on the hot disk"
    )
    if "moved" in facts:
        moved = facts["moved"]
        failures = f", {facts['failures']} could not be" if facts["failures"] else ""
        yield f"Moved {counted(moved['packs'], 'pack')}, {size_text(moved['size_bytes'])}{failures}"


@click.command("plan-read")
@click.argument("what", metavar=WHAT, nargs=-1, required=True)
@standard
def plan_read(call: Call, what: tuple[str, ...]) -> None:
    """Show what reading DATASET[:V[/PATH]], or a path in a mount, takes. Recalls nothing.

    For each place: packs, what has to come from it, how long that takes, and its price as far as
    config.toml has one.
    """
    daemon = call.daemon()
    if daemon is not None:
        with daemon:
            facts = daemon.tier_plan_read(named(what))
    else:
        from dtafs.store.placement.targets import plan_reading

        with call.reading() as lake:
            facts = plan_reading(lake, named(what))
    call.answer(facts, _read_lines(facts))


def _read_lines(facts: dict[str, Any]) -> Iterator[str]:
    for place in facts["places"]:
        kind = " (archive)" if place["archive"] else ""
        text = f"{place['tier']}{kind}: {counted(place['packs'], 'pack')}"
        if place["tier"] == "hot":
            yield f"{text}, here"
        else:
            yield f"{text}, {size_text(place['moved_bytes'])} to fetch, {_estimate(place)}"
    if len(facts["places"]) > 1:
        yield f"In all {size_text(facts['moved_bytes'])}, {_estimate(facts)}"


def _estimate(facts: dict[str, Any]) -> str:
    """`about 5.0 h, at a price of 0.25`."""
    time_s = facts["time_s"]
    shown = f"{time_s / 3600:.1f} h" if time_s >= 3600 else f"{time_s:.0f} s"
    price = f", at a price of {facts['price']:g}" if facts["price"] else ""
    return f"about {shown}{price}"
