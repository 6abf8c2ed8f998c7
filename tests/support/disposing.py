"""What tests of disposition share: ordering one, and what must hold after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dtafs.core.records import Cutoff, Rule, Ruled
from dtafs.core.values import Kind
from dtafs.store.dispose import Done, Hooks, Order, dispose
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.retention_facts import Standing
from tests.support.collecting import assert_whole
from tests.support.records import record
from tests.support.small_lakes import ACTOR, Tree
from tests.support.traces import traces

NAME = "seven years"
AT_ONCE = Rule(Cutoff("committed", "0d"), "dispose", "GRS 3.1 item 020")


def directly(_dataset: str, call: Callable[[], None]) -> None:
    """Nobody else uses staging here."""
    call()


def order_of(dataset: str, *numbers: int, **more: Any) -> Order:
    """To dispose of some versions, by a rule that `dispose_of` makes."""
    return Order(dataset, numbers, NAME, AT_ONCE.digest, AT_ONCE.authority, **more)


def dispose_of(lake: Lake, *orders: Order, **how: Any) -> Done:
    """Dispose of versions, without much patience for who is at work."""
    still = how.pop("still", lambda order: order.versions)
    hooks = Hooks(still, directly, lambda rows: None)
    if orders and Standing(lake.index).rule(NAME) is None:
        record(lake, Ruled(NAME, AT_ONCE))
    while lake.area.tidy():
        pass
    return dispose(lake, ACTOR, "1" * 64, orders, hooks, settle_s=0.05, **how)


def needles_of(gone: Tree, kept: Tree) -> list[bytes]:
    """Bytes of files that one tree has and another has not, long enough not to be anywhere by chance."""
    alive = b"\0".join(item.content for item in kept.values())
    found = []
    for item in gone.values():
        if item.kind == Kind.FILE and len(item.content) >= 32:
            for start in (0, len(item.content) // 2, len(item.content) - 32):
                piece = item.content[start : start + 32]
                if piece not in alive:
                    found.append(piece)
    return found


def assert_gone(lake: Lake, gone: Tree, kept: Tree) -> None:
    """Nothing that only `gone` had is in any object; everything else is whole."""
    needles = needles_of(gone, kept)
    assert traces([lake.path], needles) == []
    assert_whole(lake)


def names_of(rows: list[VersionRow]) -> list[str]:
    """Their names, with what became of them."""
    return [row.name + (" disposed" if row.disposed else "") for row in rows]
