"""Looking for what should be gone, in the raw and the decoded bytes of every object of every tier."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dtafs.errors import DtafsError
from dtafs.store.durable import open_for_reading, read_at
from dtafs.store.packs import decode_frame, read_footer_of

NOT_OBJECTS = {"index", "references", "staging", "cache", "run", "upkeep", "keys"}
"""Tables and settings of the host; the rest of a lake's directory are its objects."""


def object_files(top: Path) -> Iterator[Path]:
    """Every object of a lake, or of a directory that stands for a tier."""
    for path in sorted(top.rglob("*")):
        if path.is_file() and path.relative_to(top).parts[0] not in NOT_OBJECTS:
            yield path


def decoded(path: Path) -> Iterator[bytes]:
    """The plain bytes of each frame of a pack; nothing for what is no pack."""
    try:
        pack = read_footer_of(path, bytes.fromhex(path.name.partition(".")[0]))
    except (DtafsError, ValueError):
        return
    fd = open_for_reading(path)
    try:
        offset = 16
        for frame in pack.frames:
            yield decode_frame(read_at(fd, frame.stored, offset), frame.plain, frame.codec)
            offset += frame.stored
    finally:
        os.close(fd)


def traces(tops: Iterable[Path], needles: Iterable[bytes]) -> list[str]:
    """Where any of some byte strings is still found."""
    wanted = list(needles)
    found = []
    for top in tops:
        for path in object_files(top):
            texts = [path.read_bytes(), *decoded(path)]
            found += [
                f"{path.relative_to(top)}: {needle[:24]!r}"
                for needle in wanted
                if any(needle in text for text in texts)
            ]
    return found
