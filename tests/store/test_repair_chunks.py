"""Repair where no whole copy is: chunks from anywhere, and what is lost is told and kept."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import pytest

from dtafs.core.format import PackKind, pack_key
from dtafs.core.tree import walk
from dtafs.core.values import Kind
from dtafs.errors import BusyError, IntegrityError, UsageError
from dtafs.store.check import check
from dtafs.store.commit import prepare
from dtafs.store.lake import Lake
from dtafs.store.packs import read_footer
from dtafs.store.reindex import reindex
from dtafs.store.repair import repair
from tests.support.broken_lakes import (
    TREES,
    assert_trees,
    flip,
    found_lake,
    packs_by_size,
    set_bytes,
)
from tests.support.collecting import assert_whole, big
from tests.support.small_lakes import (
    ACTOR,
    Tree,
    commit,
    put_tree,
    read_version,
)


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A lake of two versions without parity."""
    found_lake(tmp_path / "lake", tmp_path / "scratch")
    return tmp_path / "lake"


def content_pack(lake: Lake, of: int = 2) -> Path:
    """The file of the content pack that a version brought."""
    row = lake.resolve(f"D:v{of}")
    packs = [read_footer(lake.path, bytes.fromhex(name)) for name in row.manifest.packs]
    return lake.path / pack_key(next(p.id for p in packs if p.kind == PackKind.CONTENT))


def test_what_cannot_be_mended(bare: Path, tmp_path: Path) -> None:
    """One frame is lost: everything else stays readable, what is lost is named, and comes back."""
    whole = Path(shutil.copytree(bare, tmp_path / "whole"))
    with Lake.open(bare) as lake:
        file = content_pack(lake)
        damaged = flip(file.read_bytes(), 5_000)
        set_bytes(file, damaged)
        planned = repair(lake, ACTOR, dry_run=True)
        assert file.exists() and planned["replaced"][0]["chunks_lost"] > 0
        facts = repair(lake, ACTOR)
        assert [one["object"] for one in facts["lost"]] == [f"packs/{file.parent.name}/{file.name}"]
        assert planned["lost"][0]["affects"] == facts["lost"][0]["affects"]
        (affected,) = facts["lost"][0]["affects"]
        assert (affected["dataset"], affected["versions"]) == ("D", [2])
        assert not file.exists()
        assert (bare / facts["quarantined"][0]["to"]).read_bytes() == damaged
        report = json.loads((bare / facts["lost"][0]["report"]).read_bytes())
        assert report["affects"] == facts["lost"][0]["affects"]
        _assert_lost_are(lake, affected["paths"])
        assert {f.invariant for f in check(lake, read_data=True)} == {2, 8}, "and staging over it"
        before = lake.index.dataset("D")
        reindex(lake)
        assert lake.index.dataset("D") == before
        again = repair(lake, ACTOR)
        assert again["lost"] and not again["mended"] and not again["replaced"]
        healed = repair(lake, ACTOR, [str(whole)])
        assert not healed["lost"] and healed["replaced"][0]["chunks_saved"] > 0
        assert_whole(lake)
        assert_trees(lake)


def _assert_lost_are(lake: Lake, paths: list[dict[str, object]]) -> None:
    """Just these ranges cannot be read; every other byte of the version can."""
    row = lake.resolve("D:v2")
    lost = {str(one["path"]).encode(): one["ranges"] for one in paths}
    assert lost
    for parts, entry in walk(lake.objects.node, lake.objects.top(row)):
        name = b"/".join(parts)
        item = TREES[2].get(name)
        if item is None or item.kind != Kind.FILE:
            continue
        ranges = lost.get(name, [])
        at = 0
        for start, end in [*ranges, [entry.size, entry.size]]:  # type: ignore[misc]
            assert lake.objects.read(entry.content, at, start - at) == item.content[at:start]
            if end > start:
                with pytest.raises(IntegrityError):
                    lake.objects.read(entry.content, start, 1)
                with pytest.raises(IntegrityError):
                    lake.objects.read(entry.content, end - 1, 1)
            at = end


