"""retain, hold and event as commands: with a daemon and without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Commands
from tests.support.programs import ROOT

AUTHORITY = ("--authority", "GRS 3.1 item 020")


@pytest.fixture
def versions(commands: Commands) -> Commands:
    """A dataset of two versions, empty but for their numbers."""
    commands("create", "WF")
    for tag in ("raw", "clean"):
        commands("commit", "WF", "-m", tag, "--tag", tag, "--allow-empty")
    return commands


def test_a_day_of_a_records_officer(versions: Commands) -> None:
    run = versions
    rule = ("retain", "rule", "add", "seven", "--after", "7y", "--dispose", *AUTHORITY)
    assert "is in force" in run(*rule, "--datasets", "WF*", "--approvals", "1")
    assert "dispose 7y after it was committed: WF*" in run("retain", "rule", "list")
    explained = run("retain", "explain", "WF:raw")
    assert "Keep until  20" in explained and "rule 'seven' keeps it until" in explained
    facts = run.json("retain", "explain", "WF:v1", "--at", "2100-01-01")
    assert facts["fate"] == "blocked" and facts["approvals_needed"] == 1
    placed = run("hold", "place", "case", "WF:v1", "--matter", "Doe v. Roe", "--reason", "subpoena")
    assert placed == "Hold case is on 1 version\n"
    assert "Matter     Doe v. Roe" in run("hold", "list", "WF:v1")
    assert run.json("hold", "list", "WF:v2") == {"holds": []}
    assert "hold 'case' keeps it without end" in run("retain", "explain", "WF:v1")
    shown = run("show", "WF:v1")
    assert "Kept         for ever: hold 'case'" in shown and "On hold      case" in shown
    assert run.json("show", "WF:v2")["retention"]["rule"] == "seven"
    planned = run("retain", "plan", "--at", "2100-01-01")
    assert "0 to dispose, 0 to notify, 2 blocked" in planned and "hold 'case'" in planned
    plan = run.json("retain", "plan", "--at", "2100-01-01")
    assert plan["plan"] in planned and plan["counts"]["blocked"] == 2
    assert plan["items"][0]["id"] == "WF:v1" and len(plan["items"][0]["blocked_by"]) == 2
    assert "0 blocked" in run("retain", "plan")
    run("event", "closed", "WF", "--time", "2024-07-04", "--reason", "the contract ended")
    assert "hold case placed on WF v1" in run("log", ".lake")
    assert "event closed of WF at 2024-07-04" in run("log")
    run("hold", "release", "case", "--reason", "settled")
    assert run("hold", "list") == "0 holds\n"
    run("retain", "rule", "add", "seven", *rule[4:], "--datasets", "WF", "--reason", "no approval")
    freed = run.json("retain", "plan", "--at", "2100-01-01")["freed"]
    assert freed["chunks"] == 1 and freed["size_bytes"] > 0
    run("retain", "rule", "remove", "seven", "--reason", "a mistake")
    assert run.json("retain", "rule", "list") == {"rules": []}
    assert run.json("check")["findings"] == []


def test_bad_input(versions: Commands) -> None:
    fails = versions.fails
    add = ("retain", "rule", "add", "r", *AUTHORITY, "--after")
    assert "would dispose of everything" in fails(5, *add, "7y", "--dispose")
    assert "give one of --archive" in fails(2, *add, "7y")
    assert "is not a period" in fails(2, *add, "7 years", "--notify")
    assert "cannot begin with 'comitted'" in fails(2, *add, "7y", "--notify", "--from", "comitted")
    assert "longer than 1,000 years" in fails(2, *add, "9999y", "--notify")
    assert "wildcards" in fails(2, *add, "7y", "--notify", "--datasets", "[ab]")
    assert "control character" in fails(
        2, *add[:4], "--authority", "\x1b[2J", "--after", "1y", "--notify"
    )
    assert "rule's name" in fails(2, *add[:3], "a\x07b", *add[4:], "1y", "--notify")
    versions(*add, "7y", "--dispose", "--datasets", "WF", "--compliance")
    shorter = (*add, "1y", "--dispose", "--datasets", "WF", "--compliance", "--reason", "x")
    assert "compliance mode: its period of 7y cannot be shortened to 1y" in fails(5, *shorter)
    assert "can never be removed" in fails(5, "retain", "rule", "remove", "r", "--reason", "x")
    assert "did you mean 'r'" in fails(3, "retain", "rule", "remove", "R", "--reason", "x")
    assert "is not due" in fails(5, "retain", "approve", "WF:v1")
    assert "name the versions, or a plan" in fails(2, "retain", "approve")
    assert "has grown stale" in fails(4, "retain", "approve", "--plan", "ab" * 32)
    hold = ("hold", "place", "h", "--matter", "m", "--reason", "r", "--custodian", "J. Doe")
    assert "name versions or a dataset" in fails(2, *hold)
    assert "'WF'" in fails(3, *hold, "WFF")
    assert "not a time" in fails(2, *hold, "WF", "--committed-after", "yesterday")
    versions(*hold, "WF")
    assert "already" in fails(4, *hold, "WF:v1")
    assert "custody of 'J. Doe'" in fails(5, "hold", "release", "h", "--reason", "x")
    assert "did you mean 'h'" in fails(3, "hold", "release", "H", "--reason", "x")
    assert "'WF'" in fails(3, "event", "closed", "WFF")
    assert "there is no command 'expain'; did you mean 'explain'" in fails(2, "retain", "expain")
    versions("hold", "release", "h", "--reason", "x", "--custodian", "J. Doe")


def test_a_schedule(alone: Commands, tmp_path: Path) -> None:
    example = ROOT / "systemd" / "schedule.toml"
    said, remark = alone("retain", "rule", "load", example).splitlines()
    assert said == "Rule seven-years is in force"
    assert "the tier 'cold', which this host does not have: until it is attached" in remark
    assert "is what it was" in alone("retain", "rule", "load", example)
    text = example.read_text()
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(text.replace("period =", "perido ="))
    assert "did you mean 'period'" in alone.fails(2, "retain", "rule", "load", wrong)
    wrong.write_text(text.replace('"7y"', '"8y"').replace('reason = "The', '# reason = "The'))
    assert "give a reason" in alone.fails(2, "retain", "rule", "load", wrong)
    assert "is changed" in alone("retain", "rule", "load", wrong, "--reason", "a new law")
    more = tmp_path / "more.toml"
    more.write_text(
        text
        + '\n[rules.bad]\nfrom = "committed"\nperiod = "1y"\naction = "dispose"\nauthority = "x"\n'
    )
    assert "would dispose of everything" in alone.fails(5, "retain", "rule", "load", more)
    (rule,) = alone.json("retain", "rule", "list")["rules"]
    assert rule["cutoff"] == {"from": "committed", "period": "8y"} and rule["reason"] == "a new law"
