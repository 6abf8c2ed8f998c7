"""References against a brute-force walk: what dies with versions, what survives, and crashes."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtafs.core.children import children
from dtafs.core.nodes import CHUNK_LIST_NODE, Node
from dtafs.core.values import Span
from dtafs.errors import IntegrityError
from dtafs.store import references
from dtafs.store.reference_walks import CHUNK, NODE, Dying, Needed, needed
from dtafs.store.references import References


class World:
    """Nodes that refer to each other at random, and versions over them."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self.nodes: dict[bytes, Node] = {}
        self.chunks = [self._name("chunk", i) for i in range(12)]
        self.levels: list[list[bytes]] = [self.chunks]
        self.roots: dict[int, bytes] = {}
        self.read: list[bytes] = []
        for level in range(3):
            self.levels.append([self._node(level) for _ in range(8)])

    def _name(self, what: str, number: int) -> bytes:
        return hashlib.sha256(f"{what} {number}".encode()).digest()

    def _node(self, level: int) -> bytes:
        below = self._dice.choices(self.levels[level], k=self._dice.randrange(1, 5))
        # Some nodes have the id of a chunk: a file may hold the bytes of a node.
        name = self._name("node", len(self.nodes))
        if level == 0 and self._dice.random() < 0.2:
            name = self._dice.choice(self.chunks)
        spans = tuple(Span(child, 10, 1) for child in below)
        self.nodes[name] = Node(CHUNK_LIST_NODE, level, spans, 0)
        return name

    def fetch(self, node: bytes) -> Node:
        self.read.append(node)
        return self.nodes[node]

    def new_root(self) -> bytes:
        return self._dice.choice(self.levels[self._dice.randrange(1, 4)])

    def reached(self, roots: Iterator[bytes] | list[bytes]) -> set[Needed]:
        """The brute-force walk."""
        found: set[Needed] = set()
        todo = [NODE + root for root in roots]
        while todo:
            key = todo.pop()
            if key not in found:
                found.add(key)
                if key[:1] == NODE:
                    todo += [needed(c) for c in children(self.nodes[key[1:]], bytes)]
        return found


def same(sha256: bytes) -> bytes:
    return sha256


def opened(world: World, path: Path) -> References:
    return References(path, world.fetch, same)


def check_alone(world: World, live: dict[int, bytes], chosen: list[int], table: References) -> None:
    """What only some versions need, going up from it, is what a walk down from the others does not meet."""
    besides = sorted(live)[::4]
    rest = world.reached([r for s, r in live.items() if s not in chosen and s not in besides])
    mine = {key[1:] for key in world.reached([live[s] for s in chosen]) - rest if key[:1] == CHUNK}
    assert table.alone([(s, live[s]) for s in chosen], besides) == mine
    needed_else = {key[1:] for key in rest}
    for chunk in world.chunks:
        found = table.needed_besides([chunk], {*chosen, *besides})
        assert found == (chunk in needed_else)


def check_dying(world: World, live: dict[int, bytes], chosen: list[int], found: Dying) -> None:
    rest = [root for serial, root in live.items() if serial not in chosen]
    mine = world.reached([live[serial] for serial in chosen])
    kept = world.reached(rest)
    assert found.dead == mine - kept
    borders = {
        needed(child)
        for key in found.dead
        if key[:1] == NODE
        for child in children(world.nodes[key[1:]], same)
    } | {NODE + live[serial] for serial in chosen}
    assert {held.needed for held in found.survivors} == borders - found.dead
    for held in found.survivors:
        assert held.because_of not in chosen
        assert held.needed in world.reached([live[held.because_of]])


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), choices=st.lists(st.integers(0, 99), min_size=5, max_size=25))
def test_any_history(seed: int, choices: list[int]) -> None:
    world = World(seed)
    live: dict[int, bytes] = {}
    dead: set[Needed] = set()
    serial = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        table = opened(world, path)
        for choice in choices:
            if choice < 50 or not live:
                serial += 1
                live[serial] = world.new_root()
                table.add(serial, live[serial], b"m" * 32)
                dead -= world.reached([live[serial]])
                assert table.counted == (serial, b"m" * 32)
            else:
                some = sorted(live)[choice % len(live) :: 3]
                before = world.reached(list(live.values()))
                check_dying(world, live, some, table.dying([(s, live[s]) for s in some]))
                check_alone(world, live, some, table)
                for one in some:
                    table.drop(one, live.pop(one))
                dead |= before - world.reached(list(live.values()))
            if choice % 7 == 0:
                table.close()
                table = opened(world, path)
            kept = world.reached(list(live.values()))
            assert set(table.dead()) == dead
            ids = {key[1:] for key in kept}
            assert set(table.unneeded([*world.nodes, *world.chunks])) == (
                {*world.nodes, *world.chunks} - ids
            )
        assert table.dropped == serial - len(live)
        table.forget_dead(table.dead())
        assert table.dead() == []
        table.close()


