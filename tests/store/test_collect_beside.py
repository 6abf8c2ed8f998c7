"""Collections with no grace beside everybody else: other threads, and readers in other processes."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

from dtafs.store.collect import collect
from dtafs.store.collect_reach import Reached
from dtafs.store.lake import Lake
from dtafs.store.reindex import reindex
from dtafs.store.session import Session
from tests.support.collecting import AT_ONCE, assert_whole, big, packs_of, run
from tests.support.programs import environment
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version

D = "D"

READER = """
import sys
from pathlib import Path
from dtafs.store.lake import Lake
from tests.support.small_lakes import read_version
with Lake.open(Path(sys.argv[1]), write=False) as lake:
    rounds = 0
    while not Path(sys.argv[2]).exists():
        for version in lake.versions("D"):
            lake.objects.clear()
            lake.files.close()
            read_version(lake, version)
        if not rounds:
            print("reading", flush=True)
        rounds += 1
    print(rounds)
"""


def test_a_reader_in_another_process(lake: Lake, tmp_path: Path) -> None:
    """It reads on and on, through rewritten packs and new indexes, while their bytes go at once."""
    scratch, trees = tmp_path / "scratch", []
    lake.create_dataset(D, ACTOR)
    put_tree(lake, D, {b"kept": big(100, 200_000)}, scratch)
    commit(lake, D)
    program = [sys.executable, "-c", READER, str(lake.path), str(tmp_path / "stop")]
    with subprocess.Popen(program, env=environment(), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == b"reading\n"
        for step in range(6):
            tree = {b"kept": big(step, 200_000), b"waste": big(step + 50)}
            put_tree(lake, D, tree, scratch)
            del tree[b"waste"]
            put_tree(lake, D, tree, scratch)
            trees.append((commit(lake, D), tree))
            assert run(lake)["rewritten"]["packs"] >= 1
            if step % 2:
                reindex(lake)
        (tmp_path / "stop").touch()
        rounds = reader.stdout.read()
    assert reader.returncode == 0 and int(rounds) > 0
    for row, tree in trees:
        assert read_version(lake, row) == tree
    assert_whole(lake)


def test_collect_against_everything_else(lake: Lake, tmp_path: Path) -> None:
    """Puts, discards and commits of two datasets while collections with no grace run on and on."""
    stop = threading.Event()
    failures: list[BaseException] = []
    for name in ("A", "B"):
        lake.create_dataset(name, ACTOR)

    def work(name: str) -> None:
        dice = random.Random(name)
        session, tree = Session(lake, ACTOR), {}
        try:
            for step in range(15):
                for key in (b"1", b"2", b"3"):
                    tree[key] = big(dice.randrange(6), dice.choice((3_000, 90_000, 300_000)))
                put_tree(lake, name, tree, tmp_path / f"scratch {name}")
                if dice.random() < 0.3:
                    session.discard(name)
                    put_tree(lake, name, tree, tmp_path / f"scratch {name}")
                if dice.random() < 0.7:
                    row = commit(lake, name, str(step))
                    lake.objects.clear()
                    assert read_version(lake, row) == tree
        except BaseException as error:
            failures.append(error)

    def sweep() -> None:
        try:
            while not stop.is_set():
                collect(lake, ACTOR, AT_ONCE, settle_s=2.0)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(name,)) for name in ("A", "B")]
    sweeper = threading.Thread(target=sweep)
    for thread in (*workers, sweeper):
        thread.start()
    for worker in workers:
        worker.join()
    stop.set()
    sweeper.join()
    assert not failures, failures
    run(lake)
    reached = Reached(lake)
    reached.look()
    assert all(reached.needs(pack) for pack in packs_of(lake))
    reached.close()
    assert_whole(lake)
