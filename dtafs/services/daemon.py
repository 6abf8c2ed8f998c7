"""The daemon: it holds a lake, serves its mount and its control socket, and ends cleanly.

Ends when the mount is taken away (`fusermount3 -u`, `dtafs umount`) or on SIGTERM, SIGINT or
SIGHUP, which take it away themselves: plainly when nobody uses the mount, so that the kernel writes
its dirty pages first; otherwise after asking it to write them, lazily.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pyfuse3
import trio
from msgspec import Struct

from dtafs.core.names import version_name
from dtafs.errors import BusyError, ConflictError, DtafsError, StorageError
from dtafs.fs import requests
from dtafs.fs.attributes import SEALED_TIMEOUT_S
from dtafs.fs.build import Directories, build_namespace
from dtafs.fs.drafts import Drafts
from dtafs.fs.gate import Gates
from dtafs.fs.inodes import sealed_number
from dtafs.fs.operations import Operations
from dtafs.services import mountpoints
from dtafs.services.background import BackgroundSealer, flush_staging
from dtafs.services.changes import Changes, Waiting
from dtafs.services.control import ControlServer, SessionFor
from dtafs.services.mirroring import mirror_always
from dtafs.services.protocol import socket_path
from dtafs.services.status import StatusSources
from dtafs.services.supervisor import ALIVE, READY, STOPPING, Supervisor
from dtafs.services.tiering import Mover, Recaller
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.session import Session, actor_here
from dtafs.store.staging.outdated import Outdated
from dtafs.store.staging.staging import Staging

log = logging.getLogger(__name__)

MIN_TASKS, MAX_TASKS = 4, 64
"""Requests of the kernel under way at once. More than the threads that serve them: those which
answer from memory must not queue behind those which read."""

HANDOVER_S = 5.0
SYNC_LIMIT_S = 20.0
"""How long an end by signal waits for the kernel to write dirty pages of a mount that is in use."""

M_ARENA_MAX, ARENAS = -8, 2
"""`mallopt(3)`: without it the daemon's memory grows by a third while eight threads decode."""

M_MMAP_THRESHOLD, MAPPED_FROM_BYTES = -3, 16 << 20
M_TRIM_THRESHOLD, KEPT_FREE_BYTES = -1, 16 << 20
"""Otherwise a frame's memory goes back to the kernel when it leaves the cache, and to get the next one's
costs half as much as decoding it: 64 page faults. What is mapped and given back each time is larger than
the 8 MiB that are fetched from a tier at once (`dtafs.store.placement.far`)."""

COLLECT_AFTER = (50_000, 4, 1)
"""Objects, collections of the young, of the middle-aged: 5, 10 and 20 ms of looking at the most."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class MountOptions(Struct, frozen=True):
    """How a lake is mounted."""

    mountpoint: Path
    allow_other: bool = False
    read_only: bool = False


def serve(
    path: Path,
    options: MountOptions,
    ready: Callable[[], None],
    supervisor: Supervisor | None = None,
) -> None:
    """Mount a lake and serve it until the mount ends; `ready` is called, and `supervisor` told, once
    the mount answers.

    Raises a DtafsError when it cannot be mounted; then nothing was left behind.
    """
    _tune_memory()
    _limit_collections()
    _unlimit_files()
    logging.getLogger("pyfuse3").addFilter(_pass_over_aborted)
    os.umask(0)  # modes that callers ask for are theirs to mask; files of the lake name their own
    path = path.absolute()
    place = mountpoints.check_mountpoint(path, options.mountpoint, options.allow_other)
    options = MountOptions(place, options.allow_other, options.read_only)
    # No daemon says that it is there: whoever has the lake (a command, a daemon that is ending) is
    # done soon.
    wait_s = 0.0 if os.path.exists(mountpoints.daemon_file(path)) else HANDOVER_S
    with _opened(path, not options.read_only, wait_s) as lake:
        try:
            trio.run(_Daemon(lake, options, ready, supervisor or Supervisor()).run)
        except BaseExceptionGroup as group:
            expected = group.subgroup(DtafsError)
            if expected is None:
                raise
            raise _first(expected) from None


def _opened(path: Path, write: bool, wait_s: float) -> Lake:
    try:
        return Lake.open(path, write=write, wait_s=wait_s)
    except BusyError:
        for mount in mountpoints.mounts():
            pid = mountpoints.daemon_of(mount) if mount.lake == path else None
            if pid is not None:
                raise ConflictError(
                    f"the lake {path} is mounted on {mount.mountpoint} already, by process {pid}; "
                    f"end it with: dtafs umount {mount.mountpoint}"
                ) from None
        raise


def _tune_memory() -> None:
    """Keep glibc from giving each thread a heap of its own, which it would never give back, and from
    giving back what is needed again at once."""
    with contextlib.suppress(AttributeError, OSError):  # another libc needs no such thing
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, ARENAS)
        mallopt(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_FREE_BYTES)


def _unlimit_files() -> None:
    """Let the daemon have as many descriptors as it may: one for each staged file in use, and the
    limit of 1,024 that a shell gives was set for programs of one user that call select(2)."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _pass_over_aborted(record: logging.LogRecord) -> bool:
    """Whether what pyfuse3 says is worth saying. The kernel answers a reply to a request that it has
    given up, as at an unmount or after a kill, with ENOENT; libfuse takes no notice either."""
    given_up = record.args == (os.strerror(errno.ENOENT),)
    return not (given_up and "fuse_reply_* failed" in str(record.msg))