def test_the_same_data_again_heals(bare: Path, tmp_path: Path) -> None:
    with Lake.open(bare) as lake:
        file = content_pack(lake)
        set_bytes(file, flip(file.read_bytes(), 5_000))
        assert repair(lake, ACTOR)["lost"]
        put_tree(lake, "D", TREES[1], tmp_path / "scratch")
        put_tree(lake, "D", TREES[2], tmp_path / "scratch")
        commit(lake, "D")
        assert not repair(lake, ACTOR)["lost"]
        assert_whole(lake)


def test_single_chunks_from_another_lake(bare: Path, tmp_path: Path) -> None:
    """The other lake has the chunks in other packs; the pack is written again, byte for byte."""
    with Lake.create(tmp_path / "other") as other:
        other.create_dataset("X", ACTOR)
        tree: Tree = {b"z": big(99), **TREES[2]}
        put_tree(other, "X", tree, tmp_path / "scratch")
        commit(other, "X")
    with Lake.open(bare) as lake:
        file = content_pack(lake)
        before = file.read_bytes()
        for damaged in (flip(before, 5_000), bytes(len(before)), before[:1_000]):
            set_bytes(file, damaged)
            facts = repair(lake, ACTOR, [str(tmp_path / "other")])
            assert [one["how"] for one in facts["mended"]] == [f"lake {tmp_path / 'other'}"]
            assert file.read_bytes() == before
        shutil.rmtree(tmp_path / "other" / "index")
        file.unlink()
        assert not repair(lake, ACTOR, [str(tmp_path / "other")])["lost"], "by the footers"
        assert_whole(lake)


def test_chunks_that_another_pack_holds(tmp_path: Path) -> None:
    """What is compressed otherwise today cannot be the very pack: its chunks go to a new one."""
    tree = {b"same": big(3)}
    with Lake.create(tmp_path / "lake") as lake:
        for name in ("D", "E"):
            lake.create_dataset(name, ACTOR)
        put_tree(lake, "D", tree, tmp_path / "scratch")
        put_tree(lake, "E", {b"first": big(4, 60_000), **tree}, tmp_path / "scratch")
        commit(lake, "D")
        commit(lake, "E")
        file = content_pack(lake, 1)
        set_bytes(file, flip(file.read_bytes(), 500))
        facts = repair(lake, ACTOR)
        assert facts["mended"][0]["how"] == "another pack of this lake"
        assert_whole(lake)
        file.unlink()
        row = next(r for r in lake.versions("D"))
        assert not repair(lake, ACTOR)["lost"]
        assert read_version(lake, row) == tree
        assert_whole(lake)


