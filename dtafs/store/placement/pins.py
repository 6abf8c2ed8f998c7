"""Pins: what an operator keeps on the hot disk, whatever the policy says.

A pin names a dataset (with every version it has and will have), a version, or a path in a version. The
pins of a host lie in `upkeep/pins`, JSON that is replaced as a whole. Unlike the rest of `upkeep/` they
cannot be found out again: a damaged file is an error, and is never written over.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
from msgspec import Struct

from dtafs.core.names import format_time, version_name
from dtafs.errors import ConflictError, IntegrityError, NotFoundError
from dtafs.store.condemn import FOLDER
from dtafs.store.durable import Disk, read_file

FILE = "pins"
LIMIT_BYTES = 1 << 26


class Pin(Struct, frozen=True, order=True):
    """What is pinned, by whom and since when."""

    dataset: str
    version: int = 0
    """0 for all of the dataset."""
    path: str = ""
    """Below the top directory, with surrogate escapes for what is not UTF-8; empty for all of it."""
    user: str = ""
    time: str = ""

    @property
    def what(self) -> tuple[str, int, str]:
        """What makes two pins the same."""
        return self.dataset, self.version, self.path

    @property
    def name(self) -> str:
        """How it is shown and written."""
        if not self.version:
            return self.dataset
        return f"{self.dataset}:{version_name(self.version)}" + (
            f"/{self.path}" if self.path else ""
        )


def read_pins(lake: Path) -> list[Pin]:
    """The pins of a lake, sorted; IntegrityError when they cannot be read."""
    path = lake / FOLDER / FILE
    try:
        # Python's own JSON has names that are not UTF-8 as surrogate escapes; msgspec's has none.
        return sorted(msgspec.convert(json.loads(read_file(path, LIMIT_BYTES)), list[Pin]))
    except NotFoundError:
        return []
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is damaged ({error}), so nothing leaves the hot disk; delete it and pin again"
        ) from None


def change_pins(
    disk: Disk, lake: Path, wanted: Pin, user: str, now_ns: int, remove: bool
) -> list[Pin]:
    """Set or remove a pin, durably; the pins there are then.

    ConflictError when it is set already, NotFoundError when it is not set.
    """
    pins = read_pins(lake)
    others = [pin for pin in pins if pin.what != wanted.what]
    if remove:
        if len(others) == len(pins):
            raise NotFoundError(f"{wanted.name} is not pinned")
        pins = others
    else:
        if len(others) < len(pins):
            raise ConflictError(f"{wanted.name} is pinned already")
        made = msgspec.structs.replace(wanted, user=user, time=format_time(now_ns))
        pins = sorted([*others, made])
    disk.make_directory(lake / FOLDER)
    disk.replace(lake / FOLDER / FILE, json.dumps(msgspec.to_builtins(pins)).encode())
    return pins
