"""The commands of `dtafsctl tier` that concern packs, as methods of a session."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from dtafs.core.placement import HOT
from dtafs.core.values import Actor
from dtafs.errors import UsageError
from dtafs.store.placement.contents import is_archived
from dtafs.store.placement.facts import Planner, plan_facts
from dtafs.store.placement.moves import move_packs
from dtafs.store.placement.pins import Pin, change_pins, read_pins
from dtafs.store.placement.run import Tiering
from dtafs.store.placement.targets import packs_of_targets, parse_target, plan_reading
from dtafs.store.progress import Progress, Report

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

LOOK_S = 0.1


def tier_move(lake: Lake, what: Sequence[str], tier: str, report: Report | None) -> dict[str, Any]:
    """Move all packs that something needs to a tier; `hot` brings them back."""
    packs = list(packs_of_targets(lake, what))
    if tier == HOT:
        return tier_recall(lake, what, True, report)
    lake.tier(tier)

    def tell(done: int, size_bytes: int) -> None:
        if report is not None:
            report(Progress(f"move to {tier}", done, size_bytes, len(packs)))

    moved = move_packs(lake, packs, tier, tell)
    return {
        "tier": tier,
        "packs": moved.packs,
        "size_bytes": moved.size_bytes,
        "left": {pack.hex(): why for pack, why in moved.left.items()},
        "must_recall": moved.must_recall,
    }


def tier_recall(
    lake: Lake, what: Sequence[str], wait: bool, report: Report | None
) -> dict[str, Any]:
    """Ask for all packs that something needs; with `wait`, return when they are on the hot disk.

    Raises what keeps one of them from coming, and what keeps all that are left from coming for a while.
    """
    assert lake.recalls is not None
    plan = plan_reading(lake, what)
    packs = list(packs_of_targets(lake, what))
    rows = {pack: lake.index.pack(pack) for pack in packs}
    sizes = {pack: row.size if row is not None else 0 for pack, row in rows.items()}
    left = lake.recalls.ask(packs)
    asked = frozenset(left)
    while wait and left:
        # Without a daemon nobody else does it; with one, its own tasks do most of it.
        if not lake.recalls.step():
            time.sleep(min(LOOK_S, lake.recalls.next_look_s() or LOOK_S))
        left = lake.recalls.left(asked)
        trouble = lake.recalls.trouble(left)
        if trouble is not None:
            raise type(trouble)(
                f"{trouble} (it stays asked for: a daemon goes on when that is over)"
            )
        if report is not None:
            done = sum(sizes[pack] for pack in asked - left)
            total = sum(sizes[pack] for pack in asked)
            report(Progress("recall", len(asked) - len(left), done, len(asked), total))
    return {
        "packs": len(asked),
        "size_bytes": sum(sizes[pack] for pack in asked),
        "left": len(left),
        "archived": sum(is_archived(lake, lake.placed.where(pack)) for pack in left),
        "time_s": plan["time_s"],
        "price": plan["price"],
        "queue": lake.recalls.facts(),
    }


def tier_pin(lake: Lake, what: str, remove: bool, actor: Actor) -> dict[str, Any]:
    """Keep something on the hot disk, or no longer; without `what`, the pins there are."""
    if not what:
        if remove:
            raise UsageError("say what is to be pinned no longer")
        pins = read_pins(lake.path)
    else:
        target = parse_target(lake, what)
        if target.path and not remove:
            packs_of_targets(lake, [what])  # it must be there
        pin = Pin(target.dataset, target.version, target.path)
        pins = change_pins(lake.disk, lake.path, pin, actor.user, time.time_ns(), remove)
    return {"pins": [{**msgspec.to_builtins(pin), "name": pin.name} for pin in pins]}


def tier_plan(lake: Lake, apply: bool) -> dict[str, Any]:
    """What the policy would move now, and why; with `apply`, after it was done."""
    steps = Planner(lake).plan()
    facts = plan_facts(lake, steps)
    if apply:
        tiering = Tiering(lake)
        while tiering.round():
            continue
        facts["moved"] = {"packs": tiering.moved_packs, "size_bytes": tiering.moved_bytes}
        facts["failures"] = tiering.failures
    return facts
