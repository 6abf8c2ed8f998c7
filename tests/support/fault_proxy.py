"""An HTTP proxy in front of an object store that does to requests what networks and servers do.

It forwards each request as it came (host, signature, body), unless a fault was planned for it. All
sockets are on 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import enum
import http.client
import http.server
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tests.support.object_stores import ObjectStore

STALL_LIMIT_S = 30.0


class Fault(enum.Enum):
    """What happens to one request."""

    NONE = "forwarded"
    INTERNAL = "answered 500, not forwarded"
    SLOW_DOWN = "answered 503 SlowDown, not forwarded"
    DROP = "the connection is closed, not forwarded"
    STALL = "no answer at all, not forwarded"
    LOSE_ANSWER = "forwarded, but the connection is closed instead of an answer"
    HALF_ANSWER = "forwarded, but the connection is closed in the middle of the answer"
    HALF_UPLOAD = "half of the body is forwarded, then both connections are closed"
    GARBLE = "forwarded, but a byte of the answer's body is another one"
    EXPIRED = "answered 400 ExpiredToken, not forwarded"
    FULL = "answered 507, not forwarded"
    NO_BUCKET = "answered 404 NoSuchBucket, not forwarded"
    FORBIDDEN = "answered 403 AccessDenied, not forwarded"


ANSWERS = {
    Fault.INTERNAL: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.EXPIRED: (400, "ExpiredToken"),
    Fault.FULL: (507, "InsufficientStorage"),
    Fault.NO_BUCKET: (404, "NoSuchBucket"),
    Fault.FORBIDDEN: (403, "AccessDenied"),
}


class Seen(NamedTuple):
    """A request that arrived, and what was done to it."""

    method: str
    path: str
    fault: Fault


Chooser = Callable[[str, str], Fault]


class FaultProxy:
    """The proxy. `plan` and `choose` say what happens to the requests that come."""

    def __init__(self, upstream: ObjectStore, without: tuple[str, ...] = ()) -> None:
        """`without`: headers that are not passed on, as by a server that does not know them."""
        self._without = {name.lower() for name in without}
        self._host, self._port = _address(upstream.endpoint)
        self._lock = threading.Lock()
        self._planned: list[tuple[str, str, Fault]] = []
        self._chooser: Chooser = lambda _method, _path: Fault.NONE
        self.seen: list[Seen] = []
        self.ending = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.store = ObjectStore(endpoint, upstream.bucket)

    def plan(self, *faults: Fault, method: str = "", path: str = "") -> None:
        """The next requests of this method, with this text in their path, meet these faults in turn."""
        with self._lock:
            self._planned += [(method, path, fault) for fault in faults]

    def choose(self, chooser: Chooser) -> None:
        """Ask `chooser` about each request that nothing was planned for."""
        with self._lock:
            self._chooser = chooser

    def at_random(self, seed: int, share: float, faults: list[Fault]) -> None:
        """Let this share of the requests meet one of these faults."""
        dice = random.Random(seed)
        self.choose(lambda *_: dice.choice(faults) if dice.random() < share else Fault.NONE)

    def calm(self) -> None:
        """Forward everything from now on."""
        with self._lock:
            self._planned.clear()
            self._chooser = lambda _method, _path: Fault.NONE

    @property
    def left(self) -> int:
        """Planned faults that no request has met yet."""
        return len(self._planned)

    def fault_for(self, method: str, path: str) -> Fault:
        """What is to happen to a request, which is noted."""
        path = urllib.parse.unquote(path)
        with self._lock:
            fault = None
            for i, (wanted, part, planned) in enumerate(self._planned):
                if wanted in ("", method) and part in path:
                    fault = planned
                    del self._planned[i]
                    break
            fault = fault or self._chooser(method, path)
            self.seen.append(Seen(method, path, fault))
            return fault

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments: object) -> None:
                """Tests look at `seen` instead."""

            def handle(self) -> None:
                with contextlib.suppress(OSError):  # the client closed first
                    super().handle()

            def _do(self) -> None:
                size = int(self.headers.get("Content-Length", "0"))
                body = self.rfile.read(size)
                fault = proxy.fault_for(self.command, self.path)
                if fault in ANSWERS:
                    self._answer(*ANSWERS[fault])
                elif fault is Fault.STALL:
                    proxy.ending.wait(STALL_LIMIT_S)
                    self._cut()
                elif fault is Fault.DROP:
                    self._cut()
                else:
                    proxy.forward(self, body, fault)

            def _answer(self, status: int, code: str) -> None:
                body = f"<Error><Code>{code}</Code><Message>planned</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _cut(self) -> None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _do

        return Handler

    def forward(
        self, handler: http.server.BaseHTTPRequestHandler, body: bytes, fault: Fault
    ) -> None:
        """Pass a request on, and its answer back, as far as the fault lets it."""
        upstream = http.client.HTTPConnection(self._host, self._port, timeout=STALL_LIMIT_S)
        with contextlib.closing(upstream):
            upstream.putrequest(
                handler.command, handler.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in handler.headers.items():
                if name.lower() not in self._without:
                    upstream.putheader(name, value)
            upstream.endheaders()
            if fault is Fault.HALF_UPLOAD:
                upstream.send(body[: len(body) // 2])
                handler.close_connection = True
                return
            if body:
                upstream.send(body)
            answer = upstream.getresponse()
            data = answer.read()
        if fault is Fault.LOSE_ANSWER:
            handler.close_connection = True
            return
        handler.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                handler.send_header(name, value)
        length = answer.getheader("Content-Length") if handler.command == "HEAD" else None
        handler.send_header("Content-Length", length or str(len(data)))
        handler.end_headers()
        if fault is Fault.GARBLE and data:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if fault is Fault.HALF_ANSWER:
            data = data[: len(data) // 2]
            handler.close_connection = True
        handler.wfile.write(data)


@contextlib.contextmanager
def fault_proxy(upstream: ObjectStore, without: tuple[str, ...] = ()) -> Iterator[FaultProxy]:
    """A proxy in front of a server, for as long as the block runs."""
    proxy = FaultProxy(upstream, without)
    thread = threading.Thread(target=proxy.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ending.set()
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join(STALL_LIMIT_S)
        assert not thread.is_alive(), time.monotonic()


def _address(endpoint: str) -> tuple[str, int]:
    parts = urllib.parse.urlsplit(endpoint)
    assert parts.hostname and parts.port
    return parts.hostname, parts.port
