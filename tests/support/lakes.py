"""Lakes for tests: every one of them is checked, every frame read, when the test is over."""

from __future__ import annotations

from pathlib import Path

from dtafs.store.check import check
from dtafs.store.findings import ERROR
from dtafs.store.handle import handle_of

UNLOCK_LIMIT_S = 10.0
"""How long a daemon that was just told to end may still hold its lake."""


def assert_sound(path: Path) -> None:
    """Run the checker over all that a lake holds, every frame read; fail if it finds an error.

    Its warnings are let pass: room that a discarded or interrupted commit wasted breaks no promise.
    The lake is opened through its handle, since a test's own API objects may still hold it open for
    reading, and LMDB allows one environment a process.
    """
    with handle_of(path).writing(UNLOCK_LIMIT_S) as lake:
        errors = [finding for finding in check(lake, read_data=True) if finding.severity == ERROR]
    assert not errors, "the lake is broken:\n" + "\n".join(map(str, errors))