@pytest.mark.parametrize("limit", [1, 3])
def test_a_crash_between_any_two_txns(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted anywhere, opened again and gone on with: the same edges as without."""
    monkeypatch.setattr(references, "EDGES_AT_ONCE", limit)
    steps = [("add", 1), ("add", 2), ("add", 3), ("drop", 2), ("add", 4), ("drop", 1), ("drop", 4)]

    def go_on(world: World, roots: dict[int, bytes], path: Path, crash_at: int) -> set[bytes]:
        txns = 0

        class Crash(Exception):
            pass

        def write(function):  # type: ignore[no-untyped-def]
            nonlocal txns
            txns += 1
            if txns == crash_at:
                raise Crash
            return real(function)

        todo = list(steps)
        while todo:
            table = opened(world, path)
            real = table._database.write
            monkeypatch.setattr(table._database, "write", write)
            try:
                while todo:
                    what, serial = todo[0]
                    if what == "drop":
                        table.drop(serial, roots[serial])
                    elif table.counted[0] < serial:
                        table.add(serial, roots[serial], b"")
                    todo.pop(0)
                table.settle()
            except Crash:
                pass
            finally:
                table.close()
        table = opened(world, path)
        with table._database.read() as txn:
            rows = {key for key, _ in txn.scan("edge")} | {b"d" + k for k, _ in txn.scan("dead")}
            assert not txn.count("todo") and not txn.count("gone")
        table.close()
        return rows if txns >= crash_at else set()

    world = World(5)
    roots = {serial: world.levels[3][serial] for serial in (1, 2, 3, 4)}
    table_path = tmp_path / "whole"
    table_path.mkdir()
    table = opened(world, table_path)
    for what, serial in steps:
        table.add(serial, roots[serial], b"") if what == "add" else table.drop(
            serial, roots[serial]
        )
    with table._database.read() as txn:
        expected = {key for key, _ in txn.scan("edge")} | {b"d" + k for k, _ in txn.scan("dead")}
    table.close()
    for crash_at in range(1, 1000):
        path = tmp_path / str(crash_at)
        path.mkdir()
        rows = go_on(world, roots, path, crash_at)
        if not rows:
            break
        assert rows == expected, f"crash before txn {crash_at}"
    assert crash_at > 10


def test_cost_is_what_the_version_alone_holds(tmp_path: Path) -> None:
    """Nodes read for one version do not depend on how many others there are."""
    read: list[int] = []
    for versions in (10, 300):
        nodes: dict[bytes, Node] = {}
        fetched: list[bytes] = []

        def put(
            kind: str, level: int, below: list[bytes], nodes: dict[bytes, Node] = nodes
        ) -> bytes:
            name = hashlib.sha256(f"{kind} {level} {below}".encode()).digest()
            nodes[name] = Node(CHUNK_LIST_NODE, level, tuple(Span(b, 1, 1) for b in below), 0)
            return name

        def fetch(
            node: bytes, nodes: dict[bytes, Node] = nodes, fetched: list[bytes] = fetched
        ) -> Node:
            fetched.append(node)
            return nodes[node]

        shared = put("shared", 1, [put("leaf", 0, [hashlib.sha256(b"c").digest()])])
        path = tmp_path / str(versions)
        path.mkdir()
        table = References(path, fetch, same)
        roots = {}
        for serial in range(1, versions + 1):
            own = put("own", 1, [put("mine", 0, [hashlib.sha256(b"%d" % serial).digest()])])
            roots[serial] = put("root", 2, [own, shared])
            table.add(serial, roots[serial], b"")
        fetched.clear()
        found = table.dying([(7, roots[7])])
        table.drop(7, roots[7])
        read.append(len(fetched))
        assert len(found.dead) == 4 and [held.size for held in found.survivors] == [1]
        assert found.survivors[0].because_of != 7
        table.close()
    assert read[0] == read[1] == 6


def test_a_node_that_cannot_be_read_is_said_and_nothing_is_forgotten(tmp_path: Path) -> None:
    world = World(3)
    root = world.levels[3][0]
    table = opened(world, tmp_path)
    lost = world.nodes.pop(world.nodes[root].spans[0].id)

    def fetch(node: bytes) -> Node:
        if node not in world.nodes:
            raise IntegrityError("lost")
        return world.nodes[node]

    table._fetch = fetch
    with pytest.raises(IntegrityError, match="lost"):
        table.add(1, root, b"")
    with pytest.raises(IntegrityError, match="lost"):
        table.settle()
    world.nodes[world.nodes[root].spans[0].id] = lost
    table.settle()
    assert world.reached([root]) == table.dying([(1, root)]).dead
    assert CHUNK in {key[:1] for key in table.dying([(1, root)]).dead}
    table.close()
