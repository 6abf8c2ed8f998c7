"""Telling systemd, or whoever speaks its protocol, how a daemon is (sd_notify(3), without libsystemd).

A message is one datagram of `NAME=value` lines to the Unix socket that `NOTIFY_SOCKET` names; a name
that begins with `@` is of the abstract namespace. With a watchdog, a message has to come at least every
`WATCHDOG_USEC` microseconds, or the daemon is ended and started again.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
SEND_LIMIT_S = 1.0
BEATS = 3
"""Messages in the time after which the watchdog bites: one or two may come late."""


class Supervisor:
    """Whoever started the daemon and wants to hear of it; perhaps nobody does."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """`address` as in `NOTIFY_SOCKET`; `watchdog_s` is 0 where nobody watches."""
        self._address = address
        self.beat_s = watchdog_s / BEATS if address else 0.0
        """How often to say `ALIVE`; 0 for never."""

    @staticmethod
    def of(environment: Mapping[str, str], pid: int) -> Supervisor:
        """What the environment of process `pid` says; a watchdog that is meant for another process,
        or that makes no sense, is none."""
        address = environment.get("NOTIFY_SOCKET", "")
        meant = environment.get("WATCHDOG_PID", "") in ("", str(pid))
        span = environment.get("WATCHDOG_USEC", "")
        watched = meant and span.isascii() and span.isdigit()
        return Supervisor(address, int(span) / 1e6 if watched else 0.0)

    def tell(self, *lines: str) -> None:
        """Send a message. That it could not be sent is logged, and no reason to end."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(SEND_LIMIT_S)
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warning("cannot tell %s how the daemon is: %s", self._address, error)
