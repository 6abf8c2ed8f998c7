"""What the kernel was told of a staging and is no longer so, after a change that it has not made.

What the kernel itself changes it knows from the answers. `place_all`, `remove_path` and `discard`
change names and attributes that it may believe for minutes; they note them here, as far as it knows
them (`Overlay.known`), and whoever serves the kernel takes the notes and has it forget. A note too
many costs a lookup.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from dtafs.store.staging.overlay import Overlay

KNOWN_AT_ONCE = 256
"""How many inodes are looked at before somebody else has a turn at the dataset's lock."""


class Outdated(NamedTuple):
    """Names, each with its directory, and inodes of which the attributes have changed."""

    names: list[tuple[int, bytes]]
    inodes: list[int]


def take(overlay: Overlay, lock: threading.RLock) -> Outdated:
    """What was noted since it was last asked for."""
    with lock:
        found = Outdated(sorted(overlay.outdated_names), sorted(overlay.outdated_inodes))
        overlay.outdated_names.clear()
        overlay.outdated_inodes.clear()
    return found


def note_all(overlay: Overlay, lock: threading.RLock) -> None:
    """Note that all numbers but the root's mean nothing any more, before it is so.

    The names in the root are enough: what lies below a number that the kernel has forgotten is
    never found again. A linked file gets its number again, but as another life of it: see
    `Overlay.life`.
    """
    root = overlay.root_ino
    with lock:
        known = list(overlay.known)
        overlay.outdated_inodes.add(root)
    for at in range(0, len(known), KNOWN_AT_ONCE):
        with lock:
            for ino in known[at : at + KNOWN_AT_ONCE]:
                virtual = overlay.virtuals.get(ino)
                names = overlay.names(ino) if virtual is None else virtual.names
                others = overlay.base_names.get(ino, ())
                overlay.outdated_names.update(n for n in (*names, *others) if n[0] == root)
