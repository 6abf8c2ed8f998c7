"""Rules, holds, events and approvals in a lake: what they decide, and what they forbid."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dtafs.core.names import format_time, parse_time
from dtafs.core.periods import DAY_NS
from dtafs.core.records import Cutoff, Event, Held, Rule, Scope
from dtafs.core.retention_plan import Item, Tally
from dtafs.core.values import Actor, Source
from dtafs.errors import ConflictError, DtafsError, NotFoundError, RefusedError, UsageError
from dtafs.store.commit import finish
from dtafs.store.database import Txn
from dtafs.store.index import VersionRow
from dtafs.store.index_records import RuleRow
from dtafs.store.index_rows import encode_row
from dtafs.store.lake import Lake
from dtafs.store.retention import clock_doubt, explain, plan_items, still_due
from dtafs.store.retention_changes import (
    approve,
    confirm_clock,
    place_hold,
    record_event,
    release_hold,
    remove_rule,
    set_rules,
    waiting_in_plan,
)
from dtafs.store.retention_facts import Standing
from dtafs.store.rule_overlaps import overlaps
from dtafs.store.session import Session
from tests.support.small_lakes import ACTOR

ANN = Actor("ann", 1, "host", "tests")
BOB = Actor("bob", 2, "host", "tests")
EVE = Actor("eve", 3, "host", "tests")
SEVEN = Rule(Cutoff("committed", "7y"), "dispose", "GRS 3.1", "WF*")
NEVER = 10**19


def changed(rule: Rule, **fields: Any) -> Rule:
    return msgspec.structs.replace(rule, **fields)


def shorter(rule: Rule, period: str = "1y") -> Rule:
    return changed(rule, cutoff=Cutoff(rule.cutoff.start, period))


def held(name: str, datasets: str = "*", *, descendants: bool = False, **scope: Any) -> Held:
    return Held(name, "ann", "Doe v. Roe", "subpoena", Scope(datasets, **scope), descendants)


@pytest.fixture
def make(lake: Lake, tmp_path: Path) -> Any:
    """`make("D", tags, sources)` commits another version of a dataset, empty but for its number."""

    def commit(dataset: str, *tags: str, sources: tuple[VersionRow, ...] = ()) -> VersionRow:
        if lake.index.dataset(dataset) is None:
            lake.create_dataset(dataset, ACTOR)
        made_from = tuple(Source(r.dataset, r.number, r.manifest_sha256.hex()) for r in sources)
        how: dict[str, Any] = {"message": "x", "tags": tags, "sources": made_from}
        return finish(lake, dataset, actor=ACTOR, allow_empty=True, **how)

    return commit


def plan(lake: Lake, now_ns: int = NEVER) -> list[Item]:
    return list(plan_items(lake, now_ns, Tally()))


def said(lake: Lake, now_ns: int = NEVER) -> list[tuple[str, str]]:
    return [(item.action, item.name) for item in plan(lake, now_ns)]


def test_a_plan_of_two_datasets(lake: Lake, make: Any) -> None:
    for name in ("WF", "other", "WF", "WF-2"):
        make(name)
    set_rules(lake, ANN, {"seven": SEVEN})
    set_rules(lake, ANN, {"arch": Rule(Cutoff("superseded", "1y"), "archive", "x", tier="cold")})
    assert said(lake, lake.now_ns()) == []
    assert said(lake) == [("dispose", "WF:v1"), ("dispose", "WF:v2"), ("dispose", "WF-2:v1")]
    place_hold(lake, ANN, held("case", "WF", versions=(1,)))
    assert said(lake)[:2] == [("blocked", "WF:v1"), ("archive", "WF:v1")]
    for item in plan(lake):
        now = still_due(lake, Standing(lake.index), item, NEVER)
        assert now == item
    soon = plan(lake)
    remove_rule(lake, ANN, "arch", "a mistake")
    assert still_due(lake, Standing(lake.index), soon[1], NEVER) is None


def test_explained_is_what_is_planned(lake: Lake, make: Any) -> None:
    row = make("WF", "raw")
    record_event(lake, ANN, Event("closed", "WF", "2020-01-01"))
    set_rules(
        lake,
        ANN,
        {
            "end": Rule(Cutoff("event:closed", "1y"), "dispose", "x", "WF", ("raw",)),
            "arch": Rule(Cutoff("committed", "1d"), "archive", "x", tier="cold"),
        },
    )
    now_ns = row.time_ns + 2 * DAY_NS
    facts = explain(lake, row, now_ns)
    assert facts["fate"] == "kept" and facts["rule"] == "end" and facts["to_archive"] == "cold"
    assert parse_time(facts["keep_until"]) > row.time_ns
    assert explain(lake, row, NEVER)["fate"] == "due"
    assert [deed["rule"] for deed in facts["deeds"]] == ["arch"]


def test_holds_follow_lineage(lake: Lake, make: Any) -> None:
    """Also to what is made later, over several steps, and not to what a plain hold is on."""
    raw = make("raw")
    clean = make("clean", sources=(raw,))
    place_hold(lake, ANN, held("case", "raw", versions=(1,), descendants=True))
    place_hold(lake, ANN, held("plain", "raw"))
    late = make("late", sources=(make("other"), clean))
    make("raw", sources=(late,))
    standing = Standing(lake.index)
    on = {
        name: sorted(hold.held.name for hold in standing.holds_on(lake.resolve(name)))
        for name in ("raw:v1", "clean:v1", "late:v1", "other:v1", "raw:v2")
    }
    assert on == {
        "raw:v1": ["case", "plain"],
        "clean:v1": ["case"],
        "late:v1": ["case"],
        "other:v1": [],
        "raw:v2": ["case", "plain"],
    }
    inherited = standing.inherited()
    assert sorted(inherited) == [("clean", 1), ("late", 1), ("raw", 2)]
    set_rules(lake, ANN, {"seven": changed(SEVEN, datasets="*")}, everything=["seven"])
    blocked = {item.name for item in plan(lake) if item.action == "blocked"}
    assert blocked == {"raw:v1", "clean:v1", "late:v1", "raw:v2"}


def test_sources_that_lead_in_a_circle_or_nowhere(lake: Lake, make: Any) -> None:
    """A manifest may name what is not there, or what comes later: whoever commits says what he likes."""
    row = make("D")
    row = msgspec.structs.replace(row, manifest_sha256=bytes(32))
    lie = msgspec.structs.replace(row, number=3)
    nowhere = msgspec.structs.replace(row, dataset="x" * 300)
    make("D", sources=(lie, nowhere))
    make("D", sources=(lake.resolve("D:v2"),))
    place_hold(lake, ANN, held("case", "D", versions=(3,), descendants=True))
    standing = Standing(lake.index)
    for name in ("D:v2", "D:v3"):
        assert [hold.held.name for hold in standing.holds_on(lake.resolve(name))] == ["case"]
    assert ("D", 2) in standing.inherited()


@pytest.mark.parametrize(
    ("scope", "on"),
    [
        ({}, {"D:v1", "D:v2", "E:v1"}),
        ({"datasets": "?", "tags": ("raw",)}, {"D:v1", "E:v1"}),
        ({"datasets": "D", "versions": (2,)}, {"D:v2"}),
        ({"committed_after": "after 1"}, {"D:v2", "E:v1"}),
        ({"committed_before": "after 1"}, {"D:v1"}),
    ],
)
def test_queries(lake: Lake, make: Any, scope: dict[str, Any], on: set[str]) -> None:
    from dtafs.core.names import format_time

    rows = [make("D", "raw"), make("D"), make("E", "raw")]
    between = format_time(rows[0].time_ns + 1)
    scope = {key: between if value == "after 1" else value for key, value in scope.items()}
    facts = place_hold(lake, ANN, held("case", **{"datasets": "*", **scope}))
    standing = Standing(lake.index)
    assert {row.name for row in rows if standing.holds_on(row)} == on
    assert facts["versions"] == len(on)


def refused(call: Any, *args: Any, **kwargs: Any) -> DtafsError:
    """What a call raises; it has not written anything."""
    lake: Lake = args[0]
    before = lake.index.heads()
    with pytest.raises(DtafsError) as caught:
        call(*args, **kwargs)
    assert lake.index.heads() == before
    return caught.value


def test_rules_that_contradict_each_other_are_told(lake: Lake, make: Any) -> None:
    make("WF"), make("WF-2")
    facts = set_rules(lake, ANN, {"seven": SEVEN, "three": shorter(SEVEN, "3y")})
    assert facts["rules"] == {"seven": "new", "three": "new"}
    text, *others = facts["remarks"]
    assert "'seven' wins over 'three'" in text and "1 more datasets" in text
    assert others == [
        f"rule {n!r} disposes of every dataset that there is now" for n in facts["rules"]
    ]
    (text,) = set_rules(
        lake, ANN, {"arch": Rule(Cutoff("committed", "9y"), "archive", "x", "WF", tier="cold")}
    )["remarks"][:1]
    assert "would archive" in text
    assert set_rules(lake, ANN, {"seven": SEVEN})["rules"] == {"seven": "unchanged"}


def test_a_rule_that_would_dispose_of_everything(lake: Lake, make: Any) -> None:
    make("WF"), make("WX")
    for pattern in ("*", "?*", "??"):
        error = refused(set_rules, lake, ANN, {"all": changed(SEVEN, datasets=pattern)})
        assert isinstance(error, RefusedError) and "would dispose of everything" in str(error)
    set_rules(lake, ANN, {"all": changed(SEVEN, datasets="*")}, everything=["all"])


def test_changes_need_a_reason_and_compliance_allows_none_that_shortens(lake: Lake) -> None:
    always = changed(SEVEN, mode="compliance")
    set_rules(lake, ANN, {"seven": SEVEN, "always": always})
    assert isinstance(refused(set_rules, lake, ANN, {"seven": shorter(SEVEN)}), UsageError)
    assert isinstance(refused(remove_rule, lake, ANN, "seven", ""), UsageError)
    for rule in (shorter(always), changed(always, mode="governance")):
        error = refused(set_rules, lake, ANN, {"new": SEVEN, "always": rule}, "because")
        assert isinstance(error, RefusedError) and "compliance mode" in str(error)
    error = refused(remove_rule, lake, ANN, "always", "because")
    assert isinstance(error, RefusedError) and "never be removed" in str(error)
    set_rules(lake, ANN, {"seven": shorter(SEVEN), "always": shorter(always, "8y")}, "because")
    remove_rule(lake, ANN, "seven", "because")
    assert [row.name for row in Standing(lake.index).rules] == ["always"]
    error = refused(remove_rule, lake, ANN, "alwais", "x")
    assert isinstance(error, NotFoundError) and "'always'" in str(error)


def test_under_a_hold_nothing_is_shortened(lake: Lake, make: Any) -> None:
    raw = make("WF")
    make("WF-made", sources=(raw,))
    set_rules(lake, ANN, {"seven": SEVEN, "made": changed(SEVEN, datasets="WF-made")})
    place_hold(lake, ANN, held("case", "WF", descendants=True))
    for name, on in (("seven", "WF:v1"), ("made", "WF-made:v1")):
        old = changed(SEVEN, datasets="WF-made") if name == "made" else SEVEN
        error = refused(set_rules, lake, ANN, {name: shorter(old)}, "because")
        assert isinstance(error, RefusedError) and f"'case' is on {on}" in str(error)
        assert isinstance(refused(remove_rule, lake, ANN, name, "because"), RefusedError)
    set_rules(lake, ANN, {"seven": shorter(SEVEN, "8y")}, "longer is fine")
    release_hold(lake, ANN, "case", "settled")
    remove_rule(lake, ANN, "seven", "because")


def test_holds_are_of_their_custodian(lake: Lake, make: Any) -> None:
    make("WF")
    place_hold(lake, BOB, held("case"))
    assert isinstance(refused(place_hold, lake, ANN, held("case", "WF")), ConflictError)
    error = refused(release_hold, lake, BOB, "case", "mine")
    assert isinstance(error, RefusedError) and "custody of 'ann'" in str(error)
    assert isinstance(refused(release_hold, lake, BOB, "case", "x", "eve"), RefusedError)
    error = refused(release_hold, lake, EVE, "case", "she says that ann asked", "ann")
    assert "placed by 'bob': 'eve' cannot" in str(error)
    assert isinstance(refused(release_hold, lake, ANN, "case", ""), UsageError)
    error = refused(release_hold, lake, ANN, "kase", "settled")
    assert isinstance(error, NotFoundError) and "'case'" in str(error)
    release_hold(lake, BOB, "case", "ann asked for it", "ann")
    place_hold(lake, ANN, held("case", "WF"))
    error = refused(place_hold, lake, ANN, held("other", "WG"))
    assert isinstance(error, NotFoundError) and "'WF'" in str(error)
    assert isinstance(refused(place_hold, lake, ANN, held("x", "WF", versions=(9,))), NotFoundError)


def test_tags_that_keep_a_version_stay(lake: Lake, make: Any) -> None:
    make("WF", "raw", "loose", "law", "held")
    rules = {
        "governance": changed(SEVEN, tags=("raw",)),
        "compliance": changed(SEVEN, tags=("law",), mode="compliance"),
    }
    set_rules(lake, ANN, rules)
    error = refused(lake.set_tags.__func__, lake, "WF", 1, ANN, (), ("law",))  # type: ignore[attr-defined]
    assert isinstance(error, RefusedError) and "compliance mode" in str(error)
    place_hold(lake, ANN, held("case", "WF", tags=("held",)))
    for tag, why in (("held", "hold 'case'"), ("raw", "under a hold")):
        error = refused(lake.set_tags.__func__, lake, "WF", 1, ANN, (), (tag,))  # type: ignore[attr-defined]
        assert isinstance(error, RefusedError) and why in str(error)
    lake.set_tags("WF", 1, ANN, remove=("loose",))
    release_hold(lake, ANN, "case", "settled")
    lake.set_tags("WF", 1, ANN, remove=("held", "raw"))


def test_a_second_person_approves(lake: Lake, make: Any) -> None:
    row = make("WF")
    rule = changed(SEVEN, approvals=1, cutoff=Cutoff("committed", "0d"))
    make("WX"), make("free")
    set_rules(lake, ANN, {"now": rule, "other": changed(rule, datasets="WX", approvals=0)})
    tally = Tally()
    items = list(plan_items(lake, lake.now_ns(), tally))
    assert [(i.action, i.name) for i in items] == [("blocked", "WF:v1"), ("dispose", "WX:v1")]
    for actor, dataset, why in (
        (ANN, "WF", "somebody else"),
        (BOB, "WX", "needs no approval"),
        (BOB, "free", "is not due: no rule disposes of it"),
    ):
        error = refused(approve, lake, actor, [(dataset, 1)])
        assert isinstance(error, RefusedError) and why in str(error)
    assert isinstance(refused(waiting_in_plan, lake, BOB, "ab" * 32), ConflictError)
    assert waiting_in_plan(lake, ANN, tally.digest) == []
    assert waiting_in_plan(lake, BOB, tally.digest) == [("WF", 1)]
    (facts,) = approve(lake, BOB, [("WF", 1), ("WF", 1)], "looked at it")["approved"]
    assert facts == {"id": "WF:v1", "rule": "now", "approvals": 1, "needed": 1, "holds": []}
    assert said(lake)[0] == ("dispose", "WF:v1")
    assert plan(lake)[0].approvers == (BOB,)
    assert isinstance(refused(approve, lake, BOB, [("WF", 1)]), ConflictError)
    set_rules(lake, ANN, {"now": changed(rule, authority="another")}, "citation")
    assert said(lake)[0] == ("blocked", "WF:v1"), "it was approved under the rule as it was"
    assert explain(lake, row, NEVER)["approvers"] == []
    approve(lake, BOB, [("WF", 1)])
    remove_rule(lake, ANN, "now", "a mistake")
    set_rules(lake, ANN, {"now": changed(rule, authority="another")})
    assert said(lake)[0] == ("blocked", "WF:v1"), (
        "the rule that he agreed to was taken out of force"
    )


def test_events(lake: Lake, make: Any) -> None:
    make("WF")
    set_rules(lake, ANN, {"end": Rule(Cutoff("event:closed", "1y"), "dispose", "x", "WF")})
    assert said(lake) == []
    facts = record_event(lake, ANN, Event("closd", "WF", "2020-01-01"))
    assert "'closed'" in facts["unused"]
    for event in (Event("closed", "WG", "2020-01-01"), Event("closed", "WF", "2020-01-01", 7)):
        assert isinstance(refused(record_event, lake, ANN, event), NotFoundError)
    for text in ("2020-02-30", "yesterday", "2020-01-01T25:00", "2300-01-01", "1500-01-01"):
        assert isinstance(refused(record_event, lake, ANN, Event("x", "WF", text)), UsageError)
    record_event(lake, ANN, Event("closed", "WF", "2020-01-01T00:00+05:00"))
    assert said(lake) == [("dispose", "WF:v1")]
    record_event(lake, ANN, Event("closed", "WF", "2200-01-01", 1))
    assert said(lake, parse_time("2200-12-31")) == []
    record_event(lake, ANN, Event("closed", "WF", "2020-01-01", 1))
    assert said(lake, parse_time("2200-12-31")) == [], "the later time stays"


def test_a_clock_that_jumped_is_confirmed_by_a_person(lake: Lake, make: Any) -> None:
    now = [lake.now_ns()]
    lake.clock = lambda: now[0]
    make("WF")
    set_rules(lake, ANN, {"one": shorter(changed(SEVEN, approvals=1))})
    assert clock_doubt(lake, now[0]) is None
    now[0] += 400 * DAY_NS
    assert "more than 30 days" in (clock_doubt(lake, now[0]) or "")
    assert "clock" in str(refused(approve, lake, BOB, [("WF", 1)]))
    make("WF")  # an entry that says the same does not make it right
    assert "set forward" in (clock_doubt(lake, now[0]) or "")
    assert isinstance(refused(confirm_clock, lake, ANN, "2020-01-01"), RefusedError)
    confirm_clock(lake, ANN, format_time(now[0] - 3_600 * 10**9), "by the town hall's clock")
    assert clock_doubt(lake, now[0]) is None
    approve(lake, BOB, [("WF", 1)])
    now[0] -= 300 * DAY_NS  # it is set right: the log is ahead now
    assert "which is later" in (clock_doubt(lake, now[0]) or "")
    confirm_clock(lake, ANN, format_time(now[0]))
    assert clock_doubt(lake, now[0]) is None
    now[0] += DAY_NS
    make("WF")
    assert clock_doubt(lake, now[0]) is None


def test_times_of_files_have_no_influence(lake: Lake, tmp_path: Path) -> None:
    import os

    lake.create_dataset("WF", ACTOR)
    (tmp_path / "old").write_text("x")
    os.utime(tmp_path / "old", (0, 0))
    session = Session(lake, ACTOR)
    session.put("WF", [str(tmp_path / "old")])
    session.commit("WF", "x")
    set_rules(lake, ANN, {"seven": SEVEN})
    assert said(lake, lake.now_ns()) == []


def test_one_view_for_as_long_as_it_holds(lake: Lake, make: Any) -> None:
    make("WF")
    first = Standing.of(lake.index)
    assert Standing.of(lake.index, first) is first
    place_hold(lake, ANN, held("case"))
    assert Standing.of(lake.index, first) is not first


def test_what_rules_make_of_each_other_is_told_in_bounded_time(lake: Lake, make: Any) -> None:
    """A thousand rules for everything are half a million pairs in each dataset."""
    for name in ("WF", "WG"):
        make(name)
    many = {f"r{n}": Rule(Cutoff("committed", "1y"), "notify", "x", "W*") for n in range(1_000)}
    rows = [RuleRow(name, rule, 1, 1, ANN, "") for name, rule in many.items()]

    def put(txn: Txn) -> None:
        for row in rows:
            txn.put("rule", row.name.encode(), encode_row(row))

    lake.index.database.write(put)
    start = time.process_time()
    assert overlaps(Standing(lake.index), many, ["WF", "WG"]) == []
    assert time.process_time() - start < 5
    lake.index.database.write(lambda txn: [txn.delete("rule", n.encode()) for n in many])
