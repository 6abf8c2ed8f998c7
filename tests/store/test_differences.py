"""Random trees of every kind and size: what `status` and a comparison of versions tell is what differs."""

from __future__ import annotations

import random
from itertools import permutations
from pathlib import Path

import pytest

from dtafs.core.difference import compare
from dtafs.store.compare import describe_change
from dtafs.store.lake import Lake
from dtafs.store.session import Session, actor_here
from tests.support.differing import Facts, change_something, expected, facts, told

STEPS, VERSIONS = 12, 5


@pytest.mark.parametrize("seed", range(4))
def test_what_is_told_is_what_differs(lake: Lake, tmp_path: Path, seed: int) -> None:
    dice, top = random.Random(seed), tmp_path / "tree"
    top.mkdir()
    session = Session(lake, actor_here("tests"))
    session.create("D")
    trees: list[dict[str, Facts]] = [{}]
    for number in range(1, VERSIONS + 1):
        for _ in range(STEPS):
            change_something(top, dice)
        trees.append(facts(top))
        session.put("D", [f"{top}/."], delete=True)
        found = told(session.status("D")["changes"])
        assert found == expected(trees[number - 1], trees[number])
        session.commit("D", f"version {number}", allow_empty=True)
    for a, b in permutations(range(1, VERSIONS + 1), 2):
        tops = [lake.objects.top(lake.resolve(f"D:v{number}")) for number in (a, b)]
        changes = [describe_change(change) for change in compare(lake.objects.node, *tops)]
        assert told(changes) == expected(trees[a], trees[b])
        assert len({(fact["change"], fact["path"]) for fact in changes}) == len(changes)
