"""What POSIX and Linux ask of each call, as scripts in a small language, and the language.

A line is a call of `tests.posix.acts` with its arguments, made by root or by who stands before a
colon; after `=` stands what has to come out, an errno or a value, with `|` between what may. Without
it the call has to succeed. `let NAME` keeps a value for `$NAME`, `mark` the times of names for
`moved`, which says which of atime, mtime and ctime are others since. `{kind}` stands for each kind
that the heading names. Before `--` stands what is there when the scenario begins.

The rules are those that file system test suites agree on (among them pjdfstest, of which the groups
chmod, chown, link, mkdir, mkfifo, mknod, open, rename, rmdir, symlink, truncate, unlink, utimensat
and posix_fallocate were gone through), for Linux, where they leave a choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tests.posix import inode_rules, move_rules, name_rules

ROOT = "root"
USERS: dict[str, tuple[int, tuple[int, ...]]] = {
    ROOT: (0, (0,)),
    "alice": (65_534, (65_534,)),
    "alice33": (65_534, (65_533,)),
    "alice32": (65_534, (65_532, 65_531)),
    "alice_both": (65_534, (65_533, 65_532)),
    "bob": (65_533, (65_533,)),
    "bob34": (65_533, (65_534,)),
    "carol": (65_532, (65_532,)),
}

FILES = ("regular", "fifo", "block", "char", "socket")
GROUPS = {
    "all": (*FILES, "dir", "symlink"),
    "files": FILES,
    "names": (*FILES, "symlink"),
    "modes": (*FILES, "dir"),
    "one": ("",),
    "owners": ("0", "65533"),
}
SEALABLE = ("regular", "fifo", "dir", "symlink", "")


class Scenario(NamedTuple):
    """A script for one kind: lines before and after what is there when it begins."""

    name: str
    kind: str
    before: tuple[str, ...]
    lines: tuple[str, ...]
    sealable: bool
    """Whether what is there when it begins can be sealed."""


def scenarios() -> Iterator[Scenario]:
    """All scenarios, each for each of its kinds."""
    for block in f"{inode_rules.TEXT}{name_rules.TEXT}{move_rules.TEXT}".split("\n## ")[1:]:
        heading, _, script = block.partition("\n")
        name, _, group = heading.partition(" | ")
        before, _, after = f"\n{script}".partition("\n--")
        for kind in GROUPS[group.strip()]:
            lines = [
                [line.replace("{kind}", kind) for line in part.splitlines() if line.strip()]
                for part in (before, after)
            ]
            made = [line.split()[1] for line in lines[0] if line.startswith("make ")]
            sealable = all(what in SEALABLE for what in made) and not name.endswith(", fresh")
            yield Scenario(name, kind, tuple(lines[0]), tuple(lines[1]), sealable)