def test_a_new_pack_takes_the_place(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this release compressed otherwise than the one that wrote the pack."""
    whole = Path(shutil.copytree(bare, tmp_path / "whole"))
    with Lake.open(bare) as lake:
        file = content_pack(lake)
        (whole / file.relative_to(bare)).rename(tmp_path / "aside")
        footer = read_footer(bare, bytes.fromhex(file.name))
        with Lake.create(tmp_path / "other") as other:
            other.create_dataset("X", ACTOR)
            put_tree(other, "X", {b"z": big(99), **TREES[2]}, tmp_path / "scratch")
            commit(other, "X")
        monkeypatch.setattr("dtafs.store.repair_packs.encodings", lambda *_args: iter(()))
        set_bytes(file, flip(file.read_bytes(), 5_000))
        facts = repair(lake, ACTOR, [str(tmp_path / "other")])
        (replaced,) = facts["replaced"]
        assert not facts["lost"] and replaced["chunks_lost"] == 0
        assert replaced["chunks_saved"] == sum(len(frame.chunks) for frame in footer.frames)
        assert not file.exists() and facts["quarantined"]
        assert_whole(lake)
        assert_trees(lake)


def test_everything_of_a_lost_pack_is_found(bare: Path, tmp_path: Path) -> None:
    """The pack is gone and its rows with it: chunks are found by what versions need."""
    whole = Path(shutil.copytree(bare, tmp_path / "whole"))
    with Lake.open(bare) as lake:
        for file in packs_by_size(bare):
            file.unlink()
        reindex(lake)
        for file in packs_by_size(whole):  # no whole pack is to be found there
            data = file.read_bytes()
            set_bytes(file, data + b"x")
            file.rename(file)
        shutil.rmtree(whole / "index")
        with pytest.raises(IntegrityError):
            assert_trees(lake)
        facts = repair(lake, ACTOR, [str(whole)])
        assert facts["lost"], "footers at the wrong place say nothing"
        for file in packs_by_size(whole):
            set_bytes(file, file.read_bytes()[:-1])
        assert not repair(lake, ACTOR, [str(whole)])["lost"]
        assert_whole(lake)
        assert_trees(lake)


@pytest.mark.parametrize("kind", [PackKind.CONTENT, PackKind.METADATA])
def test_a_pack_of_staged_work(bare: Path, tmp_path: Path, kind: PackKind) -> None:
    """Not mended, it is replaced in the table of uncommitted work; then put again and committed."""
    tree = TREES[2] | {b"new": big(11, 600_000)}
    with Lake.open(bare) as lake:
        put_tree(lake, "D", tree, tmp_path / "scratch")
        assert lake.pending is not None
        packs = [read_footer(bare, pack) for pack in lake.pending.packs("D")]
        wanted = next((pack for pack in packs if pack.kind == kind), None)
        if wanted is None:
            pytest.skip("staging has no such pack")
        file = bare / pack_key(wanted.id)
        set_bytes(file, flip(file.read_bytes(), wanted.size // 2))
        facts = repair(lake, ACTOR)
        assert facts["lost"] and facts["lost"][0]["affects"][0]["staged"]
        assert not file.exists()
        (tmp_path / "scratch" / "new").touch()
        put_tree(lake, "D", TREES[1], tmp_path / "scratch")
        put_tree(lake, "D", tree, tmp_path / "scratch")
        row = commit(lake, "D")
        assert read_version(lake, row) == tree
        assert_whole(lake)


def test_the_staged_original(bare: Path) -> None:
    """A file that was written through staging still has its bytes there."""
    with Lake.open(bare) as lake:
        staging = lake.staging("D")
        data = {b"held": random.Random(1).randbytes(9_000), b"whole": big(12).content}
        for name, content in data.items():
            inode = staging.make(staging.root_ino, name, Kind.FILE, 0o644, 0, 0, lake.now_ns())
            handle = staging.open(inode.ino, True)
            if not staging.hold(inode.ino, content, lake.now_ns()):
                os.pwrite(staging.begin_write(inode.ino), content, 0)
                staging.wrote(inode.ino, 0, len(content), lake.now_ns())
            staging.close(handle)
        prepare(lake, "D")
        assert lake.pending is not None
        for pack in lake.pending.packs("D"):
            (bare / pack_key(pack)).unlink()
        facts = repair(lake, ACTOR)
        assert not facts["lost"]
        assert any("staging" in one["how"] for one in facts["mended"])
        row = commit(lake, "D")
        assert (
            read_version(lake, row).items()
            >= {name: big(0)._replace(content=content) for name, content in data.items()}.items()
        )
        assert_whole(lake)


def test_one_at_a_time_and_not_from_itself(bare: Path, tmp_path: Path) -> None:
    with Lake.open(bare) as lake:
        with lake.condemned.collecting(), pytest.raises(BusyError):
            repair(lake, ACTOR)
        with pytest.raises(UsageError, match="to be repaired"):
            repair(lake, ACTOR, [str(bare)])
        with pytest.raises(UsageError, match="no lake there"):
            repair(lake, ACTOR, [str(tmp_path)])


def test_readers_notice(bare: Path, tmp_path: Path) -> None:
    """What was read, or could not be, before the repair does not stand in its way."""
    whole = Path(shutil.copytree(bare, tmp_path / "whole"))
    with Lake.open(bare, write=False) as reader:
        row = reader.resolve("D:v2")
        with Lake.open(whole) as other:
            file = content_pack(other)
        mine = bare / file.relative_to(whole)
        set_bytes(mine, flip(mine.read_bytes(), 5_000))
        with pytest.raises(IntegrityError):
            read_version(reader, row)
        set_bytes(mine, file.read_bytes())
        assert read_version(reader, row) == TREES[2]
