"""How long operations tell what they have done so far."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from msgspec import Struct, structs

REPORT_EVERY_S = 0.1


class Progress(Struct, frozen=True):
    """A moment of a long operation; totals are 0 while they are not known."""

    stage: str
    files: int = 0
    size_bytes: int = 0
    files_total: int = 0
    size_total_bytes: int = 0


Report = Callable[[Progress], None]
"""Called from any thread, at most every `REPORT_EVERY_S`; it must not raise."""


class Meter:
    """Counts what was read, from any thread, and reports it now and then."""

    def __init__(self, report: Report | None, total: Progress) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._next_s = 0.0
        self._files = self._bytes = 0
        self.total = total

    @property
    def wanted(self) -> bool:
        """Whether anybody listens: finding the totals may cost something."""
        return self._report is not None

    def __call__(self, files: int, size_bytes: int) -> None:
        """So many more files and bytes are done."""
        if self._report is None:
            return
        with self._lock:
            self._bytes += size_bytes
            self._files += files
            now_s = time.monotonic()
            if now_s < self._next_s:
                return
            self._next_s = now_s + REPORT_EVERY_S
            done = structs.replace(self.total, files=self._files, size_bytes=self._bytes)
        self._report(done)
