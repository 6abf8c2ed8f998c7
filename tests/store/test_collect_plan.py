"""What a collection decides, from facts alone."""

from __future__ import annotations

from typing import Any

import pytest

from dtafs.core.format import PackKind
from dtafs.store.collect_plan import PackFacts, Rule, plan_collection
from dtafs.store.condemn import Mark

DAY_NS = 86_400 * 10**9
RULE = Rule(7 * DAY_NS, 0.5)
NOW_NS = 100 * DAY_NS


def pack(number: int = 1, **changed: Any) -> PackFacts:
    """A content pack of 1,000 bytes that the log names and that is needed as a whole."""
    facts = PackFacts(bytes([number]) * 32, "logged", "D", PackKind.CONTENT, 1_000, 4_000, 4_000)
    return facts._replace(**changed)


def action(one: PackFacts, mark: Mark | None = None, rule: Rule = RULE) -> str:
    marks = {} if mark is None else {one.id: mark}
    (decision,) = plan_collection([one], marks, NOW_NS, rule)
    assert bool(decision.reason) == (decision.action != "keep")
    return decision.action


@pytest.mark.parametrize("origin", ["logged", "staged", "stray"])
@pytest.mark.parametrize(
    ("age_days", "expected"), [(None, "condemn"), (6.9, "wait"), (7, "remove"), (-5, "wait")]
)
def test_what_nothing_needs(origin: str, age_days: float | None, expected: str) -> None:
    mark = None if age_days is None else Mark(int(NOW_NS - age_days * DAY_NS), "unreached")
    assert action(pack(origin=origin, needed=0), mark) == expected


def test_no_grace_at_all() -> None:
    assert action(pack(needed=0), None, Rule(0, 0.5)) == "remove"


@pytest.mark.parametrize("origin", ["logged", "staged", "stray"])
def test_what_is_needed_again_is_spared(origin: str) -> None:
    assert action(pack(origin=origin), Mark(0, "unreached")) == "spare"
    assert action(pack(origin=origin)) == "keep"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"needed": 2_000}, "rewrite"),
        ({"needed": 2_001}, "keep"),
        ({"needed": 1, "shared": True}, "keep"),
        ({"needed": 1, "origin": "staged"}, "keep"),
        ({"needed": 3_999, "kind": PackKind.METADATA}, "keep"),
    ],
)
def test_when_a_pack_is_rewritten(changed: dict[str, Any], expected: str) -> None:
    assert action(pack(**changed)) == expected


def test_metadata_is_tidied_before_content_goes() -> None:
    node = pack(1, needed=3_999, kind=PackKind.METADATA)
    whole = pack(2, kind=PackKind.METADATA)
    doomed = pack(3, needed=0)
    marks = {doomed.id: Mark(0, "unreached")}
    actions = [d.action for d in plan_collection([doomed, whole, node], marks, NOW_NS, RULE)]
    assert actions == ["rewrite", "keep", "remove"]
    actions = [d.action for d in plan_collection([doomed, whole, node], {}, NOW_NS, RULE)]
    assert actions == ["keep", "keep", "condemn"], "what is only condemned loses no node anything"


def test_the_bytes_that_would_be_won() -> None:
    (one,) = plan_collection([pack(needed=1_000)], {}, NOW_NS, RULE)
    assert one.garbage_bytes == 750
