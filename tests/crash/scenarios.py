"""What a lake does while the disk is watched, and what must hold wherever it was interrupted."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from dtafs.core.values import Kind
from dtafs.store.export import export_file
from dtafs.store.lake import Lake
from dtafs.store.reindex import reindex
from dtafs.store.session import Session
from dtafs.store.verify import verify_package
from tests.crash import dispositions, mirrors, moves, records, repairs
from tests.crash.dying_disk import Died, DyingDisk, dying
from tests.crash.simulated_disk import Recorder, images
from tests.support.small_lakes import (
    ACTOR,
    Item,
    Tree,
    commit,
    put_tree,
    tree_of_seed,
)

DATASET = "WF-2024-07"


@dataclass(frozen=True)
class Scenario:
    """One operation on a lake in a known state.

    `act` does it, calling `reached` for each promise that its caller would rely on. `before` is how
    many versions there were, `staged` what was in staging, `trees` what each version must hold if
    it is there, by its number. `recover` is what somebody does who finds what the crash has left, before
    anything is opened; `finish` proves, in the open lake, what was promised, and finishes what was not.
    Both are given what was reached.
    """

    name: str
    prepare: Callable[[Path, Path], None]
    act: Callable[[Path, Path, Callable[[str], None]], None]
    trees: dict[int, Tree]
    before: int = 0
    staged: Tree | None = None
    finish: Callable[[Lake, tuple[str, ...]], None] | None = None
    recover: Callable[[Path, tuple[str, ...]], None] | None = None


def _nothing(path: Path, scratch: Path) -> None:
    path.mkdir()


def _empty_dataset(path: Path, scratch: Path) -> None:
    with Lake.create(path) as lake:
        lake.create_dataset(DATASET, ACTOR, ("raw",))


def _first_staged(path: Path, scratch: Path) -> None:
    _empty_dataset(path, scratch)
    with Lake.open(path) as lake:
        put_tree(lake, DATASET, tree_of_seed(1), scratch)


def _one_version(path: Path, scratch: Path) -> None:
    _first_staged(path, scratch)
    with Lake.open(path) as lake:
        commit(lake, DATASET, "first")


def _second_staged(path: Path, scratch: Path) -> None:
    _one_version(path, scratch)
    with Lake.open(path) as lake:
        put_tree(lake, DATASET, tree_of_seed(2), scratch)


def _two_versions(path: Path, scratch: Path) -> None:
    _second_staged(path, scratch)
    with Lake.open(path) as lake:
        commit(lake, DATASET, "second")
        lake.set_tags(DATASET, 2, ACTOR, add=("clean",))


def _with_garbage(path: Path, scratch: Path) -> None:
    """Two versions, a pack of which half is garbage, one that is all garbage, and staged work."""
    _one_version(path, scratch)
    with Lake.open(path) as lake:
        waste = Item(Kind.FILE, 0o644, random.Random(9).randbytes(150_000))
        put_tree(lake, DATASET, TWO | {b"waste": waste}, scratch)
        put_tree(lake, DATASET, TWO | {b"waste": waste._replace(content=WRITTEN)}, scratch)
        put_tree(lake, DATASET, TWO, scratch)
        commit(lake, DATASET, "second")
        put_tree(lake, DATASET, ONE, scratch)


def _collect(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    with Lake.open(path) as lake:
        Session(lake, ACTOR).collect(grace_s=3600)
        Session(lake, ACTOR).collect(grace_s=0)
        reached("collected")


def _collect_again(lake: Lake, reached: tuple[str, ...]) -> None:
    facts = Session(lake, ACTOR).collect(grace_s=0)
    assert "collected" not in reached or not facts["packs"], facts


def _create(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    with Lake.create(path) as lake:
        reached("created")
        lake.create_dataset(DATASET, ACTOR, ("raw",))
        reached("dataset")


def _put(seed: int) -> Callable[[Path, Path, Callable[[str], None]], None]:
    def act(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
        with Lake.open(path) as lake:
            put_tree(lake, DATASET, tree_of_seed(seed), scratch)
        reached(f"staged {seed}")

    return act


def _commit(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    with Lake.open(path) as lake:
        row = commit(lake, DATASET, "sealed")
        reached(f"v{row.number}")


def _tag(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    with Lake.open(path) as lake:
        lake.set_tags(DATASET, 2, ACTOR, add=("final",), remove=("clean",))
        reached("tagged")


def _reindex(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    with Lake.open(path) as lake:
        reindex(lake)


def _export_record(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    with Lake.open(path) as lake:
        lake.record(DATASET, "exported", {"version": 1, "to": "x.zip"}, ACTOR)
        reached("recorded")


def _export(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """Packages beside the lake's own files, each recorded once it is there."""
    with Lake.open(path) as lake:
        lake.disk.make_directory(path / PACKAGES)
        version = lake.resolve(f"{DATASET}:v1")
        for form in FORMATS:
            exported = export_file(lake, version, form, path / PACKAGES / form)
            body = {"version": 1, "format": form, "package_sha256": exported.package_sha256}
            Session(lake, ACTOR).record(DATASET, "exported", body)
            reached(f"exported {form}")


