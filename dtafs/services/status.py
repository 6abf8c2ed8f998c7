"""The texts below `.dtafs`."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from dtafs.core.names import format_time, version_name
from dtafs.core.quantities import counted
from dtafs.services.changes import Changes
from dtafs.store.export import provenance_text
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake


class StatusSources:
    """Makes the texts. `changes` is None in a read-only mount."""

    def __init__(self, lake: Lake, mountpoint: Path, changes: Changes | None) -> None:
        self._lake, self._mountpoint, self._changes = lake, mountpoint, changes
        self._since_ns = time.time_ns()

    def provenance(self, version: VersionRow) -> bytes:
        """The Provenance.txt of a version."""
        return provenance_text(self._lake, version)

    def status(self) -> bytes:
        """What the daemon is doing, one fact a line, then one line for each dataset."""
        lake, changes = self._lake, self._changes
        memory_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        lines = [
            f"lake        {lake.superblock.lake} in {lake.path}",
            f"mounted on  {self._mountpoint}",
            f"mode        {'reading and writing' if changes is not None else 'reading only'}",
            f"daemon      process {os.getpid()}, since {format_time(self._since_ns)}",
            f"memory      {memory_kib / 1024:.0f} MiB at most so far",
            "",
            "dataset  newest  staging",
        ]
        lines += [self._dataset_line(row.name, row.newest) for row in lake.datasets()]
        return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")

    def _dataset_line(self, name: str, newest: int) -> str:
        version = version_name(newest) if newest else "-"
        if self._changes is None:
            return f"{name}  {version}  -"
        if name in self._changes.committing:
            return f"{name}  {version}  a commit is under way"
        staging = self._lake.staging(name)
        state = "as the newest version" if staging.is_clean() else "changed"
        writers = len(staging.writers())
        return f"{name}  {version}  {state}" + (
            f", {counted(writers, 'file')} open" if writers else ""
        )
