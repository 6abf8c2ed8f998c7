"""What the catalog says of retention: what is in force, and what was."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from dtafs.core.records import (
    Amount,
    Approved,
    Archived,
    Destroyed,
    Disposed,
    Event,
    Released,
    Ruled,
)
from dtafs.store.catalog import Catalog
from dtafs.store.lake import Lake
from tests.support.records import ALWAYS, HELD, NOW, SEVEN, TIME, record, ref
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed

SCHEDULER = "SELECT ds_id, ver FROM versions WHERE ts < date('now', '-7 years')"
YEAR_NS = 366 * 86_400 * 10**9


def query(lake: Lake, sql: str) -> list[tuple[Any, ...]]:
    path = Catalog(lake).snapshot()[0]
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def test_the_seeds_scheduler_finds_what_is_older(lake: Lake, tmp_path: Path) -> None:
    now_ns = lake.clock()
    for years in (8, 6):
        lake.clock = lambda years=years: now_ns - years * YEAR_NS  # type: ignore[misc]
        if years == 8:
            lake.create_dataset("D", ACTOR)
        commit(lake, "D")
    assert query(lake, SCHEDULER) == [("D", "v1")]


def test_rules_and_holds_in_force_and_over(lake: Lake, tmp_path: Path) -> None:
    lake.create_dataset("D", ACTOR)
    put_tree(lake, "D", tree_of_seed(1), tmp_path / "scratch")
    commit(lake, "D")
    longer = msgspec.structs.replace(
        SEVEN, cutoff=msgspec.structs.replace(SEVEN.cutoff, period="8y")
    )
    record(lake, Ruled("seven", SEVEN, "first"))
    first = query(lake, "SELECT name, period, until FROM rules")
    assert first == [("seven", "7y", None)]
    record(lake, Ruled("seven", longer, "longer"))
    record(lake, Ruled("always", ALWAYS))
    record(lake, Ruled("always", None))  # has no effect: it is in compliance mode
    record(lake, HELD)
    record(lake, Released("case", "bob", "has no effect"))
    record(lake, msgspec.structs.replace(HELD, custodian="bob"))  # nor has this
    in_force = "SELECT name, period, mode FROM rules WHERE until IS NULL ORDER BY name"
    assert query(lake, in_force) == [("always", "7y", "compliance"), ("seven", "8y", "governance")]
    assert query(lake, "SELECT period FROM rules WHERE until IS NOT NULL") == [("7y",)]
    held = "SELECT name, custodian, matter, datasets, until, released_by FROM holds"
    assert query(lake, held) == [("case", "ann", "Doe v. Roe", "D", None, None)]
    record(lake, Released("case", "ann", "settled"))
    ((name, *_rest, until, by),) = query(lake, held)
    assert name == "case" and until is not None and by == ACTOR.user
    record(lake, Ruled("seven", None, "over"))
    assert query(lake, in_force) == [("always", "7y", "compliance")]


def test_events_approvals_and_dispositions(lake: Lake) -> None:
    lake.create_dataset("D", ACTOR)
    for _ in range(2):
        commit(lake, "D")
    one, two = ref(lake.resolve("D:v1")), ref(lake.resolve("D:v2"))
    record(lake, Event("closed", "D", TIME, 2))
    record(lake, Event("closed", "D", TIME))
    record(lake, Ruled("seven", NOW))
    record(lake, Approved("seven", NOW.digest, (one,)))
    record(lake, Archived((one, two), "arch", "GRS", "cold"))
    number = record(
        lake, Disposed((one,), "seven", NOW.digest, "GRS", "ab" * 32, approvers=(ACTOR,))
    )
    gone = "SELECT ds_id, ver, rule, authority, approvers, tiers FROM dispositions"
    assert query(lake, gone) == [("D", "v1", "seven", "GRS", ACTOR.user, "")]
    record(lake, Destroyed(number, (one,), {"warm": Amount(), "hot": Amount(1, 1, 1)}))
    assert query(lake, gone)[0][-1] == "hot,warm"
    assert query(lake, "SELECT ver FROM events ORDER BY ver") == [(None,), ("v2",)]
    assert query(lake, "SELECT ds_id, ver, user FROM approvals") == [("D", "v1", ACTOR.user)]
    assert query(lake, "SELECT ver, tier FROM archived ORDER BY ver") == [
        ("v1", "cold"),
        ("v2", "cold"),
    ]
    assert query(lake, "SELECT COUNT(*) FROM entries WHERE ds_id = '.lake'") == [(4,)]
    assert query(lake, "SELECT id FROM datasets") == [("D",)]
