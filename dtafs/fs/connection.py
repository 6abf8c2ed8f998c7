"""What the connection to the kernel is asked for beyond what libfuse asks for.

A mount begins with one request, FUSE_INIT, whose answer says which of the kernel's abilities the
file system wants. libfuse 3.14 knows some of them by name and drops the others. `Agreement` lets
libfuse answer into a socket, adds FUSE_HANDLE_KILLPRIV_V2 and BACKGROUND_MAX, and passes the answer on.

With the first, it is the daemon that takes the set-id bits away when somebody without privileges changes a
file (`fs/staged.py`), and the kernel no longer asks for `security.capability` before each write(2),
nor for the mode: a program that writes 4 KiB at a time waits for no answer at all.

Shapes: Linux, `include/uapi/linux/fuse.h`; both answers in the machine's byte order.

| message | from byte | what |
|---|---|---|
| request | 0 | u32 length, u32 operation (26 is FUSE_INIT), and 32 bytes more of header |
| | 40 | u32 major and u32 minor version, u32 read-ahead, u32 flags that are offered |
| answer | 0 | u32 length, i32 error, u64 number of the request |
| | 16 | u32 major and u32 minor version, u32 read-ahead, u32 flags that are wanted |
| | 32 | u16 most requests in the background, u16 how many of them are a jam |
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress

import trio

HANDLE_KILLPRIV_V2 = 1 << 28

BACKGROUND_MAX, BACKGROUND_JAM = 32, 24
"""Reads ahead and writes back that the kernel has under way at once. Of libfuse's 12, a few readers of a
tier that does not answer leave none to the others. More would keep a request that somebody waits for
behind as many writes of 1 MiB, 0.7 ms each."""

FUSE_INIT = 26
REQUEST_MAX_BYTES = 1 << 17
"""More than any first request; the kernel hands none out without room for 8 KiB."""

ANSWER_MAX_BYTES = 1 << 12

REQUEST = struct.Struct("=II32xIIII")
ANSWER = struct.Struct("=IiQIIIIHH")


def offered(request: bytes) -> int:
    """The flags that a FUSE_INIT offers; 0 for any other request."""
    if len(request) < REQUEST.size:
        return 0
    _length, operation, _major, _minor, _read_ahead, flags = REQUEST.unpack_from(request)
    return flags if operation == FUSE_INIT else 0


def with_wishes(answer: bytes, flags: int) -> bytes:
    """The answer to a FUSE_INIT that wants `flags`, too, and more in the background; one that is an
    error stays as it is."""
    if len(answer) < ANSWER.size:
        return answer
    *before, wanted, _most, _jam = ANSWER.unpack_from(answer)
    _length, error, *_ = before
    if error:
        return answer
    wishes = ANSWER.pack(*before, wanted | flags, BACKGROUND_MAX, BACKGROUND_JAM)
    return wishes + answer[ANSWER.size :]


class Agreement:
    """The exchange of FUSE_INIT and its answer, on a session's descriptor.

    While it lasts, the descriptor is a socket whose other end is here. `advance` is called whenever
    libfuse is about to read from the descriptor, until `is_made`. All on the event loop.
    """

    def __init__(self) -> None:
        self.is_made = False
        self._kernel: int | None = None
        # The kernel's end of the connection, while the session's descriptor is a socket.
        self._libfuse: socket.socket | None = None
        self._offered = 0

    async def advance(self, fd: int) -> None:
        """Return when libfuse can read the first request from `fd`, then when it has answered."""
        if self._libfuse is None:
            await self._ask(fd)
        else:
            await self._answer(fd, self._libfuse)

    def close(self) -> None:
        """End what is under way, if it is."""
        self.is_made = True
        if self._libfuse is not None:
            self._libfuse.close()
        if self._kernel is not None:
            os.close(self._kernel)
        self._libfuse = self._kernel = None

    async def _ask(self, fd: int) -> None:
        await trio.lowlevel.wait_readable(fd)
        self._kernel = os.dup(fd)
        try:
            request = os.read(self._kernel, REQUEST_MAX_BYTES)
        except OSError:  # unmounted already, which libfuse is to see for itself
            self.close()
            return
        self._offered = offered(request)
        self._libfuse, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._libfuse.setblocking(False)
            self._libfuse.send(request)
            os.dup2(theirs.fileno(), fd, inheritable=False)

    async def _answer(self, fd: int, libfuse: socket.socket) -> None:
        assert self._kernel is not None
        try:
            answer = libfuse.recv(ANSWER_MAX_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(libfuse)
            answer = libfuse.recv(ANSWER_MAX_BYTES)
        os.dup2(self._kernel, fd, inheritable=False)
        with suppress(OSError):  # unmounted meanwhile, as above
            os.write(self._kernel, with_wishes(answer, self._offered & HANDLE_KILLPRIV_V2))
        self.close()
