"""The check holds past dispositions against the rules, holds and approvals of their time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dtafs.core.records import Approved, Cutoff, Disposed, Event, Held, Released, Ruled, Scope
from dtafs.core.values import Actor, Source
from dtafs.store.check import check
from dtafs.store.commit import finish
from dtafs.store.lake import Lake
from tests.support.records import ALWAYS, HELD, NOW, SEVEN, record, ref
from tests.support.small_lakes import ACTOR

pytestmark = pytest.mark.damages_lake
BOB = Actor("bob", 7, "host", "tests")
EVERY = msgspec.structs.replace(NOW, datasets="*")


@pytest.fixture
def made(lake_path: Path) -> Any:
    """D:v1, and E:v1 made from it."""
    with Lake.open(lake_path) as lake:
        for name in ("D", "E"):
            lake.create_dataset(name, ACTOR)
        version(lake, "D", ())
        version(lake, "E", (Source("D", 1, lake.resolve("D:v1").manifest_sha256.hex()),))
        yield lake


def version(lake: Lake, dataset: str, sources: tuple[Source, ...]) -> None:
    finish(lake, dataset, message="m", actor=ACTOR, allow_empty=True, sources=sources)


def dispose(lake: Lake, dataset: str, rule: Any = EVERY, name: str = "now") -> None:
    row = lake.resolve(f"{dataset}:v1")
    record(lake, Disposed((ref(row),), name, rule.digest, "GRS", "ab" * 32))


def said(lake: Lake) -> list[str]:
    return [f.message.partition("although ")[2] for f in check(lake) if f.severity == "error"]


def test_a_lawful_one_is_not_told(made: Lake) -> None:
    record(made, Ruled("now", EVERY))
    record(made, HELD)
    record(made, Released("case", "ann", "settled"), Actor("ann", 9, "host", "tests"))
    dispose(made, "D")
    record(made, HELD)
    record(made, Ruled("always", ALWAYS))
    assert said(made) == [], "what came later does not count"


def test_under_a_hold(made: Lake) -> None:
    record(made, Ruled("now", EVERY))
    record(made, HELD)
    dispose(made, "D")
    dispose(made, "E")
    (text,) = said(made)
    assert text.startswith("hold 'case' keeps it without end")


def test_under_a_hold_that_follows_lineage(made: Lake) -> None:
    record(made, Ruled("now", EVERY))
    record(made, Held("case", "ann", "Doe v. Roe", "subpoena", Scope("D"), descendants=True))
    dispose(made, "E")
    (text,) = said(made)
    assert "it was made from D:v1" in text


def test_under_a_rule_that_was_not_over(made: Lake) -> None:
    record(made, Ruled("now", EVERY))
    record(made, Ruled("seven", SEVEN))
    dispose(made, "D")
    (text,) = said(made)
    assert text.startswith("rule 'seven' keeps it until")


def test_before_an_event(made: Lake) -> None:
    rule = msgspec.structs.replace(EVERY, cutoff=Cutoff("event:closed", "0d"))
    record(made, Ruled("now", rule))
    record(made, Event("closed", "E", "2020-01-01"))
    dispose(made, "D", rule)
    dispose(made, "E", rule)
    (text,) = said(made)
    assert text.startswith("rule 'now' keeps it until 0d after event 'closed'")


def test_by_no_rule_and_by_another(made: Lake) -> None:
    dispose(made, "D")
    record(made, Ruled("now", EVERY))
    dispose(made, "E", name="then")
    one, other = said(made)
    assert one == "no rule disposes of it, so it is kept for ever"
    assert other == "rule 'now' decided on it, and not 'then' as the entry has it"


def test_without_approvals(made: Lake) -> None:
    rule = msgspec.structs.replace(EVERY, approvals=1)
    record(made, Ruled("now", rule))
    record(made, Approved("now", rule.digest, (ref(made.resolve("D:v1")),)), BOB)
    dispose(made, "D", rule)
    dispose(made, "E", rule)
    assert said(made) == ["1 of 1 approvals by other persons were missing"]
