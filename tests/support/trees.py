"""Reading directory trees whole, to compare what came out of a lake with what went in."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

READ_BYTES = 1 << 20


class Seen(NamedTuple):
    """What a user can see of one name: two trees are equal when these are, name by name."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    content: str
    """SHA-256 of a file's bytes, the target of a symlink, "" for the rest."""
    xattrs: tuple[tuple[str, bytes], ...]


def tree_of(top: Path, xattrs: bool = False) -> dict[bytes, Seen]:
    """Every name below `top`, by its path relative to it; `top` itself is not in it.

    With `xattrs`, the users' own attributes too (not `user.dtafs.*`, which the mount adds).
    """
    found: dict[bytes, Seen] = {}
    base = os.fsencode(top)
    pending = [base]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as entries:
            for entry in entries:
                path = entry.path
                found[os.path.relpath(path, base)] = look(path, xattrs)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
    return found


def look(path: bytes, xattrs: bool = False) -> Seen:
    """What can be seen of one name, its content included; a symlink is not followed."""
    status = os.lstat(path)
    kind = stat.filemode(status.st_mode)[0]
    content = ""
    if kind == "-":
        content = sha256_of(path)
    elif kind == "l":
        content = os.fsdecode(os.readlink(path))
    size = 0 if kind == "d" else status.st_size  # of a directory, each file system says its own
    return Seen(
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        size,
        content,
        _own_xattrs(path) if xattrs else (),
    )


def sha256_of(path: bytes | Path) -> str:
    """SHA-256 of a file's bytes, in hex, read with plain read(2)."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def assert_same_tree(expected: Mapping[bytes, Seen], actual: Mapping[bytes, Seen]) -> None:
    """Fail with the first few names that differ, and how."""
    wrong = [
        f"{os.fsdecode(path)}: expected {expected.get(path)}, found {actual.get(path)}"
        for path in sorted(expected.keys() | actual.keys())
        if expected.get(path) != actual.get(path)
    ]
    assert not wrong, f"{len(wrong)} names differ:\n" + "\n".join(wrong[:10])


def _own_xattrs(path: bytes) -> tuple[tuple[str, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in names
        if name.startswith("user.") and not name.startswith("user.dtafs.")
    )
