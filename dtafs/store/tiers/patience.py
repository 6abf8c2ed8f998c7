"""Asking again: which failures may pass, how long between two attempts, and when to give up.

An attempt that failed in a way that may pass raises `Passing`. The pause before the next one doubles,
with jitter, so that many who failed together do not come back together; a store that says how long
to wait (`Retry-After`) is obeyed within bounds. What was tried is counted, for `dtafsctl stats`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from dtafs.errors import StorageError

T = TypeVar("T")


class Patience(NamedTuple):
    """How long to go on asking; all waits together are bounded by `give_up_s` and one request."""

    timeout_s: float = 60.0
    """One request, its answer included."""
    connect_s: float = 5.0
    attempts: int = 7
    first_pause_s: float = 0.2
    pause_max_s: float = 10.0
    give_up_s: float = 120.0


SHORT = Patience(timeout_s=20.0, attempts=3, give_up_s=30.0)
"""Somebody is waiting to be told what is wrong."""


PROMPT = Patience(timeout_s=10.0, attempts=2, give_up_s=15.0)
"""Whether a tier answers now."""


class Passing(Exception):
    """A failure that may not be there the next time. `kind`: what it is counted as."""

    def __init__(self, text: str, kind: str, wait_s: float = 0.0) -> None:
        super().__init__(text)
        self.kind, self.wait_s = kind, wait_s


KINDS = ("timeouts", "throttled", "server_errors", "connection_errors")


class Counters:
    """What happened between here and one tier since `since`. Thread-safe."""

    NAMES = (
        "requests",
        "retries",
        *KINDS,
        "lost_answers",
        "credentials_renewed",
        "given_up",
        "bytes_put",
        "bytes_read",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(self.NAMES, 0)

    def add(self, name: str, count: int = 1) -> None:
        """Count something more."""
        with self._lock:
            self._counts[name] += count

    def take(self) -> dict[str, int]:
        """The counts, which begin at zero again."""
        with self._lock:
            counts, self._counts = self._counts, dict.fromkeys(self.NAMES, 0)
            return counts

    def snapshot(self) -> dict[str, int]:
        """The counts as they are."""
        with self._lock:
            return dict(self._counts)


class Retrying:
    """Makes calls to one tier until one succeeds, or fails for good."""

    def __init__(self, tier: str, patience: Patience, counters: Counters) -> None:
        self._tier, self.patience, self.counters = tier, patience, counters
        self._ending = threading.Event()

    def stop(self) -> None:
        """Have no call wait any longer: who is waiting fails at once."""
        self._ending.set()

    def run(self, doing: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns; StorageError, with the last reason, when patience is over."""
        patience, pause_s = self.patience, self.patience.first_pause_s
        until_s = time.monotonic() + patience.give_up_s
        for number in range(1, patience.attempts + 1):
            self.counters.add("requests")
            try:
                return attempt()
            except Passing as failure:
                self.counters.add(failure.kind)
                wait_s = max(failure.wait_s, pause_s * random.uniform(0.5, 1.0))
                late = time.monotonic() + wait_s >= until_s
                if number == patience.attempts or late or self._ending.wait(wait_s):
                    self.counters.add("given_up")
                    tries = "once" if number == 1 else f"{number} times"
                    raise StorageError(
                        f"tier {self._tier}: {doing} failed, tried {tries}: {failure}"
                    ) from None
                self.counters.add("retries")
                pause_s = min(2 * pause_s, patience.pause_max_s)
        raise AssertionError("a Patience allows at least one attempt")