def _limit_collections() -> None:
    """Let a garbage collection look only at what was made since the last full one: of what has lived
    that long next to nothing is ever in a lost cycle, and a look at everything stops all threads
    for a tenth of a second per million objects."""

    def keep(phase: str, found: dict[str, int]) -> None:
        if phase == "stop" and found["generation"] == 2:
            gc.freeze()

    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
    gc.callbacks.append(keep)


def _first(group: BaseException) -> BaseException:
    """The first exception of a group, however deep."""
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


class _Daemon:
    """One mount of one lake."""

    def __init__(
        self,
        lake: Lake,
        options: MountOptions,
        ready: Callable[[], None],
        supervisor: Supervisor,
    ) -> None:
        self._lake, self._options, self._ready = lake, options, ready
        self._supervisor = supervisor
        self._invalidating = True
        self._ended = False

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            operations = self._build(nursery)
            if self._lake.can_write:
                await nursery.start(self._control.serve)
                nursery.start_soon(self._sealer.run)
                nursery.start_soon(flush_staging, self._lake)
                nursery.start_soon(Recaller(self._lake).run)
                nursery.start_soon(mirror_always, self._lake)
                nursery.start_soon(Mover(self._lake).run)
            nursery.start_soon(self._obey_signals, nursery)
            nursery.start_soon(self._say_alive)
            await trio.to_thread.run_sync(self._announce)
            try:
                self._mount(operations, nursery)
            except BaseException:
                self._withdraw()
                raise
            try:
                await requests.serve(MIN_TASKS, MAX_TASKS)
            finally:
                self._ended = True
                self._invalidating = False
                self._supervisor.tell(STOPPING)
                with trio.CancelScope(shield=True):
                    await operations.release_all()
                left = mountpoints.mounted_at(self._options.mountpoint)
                pyfuse3.close(unmount=left is not None)
                self._withdraw()
            nursery.cancel_scope.cancel()
        log.info("the mount on %s has ended", self._options.mountpoint)

    def _build(self, nursery: trio.Nursery) -> Operations:
        lake = self._lake
        self._token = trio.lowlevel.current_trio_token()
        gates, drafts, directories = Gates(), Drafts(), Directories()
        changes = None
        if lake.can_write:
            changes = Changes(
                lake,
                gates,
                drafts,
                partial(self._renew, directories),
                partial(self._forget_disposed, directories),
            )
            self._sealer = BackgroundSealer(changes)
            self._control = ControlServer(socket_path(lake.path), self._session_for(changes))
        sources = StatusSources(lake, self._options.mountpoint, changes)
        offer = self._sealer.offer if changes is not None else _ignore
        namespace = build_namespace(
            lake,
            nursery,
            directories,
            gates,
            drafts,
            sources,
            changes,
            offer,
            store=pyfuse3.notify_store,
        )
        return Operations(namespace, lake.path, SEALED_TIMEOUT_S)

    def _session_for(self, changes: Changes) -> SessionFor:
        def session_for(uid: int, program: str, dataset: str, waiting: Waiting) -> Session:
            return changes.session(actor_here(program, uid), dataset, waiting=waiting)

        return session_for

    def _renew(self, directories: Directories, dataset: str, outdated: Outdated) -> None:
        """Let the kernel forget what is so no longer. In a thread, for it waits for requests to the
        directories concerned; attributes alone it forgets at once, dirty pages or not. Errors say
        that it knows nothing of a name or an inode, or that the mount has just gone."""
        number = directories.number_of
        directory = trio.from_thread.run_sync(number, dataset, trio_token=self._token)
        for parent, name in outdated.names:
            if self._invalidating:
                with contextlib.suppress(OSError):
                    pyfuse3.invalidate_entry(parent, name)
        for ino in (pyfuse3.ROOT_INODE, directory, *outdated.inodes):
            if self._invalidating:
                with contextlib.suppress(OSError):
                    pyfuse3.invalidate_inode(ino, attr_only=True)

    def _forget_disposed(self, directories: Directories, rows: Sequence[VersionRow]) -> None:
        """Let everybody forget what versions held that were disposed of. In a thread."""
        for row in rows:
            forget = partial(directories.forget_version, row.serial)
            trio.from_thread.run_sync(forget, trio_token=self._token)
            number = partial(directories.number_of, row.dataset)
            directory = trio.from_thread.run_sync(number, trio_token=self._token)
            name, top = os.fsencode(version_name(row.number)), sealed_number(row.serial, 0)
            for call in (
                partial(pyfuse3.invalidate_entry, directory, name),
                partial(pyfuse3.invalidate_inode, top, attr_only=False),
            ):
                if self._invalidating:
                    with contextlib.suppress(OSError):
                        call()

    def _mount(self, operations: Operations, nursery: trio.Nursery) -> None:
        options = {
            "default_permissions",
            "nosuid",
            "nodev",
            f"fsname={mountpoints.source_of(self._lake.path)}",
            f"subtype={mountpoints.SUBTYPE}",
        }
        if self._options.allow_other:
            options.add("allow_other")
        if self._options.read_only:
            options.add("ro")
        operations.on_ready = lambda: nursery.start_soon(self._answer)
        try:
            pyfuse3.init(operations, os.fspath(self._options.mountpoint), options)
        except RuntimeError as error:
            raise StorageError(f"cannot mount on {self._options.mountpoint}: {error}") from None

    async def _answer(self) -> None:
        """Say that the mount answers. Runs right after the kernel has been agreed with: before
        that, it would set its own read-ahead again."""
        mountpoint = self._options.mountpoint
        kib = self._lake.config.mount.read_ahead_kib
        if advice := mountpoints.raise_read_ahead(mountpoint, kib):
            log.info("%s", advice)
        log.info("%s is mounted on %s", self._lake.path, mountpoint)
        self._ready()
        self._supervisor.tell(READY, f"STATUS={self._lake.path} is mounted on {mountpoint}")

    async def _say_alive(self) -> None:
        """Beat while the loop runs: what stops it stops everybody who uses the mount."""
        while self._supervisor.beat_s:
            self._supervisor.tell(ALIVE)
            await trio.sleep(self._supervisor.beat_s)

    def _announce(self) -> None:
        """Say in run/daemon.json who serves which mount; a reader of the lake leaves no trace."""
        if self._lake.can_write:
            lake = self._lake
            mountpoints.announce(lake.disk, lake.path, self._options.mountpoint, time.time_ns())

    def _withdraw(self) -> None:
        if self._lake.can_write:
            self._lake.disk.remove(mountpoints.daemon_file(self._lake.path))

    async def _obey_signals(self, nursery: trio.Nursery) -> None:
        with trio.open_signal_receiver(*SIGNALS) as received:
            async for number in received:
                log.info("ending after %s", signal.Signals(number).name)
                nursery.start_soon(self._end)

    async def _end(self) -> None:
        """Take the mount away, which ends the main loop."""
        mountpoint = self._options.mountpoint
        if not await trio.to_thread.run_sync(mountpoints.detach, mountpoint):
            return
        log.info("the mount is in use: asking the kernel to write what it holds, then detaching")
        with trio.move_on_after(SYNC_LIMIT_S), contextlib.suppress(OSError):  # gone meanwhile
            await trio.to_thread.run_sync(_sync, mountpoint, abandon_on_cancel=True)
        await trio.to_thread.run_sync(mountpoints.detach, mountpoint, True)
        if not self._ended:
            pyfuse3.terminate()


def _ignore(staging: Staging, ino: int) -> None:
    """A read-only mount has nothing to seal."""


def _sync(mountpoint: Path) -> None:
    fd = os.open(mountpoint, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ctypes.CDLL(None, use_errno=True).syncfs(fd)
    finally:
        os.close(fd)
