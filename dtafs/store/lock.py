"""The lock that makes one process at a time the lake's writer."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path

from dtafs.errors import BusyError, from_os_error

POLL_S = 0.05


class WriterLock:
    """An advisory lock on `run/lock`, held until `release` or the end of the process.

    The file says who holds it, for error messages only; the lock itself is the kernel's, so that a
    killed holder leaves nothing to clean up.
    """

    def __init__(self, path: Path, wait_s: float = 0.0) -> None:
        """Take the lock, trying for `wait_s`; BusyError names who has it."""
        self._path = path
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise from_os_error(error, "taking the lake's lock") from error
        deadline = time.monotonic() + wait_s
        while not self._try():
            if time.monotonic() >= deadline:
                holder = self._holder()
                os.close(self._fd)
                raise BusyError(
                    f"the lake {path.parent.parent} is in use by {holder}; try again when it is done"
                )
            time.sleep(POLL_S)
        self.note(" ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:3]]))

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def note(self, what: str) -> None:
        """Say what this process does with the lake; also after a fork, which keeps the lock."""
        with contextlib.suppress(OSError):  # a full disk; the lock holds all the same
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps({"pid": os.getpid(), "what": what}).encode(), 0)

    def _holder(self) -> str:
        try:
            held = json.loads(os.pread(self._fd, 4096, 0))
            return f"process {held['pid']} ({held['what']})"
        except (ValueError, KeyError, TypeError):
            return "another process"

    def release(self) -> None:
        """Let the next writer in."""
        os.close(self._fd)
