"""Writes in pieces, sealers whose results come late, and commits, in any order that the mount allows.

What the kernel and the mount keep apart stays apart here too: the writes of one file that are under
way at once do not overlap; nobody changes its size meanwhile, or before what was cut off is gone;
one sealer is at work at a time; a commit's second half begins when nobody writes, and until its end
nothing is changed. Everything else may come in between anything: that is tidying, flushing, looking.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dtafs.core.rechunking import Where
from dtafs.core.tree import seal_root, walk
from dtafs.core.values import Content, Kind
from dtafs.errors import BusyError
from dtafs.store.staging import Build, StagedSource, data
from tests.staging.fakes import Bench

NAMES = (b"a", b"b")
OFFSET_MAX, WRITE_MAX_BYTES, SIZE_MAX = 40, 20, 50
SAME_FROM_BYTES = 4
"""What the beginnings of files have in common is remembered from here on, not from a MiB."""
SEEDS, STEPS = 40, 500
SOAK_SEEDS = 500


class Writing(NamedTuple):
    """A write that is under way: what `begin_write` gave, and what is to be written; or what has to
    be done before `begin_write`."""

    fd: int
    offset: int
    data: bytes
    left: Callable[[], None] | None = None

    def meets(self, offset: int, size: int) -> bool:
        return offset < self.offset + len(self.data) and self.offset < offset + size


class File:
    """A file of the model: its bytes, and what is going on with it."""

    def __init__(self, ino: int) -> None:
        self.ino, self.data = ino, b""
        self.writers: list[int] = []
        self.writes: list[Writing] = []
        self.cut: Callable[[], None] | None = None

    @property
    def is_quiet(self) -> bool:
        return not self.writers and self.cut is None

    def write(self, offset: int, some: bytes) -> None:
        padded = self.data.ljust(offset, b"\0")
        self.data = padded[:offset] + some + padded[offset + len(some) :]


class Sealing:
    """One file on its way through a sealer."""

    def __init__(self, ino: int, generation: int, size: int) -> None:
        self.ino, self.generation, self.size = ino, generation, size
        self.source: StagedSource | None = None
        self.read: bytes | None = None


class SlowMotion:
    """A mount whose next step is chosen by a die."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.bench = Bench(directory)
        self.dice = random.Random(seed)
        self.files: dict[bytes, File] = {}
        self.known: set[int] = set()
        self.sealings: list[Sealing] = []
        self.preparing = False
        self.built: Build | None = None
        """While it is there, the gate is closed."""
        self.now_ns = 10
        self.commits = 0

    @property
    def staging(self) -> Any:
        return self.bench.staging

    def run(self, steps: int) -> None:
        """Make some steps, and look at everything after each."""
        programs = {
            self.open: 10,
            self.resize: 3,
            self.begin_write: 12,
            self.go_on_writing: 12,
            self.end_write: 12,
            self.close: 16,
            self.unlink_or_rename: 2,
            self.forget: 3,
            self.begin_to_seal: 8,
        }
        others = {
            self.cut: 8,
            self.go_on_sealing: 30,
            self.finish: 8,
            self.follow: 8,
            self.tidy: 6,
            self.flush: 4,
            self.end: 1,
        }
        for _ in range(steps):
            steps_now = others if self.built is not None else programs | others
            (step,) = self.dice.choices([*steps_now], [*steps_now.values()])
            step()
            self.look()

    def stop(self) -> None:
        self._stop_sealing()
        self.bench.area.close()

    def _some(self, wanted: Callable[[File], object]) -> File | None:
        found = [f for _, f in sorted(self.files.items()) if wanted(f)]
        return self.dice.choice(found) if found else None

    # Programs.

    def open(self) -> None:
        """`open` with O_CREAT and perhaps O_TRUNC: making and opening are one step, emptying another."""
        if self.preparing and not self.sealings and self.dice.random() < 0.8:
            return  # the commit keeps new writers out, in most cases soon enough
        name, self.now_ns = self.dice.choice(NAMES), self.now_ns + 1
        file, root = self.files.get(name), self.staging.root_ino
        if file is None:
            made = self.staging.make(root, name, Kind.FILE, 0o600, 1, 2, self.now_ns)
            file = self.files[name] = File(made.ino)
        elif file.ino not in self.known:  # so that the name may have another number by now
            file.ino = self.staging.lookup(root, name).ino
        file.writers.append(self.staging.open(file.ino, True))
        if file.ino not in self.known:
            self.staging.remember(file.ino)
            self.known.add(file.ino)
        if self.dice.random() < 0.5 and not file.writes and file.cut is None:
            self._resize(file, 0)

    def resize(self) -> None:
        file = self._some(lambda f: not f.writes and f.cut is None and f.ino in self.known)
        if file is not None:
            self._resize(file, self.dice.choice((0, self.dice.randrange(SIZE_MAX))))

    def _resize(self, file: File, size: int) -> None:
        self.now_ns += 1
        self.staging.set_attributes(file.ino, now_ns=self.now_ns, size=size)
        file.data = file.data[:size].ljust(size, b"\0")
        file.cut = self.staging.left_to_cut(file.ino)

    def cut(self) -> None:
        file = self._some(lambda f: f.cut is not None)
        if file is not None and file.cut is not None:
            file.cut()
            file.cut = None

    def begin_write(self) -> None:
        file = self._some(lambda f: f.writers and f.cut is None)
        offset = self.dice.choice((0, self.dice.randrange(OFFSET_MAX)))
        some = self.dice.randbytes(self.dice.randrange(1, WRITE_MAX_BYTES))
        if file is None or any(w.meets(offset, len(some)) for w in file.writes):
            return
        if not offset and self.dice.random() < 0.7 and self.staging.hold(file.ino, some, None):
            file.write(0, some)
        elif left := self.staging.left_to_empty(file.ino):
            file.writes.append(Writing(-1, offset, some, left))
        else:
            file.writes.append(Writing(self.staging.begin_write(file.ino), offset, some))

    def go_on_writing(self) -> None:
        """The data file of before is gone, so that the write can begin."""
        file = self._some(lambda f: any(w.left for w in f.writes))
        if file is None:
            return
        at = next(i for i, w in enumerate(file.writes) if w.left)
        left = file.writes[at].left
        assert left is not None
        left()
        fd = self.staging.begin_write(file.ino)
        file.writes[at] = file.writes[at]._replace(fd=fd, left=None)

    def end_write(self) -> None:
        """A write that fails leaves a part of it, as a full disk does; then it is tried again."""
        file = self._some(lambda f: any(not w.left for w in f.writes))
        if file is None:
            return
        writing = self.dice.choice([w for w in file.writes if not w.left])
        file.writes.remove(writing)
        fd, offset, some = writing.fd, writing.offset, writing.data
        if self.dice.random() < 0.1:
            os.pwrite(fd, some[: len(some) // 2], offset)
            self.staging.write_failed(file.ino)
            fd = self.staging.begin_write(file.ino)
        os.pwrite(fd, some, offset)
        self.staging.wrote(file.ino, offset, len(some), None)
        file.write(offset, some)

    def close(self) -> None:
        file = self._some(lambda f: f.writers and (f.writers[1:] or not f.writes))
        if file is not None:
            self.staging.close(file.writers.pop())

    def unlink_or_rename(self) -> None:
        named = [(n, f) for n, f in sorted(self.files.items()) if f.is_quiet]
        if not named:
            return
        (name, file), into = self.dice.choice(named), self.dice.choice(NAMES)
        over, root, self.now_ns = self.files.get(into), self.staging.root_ino, self.now_ns + 1
        if over is file:
            self.staging.unlink(root, name, self.now_ns)
        elif over is not None and not over.is_quiet:
            return
        else:
            self.staging.rename(root, name, root, into, 0, self.now_ns)
            self.files[into] = file
        del self.files[name]

    def forget(self) -> None:
        busy = {f.ino for f in self.files.values() if not f.is_quiet}
        if some := sorted(self.known - busy):
            ino = self.dice.choice(some)
            self.known.discard(ino)
            self.staging.forget(ino)

    # Sealers.

    def begin_to_seal(self) -> None:
        """The background takes its turn, or a commit does."""
        if not self.sealings and not self.preparing:
            self.sealings = [Sealing(*one) for one in self.staging.unsealed()]
            self.preparing = self.dice.random() < 0.7

    def go_on_sealing(self) -> None:
        """Open a file, or read it, or bring the result."""
        if not self.sealings:
            return
        sealing = self.dice.choice(self.sealings)
        if sealing.read is not None:
            content = self.bench.objects.store(sealing.read)
            if self.staging.sealed(sealing.ino, sealing.generation, content):
                assert len(sealing.read) == sealing.size
            self.sealings.remove(sealing)
        elif sealing.source is None:
            try:
                sealing.source = self.staging.open_source(sealing.ino)
            except OSError:  # it was removed
                self.sealings.remove(sealing)
        else:
            sealing.read = _read(sealing.source)
            self._check_layers(sealing)
            sealing.source.close()
            sealing.source = None

    def _check_layers(self, sealing: Sealing) -> None:
        """What a sealer would not read again is as it says, if the file has not changed."""
        state = self.staging.generation(sealing.ino)
        busy = any(f.ino == sealing.ino and (f.writes or f.cut) for f in self.files.values())
        if state is None or state[0] != sealing.generation or busy or sealing.source is None:
            return
        layers, read = sealing.source.layers(), sealing.read or b""
        if layers is None:
            return
        below = self._content(layers.base)
        for start, end, where in layers.layout:
            if where == Where.OLD:
                assert read[start:end] == below[start:end]
            elif where == Where.ZEROS:
                assert not any(read[start:end])

    def _content(self, content: Content) -> bytes:
        return self.bench.objects.contents[content.sha256] if content.size else b""

    def _stop_sealing(self) -> None:
        for sealing in self.sealings:
            if sealing.source is not None:
                sealing.source.close()
        self.sealings = []

    # Commits.

    def finish(self) -> None:
        """Close the gate, unless somebody writes; seal what is left; build."""
        ready = self.preparing and self.built is None and not self.sealings
        if not ready or self.staging.writers():
            return
        assert not any(f.writes or f.writers for f in self.files.values())
        objects = self.bench.objects
        while self.built is None:
            try:
                self.built = self.staging.build(objects.node)
            except BusyError:
                self.bench.seal()
        objects.nodes.update(self.built.nodes)
        sealed = {p: self._content(e.content) for p, e in walk(objects.node, self.built.top) if p}
        assert sealed == {(name,): file.data for name, file in self.files.items()}
        self.commits += 1

    def follow(self) -> None:
        """Staging moves onto the version; the gate opens."""
        if self.built is not None:
            root, node = seal_root(self.built.top)
            self.bench.objects.nodes[root] = node
            version = self.staging.base.version + 1
            self.staging.rebase(version, root, self.built.directories)
            self.built, self.preparing = None, False

    # What happens at any time.

    def tidy(self) -> None:
        self.bench.area.tidy(self.dice.choice((1, 3, 256)))

    def flush(self) -> None:
        self.bench.area.flush()

    def end(self) -> None:
        """The daemon ends, or is killed."""
        if any(f.writes for f in self.files.values()):
            return
        self._stop_sealing()
        self.built, self.preparing = None, False
        self.dice.choice((self.bench.kill, self.bench.reopen))()
        self.known.clear()
        for name, file in self.files.items():
            file.ino, file.cut = self.staging.lookup(self.staging.root_ino, name).ino, None
            file.writers.clear()

    def look(self) -> None:
        """Every file that is not being written has the bytes that were written."""
        for name, file in self.files.items():
            if not file.writes:
                inode = self.staging.lookup(self.staging.root_ino, name)
                assert inode.size == len(file.data)
                assert self.bench.read(inode.ino) == file.data


def _read(source: StagedSource) -> bytes:
    buffer, read = bytearray(7), b""
    while done := source.readinto(buffer):
        read += buffer[:done]
    return read


def wander(directory: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(data, "SAME_FROM_BYTES", SAME_FROM_BYTES)
    slow = SlowMotion(directory, seed)
    slow.run(STEPS)
    assert slow.commits
    slow.stop()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    wander(tmp_path, monkeypatch, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(SEEDS, SOAK_SEEDS))
def test_any_order_at_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    wander(tmp_path, monkeypatch, seed)
