"""The control socket: commands ask the daemon to change the lake that it holds.

One task for each connection; the calls themselves block and run in threads, each on behalf of the
user at the other end, whose uid must be the daemon's own or root's. The protocol is in
`dtafs.services.protocol`.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from dtafs.errors import DtafsError, RefusedError, UsageError, from_os_error
from dtafs.services.changes import Waiting
from dtafs.services.protocol import (
    LINE_MAX_BYTES,
    REPORTING,
    SocketAddress,
    decode_call,
    decode_line,
    encode_line,
    error_message,
)
from dtafs.store.progress import Progress
from dtafs.store.session import Session

log = logging.getLogger(__name__)

CALLS_AT_ONCE = 8
BACKLOG = 64
ACCEPT_AGAIN_S = 0.5
TELL_S = 1.0
"""For so long a client is listened to that can only be told that no descriptor is free."""

RECEIVE_BYTES = 64 * 1024
PEER = struct.Struct("3i")
"""struct ucred: pid, uid, gid."""

SessionFor = Callable[[int, str, str, Waiting], Session]
"""Makes the session of a user (uid) and program for calls on one dataset ("" for none); the last
argument says whether the client still waits."""


class ControlServer:
    """Serves the control socket of one lake for as long as `serve` runs."""

    def __init__(self, path: Path, session_for: SessionFor) -> None:
        self._path = path
        self._session_for = session_for
        self._spare = -1
        self._limiter = trio.CapacityLimiter(CALLS_AT_ONCE)
        # Apart, so that a request which cannot begin yet is read all the same, and refused if need be.
        self._encoding = trio.CapacityLimiter(CALLS_AT_ONCE)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled. The holder of the lake's lock is the only one to do so, so a
        socket that lies there is a dead one."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with listening:
            with SocketAddress(self._path) as address:
                await listening.bind(address)
            os.chmod(self._path, 0o600)
            listening.listen(BACKLOG)
            self._spare = _reserve()
            task_status.started()
            try:
                async with trio.open_nursery() as nursery:
                    while True:
                        connection = await self._accept(listening)
                        nursery.start_soon(self._attend, connection)
            finally:
                if self._spare >= 0:
                    os.close(self._spare)
                with suppress(FileNotFoundError):
                    os.unlink(self._path)

    async def _accept(self, listening: trio.socket.SocketType) -> trio.socket.SocketType:
        """The next client. When no descriptor is free the one in reserve is for telling it so."""
        while True:
            try:
                connection, _ = await listening.accept()
            except OSError:
                if self._spare < 0:
                    await trio.sleep(ACCEPT_AGAIN_S)
                else:
                    os.close(self._spare)
                    self._spare = -1
                continue
            try:
                if self._spare < 0:
                    self._spare = _reserve()
                return connection
            except OSError as error:
                reply = error_message(from_os_error(error, "serving a request"))
            with suppress(OSError), connection, trio.move_on_after(TELL_S):
                await connection.recv(RECEIVE_BYTES)
                await connection.send(encode_line(reply))

    async def _attend(self, connection: trio.socket.SocketType) -> None:
        with connection:
            try:
                await _Conversation(self, connection).run()
            except OSError as error:
                log.info("a client of the control socket went away: %s", error)
            except Exception:
                log.exception("a request on the control socket failed unexpectedly")

    async def answer(
        self, uid: int, line: bytes, report: Callable[[Progress], None], waiting: Waiting
    ) -> bytes:
        """The last reply to a request, as a line."""
        return await trio.to_thread.run_sync(
            _encoded, await self._reply(uid, line, report, waiting), limiter=self._encoding
        )

    async def _reply(
        self, uid: int, line: bytes, report: Callable[[Progress], None], waiting: Waiting
    ) -> dict[str, Any]:
        try:
            if uid not in (0, os.getuid()):
                raise RefusedError(
                    "only the owner of the daemon and root may use its control socket"
                )
            message = await trio.to_thread.run_sync(decode_line, line, limiter=self._encoding)
            call, program, arguments = decode_call(message)
            dataset = arguments.get("dataset", "")
            named = dataset if isinstance(dataset, str) else ""
            ask = partial(self._session_for, uid, program, named, waiting)
            session = await trio.to_thread.run_sync(ask, limiter=self._encoding)
            method = getattr(session, call)
            if call in REPORTING:
                arguments["progress"] = report
            work = partial(_work, method, arguments)
            return {"result": await trio.to_thread.run_sync(work, limiter=self._limiter)}
        except DtafsError as error:
            return error_message(error)
        except OSError as error:
            return error_message(from_os_error(error, "serving a request"))
        except Exception as error:
            log.exception("a request on the control socket failed unexpectedly")
            text = f"the daemon failed unexpectedly ({error!r}); its log is run/daemon.log"
            return error_message(DtafsError(text))


def _reserve() -> int:
    """A descriptor to be closed when there is no other."""
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _work(method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    try:
        return method(**arguments)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:
            raise UsageError(f"the arguments do not fit the call: {error}") from None
        raise


def _encoded(message: dict[str, Any]) -> bytes:
    """As `encode_line`, ten times as fast: megabytes would hold up every other thread for long."""
    try:
        return msgspec.json.encode(message) + b"\n"
    except UnicodeEncodeError:  # a name that is not UTF-8, which JSON writes as surrogates
        return encode_line(message)


class _Conversation:
    """One connection: a request at a time."""

    def __init__(self, server: ControlServer, connection: trio.socket.SocketType) -> None:
        self._server, self._connection = server, connection
        self._buffer = bytearray()
        self._gone = False
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
        self._uid = PEER.unpack(credentials)[1]

    async def run(self) -> None:
        """Answer requests until the client closes the connection."""
        while (line := await self._line()) is not None:
            newest: list[Progress] = []
            with trio.CancelScope() as reporting:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._report, newest)
                    nursery.start_soon(self._watch)
                    reply = await self._server.answer(
                        self._uid, line, _keeper(newest), lambda: not self._gone
                    )
                    reporting.cancel()
            await self._send(reply)

    async def _watch(self) -> None:
        """Notice when the client goes away before it has its answer."""
        with suppress(OSError):
            if not await self._connection.recv(1, socket.MSG_PEEK):
                self._gone = True

    async def _report(self, newest: list[Progress]) -> None:
        """Pass on the newest progress, at most ten times a second. A client that has gone misses
        it, and what it asked for goes on."""
        while True:
            await trio.sleep(0.1)
            if newest:
                progress = newest.pop()
                newest.clear()
                with suppress(OSError):
                    await self._send(encode_line({"progress": msgspec.to_builtins(progress)}))

    async def _line(self) -> bytes | None:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            data = await self._connection.recv(RECEIVE_BYTES)
            if not data:
                return None
            self._buffer += data
            if len(self._buffer) > LINE_MAX_BYTES:
                await self._send(encode_line(error_message(UsageError("the request is too long"))))
                return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    async def _send(self, line: bytes) -> None:
        data = memoryview(line)
        while data:
            data = data[await self._connection.send(data) :]


def _keeper(newest: list[Progress]) -> Callable[[Progress], None]:
    """A report function that any thread may call: only the newest progress is kept."""

    def keep(progress: Progress) -> None:
        newest[:] = [progress]

    return keep
