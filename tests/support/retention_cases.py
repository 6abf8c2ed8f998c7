"""Cases of retention whose decisions are pinned.

`python -m tests.support.retention_cases` writes the golden file anew, to be read before it is committed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from dtafs.core.names import format_time, parse_time
from dtafs.core.records import Cutoff, Held, Rule, Scope
from dtafs.core.retention import (
    ActiveHold,
    ActiveRule,
    Approval,
    Events,
    RuleSet,
    VersionFacts,
    activate,
    decide,
    deeds,
)
from dtafs.core.retention_plan import Lookups, item_facts, plan_version
from dtafs.core.values import Actor

GOLDEN = Path(__file__).parents[1] / "core" / "golden" / "retention.json"
NO_EVENTS = Events({}, {})
ANN = Actor("ann", 1000, "archive", "dtafsctl")
BOB = Actor("bob", 1001, "archive", "dtafsctl")
EVE = Actor("eve", 1002, "desk", "dtafsctl")
H = "ab" * 32


def at(text: str) -> int:
    return parse_time(text)


def version(
    committed: str = "2020-02-29", superseded: str | None = None, **fields: Any
) -> VersionFacts:
    given: dict[str, Any] = {"dataset": "WF", "number": 3, "manifest": H, **fields}
    over = None if superseded is None else at(superseded)
    return VersionFacts(committed_ns=at(committed), superseded_ns=over, **given)


def rule(
    name: str, period: str, action: str = "dispose", start: str = "committed", **fields: Any
) -> ActiveRule:
    tier = "cold" if action == "archive" else ""
    given = {"authority": f"item {name}", "tier": tier, **fields}
    return activate(name, Rule(Cutoff(start, period), action, **given), ANN)


def hold(name: str, through: str = "") -> ActiveHold:
    return ActiveHold(Held(name, "ann", "Doe v. Roe", "subpoena", Scope()), through)


def approval(active: ActiveRule, person: Actor, **fields: Any) -> Approval:
    given = {"rule_sha256": active.rule.digest, "manifest": H, **fields}
    return Approval(active.name, person=person, **given)


class Case(NamedTuple):
    version: VersionFacts
    rules: tuple[ActiveRule, ...]
    now: str
    holds: tuple[ActiveHold, ...] = ()
    events: Events = NO_EVENTS
    approvals: tuple[Approval, ...] = ()
    sent_to: str | None = None
    obstacle: str | None = None


SEVEN, THREE = rule("seven", "7y"), rule("three", "3y")
TWO = rule("two", "1y", approvals=2)
SEVENS = SEVEN._replace(author=BOB)
CASES = {
    "no rule": Case(version(), (), "2100-01-01"),
    "a rule that is not over": Case(version(), (SEVEN,), "2027-02-28T23:59:59"),
    "a leap day ends on 1 March": Case(version(), (SEVEN,), "2027-03-01"),
    "the longest rule wins": Case(version(), (THREE, SEVEN), "2024-01-01"),
    "both are over": Case(version(), (THREE, SEVEN), "2030-01-01"),
    "equal rules go by name": Case(version(), (rule("b", "3y"), rule("a", "36m")), "2020-03-01"),
    "archiving keeps nothing": Case(version(), (rule("arch", "1y", "archive"),), "2030-01-01"),
    "archived already": Case(
        version(), (rule("arch", "1y", "archive"),), "2030-01-01", sent_to="cold"
    ),
    "the tier that was due last": Case(
        version(),
        (rule("w", "1y", "archive", tier="warm"), rule("c", "2y", "archive")),
        "2030-01-01",
        sent_to="warm",
    ),
    "disposed of instead of archived": Case(
        version(), (THREE, rule("arch", "1y", "archive")), "2030-01-01"
    ),
    "notified": Case(version(), (rule("look", "1y", "notify"),), "2030-01-01"),
    "a hold": Case(version(), (THREE,), "2030-01-01", (hold("case"),)),
    "several holds, one by lineage": Case(
        version(), (THREE,), "2030-01-01", (hold("z"), hold("a", "raw:v1"))
    ),
    "a hold before the end of a rule": Case(version(), (SEVEN,), "2021-01-01", (hold("case"),)),
    "a hold and no rule": Case(version(), (), "2030-01-01", (hold("case"),)),
    "the newest is never superseded": Case(
        version(), (rule("old", "30d", start="superseded"),), "2100-01-01"
    ),
    "superseded": Case(
        version(superseded="2021-01-31"),
        (rule("old", "1m", start="superseded"),),
        "2021-03-01",
    ),
    "a rule with no start yet outlasts one that is over": Case(
        version(), (THREE, rule("old", "30d", start="superseded")), "2100-01-01"
    ),
    "an event that has not happened": Case(
        version(), (rule("end", "1y", start="event:closed"),), "2100-01-01"
    ),
    "an event of the dataset": Case(
        version(),
        (rule("end", "1y", start="event:closed"),),
        "2024-06-01",
        events=Events({"closed": at("2023-06-01")}, {}),
    ),
    "the later of an event of the version and of the dataset": Case(
        version(),
        (rule("end", "1y", start="event:closed"),),
        "2024-06-01",
        events=Events({"closed": at("2023-06-01")}, {("closed", 3): at("2025-01-01")}),
    ),
    "an event of another version": Case(
        version(),
        (rule("end", "1y", start="event:closed"),),
        "2024-06-01",
        events=Events({}, {("closed", 2): at("2023-06-01")}),
    ),
    "an event before the commit begins with the commit": Case(
        version(),
        (rule("end", "1y", start="event:closed"),),
        "2021-02-28",
        events=Events({"closed": at("2001-01-01")}, {}),
    ),
    "tags that are not all carried": Case(
        version(tags=("raw",)), (rule("t", "1y", tags=("final", "raw")),), "2030-01-01"
    ),
    "tags that are all carried": Case(
        version(tags=("final", "raw", "x")), (rule("t", "1y", tags=("final", "raw")),), "2030-01-01"
    ),
    "approvals that are missing": Case(
        version(), (TWO,), "2030-01-01", approvals=(approval(TWO, BOB),)
    ),
    "approvals by two others": Case(
        version(), (TWO,), "2030-01-01", approvals=(approval(TWO, BOB), approval(TWO, EVE))
    ),
    "the author and one person twice do not count": Case(
        version(),
        (TWO,),
        "2030-01-01",
        approvals=(
            approval(TWO, ANN),
            approval(TWO, BOB),
            approval(TWO, Actor("bob", 5, "elsewhere", "x")),
            approval(TWO, Actor("robert", 1001, "archive", "x")),
        ),
    ),
    "approvals of the rule as it was, and of another version": Case(
        version(),
        (TWO,),
        "2030-01-01",
        approvals=(
            approval(TWO, BOB, rule_sha256="cd" * 32),
            approval(TWO, EVE, manifest="cd" * 32),
        ),
    ),
    "approvals that a shorter rule asks for": Case(version(), (SEVEN, TWO), "2030-01-01"),
    "who made a rule that asks for approvals does not count either": Case(
        version(),
        (SEVENS, TWO),
        "2030-01-01",
        approvals=(approval(SEVENS, ANN), approval(SEVENS, EVE)),
    ),
    "approvals from before a rule was made again": Case(
        version(),
        (TWO._replace(sequence=9),),
        "2030-01-01",
        approvals=(approval(TWO, BOB, sequence=8), approval(TWO, EVE, sequence=10)),
    ),
    "an obstacle on this host": Case(
        version(), (THREE,), "2030-01-01", obstacle="staging holds changes over it"
    ),
    "a period beyond what can be written": Case(version(), (rule("long", "1000y"),), "9999-01-01"),
    "disposed of": Case(version(disposed=9), (SEVEN,), "2030-01-01", (hold("late"),)),
    "time has not begun": Case(version("2030-01-01"), (THREE,), "2020-01-01"),
}


def rule_set(case: Case) -> RuleSet:
    """The rules that concern the version of a case."""
    return RuleSet(active for active in case.rules if active.concerns(case.version.tags))


def decided(case: Case) -> dict[str, Any]:
    """What is decided, and planned, in a case; as the golden file has it."""
    now_ns = at(case.now)
    decision = decide(case.version, case.rules, case.holds, case.events, case.approvals, now_ns)
    ask = Lookups(
        lambda _v: case.holds,
        lambda _v: case.approvals,
        lambda _v: case.sent_to,
        lambda _v: case.obstacle,
    )
    until = decision.keep_until_ns
    return {
        "fate": decision.fate,
        "keep_until": None if until is None else format_time(until),
        "reasons": [reason.text for reason in decision.reasons],
        "approvers": [actor.user for actor in decision.approvers],
        "deeds": [
            [deed.active.name, format_time(deed.due_ns)]
            for deed in deeds(case.version, case.rules, case.events)
        ],
        "plan": [
            {
                key: value
                for key, value in item_facts(item).items()
                if key in ("action", "rule", "due", "tier", "blocked_by")
            }
            for item in plan_version(case.version, rule_set(case), case.events, ask, now_ns)
        ],
    }


if __name__ == "__main__":
    found = {name: decided(case) for name, case in CASES.items()}
    GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