def _verify_packages(lake: Lake, reached: tuple[str, ...]) -> None:
    """A package that has its name is right, and what the log says was exported is there."""
    there = {file.name for file in (lake.path / PACKAGES).glob("[!.]*")}
    for form in there:
        assert not verify_package(lake.path / PACKAGES / form).findings, form
    row = lake.index.dataset(DATASET)
    assert row is not None
    entries = [lake.log.read(DATASET, number).entry for number in range(1, row.sequence + 1)]
    recorded = {one.body["format"] for one in entries if one.kind == "exported"}
    promised = {label.split()[1] for label in reached}
    assert promised <= recorded <= there


PACKAGES = "packages"
FORMATS = ("zip", "dir")
WRITTEN = b"written through staging, as the mount does"


def _write_and_sync(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """A new file and a patched one, written as the mount writes them, synced, then committed."""
    with Lake.open(path) as lake:
        staging = lake.staging(DATASET)
        for name, at in ((b"new", 0), (b"big", 1_000)):
            inode = staging.lookup(staging.root_ino, name) or staging.make(
                staging.root_ino, name, Kind.FILE, 0o644, 0, 0, lake.now_ns()
            )
            handle = staging.open(inode.ino, True)
            if at or not staging.hold(inode.ino, WRITTEN, lake.now_ns()):
                os.pwrite(staging.begin_write(inode.ino), WRITTEN, at)
                staging.wrote(inode.ino, at, len(WRITTEN), lake.now_ns())
            staging.fsync(inode.ino)
            reached(f"synced {name.decode()}")
            staging.close(handle)
        row = commit(lake, DATASET, "written")
        reached(f"v{row.number}")


PAGE = 4096
PATCHES = {PAGE: b"synced".ljust(PAGE, b"."), 4 * PAGE: b"not synced".ljust(PAGE, b".")}
"""Where a page of a file is written, as the write-back cache writes them."""


def _patch_and_sync_another(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """A patch that is synced, one that is not, and a sync of another file, which has the journal on
    the disk with the row of the second patch in it."""
    with Lake.open(path) as lake:
        staging = lake.staging(DATASET)
        big = staging.lookup(staging.root_ino, b"big")
        assert big is not None
        handle = staging.open(big.ino, True)
        for at, page in PATCHES.items():
            os.pwrite(staging.begin_write(big.ino), page, at)
            staging.wrote(big.ino, at, len(page), lake.now_ns())
            if page.startswith(b"synced"):
                staging.fsync(big.ino)
                reached("patched")
        staging.close(handle)
        new = staging.make(staging.root_ino, b"new", Kind.FILE, 0o644, 0, 0, lake.now_ns())
        handle = staging.open(new.ino, True)
        assert staging.hold(new.ino, WRITTEN, lake.now_ns())
        staging.fsync(new.ino)
        reached("synced new")
        staging.close(handle)


def _discard(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    with Lake.open(path) as lake:
        Session(lake, ACTOR).discard(DATASET)
        reached("discarded")


def _interrupted(path: Path, scratch: Path) -> None:
    """A lake that lost its power right after the entry of the second version was durable."""
    _second_staged(path, scratch)
    with Recorder(path) as recorder:
        _commit(path, scratch, recorder.reached)
    entry = f"log/{DATASET}/0000000003"
    image = next(i for i in images(recorder.trace) if entry in i.files)
    image.write(clear(path))


def _reopen(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    Lake.open(path).close()
    reached("v2")


def garbage_away(path: Path, scratch: Path) -> None:
    """As `_with_garbage`, and a tier has all content, the half of a pack that is garbage included."""
    _with_garbage(path, scratch)
    moves.send_away(path)


def _disposing(number: int, staged: Tree | None = None) -> tuple[Any, ...]:
    """What follows the preparation in a scenario of a disposition of one of two versions."""
    finish = dispositions.finishing(number, BOTH)
    return dispositions.disposing(number), BOTH, 2, staged, finish


def _kill_and_reopen(path: Path, scratch: Path, reached: Callable[[str], None]) -> None:
    """A commit that is killed when its entry has its name, which nobody has synced, and another process
    that finds the entry: what that one shows has to be on the disk."""
    with dying(path, 10**9) as lake, contextlib.suppress(Died):
        disk, link = lake.disk, lake.disk.link
        assert isinstance(disk, DyingDisk)

        def link_and_die(source: Path, target: Path) -> bool:
            made = link(source, target)
            if "log" in target.parts:
                disk.left = 0
            return made

        with patch.object(disk, "link", link_and_die):
            commit(lake, DATASET, "killed")
    Lake.open(path).close()
    reached("v2")


def _patched(tree: Tree) -> Tree:
    """What `_write_and_sync` makes of a tree."""
    big = tree[b"big"]
    content = big.content[:1_000] + WRITTEN + big.content[1_000 + len(WRITTEN) :]
    new = Item(Kind.FILE, 0o644, WRITTEN)
    return tree | {b"new": new, b"big": big._replace(content=content)}


ONE, TWO = tree_of_seed(1), tree_of_seed(2)
BOTH = {1: ONE, 2: TWO}
NEW: Tree = {b"new": Item(Kind.FILE, 0o644, WRITTEN)}

SCENARIOS = (
    Scenario("create", _nothing, _create, {}),
    Scenario("put", _empty_dataset, _put(1), {1: ONE}),
    Scenario("put again", _one_version, _put(2), BOTH, 1),
    Scenario("first commit", _first_staged, _commit, {1: ONE}, 0, ONE),
    Scenario("later commit", _second_staged, _commit, BOTH, 1, TWO),
    Scenario("tag", _two_versions, _tag, BOTH, 2, TWO),
    Scenario("record", _two_versions, _export_record, BOTH, 2, TWO),
    Scenario("export", _two_versions, _export, BOTH, 2, TWO, _verify_packages),
    Scenario("write and sync", _one_version, _write_and_sync, {1: ONE, 2: _patched(ONE)}, 1),
    Scenario("patch and sync another", _one_version, _patch_and_sync_another, {1: ONE, 2: NEW}, 1),
    Scenario("discard", _second_staged, _discard, BOTH, 1),
    Scenario("recovery", _interrupted, _reopen, BOTH, 1, TWO),
    Scenario("killed commit", _second_staged, _kill_and_reopen, BOTH, 1, TWO),
    Scenario("collect", _with_garbage, _collect, BOTH, 2, ONE, _collect_again),
    Scenario("commit with parity", repairs.staged, _commit, {1: ONE}, 0, ONE),
    Scenario("repair", repairs.damaged, repairs.act, BOTH, 2, recover=repairs.recover),
    Scenario("dispose of v1", _two_versions, *_disposing(1, TWO)),
    Scenario("dispose of v2", _two_versions, *_disposing(2)),
    Scenario("dispose with parity", dispositions.with_parity, *_disposing(1)),
    Scenario("dispose in a tier", moves.away, *_disposing(1)),
    Scenario("retention", _two_versions, records.act, BOTH, 2, TWO, records.verify),
    Scenario("move", moves.hot, moves.move, BOTH, 2, finish=moves.finish_move),
    Scenario("recall", moves.away, moves.recall, BOTH, 2, finish=moves.finish_recall),
    Scenario("move on", moves.away, moves.move_on, BOTH, 2, finish=moves.finish_move_on),
    Scenario("collect in a tier", moves.garbage, moves.collect, BOTH, 2, None, moves.collect_again),
    Scenario("rewrite in a tier", garbage_away, _collect, BOTH, 2, ONE, moves.collect_again),
    Scenario("mirror", mirrors.hot, mirrors.act, {1: ONE}, 1, finish=mirrors.finish),
    Scenario("mirror goes on", mirrors.mirrored, mirrors.act, BOTH, 2, finish=mirrors.finish),
    Scenario("restore", mirrors.lost, mirrors.restoring, BOTH, 2, recover=mirrors.recover),
    Scenario("reindex", _two_versions, _reindex, BOTH, 2, TWO),
)


def record_trace(scenario: Scenario, path: Path, scratch: Path) -> Recorder:
    """Run a scenario once, on a real directory, and return the recorder with its trace."""
    scenario.prepare(path, scratch)
    with Recorder(path) as recorder:
        scenario.act(path, scratch, recorder.reached)
    return recorder


def clear(path: Path) -> Path:
    """An empty directory in place of what was there."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path
