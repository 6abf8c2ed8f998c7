"""Schedules of rules: read as a whole, refused as a whole, the nearest key named."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest

from dtafs.core.names import LAKE_LOG
from dtafs.core.records import Cutoff, Ruled, Scheduled
from dtafs.errors import DtafsError, NotFoundError, UsageError
from dtafs.store.catalog import Catalog
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.record_texts import describe_record
from dtafs.store.reindex import reindex
from dtafs.store.retention_changes import set_rules
from dtafs.store.retention_facts import Standing
from dtafs.store.schedules import load_schedule
from tests.support.programs import ROOT
from tests.support.records import ALWAYS, SEVEN, record
from tests.support.small_lakes import ACTOR

WHOLE = """
reason = "2026"
[rules.seven]
from = "event:closed"
period = "84m"
action = "dispose"
authority = "GRS 3.1"
datasets = "WF-*"
tags = ["raw", "a", "raw"]
mode = "compliance"
approvals = 1
[rules.old]
from = "superseded"
period = "30d"
action = "archive"
tier = "cold"
authority = "x"
[rules.all]
from = "committed"
period = "1y"
action = "dispose"
authority = "x"
everything = true
"""


def test_what_a_schedule_says(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(WHOLE)
    found = load_schedule(tmp_path / "s.toml")
    assert list(found.rules) == ["seven", "old", "all"] and found.reason == "2026"
    seven = found.rules["seven"]
    assert (seven.cutoff.period, seven.tags, seven.approvals) == ("7y", ("a", "raw"), 1)
    assert found.everything == ("all",)


def test_the_example_loads() -> None:
    found = load_schedule(ROOT / "systemd" / "schedule.toml")
    (rule,) = found.rules.values()
    assert (rule.action, rule.cutoff.period, rule.datasets) == ("archive", "7y", "*")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("period =", "perod ="), "unknown key 'rules.seven.perod'; did you mean 'period'?"),
        (("[rules.", "[rule."), "unknown key 'rule'; did you mean 'rules'?"),
        (('"84m"', "84"), "'rules.seven.period' is a text, not 84"),
        (('"84m"', '"84 months"'), "rule 'seven': '84 months' is not a period"),
        (("approvals = 1", "approvals = true"), "'rules.seven.approvals' is a number"),
        (("approvals = 1", 'approvals = "1"'), "'rules.seven.approvals' is a number"),
        (('["raw", "a", "raw"]', '"raw"'), "'rules.seven.tags' is a list of texts"),
        (('["raw", "a", "raw"]', "[1]"), "'rules.seven.tags' is a list of texts"),
        (('authority = "GRS 3.1"', ""), "rule 'seven' lacks 'authority'"),
        (('"dispose"', '"shred"'), "rule 'seven': 'shred' is no action"),
        (('"event:closed"', '"comitted"'), "cannot begin with 'comitted'"),
        (('"WF-*"', '"WF-[0]"'), "wildcards are * and ?"),
        (("everything = true", 'everything = "yes"'), "is true or false"),
        (("[rules.seven]", "[rules.seven]\n[rules.seven]"), "is not TOML"),
        (("[rules.seven]", "rules = 5\n[rules.seven]"), "is not TOML"),
        (("[rules.seven]", '[rules."a/b"]'), "rule's name"),
        (("[rules.seven]", '[rules."a\\u0007"]'), "rule's name"),
        (('reason = "2026"', "reason = 5"), "'reason' is a text"),
    ],
)
def test_what_is_wrong_with_one(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    path = tmp_path / "s.toml"
    path.write_text(WHOLE.replace(*change, 1))
    with pytest.raises(UsageError) as caught:
        load_schedule(path)
    assert why in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "rules = 5", "[rules]", "[rules]\nx = 1", "a" * 100_000])
def test_what_is_no_schedule(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(UsageError):
        load_schedule(tmp_path / "s.toml")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_schedule(tmp_path / "none")
    with pytest.raises(DtafsError):
        load_schedule(tmp_path)
    (tmp_path / "deep").write_text("a = " + "[" * 100_000)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("deep", "bytes"):
        with pytest.raises(UsageError, match="is not TOML"):
            load_schedule(tmp_path / name)


def test_a_schedule_is_one_entry(lake: Lake) -> None:
    """All of its rules are in force, or none: half of it might dispose of what the other half keeps."""
    lake.create_dataset("D", ACTOR)
    set_rules(lake, ACTOR, {"always": ALWAYS})
    rules = {f"rule {i}": msgspec.structs.replace(SEVEN, authority=f"item {i}") for i in range(300)}
    assert set(set_rules(lake, ACTOR, rules)["rules"].values()) == {"new"}
    own = lake.index.own()
    assert own is not None and own.sequence == 2
    rows = {row.name: row for row in Standing(lake.index).rules}
    assert rows["rule 7"].rule.authority == "item 7" and rows["rule 7"].sequence == 2
    assert len(rows) == 301
    text = describe_record(lake.log.read(LAKE_LOG, 2).entry)
    assert text == "schedule of 300 rules: rule 0, rule 1, rule 10, rule 100, rule 101 and 295 more"
    states = set_rules(lake, ACTOR, {**rules, "more": SEVEN})["rules"]
    assert states["more"] == "new" and states["rule 0"] == "unchanged"
    assert lake.log.read(LAKE_LOG, 3).entry.kind == "ruled", "one rule is no schedule"
    assert reindex(lake)["changed"] == 0


def test_of_a_schedule_that_may_not_be_the_rest_counts(lake: Lake) -> None:
    """Written by whoever has the key; the check names what has no effect."""
    record(lake, Ruled("always", ALWAYS))
    shorter = msgspec.structs.replace(ALWAYS, cutoff=Cutoff("committed", "1d"))
    record(lake, Scheduled({"always": shorter, "seven": SEVEN}))
    rows = {row.name: row.rule for row in Standing(lake.index).rules}
    assert rows == {"always": ALWAYS, "seven": SEVEN}
    (finding,) = check(lake)
    assert "rule 'always' is in compliance mode" in finding.message
    path = Catalog(lake).snapshot()[0]
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        found = db.execute("SELECT name, period, until FROM rules ORDER BY name").fetchall()
    assert found == [("always", "7y", None), ("seven", "7y", None)]
