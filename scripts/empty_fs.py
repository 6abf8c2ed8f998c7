"""A pyfuse3 file system that does no work: what the kernel interface and the binding cost by themselves.

    python -m scripts.empty_fs MOUNTPOINT BYTES

Its one file, `zeros`, has so many bytes, answers every read from one buffer, and accepts every write
and forgets it. Runs in the foreground until it is unmounted, and prints a line once it answers.
"""

from __future__ import annotations

import argparse
import errno
import os
import stat
from collections.abc import Sequence

import pyfuse3
import trio

NAME = b"zeros"
FILE = pyfuse3.ROOT_INODE + 1
HANDLE = 1
LARGEST_READ = 1 << 20
TIMEOUT_S = 86_400.0
MIN_TASKS, MAX_TASKS = 4, 64
"""As dtafs's daemon has them."""


class EmptyFileSystem(pyfuse3.Operations):
    """One file of zeros below the root."""

    enable_writeback_cache = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._zeros = memoryview(bytes(LARGEST_READ))

    def init(self) -> None:
        print("ready", flush=True)

    def _attributes(self, ino: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = ino
        is_file = ino == FILE
        entry.st_mode = stat.S_IFREG | 0o644 if is_file else stat.S_IFDIR | 0o555
        entry.st_size = self._size if is_file else 0
        entry.entry_timeout = entry.attr_timeout = TIMEOUT_S
        return entry

    async def getattr(self, ino: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(ino)

    async def lookup(
        self, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name != NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(FILE)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Nothing is counted."""

    async def open(self, ino: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=HANDLE, keep_cache=True)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return self._zeros[: min(size, self._size - offset)]  # type: ignore[return-value]

    async def setattr(
        self,
        ino: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(ino)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        return len(data)

    async def flush(self, fh: int) -> None:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh: int) -> None:
        """There is one handle."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("mountpoint")
    parser.add_argument("bytes", type=int)
    chosen = parser.parse_args()
    options = {"default_permissions", "fsname=empty"}
    pyfuse3.init(EmptyFileSystem(chosen.bytes), os.fspath(chosen.mountpoint), options)
    try:
        trio.run(lambda: pyfuse3.main(min_tasks=MIN_TASKS, max_tasks=MAX_TASKS))
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
