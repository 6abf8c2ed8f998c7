"""Somebody who works in a mount and writes down what was acknowledged.

A call that has returned is in the writer's tree (`tests.crash.written_tree`). Of the one that has
not, both outcomes are possible: `maybe` is the tree with it.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import Any

from tests.crash.written_tree import Node, Tree, difference, read_tree
from tests.support import programs

DATASET = "killed"
DEATH_LIMIT_S = 30.0
FILES_MAX = 40
MODES = (0o600, 0o640, 0o644, 0o755)


class DaemonDied(Exception):
    """A call failed, and the daemon is dead."""


class Writer:
    """One process at work in the staging of one dataset, in one lake, through many mounts."""

    def __init__(self, lake: Path, mountpoint: Path, dice: random.Random) -> None:
        self.lake, self.dice = lake, dice
        self.top = mountpoint / DATASET
        self.staging = self.top / "staging"
        self.tree: Tree = {}
        self.maybe: Tree | None = None
        self.versions: list[Tree] = []
        self.maybe_version = False
        self.acknowledged = 0
        self._names = 0
        self._daemon: Popen[bytes] | None = None
        self._body = dice.randbytes(400_000)

    # What must be there.

    def verify(self, versions: int) -> None:
        """Compare staging and the newest versions with the model, and go on from what was found."""
        numbers = [name for name in os.listdir(self.top) if name[1:].isdigit()]
        if self.maybe_version and len(numbers) == len(self.versions) + 1:
            self.versions.append(deepcopy(self.tree))
        assert sorted(numbers) == sorted(f"v{n + 1}" for n in range(len(self.versions)))
        self.maybe_version = False
        for number in range(max(1, len(self.versions) - versions + 1), len(self.versions) + 1):
            wrong = difference(self.versions[number - 1], read_tree(self.top / f"v{number}"))
            assert not wrong, f"v{number}: {wrong}"
        found = read_tree(self.staging)
        complaints = []
        for candidate in (self.tree, self.maybe):
            if candidate is not None:
                wrong = difference(candidate, found)
                if not wrong:
                    break
                complaints.append(wrong)
        else:
            raise AssertionError(f"staging: {'; or '.join(complaints)}")
        for path, node in found.items():
            node.mtime_ns = candidate[path].mtime_ns
        self.tree, self.maybe = found, None

    # Working.

    def work(self, daemon: Popen[bytes], steps: int) -> None:
        """Do some steps; DaemonDied when the daemon dies over them."""
        self._daemon = daemon
        tasks: dict[Callable[[], None], int] = {
            self._create: 8,
            self._change: 8,
            self._truncate: 2,
            self._rename: 4,
            self._unlink: 4,
            self._make_directory: 2,
            self._link: 2,
            self._symlink: 1,
            self._set_xattr: 3,
            self._chmod: 2,
            self._set_times: 2,
            self._put: 1,
            self._discard: 1,
        }
        for _ in range(steps):
            self.dice.choices([*tasks], [*tasks.values()])[0]()
        self._commit()

    @contextmanager
    def _acknowledging(self) -> Iterator[Tree]:
        """The tree that is to be once the calls in the block have returned."""
        self.maybe = deepcopy(self.tree)
        try:
            yield self.maybe
        except OSError as error:
            self._died(error)
        self.tree, self.maybe = self.maybe, None
        self.acknowledged += 1

    def _died(self, error: OSError) -> None:
        assert self._daemon is not None
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
            raise error
        self._daemon.wait(DEATH_LIMIT_S)
        raise DaemonDied from error

    def _at(self, path: str) -> Path:
        return self.staging / path

    def _some(self, kind: int) -> str | None:
        paths = sorted(path for path, node in self.tree.items() if node.kind == kind)
        return self.dice.choice(paths) if paths else None

    def _new_name(self) -> str:
        self._names += 1
        directory = self._some(stat.S_IFDIR) if self.dice.random() < 0.6 else None
        name = f"name {self._names}"
        return name if directory is None else f"{directory}/{name}"

    def _bytes(self) -> bytes:
        size = self.dice.choice((0, 1, 900, 5_000, 70_000, 300_000))
        start = self.dice.randrange(len(self._body) - size)
        return self._body[start : start + size]

    def _create(self) -> None:
        if sum(node.kind == stat.S_IFREG for node in self.tree.values()) >= FILES_MAX:
            self._unlink()
            return
        path, mode = self._new_name(), self.dice.choice(MODES)
        with self._acknowledging() as after:
            after[path] = Node(stat.S_IFREG, mode)
            fd = os.open(self._at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
        self._fill(path, fd, 0)

    def _change(self) -> None:
        path = self._some(stat.S_IFREG)
        if path is None:
            return
        old = self.tree[path].content
        try:
            fd = os.open(self._at(path), os.O_WRONLY)
        except OSError as error:
            self._died(error)
        self._fill(path, fd, self.dice.choice((len(old), self.dice.randint(0, len(old)))))

    def _fill(self, path: str, fd: int, offset: int) -> None:
        """Write to an open file, sync it now and then, and close it."""
        node = self.tree[path]
        try:
            for _ in range(self.dice.choice((1, 1, 2))):
                data = self._bytes()
                old = node.content if node.loose is None else node.loose
                node.loose = old[:offset] + data + old[offset + len(data) :]
                node.mtime_ns = None
                offset += os.pwrite(fd, data, offset)
                if self.dice.random() < 0.3:
                    os.fsync(fd)
                    node.content, node.loose = node.loose, None
        except OSError as error:
            self._close_dead(fd)
            self._died(error)
        try:
            os.close(fd)
        except OSError as error:
            self._died(error)
        if node.loose is not None:
            node.content, node.loose = node.loose, None
        self.acknowledged += 1

    def _close_dead(self, fd: int) -> None:
        try:
            os.close(fd)
        except OSError:
            return  # Linux has closed it all the same

    def _truncate(self) -> None:
        path = self._some(stat.S_IFREG)
        if path is None:
            return
        with self._acknowledging() as after:
            old = after[path].content
            size = self.dice.choice((0, len(old) // 2, len(old) + 5_000))
            after[path].content = old[:size].ljust(size, b"\0")
            after[path].mtime_ns = None
            os.truncate(self._at(path), size)

    def _rename(self) -> None:
        path, over = self._some(stat.S_IFREG), self._some(stat.S_IFREG)
        if path is None or over is None:
            return
        target = over if self.dice.random() < 0.4 else self._new_name()
        with self._acknowledging() as after:
            if after.get(target) is not after[path]:
                after[target] = after.pop(path)
            os.rename(self._at(path), self._at(target))

    def _unlink(self) -> None:
        path = self._some(self.dice.choice((stat.S_IFREG, stat.S_IFREG, stat.S_IFLNK)))
        if path is None:
            return
        with self._acknowledging() as after:
            del after[path]
            os.unlink(self._at(path))

    def _make_directory(self) -> None:
        path = self._some(stat.S_IFDIR)
        if path is not None and self.dice.random() < 0.4:
            if not any(other.startswith(path + "/") for other in self.tree):
                with self._acknowledging() as after:
                    del after[path]
                    os.rmdir(self._at(path))
                return
            name = self._new_name()
            if not name.startswith(path + "/"):
                with self._acknowledging() as after:
                    for other in [o for o in after if o == path or o.startswith(path + "/")]:
                        after[name + other[len(path) :]] = after.pop(other)
                    os.rename(self._at(path), self._at(name))
                return
        path = self._new_name()
        with self._acknowledging() as after:
            after[path] = Node(stat.S_IFDIR, 0o755)
            os.mkdir(self._at(path), 0o755)

    def _link(self) -> None:
        path = self._some(stat.S_IFREG)
        if path is None:
            return
        name = self._new_name()
        with self._acknowledging() as after:
            after[name] = after[path]
            os.link(self._at(path), self._at(name))

    def _symlink(self) -> None:
        path, target = self._new_name(), f"../target {self._names}"
        with self._acknowledging() as after:
            after[path] = Node(stat.S_IFLNK, 0o777, target.encode())
            os.symlink(target, self._at(path))

    def _set_xattr(self) -> None:
        path = self._some(stat.S_IFREG)
        if path is None:
            return
        with self._acknowledging() as after:
            name = self.dice.choice(("user.unit", "user.sensor"))
            if name in after[path].xattrs:
                del after[path].xattrs[name]
                os.removexattr(self._at(path), name)
            else:
                value = after[path].xattrs[name] = self.dice.randbytes(20)
                os.setxattr(self._at(path), name, value)

    def _chmod(self) -> None:
        path = self._some(stat.S_IFREG)
        if path is None:
            return
        with self._acknowledging() as after:
            after[path].mode = self.dice.choice(MODES)
            os.chmod(self._at(path), after[path].mode)

    def _set_times(self) -> None:
        path = self._some(stat.S_IFREG)
        if path is None:
            return
        with self._acknowledging() as after:
            time_ns = after[path].mtime_ns = self.dice.randrange(10**18, 2 * 10**18)
            os.utime(self._at(path), ns=(time_ns, time_ns))

    # Commands, and commits.

    def _put(self) -> None:
        self._names += 1
        source = self.lake.with_name(f"source {self._names}")
        source.write_bytes(self._bytes())
        source.chmod(0o644)
        with self._acknowledging() as after:
            after[source.name] = Node(stat.S_IFREG, 0o644, source.read_bytes())
            self._command("put", DATASET, source)

    def _discard(self) -> None:
        if self.dice.random() < 0.5:
            return
        with self._acknowledging() as after:
            after.clear()
            after.update(deepcopy(self.versions[-1]) if self.versions else {})
            self._command("discard", DATASET)

    def _commit(self) -> None:
        number = len(self.versions) + 1
        while not difference(self.tree, self.versions[-1] if self.versions else {}):
            self._create()
        self.maybe_version = True
        if self.dice.random() < 0.5:
            self._command("commit", DATASET, "-m", f"version {number}")
        else:
            try:
                os.rename(self.staging, self.top / f"v{number}")
            except OSError as error:
                self._died(error)
        self.maybe_version = False
        self.versions.append(deepcopy(self.tree))
        self.acknowledged += 1

    def _command(self, *arguments: Any) -> None:
        done = programs.run(programs.CTL, "--lake", self.lake, *arguments)
        if done.returncode:
            self._command_failed(done.stderr)

    def _command_failed(self, said: bytes) -> None:
        assert self._daemon is not None
        try:
            self._daemon.wait(DEATH_LIMIT_S)
        except TimeoutExpired:
            raise AssertionError(said.decode()) from None
        raise DaemonDied
