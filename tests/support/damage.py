"""Damaging the files of a small lake, and seeing in a process of its own what becomes of it.

LMDB ends a process over some kinds of damage, and a test that looked by itself would end with it.
"""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from dtafs.core.values import Kind
from dtafs.errors import DtafsError, IntegrityError, NotFoundError
from dtafs.store.check import Finding, check
from dtafs.store.lake import Lake
from dtafs.store.scrub import Ledger, Scrub
from dtafs.store.session import Session
from tests.support.small_lakes import (
    ACTOR,
    Item,
    Tree,
    commit,
    put_tree,
    read_version,
    tree_of_seed,
)

HELD, WRITTEN = b"bytes of a small new file", b"bytes in a data file " * 1_500
CONFIG = b"[cache]\nframes_mib = 8\n\n[collect]\ngrace_days = 3.5\n"
VERSIONS: dict[str, Tree] = {
    "a:v1": tree_of_seed(1),
    "a:v2": tree_of_seed(2),
    "b:v1": tree_of_seed(3),
}
STAGED: Tree = tree_of_seed(4) | {
    b"held": Item(Kind.FILE, 0o644, HELD),
    b"written": Item(Kind.FILE, 0o644, WRITTEN),
}
"""What is staged in `b`."""


def make_damageable(top: Path, more: Callable[[Lake, Path], None] | None = None) -> Path:
    """A lake with everything that a lake without tiers can have on disk, as a killed daemon leaves it.

    `more` is called with the lake, which lies where `copy_of` puts copies of it, and a directory for scratch.
    """
    with Lake.create(copy_of(top / "lake")) as lake:
        for name, seeds in (("a", (1, 2)), ("b", (3,))):
            lake.create_dataset(name, ACTOR)
            for seed in seeds:
                put_tree(lake, name, tree_of_seed(seed), top / "scratch")
                commit(lake, name, f"seed {seed}")
        lake.set_tags("a", 1, ACTOR, add=("raw",))
        put_tree(lake, "a", {b"waste": Item(Kind.FILE, 0o644, bytes(30_000))}, top / "scratch")
        Session(lake, ACTOR).discard("a")
        put_tree(lake, "b", tree_of_seed(4), top / "scratch")
        Session(lake, ACTOR).collect(grace_s=3_600)
        with Ledger(lake.path) as ledger:
            check(lake, read_data=True, scrub=Scrub(ledger))
        lake.area.flush()
        staging = lake.staging("b")
        for file, data in ((b"held", HELD), (b"written", WRITTEN)):
            ino = staging.make(staging.root_ino, file, Kind.FILE, 0o644, 0, 0, lake.now_ns()).ino
            handle = staging.open(ino, True)
            if file != b"held" or not staging.hold(ino, data, lake.now_ns()):
                os.pwrite(staging.begin_write(ino), data, 0)
                staging.wrote(ino, 0, len(data), lake.now_ns())
            staging.fsync(ino)
            staging.close(handle)
        (lake.path / "config.toml").write_bytes(CONFIG)
        if more is not None:
            more(lake, top / "scratch")
        shutil.copytree(lake.path, top / "lake")
    shutil.rmtree(copy_of(top / "lake"))
    return top / "lake"


def copy_of(intact: Path) -> Path:
    """Where a copy of a lake is damaged: always the same place, which the URLs of its tiers name."""
    return intact.with_name("copy")


def files_of(lake: Path) -> list[str]:
    """The files of a lake that are not empty, by their names in it, without locks."""
    found = [path for path in lake.rglob("*") if path.is_file() and path.stat().st_size]
    names = sorted(str(path.relative_to(lake)) for path in found)
    return [name for name in names if not name.endswith("lock.mdb") and not name.startswith("run/")]


class Outcome(Struct):
    """What a process found in a damaged lake.

    `reads` and `commit` say "right", "WRONG", or the error's class; `opened` is empty or the error
    of opening for writing; `findings` are those of the checker that are errors; `defect` is what
    should never be raised; `died` is the signal that ended the process. `after` is `reads` again, after
    the lake was used.
    """

    reads: dict[str, str] = {}
    opened: str = ""
    findings: list[Finding] = []
    commit: str = ""
    after: dict[str, str] = {}
    defect: str = ""
    died: int = 0

    @property
    def is_noticed(self) -> bool:
        """Whether opening or checking said that something is wrong."""
        return bool(self.opened or self.findings)

    @property
    def wrong(self) -> str:
        """The promise that was broken, or nothing."""
        if self.died:
            return f"the process was ended by signal {self.died}"
        if self.defect:
            return self.defect
        if "WRONG" in (*self.reads.values(), *self.after.values(), self.commit):
            return f"wrong bytes were returned: {self.reads}, {self.after}, commit: {self.commit}"
        if any(self.after[name] != "right" for name in self.after if self.reads[name] == "right"):
            return f"what could be read was lost by using the lake: {self.after}"
        return ""


@contextmanager
def restored(path: Path, intact: Path) -> Iterator[Path]:
    """A copy of a lake at `path`, removed at the end."""
    shutil.copytree(intact, path)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def in_child(work: Callable[[], object]) -> tuple[bytes, int]:
    """What `work` returns, as JSON, from a forked process; and the signal that ended it, or 0."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)  # what LMDB says before it ends the process
            with open(writing, "wb") as pipe:
                pipe.write(json.dumps(msgspec.to_builtins(work())).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    return said, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def outcome_of(path: Path, use: Callable[[Lake], None] | None = None) -> Outcome:
    """What becomes of a lake: read by a reader, opened, checked, and committed to by a writer; then `use`d,
    and read once more."""
    said, died = in_child(lambda: _examine(path, use))
    outcome = msgspec.convert(json.loads(said), Outcome) if said else Outcome()
    outcome.died = died
    return outcome


def _examine(path: Path, use: Callable[[Lake], None] | None) -> Outcome:
    outcome = Outcome()
    try:
        outcome.reads = _read(path)
        _write(path, outcome, use)
        if use is not None:
            outcome.after = _read(path)
    except BaseException:
        outcome.defect = traceback.format_exc()
    return outcome


def _read(path: Path) -> dict[str, str]:
    """A version that cannot be read as a whole is read file by file."""
    found = {}
    try:
        with Lake.open(path, write=False) as lake:
            for name, tree in VERSIONS.items():
                try:
                    found[name] = (
                        "right" if read_version(lake, lake.resolve(name)) == tree else "WRONG"
                    )
                except (IntegrityError, NotFoundError) as error:
                    found[name] = type(error).__name__
    except DtafsError as error:
        return dict.fromkeys(VERSIONS, type(error).__name__)
    return found


def _write(path: Path, outcome: Outcome, use: Callable[[Lake], None] | None) -> None:
    try:
        lake = Lake.open(path)
    except DtafsError as error:
        outcome.opened = str(error)
        return
    with lake:
        outcome.findings = [f for f in check(lake, read_data=True) if f.severity == "error"]
        try:
            outcome.commit = "right" if read_version(lake, commit(lake, "b")) == STAGED else "WRONG"
        except DtafsError as error:
            outcome.commit = type(error).__name__
        if use is not None:
            use(lake)
