"""Random sequences of what people do with a lake, against plain dicts, with the checker after each.

The model keeps, for each dataset, what is staged and what each version holds. After every step the
checker reads every byte; at random moments everything is read back and compared. Reopening and
reindexing must change nothing that anybody can see, and neither must where packs lie. Superseded versions
with the tag `raw` are disposed of by a rule, unless a hold is on their dataset.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dtafs.core.records import Cutoff, Rule
from dtafs.core.values import Kind
from dtafs.errors import DisposedError, NotFoundError, RefusedError
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import move_packs
from dtafs.store.placement.stubs import tiers_of
from dtafs.store.reindex import dump, reindex, reindex_at
from dtafs.store.retention_changes import set_rules
from dtafs.store.session import Session
from tests.support.small_lakes import ACTOR, Item, Tree, commit, read_version, write_tree
from tests.support.tiered import content_packs
from tests.support.tried import tried

DATASETS = ("first", "second")
NAMES = st.sampled_from([b"a", b"b", b"c", b"long name \xfe", b"d"])
FOLDERS = st.sampled_from([b"", b"in", b"in/deep", b"out"])
TAGS = st.sampled_from(["raw", "clean", "final"])
WHICH = st.sampled_from(DATASETS)
COMMON = random.Random(0).randbytes(200_000)
CONTENTS = st.one_of(
    st.binary(max_size=40),
    # Several chunks, of which most are the same in any two of them.
    st.integers(0, 5).map(lambda number: COMMON + bytes([number]) * 70_000),
)
TIERS = ("near", "far")
SOME = st.sampled_from([slice(None), slice(0, 1), slice(1, None), slice(None, None, 2)])
"""Which of the packs."""
CONFIG = "[collect]\nrewrite_share = 0.1\n"
"""So that what is written over in part is rewritten."""
RAW_GOES = Rule(Cutoff("superseded", "0d"), "dispose", "a test", tags=("raw",))
MODES = st.sampled_from([0o644, 0o600, 0o755])
STAGED_MODE = 0o755
"""Of directories that a put makes on the way to what it puts."""


def placed(tree: Tree, path: bytes, item: Item) -> None:
    """Put an item into a model tree, with the directories above it."""
    remove(tree, path)
    parts = path.split(b"/")
    for end in range(1, len(parts)):
        above = b"/".join(parts[:end])
        if above not in tree or tree[above].kind != Kind.DIRECTORY:
            tree[above] = Item(Kind.DIRECTORY, STAGED_MODE)
    tree[path] = item


def remove(tree: Tree, path: bytes) -> None:
    """Take a path and all below it out of a model tree."""
    for other in [p for p in tree if p == path or p.startswith(path + b"/")]:
        del tree[other]


class Killed(BaseException):
    """Ends a call as a signal would."""


class LakeMachine(RuleBasedStateMachine):
    """A lake and its model."""

    @initialize()
    def make(self) -> None:
        tried("histories")
        self.top = Path(tempfile.mkdtemp(prefix="dtafs-model-", dir=_fast_directory()))
        self.path, self.scratch = self.top / "lake", self.top / "scratch"
        self.lake = Lake.create(self.path)
        for tier in TIERS:
            (self.top / tier).mkdir()
            shutil.copy(self.path / "lake.json", self.top / tier)
        tables = [f'[tiers.{tier}]\nurl = "file://{self.top / tier}"\n' for tier in TIERS]
        (self.path / "config.toml").write_text("".join([CONFIG, *tables]))
        self.lake.close()
        self.lake = Lake.open(self.path)
        set_rules(self.lake, ACTOR, {"raw": RAW_GOES})
        self.held: set[str] = set()
        self.gone: set[tuple[str, int]] = set()
        """Versions that were disposed of."""
        self.staged: dict[str, Tree] = {}
        self.versions: dict[str, list[Tree]] = {}
        self.tags: dict[str, list[set[str]]] = {}
        for name in DATASETS:
            self.lake.create_dataset(name, ACTOR)
            self.staged[name], self.versions[name], self.tags[name] = {}, [], []

    @property
    def session(self) -> Session:
        return Session(self.lake, ACTOR)

    @rule(which=WHICH, folder=FOLDERS, name=NAMES, content=CONTENTS, mode=MODES)
    def put(self, which: str, folder: bytes, name: bytes, content: bytes, mode: int) -> None:
        item = Item(Kind.FILE, mode, content)
        write_tree({name: item}, self.scratch)
        source = os.fsdecode(os.path.join(os.fsencode(self.scratch), name))
        self.session.put(which, [source], os.fsdecode(folder))
        placed(self.staged[which], folder + b"/" + name if folder else name, item)

    @rule(which=WHICH, folder=FOLDERS, name=NAMES)
    def take_away(self, which: str, folder: bytes, name: bytes) -> None:
        path = folder + b"/" + name if folder else name
        staging = self.lake.staging(which)
        gone = self.session.on_staging(
            lambda: staging.remove_path(tuple(path.split(b"/")), self.lake.now_ns())
        )
        assert gone == (path in self.staged[which])
        remove(self.staged[which], path)

    @rule(
        which=WHICH, name=NAMES, at=st.integers(0, 300_000), data=st.binary(min_size=1, max_size=9)
    )
    def patch(self, which: str, name: bytes, at: int, data: bytes) -> None:
        """Write into a file that is there, as a program would through the mount."""
        old = self.staged[which].get(name)
        if old is None or old.kind != Kind.FILE:
            return
        staging = self.lake.staging(which)
        inode = self.session.on_staging(lambda: staging.resolve((name,)))
        assert inode is not None
        handle = self.session.on_staging(lambda: staging.open(inode.ino, True))
        fd = self.session.on_staging(lambda: staging.begin_write(inode.ino))
        os.pwrite(fd, data, at)
        self.session.on_staging(lambda: staging.wrote(inode.ino, at, len(data), None))
        self.session.on_staging(lambda: staging.close(handle))
        content = old.content.ljust(at, b"\0")
        content = content[:at] + data + content[at + len(data) :]
        self.staged[which][name] = old._replace(content=content)

    @rule(which=WHICH, name=NAMES, size=st.integers(0, 300_000))
    def truncate(self, which: str, name: bytes, size: int) -> None:
        old = self.staged[which].get(name)
        if old is None or old.kind != Kind.FILE:
            return
        staging = self.lake.staging(which)
        inode = self.session.on_staging(lambda: staging.resolve((name,)))
        assert inode is not None
        now_ns = self.lake.now_ns()
        self.session.on_staging(lambda: staging.truncate(inode.ino, size, now_ns))
        self.staged[which][name] = old._replace(content=old.content[:size].ljust(size, b"\0"))

    @rule(which=WHICH, old=NAMES, new=NAMES)
    def rename(self, which: str, old: bytes, new: bytes) -> None:
        tree = self.staged[which]
        if old not in tree or old == new:
            return
        staging = self.lake.staging(which)
        root, now_ns = staging.root_ino, self.lake.now_ns()
        self.session.on_staging(lambda: staging.rename(root, old, root, new, 0, now_ns))
        placed(tree, new, tree.pop(old))

    @rule(which=WHICH, tags=st.sets(TAGS, max_size=2))
    def commit(self, which: str, tags: set[str]) -> None:
        row = commit(self.lake, which, "m", tuple(tags))
        self.versions[which].append(dict(self.staged[which]))
        self.tags[which].append(set(tags))
        assert row.number == len(self.versions[which])
        assert read_version(self.lake, row) == self.staged[which]
        assert self.session.status(which)["changes"] == []

    @rule(which=WHICH)
    def commit_nothing(self, which: str) -> None:
        before = self.versions[which][-1] if self.versions[which] else {}
        if before == self.staged[which] and self.lake.staging(which).is_clean():
            with pytest.raises(RefusedError):
                self.session.commit(which, "nothing")

    @precondition(lambda self: any(self.versions.values()))
    @rule(data=st.data(), tag=TAGS)
    def tag(self, data: st.DataObject, tag: str) -> None:
        which = data.draw(st.sampled_from([n for n in DATASETS if self.versions[n]]))
        number = data.draw(st.integers(1, len(self.versions[which])))
        tags = self.tags[which][number - 1]
        if tag in tags and tag == "raw" and which in self.held:
            with pytest.raises(RefusedError, match="decides under a hold"):
                self.session.set_tags(which, number, remove=[tag])
            return
        if tag in tags:
            self.session.set_tags(which, number, remove=[tag])
        else:
            self.session.set_tags(which, number, add=[tag])
        tags ^= {tag}

    @rule(which=WHICH)
    def discard(self, which: str) -> None:
        self.session.discard(which)
        self.staged[which] = dict(self.versions[which][-1]) if self.versions[which] else {}

    @rule()
    def reopen(self) -> None:
        self.lake.close()
        self.lake = Lake.open(self.path)

    @rule()
    def crash(self) -> None:
        """A killed process: what is on the disk at this moment is all that is left of it."""
        left = self.top / "left"
        shutil.copytree(self.path, left)
        self.lake.close()  # what it writes now, and it writes what is in memory, is thrown away
        shutil.rmtree(self.path)
        left.rename(self.path)
        self.lake = Lake.open(self.path)

    @rule(which=WHICH)
    def crash_in_commit(self, which: str) -> None:
        """A process that is killed when its entry is durable and nothing else has followed."""
        left = self.top / "left"

        def killed(_path: Path) -> None:
            shutil.copytree(self.path, left)
            raise Killed

        with pytest.MonkeyPatch.context() as patch:
            # The index follows right after the entry, and staging after the index.
            patch.setattr("dtafs.store.lake.apply_entry", lambda path, *_rest: killed(path))
            with pytest.raises(Killed):
                commit(self.lake, which, "killed")
        self.lake.close()
        shutil.rmtree(self.path)
        left.rename(self.path)
        self.lake = Lake.open(self.path)
        self.versions[which].append(dict(self.staged[which]))
        self.tags[which].append(set())
        assert self.lake.dataset(which).newest == len(self.versions[which])

    @rule()
    def tidy(self) -> None:
        while self.lake.area.tidy():
            pass

    @rule(grace_s=st.sampled_from([0.0, 0.0, 3600.0]))
    def collect(self, grace_s: float) -> None:
        facts = self.session.collect(grace_s)
        assert all(pack["action"] != "wait" for pack in facts["packs"]) or grace_s

    @rule(tier=st.sampled_from(TIERS), some=SOME)
    def move(self, tier: str, some: slice) -> None:
        """Some packs to a tier, and what is nearer goes."""
        packs = content_packs(self.lake)[some]
        done = move_packs(self.lake, packs, tier)
        assert done.left.keys() <= self.lake.condemned.packs
        for pack in set(packs) - done.left.keys():
            assert tiers_of(self.path, pack).keys() == {tier} and not self.lake.placed.is_hot(pack)

    @rule(some=SOME)
    def recall(self, some: slice) -> None:
        """Packs of any place are hot again."""
        packs, recalls = content_packs(self.lake)[some], self.lake.recalls
        assert recalls is not None
        recalls.ask(packs)
        while recalls.step():
            continue
        assert not recalls.left(packs)

    @rule(which=WHICH)
    def hold(self, which: str) -> None:
        """Place a hold on a dataset, or release it."""
        if which in self.held:
            self.session.release_hold(f"hold {which}", "settled")
        else:
            self.session.place_hold(f"hold {which}", "a case", "subpoena", {"datasets": which})
        self.held ^= {which}

    @rule()
    def dispose(self) -> None:
        """Carry out the rule: everything that is due goes, and nothing else."""
        due = {
            (which, number)
            for which in DATASETS
            if which not in self.held
            for number, tags in enumerate(self.tags[which][:-1], 1)
            if "raw" in tags
        }
        facts = self.session.apply()
        assert not facts["left"] and not facts["refused"], facts
        assert set(facts["disposed"]) == {f"{name}:v{n}" for name, n in due - self.gone}
        self.gone |= due
        for which in DATASETS:
            self.read_everything(which)

    @rule(harsh=st.booleans())
    def reindex(self, harsh: bool) -> None:
        before = list(dump(self.lake.index.database))
        if harsh:
            self.lake.close()
            (self.path / "index" / "data.mdb").write_bytes(b"no LMDB file")
            reindex_at(self.path)
            self.lake = Lake.open(self.path)
        else:
            reindex(self.lake)
        assert list(dump(self.lake.index.database)) == before

    @rule(which=WHICH)
    def read_everything(self, which: str) -> None:
        rows = self.lake.versions(which)
        assert [row.number for row in rows if row.disposed] == [
            number for number in range(1, len(rows) + 1) if (which, number) in self.gone
        ]
        for row, tree in zip(rows, self.versions[which], strict=True):
            if row.disposed:
                with pytest.raises(DisposedError):
                    read_version(self.lake, row)
            else:
                assert read_version(self.lake, row) == tree
        assert [set(row.tags) for row in rows] == self.tags[which]
        for tag in ("raw", "clean", "final"):
            carriers = [n for n, tags in enumerate(self.tags[which], 1) if tag in tags]
            kept = [number for number in carriers if (which, number) not in self.gone]
            if kept:
                assert self.lake.resolve(f"{which}:{tag}").number == kept[-1]
            elif not carriers:
                with pytest.raises(NotFoundError):
                    self.lake.resolve(f"{which}:{tag}")

    @invariant()
    def sound(self) -> None:
        if hasattr(self, "lake"):
            errors = [f for f in check(self.lake, read_data=True) if f.severity == "error"]
            assert not errors, "\n".join(map(str, errors))

    def teardown(self) -> None:
        if hasattr(self, "lake"):
            try:
                for which in DATASETS:  # proves that staging still is what it should be
                    self.commit(which, set())
            finally:
                self.lake.close()
                shutil.rmtree(self.top)


def _fast_directory() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


TestLake = LakeMachine.TestCase
TestLake.settings = settings(
    settings.default,
    max_examples=40,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
)

LONG = settings(
    settings.default,
    max_examples=20,
    stateful_step_count=80,
    suppress_health_check=list(HealthCheck),
)
SOAK_S = int(os.environ.get("DTAFS_SOAK_S", "60"))


@pytest.mark.soak
def test_lake_for_long(capsys: pytest.CaptureFixture[str]) -> None:
    """The same for `DTAFS_SOAK_S` seconds, with a new seed each time, which is printed."""
    end_s = time.monotonic() + SOAK_S
    rounds = 0
    while time.monotonic() < end_s:
        drawn = secrets.randbits(64)
        with capsys.disabled():
            print(f"\nmodel: round {rounds + 1}, seed {drawn}", flush=True)
        machine = seed(drawn)(type("SeededMachine", (LakeMachine,), {}))
        run_state_machine_as_test(machine, settings=LONG)
        rounds += 1
    tried("hours", SOAK_S // 3600)
    with capsys.disabled():
        print(f"\nmodel: {rounds:,} rounds of {LONG.max_examples} lakes in {SOAK_S} s", flush=True)
