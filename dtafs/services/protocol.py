"""What a command and the daemon say to each other over the control socket.

The socket is `run/daemon.sock` in the lake. A request and each reply is one line of JSON:

    {"call": "commit", "program": "dtafsctl 0.1.0", "arguments": {"dataset": "D", …}}
    {"progress": {"stage": "sealing", "files": 3, …}}          any number of these
    {"result": {…}}   or   {"error": {"kind": "busy", "message": "…"}}

A connection carries one request after the other. A client that goes away does not stop what it
asked for. Names that are not UTF-8 travel as surrogate escapes, which JSON writes as `\\udcXX`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dtafs.errors import DtafsError, UsageError, outcome_of

if TYPE_CHECKING:
    import socket

LINE_MAX_BYTES = 16 * 1024 * 1024
"""A `put` of 100,000 paths fits; more is a mistake or an attack."""

CALLS = frozenset(
    "create put status commit discard set_tags record stats reindex collect repair "
    "tier_add tier_remove tier_list tier_move tier_recall tier_pin tier_plan tier_plan_read "
    "set_rules remove_rule place_hold release_hold record_event approve confirm_clock apply "
    "freed".split()
)
"""The methods of `dtafs.store.session.Session` that a command may ask for."""

REPORTING = frozenset(
    {"put", "commit", "reindex", "collect", "repair", "apply", "freed", "tier_move", "tier_recall"}
)
"""Those that take `progress`."""


def socket_path(lake: Path) -> Path:
    """Where the daemon of a lake listens."""
    return lake / "run" / "daemon.sock"


class SocketAddress:
    """The address of a socket whatever the length of its path: `sun_path` holds 108 bytes only.

    The directory is held open and named through /proc while the block lasts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> str:
        self._fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{self._path.name}"

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)


def connect(path: Path) -> socket.socket:
    """A connection to the socket at `path`; OSError when nobody listens."""
    import socket  # 3 ms, and most commands meet no daemon

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with SocketAddress(path) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection


def encode_line(message: dict[str, Any]) -> bytes:
    """A message as one line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """The message of a line; UsageError for anything else."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise UsageError("a message on the control socket is not JSON") from None
    if not isinstance(message, dict):
        raise UsageError("a message on the control socket is not a JSON object")
    return message


def error_message(error: DtafsError) -> dict[str, Any]:
    """The reply that carries an error."""
    return {"error": {"kind": outcome_of(error).kind, "message": str(error)}}


def decode_call(message: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    """The call, the program that asks and the arguments of a request; UsageError when malformed."""
    call, program = message.get("call"), message.get("program", "dtafs")
    arguments = message.get("arguments", {})
    if not (isinstance(call, str) and isinstance(program, str) and isinstance(arguments, dict)):
        raise UsageError("a request on the control socket is malformed")
    if call not in CALLS:
        raise UsageError(f"the daemon does not know the call {call!r}")
    return call, program, arguments
