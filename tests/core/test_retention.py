"""The lattice of retention: pinned case by case, and what holds whatever the rules are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.clock import ClockFacts, why_doubted, why_not_confirmed
from dtafs.core.periods import DAY_NS
from dtafs.core.retention import (
    ActiveHold,
    ActiveRule,
    Cutoffs,
    Events,
    RuleSet,
    VersionFacts,
    decide,
    deeds,
    due_deeds,
)
from dtafs.core.retention_plan import Item, Lookups, Tally, plan_version
from tests.support.retention_cases import CASES, GOLDEN, H, approval, decided, hold, rule

PINNED = json.loads(GOLDEN.read_text())
BOB = CASES["approvals by two others"].approvals[0].person


@pytest.mark.parametrize("name", CASES)
def test_as_pinned(name: str) -> None:
    assert json.loads(json.dumps(decided(CASES[name]))) == PINNED[name]


def test_every_pinned_case_is_decided() -> None:
    assert list(PINNED) == list(CASES)


TIMES = st.integers(0, 40_000).map(lambda days: days * DAY_NS)
VERSIONS = st.builds(
    VersionFacts,
    st.just("WF"),
    st.integers(1, 3),
    st.just(H),
    TIMES,
    st.none() | TIMES,
    st.sampled_from([(), ("raw",), ("final", "raw")]),
    st.just(0),
)
RULES = st.builds(
    rule,
    st.sampled_from([f"r{n}" for n in range(9)]),
    st.sampled_from(["0d", "1d", "30d", "1m", "1y", "7y", "1y6m", "1000y"]),
    st.sampled_from(["dispose", "dispose", "archive", "notify"]),
    st.sampled_from(["committed", "superseded", "event:closed"]),
    tags=st.sampled_from([(), ("raw",), ("final",)]),
)
SOME = st.lists(RULES, max_size=5, unique_by=lambda active: active.name)
EVENTS = st.builds(
    Events,
    st.dictionaries(st.just("closed"), TIMES, max_size=1),
    st.dictionaries(st.tuples(st.just("closed"), st.integers(1, 3)), TIMES, max_size=2),
)
HOLDS = st.lists(st.sampled_from([hold("a"), hold("b", "raw:v1")]), max_size=2, unique=True)


def until(
    facts: VersionFacts, rules: list[ActiveRule], holds: list[ActiveHold], e: Events
) -> float:
    """When a version can go: infinity for never."""
    decision = decide(facts, rules, holds, e, (), 0)
    return float("inf") if decision.keep_until_ns is None else decision.keep_until_ns


@given(VERSIONS, SOME, HOLDS, EVENTS)
def test_a_hold_never_makes_anything_go_earlier(
    facts: VersionFacts, rules: list[ActiveRule], holds: list[ActiveHold], e: Events
) -> None:
    assert until(facts, rules, holds, e) >= until(facts, rules, [], e)
    assert not holds or until(facts, rules, holds, e) == float("inf")


@given(VERSIONS, SOME, RULES, EVENTS)
def test_a_rule_never_makes_earlier_what_another_disposes_of(
    facts: VersionFacts, rules: list[ActiveRule], more: ActiveRule, e: Events
) -> None:
    before = until(facts, rules, [], e)
    if decide(facts, rules, (), e, (), 0).rule is not None:
        assert until(facts, [*rules, more], [], e) >= before
    elif more.rule.action != "dispose":
        assert until(facts, [*rules, more], [], e) == before == float("inf")


@given(VERSIONS, SOME, EVENTS, TIMES, st.integers(1, 3))
def test_a_later_event_never_makes_anything_go_earlier(
    facts: VersionFacts, rules: list[ActiveRule], e: Events, time_ns: int, number: int
) -> None:
    """Of a further record of an event the later time counts, as the index applies it."""
    if e.of("closed", facts.number) is None:
        return
    known = dict(e.versions)
    known["closed", number] = max(time_ns, known.get(("closed", number), 0))
    assert until(facts, rules, [], Events(e.dataset, known)) >= until(facts, rules, [], e)


def planned(
    facts: VersionFacts,
    rules: list[ActiveRule],
    holds: list[ActiveHold],
    e: Events,
    now_ns: int,
) -> list[Item]:
    ask = Lookups(lambda _: holds, lambda _: [], lambda _: None, lambda _: None)
    concerning = RuleSet(active for active in rules if active.concerns(facts.tags))
    return list(plan_version(facts, concerning, e, ask, now_ns))


@given(VERSIONS, SOME, HOLDS, EVENTS, TIMES)
def test_the_plan_is_what_was_decided(
    facts: VersionFacts,
    rules: list[ActiveRule],
    holds: list[ActiveHold],
    e: Events,
    now_ns: int,
) -> None:
    decision = decide(facts, rules, holds, e, (), now_ns)
    actions = [item.action for item in planned(facts, rules, holds, e, now_ns)]
    assert ("dispose" in actions) == (decision.fate == "due")
    assert ("blocked" in actions) == (decision.fate == "blocked")
    if decision.fate == "due":
        assert actions == ["dispose"] and now_ns >= facts.committed_ns
    assert planned(facts, list(reversed(rules)), holds, e, now_ns) == planned(
        facts, rules, holds, e, now_ns
    )


@given(VERSIONS, SOME, EVENTS, TIMES)
def test_what_is_due_is_that_of_all_deeds_whose_time_is_over(
    version: VersionFacts, rules: list[ActiveRule], events: Events, now: int
) -> None:
    concerned = [active for active in rules if active.concerns(version.tags)]
    found = due_deeds(RuleSet(concerned), Cutoffs(version, events), now)
    assert found == [deed for deed in deeds(version, rules, events) if deed.due_ns <= now]


@given(VERSIONS, SOME, EVENTS, TIMES, st.integers(0, 40_000))
def test_what_is_due_stays_due(
    facts: VersionFacts, rules: list[ActiveRule], e: Events, now_ns: int, days: int
) -> None:
    before = decide(facts, rules, (), e, (), now_ns).fate
    after = decide(facts, rules, (), e, (), now_ns + days * DAY_NS).fate
    assert before != "due" or after == "due"


def test_the_hash_of_a_plan_is_of_its_items() -> None:
    case = CASES["both are over"]
    items = planned(case.version, list(case.rules), [], case.events, 10**19)
    one, same, other = Tally(), Tally(), Tally()
    for item in items:
        one.add(item)
        same.add(item)
        other.add(item._replace(rule="another"))
    assert one.digest == same.digest != other.digest
    assert one.counts["dispose"] == 1


def test_an_approval_of_an_unwritten_rule_is_no_approval() -> None:
    two = CASES["approvals by two others"].rules[0]
    case = CASES["approvals by two others"]
    for wrong in ({"rule_sha256": "00" * 32}, {"manifest": "00" * 32}):
        approvals = [approval(two, BOB, **wrong)]
        found = decide(case.version, case.rules, (), case.events, approvals, 10**19)
        assert found.approvers == () and found.fate == "blocked"


DAY, SPAN = DAY_NS, 30 * DAY_NS
NOW = 20_000 * DAY


@pytest.mark.parametrize(
    ("now", "facts", "doubt"),
    [
        (NOW, ClockFacts(0), None),
        (NOW, ClockFacts(NOW - DAY), None),
        (NOW, ClockFacts(NOW + 10**9), None),
        (NOW, ClockFacts(NOW + DAY), "which is later"),
        (NOW, ClockFacts(NOW - 31 * DAY), "more than 30 days after the newest"),
        (NOW, ClockFacts(NOW, 31 * DAY, NOW - DAY), "as if the clock had been set forward"),
        (NOW, ClockFacts(NOW, 29 * DAY, NOW - DAY), None),
        # The log went ahead by a year, and a person confirmed the clock three days ago.
        (NOW, ClockFacts(NOW + 365 * DAY, 0, 0, NOW - 3 * DAY, NOW + 365 * DAY - 9), None),
        (NOW, ClockFacts(NOW + 365 * DAY, 0, 0, NOW - 31 * DAY, NOW + 365 * DAY), "which is later"),
        (NOW, ClockFacts(NOW + 365 * DAY, 0, 0, NOW + DAY, NOW + 365 * DAY), "which is later"),
        # It went ahead once more since.
        (NOW, ClockFacts(NOW + 800 * DAY, 0, 0, NOW - DAY, NOW + 365 * DAY), "which is later"),
    ],
)
def test_a_clock_in_doubt(now: int, facts: ClockFacts, doubt: str | None) -> None:
    found = why_doubted(now, facts, SPAN)
    assert (found is None) == (doubt is None) and (doubt or "") in (found or "")


def test_a_clock_is_confirmed_by_one_that_says_the_same() -> None:
    assert why_not_confirmed(NOW - DAY // 2, NOW) is None
    assert "set it right first" in (why_not_confirmed(NOW - 2 * DAY, NOW) or "")
