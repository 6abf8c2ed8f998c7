"""Progress on a terminal: files, bytes, rate, time left. `rich` is imported only to be seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TextIO

from dtafs.store.progress import Progress, Report


@contextlib.contextmanager
def shown(stream: TextIO) -> Iterator[Report | None]:
    """A report function that draws a bar on `stream`, or None where that is no terminal."""
    if not stream.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[files]}"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(file=stream), transient=True) as bars:
        task = bars.add_task("", total=None, files="", start=True)

        def report(progress: Progress) -> None:
            total = progress.size_total_bytes or None
            files = f"{progress.files:,}"
            if progress.files_total:
                files += f"/{progress.files_total:,}"
            bars.update(
                task,
                description=progress.stage,
                completed=progress.size_bytes,
                total=total,
                files=f"{files} files",
            )

        yield report
