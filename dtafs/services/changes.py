"""What the daemon changes in the lake, for the mount and for commands alike.

The work is that of `dtafs.store.session`; here it is fitted to a mount in use. What `put` changes
in staging passes the dataset's gate call by call. A commit chunks while everybody goes on writing,
then closes the gate, finishes, and opens it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any, TypeVar

import trio

from dtafs.core.names import STAGING, version_name
from dtafs.core.values import Actor, Source, Transform
from dtafs.errors import BusyError, ConflictError, RefusedError
from dtafs.fs.area import Caller
from dtafs.fs.drafts import Drafts
from dtafs.fs.gate import Gates
from dtafs.fs.staged import program_of
from dtafs.services.mountpoints import daemon_of, mounts
from dtafs.store.commit import finish, prepare
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.progress import Report
from dtafs.store.session import Session, actor_here
from dtafs.store.staging.outdated import Outdated

T = TypeVar("T")
NOTHING_OUTDATED = Outdated([], [])
Renewed = Callable[[str, Outdated], None]
Gone = Callable[[Sequence[VersionRow]], None]
Waiting = Callable[[], bool]
"""Whether the client that asked for something is still there to hear of it."""

POLL_S = 0.02
"""How often a commit looks whether the writers have closed their files."""

COMMIT_MESSAGE = "Committed by renaming staging"
"""What `mv staging vN` says where nobody set `user.dtafs.message`."""

CHANGES_AT_ONCE = 4
CALLERS_AT_ONCE = 64


class Changes:
    """Changes to the lake of one daemon. Methods belong to the event loop.

    `renewed(dataset, outdated)` is called in a thread, before a command that has changed something
    is answered: the attributes of the dataset's directory have changed, and what `outdated` says.
    `gone(rows)` likewise, as soon as versions were disposed of.
    """

    def __init__(
        self, lake: Lake, gates: Gates, drafts: Drafts, renewed: Renewed, gone: Gone
    ) -> None:
        self.lake, self.gates, self.drafts, self.renewed = lake, gates, drafts, renewed
        self.gone = gone
        self.token = trio.lowlevel.current_trio_token()
        self.committing: set[str] = set()
        self._turns: dict[str, trio.Lock] = {}
        # A commit by `mv` waits in a thread for its own steps: had both one limit, as many such
        # commits as that would wait for each other for ever.
        self._steps = trio.CapacityLimiter(CHANGES_AT_ONCE)
        self._callers = trio.CapacityLimiter(CALLERS_AT_ONCE)
        self._patience_s = lake.config.mount.writer_wait_s

    def session(
        self,
        actor: Actor,
        dataset: str,
        expected: int | None = None,
        waiting: Waiting = lambda: True,
    ) -> DaemonSession:
        """A session for calls on one dataset, to be used in a thread."""
        return DaemonSession(self, actor, dataset, expected, waiting)

    def turn(self, dataset: str) -> trio.Lock:
        """Whose turn it is to seal files of a dataset: a commit's, or the background's."""
        return self._turns.setdefault(dataset, trio.Lock())

    async def create(self, dataset: str, caller: Caller) -> None:
        """Create a dataset."""
        session = await self._for(caller, dataset)
        await self._call(session.create, dataset)
        await self._call(self.lake.staging, dataset, (caller.uid, caller.gid))

    async def tag(self, dataset: str, version: int, tag: str, caller: Caller) -> None:
        """Put a tag on a version."""
        if tag in self.lake.index.tags(dataset):
            raise ConflictError(f"{dataset!r} has the tag {tag!r} already")
        session = await self._for(caller, dataset)
        await self._call(session.set_tags, dataset, version, (tag,))

    async def untag(self, dataset: str, tag: str, caller: Caller) -> None:
        """Take a tag off every version that carries it."""
        session = await self._for(caller, dataset)
        for number in self.lake.index.tagged(dataset, tag):
            await self._call(session.set_tags, dataset, number, (), (tag,))

    async def commit_as(self, dataset: str, number: int, caller: Caller) -> None:
        """Commit staging as version `number`, with the message and tags that were set on it."""
        draft = self.drafts.of(dataset)
        message = draft.text() or COMMIT_MESSAGE
        self.check_number(dataset, number)
        session = await self._for(caller, dataset, number)
        await self._call(session.commit, dataset, message, draft.tag_list())

    def check_number(self, dataset: str, number: int) -> None:
        """ConflictError or RefusedError unless `number` is the next version's.

        Not EINVAL: mv(1) would say of that that a directory was moved below itself.
        """
        following = self.lake.dataset(dataset).newest + 1
        if number < following:
            raise ConflictError(f"{dataset}:{version_name(number)} exists already")
        if number > following:
            raise RefusedError(f"the next version of {dataset!r} is {version_name(following)}")

    async def seal(
        self,
        dataset: str,
        chunk: Callable[[], object],
        complete: Callable[[], VersionRow],
        wait: Waiting | None,
        expected: int | None,
    ) -> VersionRow:
        """Commit: `chunk` while staging is in use, `complete` while it holds still.

        `wait` is None for a commit that a writer refuses who keeps a file open; otherwise it says
        whether somebody still waits for that. Waiting holds up nobody, but where writers follow
        each other without a pause, new ones wait, for a moment, until those there are have closed.
        """
        self.committing.add(dataset)
        gate = self.gates.of(dataset)
        try:
            while True:
                await self._await_writers(dataset, wait, they_follow=True)
                async with self.turn(dataset):
                    await self._thread(chunk)
                    with gate.no_new_writers():
                        limit_s = inf if wait is None else self._patience_s
                        with trio.move_on_after(limit_s) as waiting:
                            await self._await_writers(dataset, wait)
                        if waiting.cancelled_caught:
                            continue
                        async with gate.closing():
                            if self._writers(dataset):
                                continue
                            if expected is not None:
                                self.check_number(dataset, expected)
                            with trio.CancelScope(shield=True):  # it ends, one way or the other
                                row = await self._thread(complete)
                            self.drafts.clear(dataset)
                            return row
        finally:
            self.committing.discard(dataset)

    async def _await_writers(
        self, dataset: str, wait: Waiting | None, they_follow: bool = False
    ) -> None:
        """Wait for RELEASEs that are under way, or, with `wait`, for every writer to close.

        With `they_follow` it is enough that all who wrote when it began have closed.
        """
        patience = trio.current_time() + self._patience_s
        stayed = [opener for _, opener in self._writers(dataset)]
        while writers := self._writers(dataset):
            late = trio.current_time() > patience
            openers = {id(opener) for _, opener in writers}
            stayed = [opener for opener in stayed if id(opener) in openers]
            if late and they_follow and not stayed:
                return
            path, opener = writers[0]
            who = f"process {opener.pid} ({opener.program})"
            if wait is None and late:
                raise BusyError(
                    f"{os.fsdecode(path)} is open for writing by {who}; "
                    "close it, or commit with --wait"
                )
            if wait is not None and not wait():
                raise BusyError(f"nobody waits any more for {who} to close {os.fsdecode(path)}")
            await trio.sleep(POLL_S)

    def _writers(self, dataset: str) -> list[Any]:
        return list(self.lake.staging(dataset).writers())

    async def discard(self, dataset: str) -> None:
        """Make staging the newest version again."""
        await self.while_still(dataset, self.lake.staging(dataset).discard)
        self.drafts.clear(dataset)

    async def while_still(self, dataset: str, call: Callable[[], None]) -> None:
        """Make a call in a thread while nobody changes the staging of a dataset."""
        async with self.turn(dataset):
            await self._await_writers(dataset, None)
            async with self.gates.of(dataset).closing():
                await self._thread(call)

    def pass_gate(self, dataset: str, call: Callable[[], T]) -> T:
        """From a thread: make a call on the loop when the gate of a dataset is open."""
        self.lake.area.drain()  # here, where it holds up nobody else

        async def enter() -> T:
            async with self.gates.of(dataset).passing():
                return call()

        return trio.from_thread.run(enter, trio_token=self.token)

    async def _for(
        self, caller: Caller, dataset: str, expected: int | None = None
    ) -> DaemonSession:
        # In a thread, for the name of a user may have to come over the network.
        actor = await self._call(actor_here, program_of(caller.pid), caller.uid)
        return self.session(actor, dataset, expected)

    async def _call(self, call: Callable[..., T], *args: object) -> T:
        """Run a whole change in a thread; it may come back to the loop for its steps."""
        return await trio.to_thread.run_sync(call, *args, limiter=self._callers)

    async def _thread(self, step: Callable[..., T]) -> T:
        """Run a step in a thread; it never waits for the loop."""
        return await trio.to_thread.run_sync(step, limiter=self._steps)


class DaemonSession(Session):
    """A session in the daemon, for a thread: what concerns staging goes through the mount."""

    def __init__(
        self,
        changes: Changes,
        actor: Actor,
        dataset: str,
        expected: int | None,
        waiting: Waiting,
    ) -> None:
        super().__init__(changes.lake, actor, partial(changes.pass_gate, dataset))
        self._changes = changes
        self._expected = expected
        self._waiting = waiting

    def create(self, dataset: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        facts = super().create(dataset, *args, **kwargs)
        self._changes.renewed(dataset, NOTHING_OUTDATED)
        return facts

    def put(self, dataset: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return super().put(dataset, *args, **kwargs)
        finally:
            self._renew_staging(dataset)

    def mirrors(self, dataset: str) -> list[str]:
        mine = [mount for mount in mounts() if daemon_of(mount) == os.getpid()]
        tops = [mount.mountpoint for mount in mine if mount.lake == self.lake.path]
        return [os.fspath(place) for top in tops for place in (top, top / dataset / STAGING)]

    def discard(self, dataset: str) -> dict[str, Any]:
        row = self.lake.dataset(dataset)
        trio.from_thread.run(self._changes.discard, dataset, trio_token=self._changes.token)
        self._renew_staging(dataset)
        return {"dataset": dataset, "base": row.newest}

    def hold_still(self, dataset: str, call: Callable[[], None]) -> None:
        step = partial(self._changes.while_still, dataset, call)
        trio.from_thread.run(step, trio_token=self._changes.token)
        self._renew_staging(dataset)

    def gone(self, rows: Sequence[VersionRow]) -> None:
        self._changes.gone(rows)

    def seal(
        self,
        dataset: str,
        message: str,
        tags: tuple[str, ...],
        allow_empty: bool,
        wait: bool,
        sources: tuple[Source, ...],
        transform: Transform | None,
        progress: Report | None,
    ) -> VersionRow:
        self.lake.dataset(dataset)
        chunk = partial(prepare, self.lake, dataset, progress)
        complete = partial(
            finish,
            self.lake,
            dataset,
            message=message,
            tags=tags,
            allow_empty=allow_empty,
            sources=sources,
            transform=transform,
            actor=self.actor,
        )
        waiting = self._waiting if wait else None
        seal = partial(self._changes.seal, dataset, chunk, complete, waiting, self._expected)
        row = trio.from_thread.run(seal, trio_token=self._changes.token)
        self._changes.renewed(dataset, NOTHING_OUTDATED)
        return row

    def _renew_staging(self, dataset: str) -> None:
        self._changes.renewed(dataset, self.lake.staging(dataset).take_outdated())
