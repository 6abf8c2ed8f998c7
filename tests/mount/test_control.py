"""The control socket, without a mount."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from dtafs.services import control
from dtafs.services.changes import Waiting
from dtafs.services.control import ControlServer
from dtafs.services.protocol import decode_line
from dtafs.store.session import Session


def no_session(_uid: int, _program: str, _dataset: str, _waiting: Waiting) -> Session:
    raise AssertionError("no request comes so far")


async def test_without_descriptors_a_silent_client_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_free() -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(control, "TELL_S", 0.2)
    server = ControlServer(tmp_path / "socket", no_session)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve)
        os.close(server._spare)
        server._spare = -1
        monkeypatch.setattr(control, "_reserve", none_free)
        with trio.fail_after(60):
            silent = await trio.open_unix_socket(tmp_path / "socket")
            other = await trio.open_unix_socket(tmp_path / "socket")
            async with silent, other:
                await other.send_all(b"{}\n")
                reply = decode_line(bytes(await other.receive_some()))
        assert "open files" in str(reply["error"])
        nursery.cancel_scope.cancel()
