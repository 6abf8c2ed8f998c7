"""The scenario of retention: a rule, a hold, a schedule; what was promised decides, nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from dtafs.core.records import Scope
from dtafs.store.lake import Lake
from dtafs.store.retention_changes import place_hold, release_hold, set_rules
from dtafs.store.retention_facts import Standing
from tests.support.records import ALWAYS, HELD, SEVEN
from tests.support.small_lakes import ACTOR


def act(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """Make a rule, and two more at once, and place and release a hold."""
    with Lake.open(path) as lake:
        set_rules(lake, ACTOR, {"always": ALWAYS})
        reached("always")
        place_hold(lake, ACTOR, msgspec.structs.replace(HELD, scope=Scope()))
        reached("held")
        set_rules(lake, ACTOR, {"seven": SEVEN, "eight": SEVEN})
        reached("seven")
        release_hold(lake, ACTOR, "case", "settled", "ann")
        reached("released")


def verify(lake: Lake, reached: tuple[str, ...]) -> None:
    """What had come back is so, in the order in which it was done; the log goes on from there."""
    standing = Standing(lake.index)
    rules, holds = {row.name for row in standing.rules}, [row.name for row in standing.holds]
    for name in ("always", "seven"):
        assert name in rules or name not in reached
    assert ("seven" in rules) == ("eight" in rules), "half of a schedule is in force"
    assert holds == ["case"] or "held" not in reached or "seven" in reached
    assert not holds or "released" not in reached
    set_rules(lake, ACTOR, {"seven": SEVEN, "after": SEVEN})
    assert "after" in {row.name for row in Standing(lake.index).rules}
