"""The policy of tiers: what it decides of which pack, and the reasons it gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.placement import (
    DAY_NS,
    Disk,
    PackFacts,
    Rules,
    Step,
    TierFacts,
    plan_placement,
)

NOW = 20_000 * DAY_NS
MIB = 1 << 20
WARM, COLD = TierFacts("warm", False), TierFacts("cold", True)
ROOMY = Disk(0, 100, 90)
RULES = Rules(90 * DAY_NS, 14 * DAY_NS, None, 365 * DAY_NS, DAY_NS, MIB)


def pack(number: int = 1, days: float = 0.0, **how: object) -> PackFacts:
    """A hot pack of 32 MiB that was written so many days ago, for a newest version."""
    plain = PackFacts(
        bytes([number]) * 32, 32 * MIB, True, (), NOW - int(days * DAY_NS), 0, current=True
    )
    return plain._replace(**how)


def plan(
    *packs: PackFacts, tiers: tuple[TierFacts, ...] = (WARM, COLD), **how: object
) -> list[Step]:
    rules = RULES._replace(**{k: v for k, v in how.items() if k != "disk"})
    disk = how.get("disk", ROOMY)
    assert isinstance(disk, Disk)
    return plan_placement(packs, tiers, disk, rules, NOW)


def shown(steps: list[Step]) -> list[tuple[int, str, str, str]]:
    return [(step.pack[0], step.action, step.tier, step.reason) for step in steps]


READ_10 = NOW - 10 * DAY_NS
CASES = [
    (pack(days=89), None),
    (pack(days=90), ("move", "warm", "nobody has read it for 90 days")),
    (pack(days=200, read_ns=READ_10), None),
    (pack(days=14, current=False),
     ("move", "warm", "only superseded versions need it, nobody has read it for 14 days")),
    (pack(days=13, current=False), None),
    (pack(days=200, size=MIB - 1), None),
    (pack(days=200, kept="the pin of D"), None),
    (pack(days=0.5, current=False), None),
    (pack(days=-3), None),
    (pack(days=90, tiers=("warm",)),
     ("drop", "warm", "nobody has read it for 90 days; warm has it already")),
    (pack(days=2, tiers=("cold",), hot_until_ns=NOW - 1),
     ("drop", "cold", "it was recalled, and its time is over; cold has it already")),
    (pack(days=200, tiers=("cold",), hot_until_ns=NOW + 1), None),
    (pack(days=0, archived_by="done"),
     ("move", "cold", "every version that needs it carries the tag 'done'")),
    (pack(days=400, hot=False, tiers=("warm",)), ("move", "cold", "nobody has read it for 400 days")),
    (pack(days=400, hot=False, tiers=("cold", "warm")), None),
    (pack(days=300, hot=False, tiers=("warm",)), None),
    (pack(days=0, hot=False, tiers=("warm",), archived_by="done"),
     ("move", "cold", "every version that needs it carries the tag 'done'")),
    (pack(days=9, hot=False, tiers=("cold",), kept="the pin of D"),
     ("recall", "hot", "the pin of D holds it on the hot disk")),
    (pack(days=9, hot=False, tiers=()), None),
]  # fmt: skip


@pytest.mark.parametrize(("facts", "expected"), CASES)
def test_what_is_decided_of_one_pack(
    facts: PackFacts, expected: tuple[str, str, str] | None
) -> None:
    assert shown(plan(facts)) == ([] if expected is None else [(1, *expected)])


def test_age_alone_moves_what_is_read() -> None:
    old = pack(days=400, read_ns=READ_10)
    assert plan(old) == []
    ((_, action, tier, reason),) = shown(plan(old, aged_after_ns=365 * DAY_NS))
    assert (action, tier, reason) == ("move", "warm", "it was written 400 days ago")


def test_without_tiers_nothing_moves_and_one_kind_serves_for_both() -> None:
    old = pack(days=400)
    assert plan(old, tiers=()) == []
    assert [step.tier for step in plan(old, tiers=(COLD,))] == ["cold"]
    assert [step.tier for step in plan(old, tiers=(WARM,))] == ["warm"]
    away = pack(days=400, hot=False, tiers=("warm",))
    assert plan(away, tiers=(WARM,)) == []


def test_above_the_high_water_the_longest_unread_leave_until_the_low() -> None:
    size = 32 * MIB
    packs = [pack(n, days=n) for n in (1, 2, 3, 4)]
    packs.append(pack(5, days=0.1, current=False))
    packs.append(pack(6, days=80, kept="the pin of D"))
    packs.append(pack(7, days=0.2, tiers=("warm",)))
    steps = plan(*packs, disk=Disk(7 * size, 6 * size, 3 * size))
    assert [step.pack[0] for step in steps] == [7, 5, 4, 3]
    assert [step.action for step in steps] == ["drop", "move", "move", "move"]
    assert all("above its high water" in step.reason for step in steps)
    assert plan(*packs, disk=Disk(6 * size, 6 * size, 3 * size)) == []


def test_what_leaves_anyway_counts_towards_the_low_water() -> None:
    size = 32 * MIB
    packs = [pack(1, days=100), pack(2, days=100), pack(3, days=3)]
    steps = plan(*packs, disk=Disk(3 * size, 2 * size, size))
    assert [step.pack[0] for step in steps] == [1, 2]


FACTS = st.builds(
    PackFacts,
    id=st.binary(min_size=32, max_size=32),
    size=st.integers(1, 64 * MIB),
    hot=st.booleans(),
    tiers=st.sampled_from([(), ("warm",), ("cold",), ("cold", "warm")]),
    written_ns=st.integers(0, 2 * NOW),
    read_ns=st.integers(0, 2 * NOW),
    current=st.booleans(),
    kept=st.sampled_from(["", "a pin"]),
    archived_by=st.sampled_from(["", "done"]),
    hot_until_ns=st.integers(0, 2 * NOW),
)


@given(
    st.lists(FACTS, max_size=12, unique_by=lambda facts: facts.id),
    st.sampled_from([(), (WARM,), (COLD,), (WARM, COLD)]),
    st.integers(0, 1 << 30),
)
def test_no_plan_breaks_a_promise(
    packs: list[PackFacts], tiers: tuple[TierFacts, ...], used: int
) -> None:
    """One step a pack, none against what holds it, none that leaves it without a copy."""
    steps = plan_placement(packs, tiers, Disk(used, 1 << 28, 1 << 27), RULES, NOW)
    known = {one.id: one for one in packs}
    assert len({step.pack for step in steps}) == len(steps)
    for step in steps:
        facts = known[step.pack]
        assert step.reason and step.size_bytes == facts.size
        if step.action == "recall":
            assert facts.kept and not facts.hot and facts.tiers and step.tier == "hot"
        else:
            assert not facts.kept
            assert (
                step.tier in facts.tiers if step.action == "drop" else step.tier not in facts.tiers
            )
            assert facts.hot or facts.tiers
    assert steps == plan_placement(packs[::-1], tiers, Disk(used, 1 << 28, 1 << 27), RULES, NOW)
