"""What the answer to the kernel's first request says, with a socket in the kernel's place."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from dtafs.fs import requests
from dtafs.fs.connection import HANDLE_KILLPRIV_V2, Agreement, offered, with_wishes

REQUEST = bytes.fromhex(
    "68000000 1a000000 0200000000000000 0000000000000000 00000000 00000000 00000000 00000000"
    "07000000 2d000000 00000200 fbfffff3 00000000" + "00" * 44
)
"""As Linux 6.18 sends it: FUSE 7.45, 128 KiB read ahead, flags 0xf3fffffb."""

ANSWER = bytes.fromhex(
    "50000000 00000000 0200000000000000"
    "07000000 22000000 00000200 39f42500 0c000900 00001000 01000000 00010000" + "00" * 32
)
"""As libfuse 3.14 answers it: FUSE 7.34, flags 0x25f439, 12 requests in the background, writes of 1 MiB."""

REFUSAL = struct.pack("=IiQ", 16, -5, 2)


class Ends:
    """The kernel's end and the session's end of a connection."""

    def __init__(self) -> None:
        self.kernel, session = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.session = session.detach()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    ends.kernel.settimeout(10)
    yield ends
    ends.kernel.close()
    os.close(ends.session)


def test_what_is_offered_is_read_from_the_first_request_only() -> None:
    assert offered(REQUEST) == 0xF3FFFFFB
    lookup = REQUEST[:4] + struct.pack("=I", 1) + REQUEST[8:]
    assert offered(lookup) == offered(REQUEST[:40]) == offered(b"") == 0


def test_the_wishes_are_added_and_nothing_else_changes() -> None:
    changed = with_wishes(ANSWER, HANDLE_KILLPRIV_V2)
    assert changed[:28] == ANSWER[:28] and changed[36:] == ANSWER[36:]
    assert struct.unpack("=IHH", changed[28:36]) == (0x25F439 | 1 << 28, 32, 24)
    for answer in (REFUSAL, b"", ANSWER[:20], struct.pack("=IiQ", 80, -71, 2) + ANSWER[16:]):
        assert with_wishes(answer, HANDLE_KILLPRIV_V2) == answer


async def agree(low_level: requests._LowLevel, ends: Ends, answer: bytes) -> bytes:
    """What the kernel hears when libfuse answers so to its first request."""
    await low_level.wait_readable(ends.session)
    assert os.read(ends.session, 1 << 17) == REQUEST
    os.write(ends.session, answer)
    ends.kernel.send(b"the next request")
    await low_level.wait_readable(ends.session)
    assert os.read(ends.session, 1 << 17) == b"the next request"
    return ends.kernel.recv(1 << 12)


@pytest.mark.parametrize(
    ("answer", "heard"),
    [(ANSWER, with_wishes(ANSWER, HANDLE_KILLPRIV_V2)), (REFUSAL, REFUSAL)],
)
async def test_the_kernel_hears_what_libfuse_says_and_the_wishes(
    ends: Ends, answer: bytes, heard: bytes
) -> None:
    open_before = os.listdir("/proc/self/fd")
    ends.kernel.send(REQUEST)
    with trio.fail_after(30):
        assert await agree(requests._LowLevel(Agreement()), ends, answer) == heard
    assert os.listdir("/proc/self/fd") == open_before


async def test_a_kernel_that_does_not_offer_is_not_asked(ends: Ends) -> None:
    older = bytearray(REQUEST)
    struct.pack_into("=I", older, 52, offered(REQUEST) & ~HANDLE_KILLPRIV_V2)
    agreement = Agreement()
    ends.kernel.send(older)
    with trio.fail_after(30):
        await agreement.advance(ends.session)
        os.read(ends.session, 1 << 17)
        os.write(ends.session, ANSWER)
        await agreement.advance(ends.session)
    assert agreement.is_made and ends.kernel.recv(1 << 12) == with_wishes(ANSWER, 0)


async def test_an_answer_is_waited_for(ends: Ends) -> None:
    """Another task may look before the one that has read the request has answered it."""
    agreement = Agreement()
    ends.kernel.send(REQUEST)
    with trio.fail_after(30):
        await agreement.advance(ends.session)
        libfuse = os.dup(ends.session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agreement.advance, ends.session)
            await trio.testing.wait_all_tasks_blocked()
            assert not agreement.is_made
            os.write(libfuse, ANSWER)
        os.close(libfuse)
    assert agreement.is_made and offered(REQUEST)


@pytest.mark.parametrize("asked", [False, True])
async def test_an_agreement_that_ends_early_leaves_nothing_open(ends: Ends, asked: bool) -> None:
    open_before = os.listdir("/proc/self/fd")
    agreement = Agreement()
    if asked:
        ends.kernel.send(REQUEST)
        await agreement.advance(ends.session)
    agreement.close()
    agreement.close()
    assert agreement.is_made and os.listdir("/proc/self/fd") == open_before


async def test_a_mount_that_has_ended_is_left_to_libfuse() -> None:
    """A directory, which cannot be read, stands for a connection that is gone (ENODEV)."""
    agreement = Agreement()
    fd = os.open("/", os.O_RDONLY)
    try:
        with pytest.MonkeyPatch.context() as patch, trio.fail_after(30):
            patch.setattr(trio.lowlevel, "wait_readable", _at_once)
            await agreement.advance(fd)
        assert agreement.is_made and os.path.samestat(os.fstat(fd), os.stat("/"))
    finally:
        os.close(fd)


async def _at_once(_fd: int) -> None:
    await trio.lowlevel.checkpoint()
