"""Lineage as trees: of any length, in circles, with sources that are not there."""

from __future__ import annotations

import json
from typing import Any, cast

import msgspec
import pytest

from dtafs.core.values import Source
from dtafs.errors import NotFoundError
from dtafs.store.commit import finish
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.lineage import NESTED_MAX, Tree, lineage_of
from dtafs.store.session import Session
from tests.support.programs import ctl, ctl_json
from tests.support.small_lakes import ACTOR

FALSE = "ab" * 32


def commit_from(lake: Lake, dataset: str, *sources: tuple[str, int]) -> VersionRow:
    """A version that says that it was made from others, whether they are there or not."""
    named = tuple(Source(name, number, FALSE) for name, number in sources)
    return finish(lake, dataset, message="made", actor=ACTOR, allow_empty=True, sources=named)


def test_a_source_that_is_not_there_is_refused(lake: Lake) -> None:
    """Holds follow lineage: what is made from a misspelt version would escape them."""
    lake.create_dataset("D", ACTOR)
    row = commit_from(lake, "D")
    session = Session(lake, ACTOR)
    for name, number, digest in (
        *(
            ("D", 2, row.manifest_sha256.hex()),
            ("E", 1, FALSE),
            ("D", 1, FALSE),
            ("x" * 300, 1, FALSE),
        ),
        *(("", 1, FALSE), ("a\0b", 1, FALSE), ("D", -1, FALSE), ("D", 2**40, FALSE)),
    ):
        source = {"dataset": name, "version": number, "manifest": digest}
        with pytest.raises(NotFoundError, match="is no version of this lake"):
            session.commit("D", "made", allow_empty=True, sources=[source])
    assert lake.dataset("D").newest == 1
    good = msgspec.to_builtins(Source("D", 1, row.manifest_sha256.hex()))
    assert session.commit("D", "made", allow_empty=True, sources=[good])["id"] == "D:v2"


def names(tree: Tree) -> Any:
    """A tree as names alone: `(name, why it ends, trees)`."""
    return tree["id"], tree["ends"], [names(source) for source in tree["sources"]]


class ManyVersions:
    """In the place of a lake: each version was made from the one before, and two steps before."""

    def __init__(self, row: VersionRow, count: int) -> None:
        self.index = self
        self.rows = {}
        for number in range(1, count + 1):
            before = [n for n in (number - 1, number - 2) if n > 0]
            sources = tuple(Source(row.dataset, n, FALSE) for n in before)
            made = msgspec.structs.replace(row.manifest, version=number, sources=sources)
            self.rows[number] = msgspec.structs.replace(row, number=number, manifest=made)

    def version(self, _dataset: str, number: int) -> VersionRow | None:
        return self.rows.get(number)


def test_a_chain_of_5000_versions(lake: Lake) -> None:
    lake.create_dataset("D", ACTOR)
    count = 5_000
    many = ManyVersions(commit_from(lake, "D"), count)
    trees = lineage_of(cast(Lake, many), [many.rows[count]])
    assert len(trees) == -(-count // NESTED_MAX)
    told, ends, todo = [], {"above": 0, "below": 0}, list(trees)
    while todo:
        tree = todo.pop()
        todo += tree["sources"]
        if tree["ends"]:
            ends[tree["ends"]] += 1
        else:
            told.append(tree["id"])
    assert sorted(told) == sorted(row.name for row in many.rows.values())
    assert ends == {"above": count - 2, "below": len(trees) - 1}
    assert json.loads(json.dumps(trees)) == trees


def test_commands_on_a_chain_that_is_deeper_than_a_tree(lake: Lake) -> None:
    lake.create_dataset("D", ACTOR)
    for number in range(NESTED_MAX + 3):
        commit_from(lake, "D", *([("D", number)] if number else []))
    lake.close()
    lines = ctl(lake.path, "lineage", f"D:v{NESTED_MAX + 3}").stdout.decode().splitlines()
    at = NESTED_MAX
    assert lines[at].startswith("  " * at + "<- D:v3  ") and lines[at].endswith("(goes on below)")
    assert lines[at + 1].startswith("D:v3  ") and lines[-1].startswith("    <- D:v1  ")
    assert len(lines) == NESTED_MAX + 4
    found = ctl_json(lake.path, "lineage", "D")["versions"]
    assert [names(tree) for tree in found[:2]] == [
        ("D:v1", None, []),
        ("D:v2", None, [("D:v1", "above", [])]),
    ]


def test_a_circle_and_a_source_that_is_not_there(lake: Lake) -> None:
    for name in ("A", "B"):
        lake.create_dataset(name, ACTOR)
    first = commit_from(lake, "A", ("B", 1), ("A", 1))
    commit_from(lake, "B", ("A", 1), ("C", 7))
    [tree] = lineage_of(lake, [first])
    assert names(tree) == (
        "A:v1",
        None,
        [
            ("B:v1", None, [("A:v1", "circle", []), ("C:v7", "missing", [])]),
            ("A:v1", "circle", []),
        ],
    )
    assert tree["sources"][0]["sources"][1]["sha256"] == FALSE
    lake.close()
    text = ctl(lake.path, "lineage", "A:v1").stdout.decode()
    assert text.count("(a circle: ") == 2 and text.count("(not in this lake)") == 1
