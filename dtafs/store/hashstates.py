"""The states in which the hashes of files ended, so that a file that grew is hashed on from there.

A state serves only the content that it is of, which its SHA-256 names, and is never changed: to go
on from it is to copy it. It lives as long as the process: neither hashlib nor OpenSSL's supported
interface lets one be written down.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from dtafs.core.values import Content

if TYPE_CHECKING:
    from hashlib import _Hash

STATES_MAX = 4_096
STATE_FROM_BYTES = 4 * 1024 * 1024
"""Of so many files a state is kept, half a KiB each; shorter ones are hashed in no time."""


class HashStates:
    """The newest states. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: OrderedDict[bytes, tuple[int, _Hash]] = OrderedDict()

    def end(self, state: _Hash, size: int) -> bytes:
        """End the hash of a file of `size` bytes: its SHA-256. `state` now belongs to this table."""
        digest = state.digest()
        if size >= STATE_FROM_BYTES:
            with self._lock:
                self._states[digest] = (size, state)
                self._states.move_to_end(digest)
                if len(self._states) > STATES_MAX:
                    self._states.popitem(last=False)
        return digest

    def resume(self, content: Content) -> _Hash | None:
        """A state that goes on where the hash of a content ended, if one is known."""
        with self._lock:
            size, state = self._states.get(content.sha256, (0, None))
            return state.copy() if state is not None and size == content.size else None
