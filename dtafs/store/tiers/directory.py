"""A tier in a directory: another disk, a network file system, or what stands for a tape library.

Objects are files under their keys, made durable as all lake files are. Of a tape library (`archive`)
an object is read only once it was recalled, as from a store that must fetch the tape first: a file
below `recalled/` says that it was, until that is older than the time for which recalled objects stay.

A directory that is gone, such as the mountpoint of a disk that is not mounted, is never made again:
what was there would look deleted. `tmp/` holds files that are being written, and what a crash left of
them, which is removed when it is a day old.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dtafs.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    RecallError,
    from_os_error,
)
from dtafs.store.durable import Disk, TempFile, open_for_reading, translated
from dtafs.store.tiers.base import (
    PART_BYTES,
    ObjectFacts,
    Source,
    State,
    Tier,
    can_be_archived,
    check_key,
    parts_of,
    size_of,
)

TEMPORARY, RECALLED = "tmp", "recalled"
"""Names at the top that are no objects."""

LEFT_OVER_S = 86_400
DAY_S = 86_400


class DirectoryTier(Tier):
    """A tier whose objects are files."""

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        archive: bool = False,
        recall_days: float = 1.0,
        disk: Disk | None = None,
    ) -> None:
        self.name, self.url = name, f"file://{root}"
        self.needs_recall = archive
        self._root, self._recall_s = root, recall_days * DAY_S
        self._disk = disk or Disk(root)
        self._tidied = False

    def put(self, key: str, data: Source) -> None:
        path = self._path(key)
        if not os.path.lexists(path):
            self._tidy()
            self._disk.make_directory(path.parent)
            temp = self._temp()
            try:
                for part in parts_of(data):
                    temp.write(part)
            except BaseException:
                temp.discard()
                raise
            if temp.publish(path):
                return
        if not self._is(path, data):
            raise ConflictError(f"{self.name}: {key} is there already with other bytes")
        # Who put it there may have been killed before that.
        self._disk.sync_directory(path.parent)

    def verify(self, key: str, data: Source) -> None:
        if not self._is(self._existing(key), data):
            raise IntegrityError(f"{self.name}: {key} has not the bytes that were put there")

    def facts(self, key: str) -> ObjectFacts | None:
        path = self._path(key)
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise from_os_error(error, f"asking tier {self.name} for") from error
        return ObjectFacts(size, State.READY if self._is_ready(key) else State.ARCHIVED)

    def read(self, key: str, offset: int = 0, size: int | None = None) -> bytes:
        fd = self._opened(key)
        try:
            with translated(f"reading from tier {self.name}"):
                left = os.fstat(fd).st_size - offset if size is None else size
                parts = []
                while left > 0 and (part := os.pread(fd, left, offset)):
                    parts.append(part)
                    offset, left = offset + len(part), left - len(part)
            return b"".join(parts)
        finally:
            os.close(fd)

    def fetch(self, key: str, sink: Callable[[bytes], object]) -> None:
        fd = self._opened(key)
        try:
            while True:
                with translated(f"reading from tier {self.name}"):
                    part = os.read(fd, PART_BYTES)
                if not part:
                    return
                sink(part)
        finally:
            os.close(fd)

    def recall(self, key: str) -> None:
        self._existing(key)
        if self.needs_recall:
            mark = self._mark(key)
            self._disk.make_directory(mark.parent)
            self._temp().supersede(mark)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with contextlib.suppress(FileNotFoundError):
            if path.parent.is_dir():
                self._disk.unlink(path)
        if self.needs_recall:
            self._disk.remove(self._mark(key))

    def keys(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._require_root()
        top = self._root / prefix
        for folder, directories, names in os.walk(top):
            if Path(folder) == self._root:
                directories[:] = [d for d in directories if d not in (TEMPORARY, RECALLED)]
            for name in names:
                path = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):
                    yield str(path.relative_to(self._root)), path.stat().st_size

    def _require_root(self) -> None:
        if not self._root.is_dir():
            raise NotFoundError(
                f"the directory {self._root} of tier {self.name} is gone: bring it back, or mount it"
            )

    def _path(self, key: str) -> Path:
        self._require_root()
        return self._root / check_key(key)

    def _existing(self, key: str) -> Path:
        path = self._path(key)
        if not path.is_file():
            raise NotFoundError(f"tier {self.name} has no object {key}")
        return path

    def _opened(self, key: str) -> int:
        path = self._existing(key)
        if not self._is_ready(key):
            raise RecallError(f"{key} is archived in tier {self.name}: recall it first")
        return open_for_reading(path)

    def _mark(self, key: str) -> Path:
        return self._root / RECALLED / key

    def _is_ready(self, key: str) -> bool:
        if not self.needs_recall or not can_be_archived(key):
            return True
        try:
            recalled_s = self._mark(key).stat().st_mtime
        except (FileNotFoundError, NotADirectoryError):
            return False
        return time.time() - recalled_s < self._recall_s

    def _temp(self) -> TempFile:
        """A file whose name no other process takes, nor one that was killed has left."""
        self._disk.make_directory(self._root / TEMPORARY)
        return TempFile(self._disk, self._root / TEMPORARY / secrets.token_hex(8))

    def _is(self, path: Path, data: Source) -> bool:
        """Whether a file has just these bytes."""
        if path.stat().st_size != size_of(data):
            return False
        fd = open_for_reading(path)
        try:
            offset = 0
            for part in parts_of(data):
                with translated(f"reading from tier {self.name}"):
                    there = os.pread(fd, len(part), offset)
                if there != part:
                    return False
                offset += len(part)
            return True
        finally:
            os.close(fd)

    def _tidy(self) -> None:
        """Remove what crashes left, once."""
        if self._tidied:
            return
        self._tidied = True
        folder = self._root / TEMPORARY
        for name in os.listdir(folder) if folder.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - (folder / name).stat().st_mtime > LEFT_OVER_S:
                    self._disk.remove(folder / name)
