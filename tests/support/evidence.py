"""A lake with one version that holds one of everything, and its exports: for tests of evidence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dtafs.core.values import Actor
from dtafs.store.export import export_file
from dtafs.store.lake import Lake
from dtafs.store.session import Session

ACTOR = Actor("alice", 1000, "host1", "tests 1.0")
MTIME_NS = 1_720_094_400_123_456_789

ODD_NAMES = (b"back\\slash", b"line\nfeed", b"carriage\rreturn", b"\xff\xfe", b"100 %", b" lead")
"""Names on which tools disagree."""


def make_tree(top: Path, odd: bool = True) -> None:
    """A tree with one of everything that can be sealed; the odd names in it if wanted."""
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "bare").mkdir()
    (top / "a.csv").write_text("x,y\n1,2\n")
    (top / "empty").touch()
    (top / "sub" / "large").write_bytes(os.urandom(1_500_000) + b"text " * 400_000)
    (top / "sub" / "hard").write_text("two names")
    os.link(top / "sub" / "hard", top / "sub" / "deep" / "harder")
    (top / "link").symlink_to("sub/large")
    (top / "a.csv").chmod(0o640)
    (top / "sub").chmod(0o750)
    os.setxattr(top / "a.csv", "user.unit", b"degrees")
    for name in ODD_NAMES if odd else ():
        with open(os.path.join(os.fsencode(top), name), "wb") as file:
            file.write(b"content of " + name)
    for path in [*top.rglob("*"), top]:
        os.utime(path, ns=(0, MTIME_NS), follow_symlinks=False)


def committed(lake: Lake, top: Path, dataset: str = "D", message: str = "First") -> None:
    """Make a version of `dataset`, created if need be, from what is in `top`."""
    session = Session(lake, ACTOR)
    if lake.index.dataset(dataset) is None:
        session.create(dataset, ["raw"])
    session.put(dataset, [f"{top}/."], delete=True)
    session.commit(dataset, message)


def exporter(lake: Lake, into: Path) -> Callable[..., Path]:
    """`export(form)` exports the newest version of D below `into` and returns where."""

    def export(form: str, name: str = "export", **options: Any) -> Path:
        out = into / f"{name}.{form}"
        export_file(lake, lake.resolve("D"), form, out, **options)
        return out

    return export
