"""Random histories of a staging, with commits, deaths and reopenings, against a tree of objects."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dtafs.core.nodes import Node
from dtafs.core.tree import walk
from dtafs.core.values import Entry, Kind
from tests.staging.fakes import Bench
from tests.staging.model import Thing, Tree, errno_of

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff"])
PICKS = st.integers(0, 1_000_000)
OFFSETS = st.integers(0, 40)
DATA = st.binary(min_size=1, max_size=20)
KINDS = st.sampled_from([Kind.FILE, Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.FIFO])


class Cold(Exception):
    """What a fetch raises for a node that is not in memory."""


class History(RuleBasedStateMachine):
    """One staging and its model. `known` are the inodes that a kernel would remember."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="dtafs-staging-"))
        self.bench = Bench(self.directory)
        self.model = Tree()
        self.base = Tree()
        self.now_ns = 2_000
        self.known: dict[int, Thing] = {}
        self.warm: set[bytes] = set()
        self.looking = True
        self._cool()

    def teardown(self) -> None:
        self.bench.area.close()
        shutil.rmtree(self.directory)

    def _cool(self) -> None:
        """From now on every node has to be asked for twice."""
        self.warm.clear()
        self.bench.area.fetch = self._fetch

    def _fetch(self, wanted: bytes) -> Node:
        if wanted not in self.warm:
            self.warm.add(wanted)
            raise Cold
        return self.bench.objects.node(wanted)

    def _call(self, call: Callable[[], Any]) -> Any:
        while True:
            try:
                return call()
            except Cold:
                continue

    def _both(self, real: Callable[[], Any], model: Callable[[], Any]) -> None:
        assert errno_of(lambda: self._call(real)) == errno_of(model)

    def _some(self, pick: int, kind: Kind | None = None) -> tuple[int, Thing] | None:
        """One of the inodes that there are (of a kind) and its thing, or None."""
        paths = sorted(p for p, t in self.model.paths().items() if kind in (None, t.kind))
        if not paths:
            return None
        path = paths[pick % len(paths)]
        thing = self.model.at(path)
        inode = self._call(lambda: self.bench.staging.resolve(path))
        assert thing is not None and inode is not None
        return inode.ino, thing

    def _directory(self, pick: int) -> tuple[int, Thing]:
        found = self._some(pick, Kind.DIRECTORY)
        assert found is not None
        return found

    def _name(self, pick: int) -> tuple[int, Thing, bytes]:
        """A directory with a name in it, one that is there in most cases."""
        named = sorted(path for path in self.model.paths() if path)
        path = (*named, (b"a",))[pick % (len(named) + 1)]
        above = self.model.at(path[:-1])
        inode = self._call(lambda: self.bench.staging.resolve(path[:-1]))
        assert above is not None and inode is not None
        return inode.ino, above, path[-1]

    def _tick(self) -> int:
        self.now_ns += 1
        return self.now_ns

    @rule(pick=PICKS, name=NAMES, kind=KINDS, data=DATA)
    def make(self, pick: int, name: bytes, kind: Kind, data: bytes) -> None:
        (ino, above), now = self._directory(pick), self._tick()
        staging, target = self.bench.staging, data if kind == Kind.SYMLINK else b""
        self._both(
            lambda: staging.make(ino, name, kind, 0o700, 7, 8, now, 0, target),
            lambda: self.model.make(above, name, kind, target, now),
        )

    @rule(pick=PICKS, branch=st.lists(st.tuples(NAMES, KINDS, st.booleans()), max_size=8))
    def grow(self, pick: int, branch: list[tuple[bytes, Kind, bool]]) -> None:
        """Several at once, so that trees get large enough to be interesting."""
        (ino, above), now = self._directory(pick), self._tick()
        for name, kind, deeper in branch:
            if name in above.names:
                continue
            target = b"x" if kind == Kind.SYMLINK else b""
            made = self._call(
                lambda ino=ino, name=name, kind=kind, target=target: self.bench.staging.make(
                    ino, name, kind, 0o700, 7, 8, now, 0, target
                )
            )
            thing = self.model.make(above, name, kind, target, now)
            if kind == Kind.DIRECTORY and deeper:
                ino, above = made.ino, thing

    @rule(pick=PICKS, offset=OFFSETS, data=DATA)
    def write(self, pick: int, offset: int, data: bytes) -> None:
        if found := self._some(pick, Kind.FILE):
            (ino, thing), now = found, self._tick()
            self._call(lambda: self.bench.write(ino, offset, data, now))
            self.model.write(thing, offset, data, now)

    @rule(pick=PICKS, size=OFFSETS)
    def truncate(self, pick: int, size: int) -> None:
        if found := self._some(pick, Kind.FILE):
            (ino, thing), now = found, self._tick()
            self._call(lambda: self.bench.staging.truncate(ino, size, now))
            self.model.truncate(thing, size, now)

    @rule(pick=PICKS, mode=st.integers(0, 0o777), value=DATA)
    def attributes(self, pick: int, mode: int, value: bytes) -> None:
        found, now = self._some(pick), self._tick()
        assert found is not None
        (ino, thing), staging = found, self.bench.staging
        self._call(lambda: staging.set_attributes(ino, now_ns=now, mode=mode, mtime_ns=now))
        self._call(lambda: staging.set_xattr(ino, b"user.x", value, now))
        thing.mode, thing.mtime_ns, thing.xattrs = mode, now, {b"user.x": value}

    @rule(pick=PICKS, into=PICKS, name=NAMES)
    def link(self, pick: int, into: int, name: bytes) -> None:
        found = self._some(pick, Kind.FILE) or self._directory(pick)
        (ino, thing), (above_ino, above), now = found, self._directory(into), self._tick()
        self._both(
            lambda: self.bench.staging.link(ino, above_ino, name, now),
            lambda: self.model.link(thing, above, name, now),
        )

    @rule(pick=PICKS, directory=st.booleans())
    def remove(self, pick: int, directory: bool) -> None:
        (ino, above, name), now = self._name(pick), self._tick()
        staging, model = self.bench.staging, self.model
        if directory:
            self._both(lambda: staging.rmdir(ino, name, now), lambda: model.rmdir(above, name, now))
        else:
            self._both(
                lambda: staging.unlink(ino, name, now), lambda: model.unlink(above, name, now)
            )

    @rule(pick=PICKS, into=PICKS, new=NAMES, flags=st.sampled_from([0, 0, 0, 1, 2]))
    def rename(self, pick: int, into: int, new: bytes, flags: int) -> None:
        (ino, above, name), (to_ino, to) = self._name(pick), self._directory(into)
        now = self._tick()
        self._both(
            lambda: self.bench.staging.rename(ino, name, to_ino, new, flags, now),
            lambda: self.model.rename(above, name, to, new, flags, now),
        )

    @rule(pick=PICKS)
    def remember(self, pick: int) -> None:
        found = self._some(pick)
        assert found is not None
        ino, thing = found
        if ino not in self.known:
            self.bench.staging.remember(ino)
            self.known[ino] = thing

    @precondition(lambda self: self.known)
    @rule(which=st.integers(0, 100))
    def forget(self, which: int) -> None:
        ino = sorted(self.known)[which % len(self.known)]
        del self.known[ino]
        self.bench.staging.forget(ino)

    @rule(afresh=st.booleans())
    def commit(self, afresh: bool) -> None:
        """Commit; with `afresh`, leave no row, so that everything comes from the base again."""
        top = self.bench.commit()
        self._check_sealed(top)
        assert self.bench.staging.is_clean()
        assert self._call(lambda: list(self.bench.staging.status())) == []
        self.base = self.model.copy()
        if afresh:
            self.reopen(die=False)
            self.tidy()

    @rule(die=st.booleans())
    def reopen(self, die: bool) -> None:
        self.known.clear()
        if die:
            self.bench.kill()
        else:
            self.bench.reopen()
        self._cool()

    @rule()
    def flush(self) -> None:
        self.bench.area.flush()

    @rule()
    def tidy(self) -> None:
        while self._call(lambda: self.bench.area.tidy(3)):
            pass

    @rule(really=st.integers(0, 9))
    def discard(self, really: int) -> None:
        if really:
            return
        self._call(self.bench.staging.discard)
        if self.bench.staging.base.version == 0:
            self.base.root.mode, self.base.root.mtime_ns = (
                self.model.root.mode,
                self.model.root.mtime_ns,
            )
            self.base.root.xattrs = dict(self.model.root.xattrs)
        self.model = self.base.copy()
        self.known.clear()
        assert self.bench.staging.is_clean()

    @rule()
    def warm_up(self) -> None:
        self._cool()

    @rule(looking=st.booleans())
    def look(self, looking: bool) -> None:
        """Looking gives numbers to all names; what nobody has looked at takes other ways."""
        self.looking = looking

    @precondition(lambda self: self.looking)
    @invariant()
    def same(self) -> None:
        staging = self.bench.staging
        by_thing: dict[int, int] = {}
        for path, thing in self.model.paths().items():
            inode = self._call(lambda path=path: staging.resolve(path))
            assert inode is not None, path
            assert (inode.kind, inode.mode) == (thing.kind, thing.mode), path
            assert inode.mtime_ns == thing.mtime_ns, path
            assert by_thing.setdefault(id(thing), inode.ino) == inode.ino, path
            if thing.kind == Kind.FILE:
                assert self._call(lambda ino=inode.ino: self.bench.read(ino)) == thing.data, path
            if thing.kind == Kind.SYMLINK:
                assert staging.readlink(inode.ino) == thing.data
            if not thing.is_directory:
                assert inode.nlink == thing.nlink, path
            else:
                assert self._listed(inode.ino) == sorted(thing.names), path
            if thing.xattrs:
                assert staging.get_xattr(inode.ino, b"user.x") == thing.xattrs[b"user.x"]
        for ino, thing in self.known.items():
            inode = self._call(lambda ino=ino: staging.inode(ino))
            assert inode.kind == thing.kind
            assert inode.nlink == thing.nlink or thing.is_directory
            if thing.kind == Kind.FILE:
                assert self._call(lambda ino=ino: self.bench.read(ino)) == thing.data

    def _listed(self, ino: int) -> list[bytes]:
        staging = self.bench.staging
        handle = staging.open_directory(ino)
        names = [name for name, _, _ in self._call(lambda: list(staging.list(handle)))]
        staging.close_directory(handle)
        assert len(names) == len(set(names))
        return sorted(names)

    def _check_sealed(self, top: Entry) -> None:
        objects = self.bench.objects
        sealed = dict(walk(objects.node, top))
        things = self.model.paths()
        assert sealed.keys() == things.keys()
        groups: dict[int, int] = {}
        for path, thing in things.items():
            entry = sealed[path]
            assert (entry.kind, entry.mode, entry.mtime_ns) == (
                thing.kind, thing.mode, thing.mtime_ns,
            )  # fmt: skip
            assert dict(entry.xattrs) == thing.xattrs
            if thing.kind == Kind.FILE:
                data = objects.contents.get(entry.sha256, b"")
                assert data == thing.data, path
            if not thing.is_directory:
                assert entry.nlink == thing.nlink, path
                assert bool(entry.link) == (thing.nlink > 1), path
                assert groups.setdefault(id(thing), entry.link) == entry.link


History.TestCase.settings = settings(settings.default, stateful_step_count=40)
TestHistory = History.TestCase
