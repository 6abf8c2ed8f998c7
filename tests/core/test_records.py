"""Records of retention: what may be said, what is refused, and in which words."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dtafs.core.entries import check_place
from dtafs.core.record_checks import DECODERS, check_hold, check_rule, encode_body
from dtafs.core.records import (
    DISPOSITION_KINDS,
    LAKE_KINDS,
    Amount,
    Approved,
    Archived,
    Body,
    Clocked,
    Cutoff,
    Destroyed,
    Disposed,
    Event,
    Held,
    Released,
    Rule,
    Ruled,
    Scheduled,
    Scope,
    Survivor,
    VersionRef,
)
from dtafs.core.rule_changes import why_not_changed, why_not_released, why_shorter
from dtafs.core.values import Actor
from dtafs.errors import IntegrityError, UsageError

H = "ab" * 32
ACTOR = Actor("ann", 1000, "host", "dtafsctl")
REF = VersionRef("D", 3, H)
RULE = Rule(
    Cutoff("committed", "7y"), "dispose", "GRS 3.1 item 020", "WF-*", ("raw",), "compliance", 1
)
TIME = "2024-07-04T12:00:00.000000000Z"
BODIES: list[Body] = [
    Ruled("seven", RULE, "the schedule says so"),
    Ruled("seven", None, "a mistake"),
    Scheduled({"seven": RULE, "more": RULE}, "the schedule says so"),
    Held("case-1", "J. Doe", "Doe v. Roe", "subpoena", Scope("WF-*", (1, 2), ("raw",), TIME), True),
    Released("case-1", "J. Doe", "settled"),
    Event("closed", "WF-2024", TIME, 2),
    Approved("seven", H, (REF,)),
    Clocked(TIME, TIME),
    Archived((REF,), "seven", "GRS", "cold", 2, 500),
    Disposed(
        (REF,),
        "seven",
        H,
        "GRS",
        H,
        (ACTOR,),
        {"hot": Amount(1, 5, 900)},
        (Survivor(VersionRef("E", 1, H), 2, 100),),
    ),
    Destroyed(7, (REF,), {"hot": Amount(1, 5, 900)}),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: type(body).__name__)
def test_what_is_written_is_read(body: Body) -> None:
    kind = type(body).__name__.lower()
    assert DECODERS[kind](msgspec.json.decode(msgspec.json.encode(encode_body(body)))) == body


def test_every_kind_has_its_place() -> None:
    assert DECODERS.keys() == LAKE_KINDS | DISPOSITION_KINDS
    for kind in LAKE_KINDS:
        check_place(".lake", 1, kind)
        with pytest.raises(IntegrityError, match="cannot be of the kind"):
            check_place("D", 2, kind)
    for kind in (*DISPOSITION_KINDS, "created", "committed", "collected"):
        with pytest.raises(IntegrityError, match="cannot be of the kind"):
            check_place(".lake", 2, kind)


def changed(value: Any, **fields: Any) -> Any:
    return msgspec.structs.replace(value, **fields)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        (changed(RULE, datasets="WF-[0-9]"), "wildcards"),
        (changed(RULE, tags=("b", "a")), "sorted"),
        (changed(RULE, tags=("v3",)), "looks like a version"),
        (changed(RULE, action="shred"), "is no action: it is one of"),
        (changed(RULE, mode="strict"), "is no mode"),
        (changed(RULE, authority=" "), "an authority is needed"),
        (changed(RULE, authority="a\x1b[2J"), "control character"),
        (changed(RULE, authority="x" * 2_001), "2,001 bytes"),
        (changed(RULE, approvals=11), "between 0 and 10"),
        (changed(RULE, approvals=-1), "between 0 and 10"),
        (changed(RULE, action="notify"), "only a disposition can need approvals"),
        (changed(RULE, tier="cold"), "only a rule that archives"),
        (changed(RULE, action="archive", approvals=0), "tier cannot be empty"),
        (changed(RULE, cutoff=Cutoff("created", "7y")), "'committed', 'superseded'"),
        (changed(RULE, cutoff=Cutoff("event:", "7y")), "cannot be empty"),
        (changed(RULE, cutoff=Cutoff("event:a\nb", "7y")), "cannot contain"),
        (changed(RULE, cutoff=Cutoff("committed", "7 years")), "is not a period"),
        (changed(RULE, cutoff=Cutoff("committed", "84m")), "is written '7y'"),
        (changed(RULE, cutoff=Cutoff("committed", "9999y")), "longer than 1,000 years"),
    ],
)
def test_rules_that_cannot_be(rule: Rule, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_rule("seven", rule)
    with pytest.raises(UsageError, match=why):
        encode_body(Ruled("seven", rule))


def test_names_that_cannot_be() -> None:
    for name in ("", "a/b", ".x", "a\x07", "x" * 101):
        with pytest.raises(UsageError, match="rule's name"):
            check_rule(name, RULE)


@pytest.mark.parametrize(
    ("scope", "why"),
    [
        (Scope("a/*"), "cannot contain"),
        (Scope(versions=(2, 1)), "sorted"),
        (Scope(versions=(0,)), "cannot exist"),
        (Scope(committed_after="yesterday"), "not a time"),
        (Scope(committed_after=TIME, committed_before=TIME), "both after and before"),
    ],
)
def test_holds_that_cannot_be(scope: Scope, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        check_hold(Held("h", "ann", "m", "r", scope))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("ruled", {}),
        ("scheduled", {"rules": {}}),
        ("scheduled", {"rules": {"x": None}}),
        ("scheduled", {"rules": {"x": {}}, "reason": ""}),
        ("ruled", {"name": "x", "rule": {}, "reason": ""}),
        ("ruled", {"name": "x", "rule": None, "more": 1}),
        ("held", {"name": "x"}),
        ("approved", {"rule": "x", "rule_sha256": H, "versions": []}),
        ("approved", {"rule": "x", "rule_sha256": "AB" * 32, "versions": [REF]}),
        ("clocked", {"time": "now", "host_time": TIME}),
        ("archived", {**msgspec.to_builtins(BODIES[7]), "packs": -1}),
        (
            "archived",
            {**msgspec.to_builtins(BODIES[7]), "versions": [REF, VersionRef("E", 1, H)]},
        ),
        ("disposed", {**msgspec.to_builtins(BODIES[8]), "plan": "xy"}),
        ("destroyed", {"disposed": 0, "versions": [REF], "tiers": {}}),
    ],
)
def test_bodies_that_no_release_writes(kind: str, body: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match=f"the body of a log entry \\({kind}\\) is malformed"):
        DECODERS[kind](msgspec.to_builtins(body))


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (None, "never be removed"),
        (changed(RULE, mode="governance"), "no longer be in compliance mode"),
        (changed(RULE, cutoff=Cutoff("committed", "6y")), "cannot be shortened to 6y"),
        (changed(RULE, cutoff=Cutoff("superseded", "9y")), "no longer begin with 'committed'"),
        (changed(RULE, datasets="WF-2*"), "no longer be for all datasets"),
        (changed(RULE, tags=("late", "raw")), "fewer versions"),
        (changed(RULE, action="notify", approvals=0), "no longer dispose"),
        (changed(RULE, approvals=0), "0 instead of 1 approvals"),
    ],
)
def test_compliance_is_never_shortened(new: Rule | None, why: str) -> None:
    refused = why_not_changed(RULE, new)
    assert refused is not None and why in refused
    if new is not None and new.mode == "compliance":
        assert why_shorter(RULE, new) is not None
    assert why_not_changed(changed(RULE, mode="governance"), new) is None


def test_compliance_can_be_lengthened() -> None:
    for new in (
        RULE,
        changed(RULE, cutoff=Cutoff("committed", "8y")),
        changed(RULE, datasets="*"),
        changed(RULE, tags=()),
        changed(RULE, approvals=2),
        changed(RULE, authority="another citation"),
    ):
        assert why_not_changed(RULE, new) is None and why_shorter(RULE, new) is None


def test_only_its_custodian_or_who_placed_it_releases_a_hold() -> None:
    held = Held("h", "ann", "m", "r", Scope())
    ann, bob, eve = (
        Actor(name, uid, "host", "x") for uid, name in enumerate(("ann", "bob", "eve"))
    )
    assert why_not_released(held, bob, "ann", ann) is None
    assert why_not_released(held, bob, "ann", bob) is None, "he placed it for her"
    assert "custody of 'ann'" in (why_not_released(held, bob, "bob", bob) or "")
    assert "'eve' cannot" in (why_not_released(held, bob, "ann", eve) or ""), "she names her"
