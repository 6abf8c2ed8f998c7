"""Calls that need metadata nodes, made on the event loop and repeated when one has to be read.

A call that finds all its nodes in memory never leaves the loop. One that does not raises
`ColdNode`; the node is then read in a thread and the whole call is made again, so it must not have
changed anything before its last fetch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import trio

from dtafs.core.nodes import Node
from dtafs.errors import DtafsError, IntegrityError
from dtafs.fs.threads import PatientLimiter
from dtafs.store.objects import ColdNode, Objects
from dtafs.store.placement.stubs import ColdPlace

P = ParamSpec("P")
T = TypeVar("T")

READ_THREADS = 8
"""Reads of nodes and of content under way at once: enough to keep two disks or four cores busy, few
enough that a thousand waiting readers cost no thousand threads."""

READ_THREADS_MAX = 48
"""When the disk is slow: fewer than the requests under way at once (MAX_TASKS of the daemon), so that
what needs no thread is answered even then."""

ATTEMPTS = 10_000
"""More nodes than one call can need: only a cache too small to hold them would get here."""


class NodeReader:
    """Runs calls on the event loop that fetch nodes from memory."""

    def __init__(self, objects: Objects, look_up: Callable[[bytes], object] = bytes) -> None:
        """`look_up` finds out where a pack lies, when a call has raised `ColdPlace`."""
        self.objects = objects
        self._look_up = look_up
        # Of trio's own class only these two methods are asked for, but it is the type that counts.
        limiter = PatientLimiter(READ_THREADS, READ_THREADS_MAX)
        self.limiter = cast(trio.CapacityLimiter, limiter)
        self._loop = threading.get_ident()

    def fetch(self, wanted: bytes) -> Node:
        """A node: on the event loop only from memory (else `ColdNode`), in a thread in any case."""
        if threading.get_ident() == self._loop:
            return self.objects.cached_node(wanted)
        return self.objects.node(wanted)

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `call`, made again after each node that it missed."""
        for _ in range(ATTEMPTS):
            try:
                return call(*args, **kwargs)
            except ColdNode as cold:
                await trio.to_thread.run_sync(self.objects.node, cold.id, limiter=self.limiter)
            except ColdPlace as cold:
                await trio.to_thread.run_sync(self._look_up, cold.pack, limiter=self.limiter)
        raise IntegrityError("the cache of metadata nodes is too small for one call")

    async def read_ahead(self, wanted: Sequence[bytes]) -> None:
        """Have nodes in memory that calls are going to need, all read in one thread.

        One that cannot be read is left to the call that needs it, which says so.
        """
        cold = []
        for node in wanted:
            try:
                self.objects.cached_node(node)
            except ColdNode:
                cold.append(node)
            except DtafsError:
                continue
        if cold:
            await trio.to_thread.run_sync(self._read_all, cold, limiter=self.limiter)

    def _read_all(self, wanted: Sequence[bytes]) -> None:
        for node in wanted:
            with contextlib.suppress(DtafsError):
                self.objects.node(node)
