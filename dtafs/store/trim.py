"""The transform `csv_trim`: some columns of every CSV file of a version, staged as its successor.

Rows are streamed, so that a file may be larger than memory. What is kept is written as the `csv`
module writes its default dialect, with line feeds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from dtafs.errors import ConflictError, UsageError
from dtafs.store.reading import VersionPath

NAME = "csv_trim"
SUFFIX = ".csv"
BATCH_FILES = 256


class Putter(Protocol):
    """The part of a session that is needed here."""

    def put(self, dataset: str, paths: list[str], into: str = "") -> dict[str, Any]: ...

    def status(self, dataset: str) -> dict[str, Any]: ...


def trim_dataset(
    source: VersionPath, session: Putter, dataset: str, columns: tuple[str, ...]
) -> dict[str, Any]:
    """Stage the trimmed files over the version that staging lies on; the transform to record.

    All files are trimmed before the first is staged, so that a file without one of the columns
    leaves staging as it was.
    """
    if not columns or len(set(columns)) != len(columns):
        raise UsageError("csv_trim needs the names of columns, each once")
    if session.status(dataset)["changes"]:
        raise ConflictError(f"{dataset!r} has work staged: commit or discard it first")
    with tempfile.TemporaryDirectory(prefix="dtafs-trim-") as folder:
        top = Path(folder)
        found = [path for path in source.walk() if path.suffix.lower() == SUFFIX]
        files = [path for path in found if path.is_file() and not path.is_symlink()]
        for path in files:
            target = top.joinpath(*path.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            _trim(path, target, columns)
        for into in sorted({path.parent.parts for path in files}):
            here = top.joinpath(*into)
            inside = sorted(child for child in here.iterdir() if child.is_file())
            for start in range(0, len(inside), BATCH_FILES):
                batch = [str(child) for child in inside[start : start + BATCH_FILES]]
                session.put(dataset, batch, "/".join(into))
    parameters = {"cols": ",".join(columns)}
    return {"name": NAME, "parameters": parameters, "program_sha256": _program_sha256()}


def _trim(path: VersionPath, target: Path, columns: tuple[str, ...]) -> None:
    """Write the columns of one file, which keeps its mode and owner."""
    raw = path.open("rb")
    with (
        io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
        target.open("w", encoding="utf-8", newline="") as out,
    ):
        csv.writer(out, lineterminator="\n").writerows(_kept(text, path, columns))
    status = path.stat()
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)
    target.chmod(status.st_mode & 0o7777)


def _kept(text: Iterable[str], path: VersionPath, columns: tuple[str, ...]) -> Iterator[list[str]]:
    try:
        rows = csv.reader(text)
        head = next(rows, [])
        missing = [name for name in columns if name not in head]
        if missing:
            raise UsageError(
                f"{str(path)!r} has no column {missing[0]!r}; it has {', '.join(head)}"
            )
        places = [head.index(name) for name in columns]
        yield list(columns)
        for row in rows:
            if row:
                yield [row[place] for place in places]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{str(path)!r} is not a CSV file in UTF-8: {error}") from None
    except IndexError:
        raise UsageError(f"{str(path)!r} has a row that is shorter than its head") from None


def _program_sha256() -> str:
    """The hash of the code that made the version: this module's."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
