"""Durable file operations: the one door to the disk below a lake.

No other module creates, renames, links, syncs, truncates or unlinks a lake file, so that a test can
put a simulated disk here which crashes at each operation. What the functions promise:

- `put_new` and `TempFile.publish` return only when the bytes *and* the name are on the disk: data
  written, file synced, linked under its name, directory synced. The name never shows partial bytes.
- A name that exists is never replaced, except by `replace` and `TempFile.supersede`.
- `unlink` and `make_directory` are durable when they return.

All functions block and may be called from any thread. Errors of the system are raised as the errors
of `dtafs.errors`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dtafs.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    StorageError,
    from_os_error,
)

Buffer = bytes | bytearray | memoryview

SYNC_FILE_RANGE_WRITE = 2
"""From `<linux/fs.h>`: start writing out dirty pages, wait for none."""

RESERVED_BYTES = 16 << 20
RESERVED_SHARE = 16
"""Content leaves this much of the disk free, or a 16th of a small disk: removing a file has to be
recorded before its room is free, and so on a disk that is full to the last byte nothing could go."""


_libc = ctypes.CDLL(None, use_errno=True)


def sync_file_system(fd: int) -> None:
    """`syncfs(2)`, which `os` lacks."""
    if _libc.syncfs(fd):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """`sync_file_range(2)`, which `os` lacks; None where the C library lacks it too."""
    call = getattr(_libc, "sync_file_range", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


_sync_file_range = _find_sync_file_range()


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn an OSError inside the block into one of dtafs's own errors."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing) from error


class TempFile:
    """A file without its final name yet. Used by one thread at a time."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk, self.path = disk, path
        self._fd = disk.open_file(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
        self.size = 0

    def write(self, data: Buffer) -> None:
        """Append `data`."""
        self._disk.write_content(self._fd, data, self.size)
        self.size += len(data)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that were written before."""
        with translated("reading a temporary file"):
            return os.pread(self._fd, size, offset)

    def publish(self, target: Path) -> bool:
        """Make the file durable under its name; False when that name exists already.

        Whatever happens, the temporary name is gone afterwards.
        """
        try:
            self._disk.sync(self._fd)
            created = self._disk.link(self.path, target)
            self._disk.sync_directory(target.parent)
        finally:
            self.discard()
        return created

    def supersede(self, target: Path) -> None:
        """Make the file durable under its name, in the place of what has that name, in one step."""
        try:
            self._disk.sync(self._fd)
            self._disk.rename(self.path, target)
            self._disk.sync_directory(target.parent)
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop the temporary name; the bytes go with it unless they were published."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._disk.remove(self.path)


class Disk:
    """The real disk. `root` is the lake's directory; temporary files live in its `tmp/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names = itertools.count()
        self._was_there = root.is_dir()
        self.relieve: Callable[[], bool] = lambda: False
        """Closes a descriptor that is kept only to be at hand; False when there is none."""

    def write_content(self, fd: int, data: Buffer, offset: int) -> None:
        """As `write`, for what may be large: StorageFullError when it would use up the reserve."""
        self.check_room(fd, len(data))
        self.write(fd, data, offset)

    def check_room(self, where: int | Path, size: int = 0) -> None:
        """Raise StorageFullError unless `size` bytes more leave the disk its reserve."""
        with translated("asking for the free space"):
            found = os.statvfs(where)
        free = found.f_bfree if os.geteuid() == 0 else found.f_bavail
        reserved = min(RESERVED_BYTES, found.f_blocks * found.f_frsize // RESERVED_SHARE)
        if free * found.f_frsize < size + reserved:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise from_os_error(error, "writing")

    # Primitives: a simulated disk overrides these and nothing else.

    def open_file(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """A descriptor; the name is durable only after `sync_directory`."""
        while True:
            try:
                return os.open(path, flags | os.O_CLOEXEC, mode)
            except OSError as error:
                if error.errno != errno.EMFILE or not self.relieve():
                    raise from_os_error(error, "opening") from error

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        """Write all of `data`; not durable before `sync`."""
        try:
            done = os.pwrite(fd, data, offset)
            while done < len(data):
                done += os.pwrite(fd, memoryview(data)[done:], offset + done)
        except OSError as error:
            raise from_os_error(error, "writing") from error

    def truncate(self, fd: int, size: int) -> None:
        """Set the size of a file; not durable before `sync`."""
        with translated("truncating"):
            os.ftruncate(fd, size)

    def begin_sync(self, fd: int, offset: int, size: int) -> None:
        """Have the disk begin with some bytes, so that a `sync` later finds less to do.

        Promises nothing and raises nothing: `sync` says what went wrong. Blocks while the disk has
        as much to do as it takes at once.
        """
        if _sync_file_range is not None:
            _sync_file_range(fd, offset, size, SYNC_FILE_RANGE_WRITE)

    def sync(self, fd: int) -> None:
        """Wait until the file's data and size are on the disk."""
        with translated("syncing"):
            os.fsync(fd)

    def sync_directory(self, path: Path) -> None:
        """Wait until the names in a directory are on the disk."""
        fd = self.open_file(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sync(fd)
        finally:
            os.close(fd)

    def link(self, source: Path, target: Path) -> bool:
        """Give a file a second name unless that is taken; False when it is."""
        try:
            os.link(source, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise from_os_error(error, "naming") from error
        return True

    def rename(self, source: Path, target: Path) -> None:
        """Move a name over another; not durable before `sync_directory`."""
        with translated("renaming"):
            os.rename(source, target)

    def remove(self, path: Path) -> bool:
        """Take a name away, not yet durably; False when there was none."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise from_os_error(error, "removing") from error
        return True

    def mkdir(self, path: Path, mode: int = 0o755) -> bool:
        """Make a directory, not yet durably; False when it exists."""
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            return False
        except OSError as error:
            raise from_os_error(error, "making the directory") from error
        return True

    # What the store uses.

    def make_directory(self, path: Path, mode: int = 0o755) -> None:
        """Make a directory and its missing parents, durably."""
        if path.is_dir():
            return
        if path == self.root and self._was_there:
            raise StorageError(f"{path} is gone: bring the lake back to where it was")
        if path != self.root:
            self.make_directory(path.parent, mode)
        if self.mkdir(path, mode):
            self.sync_directory(path.parent)

    def temp(self) -> TempFile:
        """A new temporary file."""
        return TempFile(self, self.root / "tmp" / f"{os.getpid()}-{next(self._names)}")

    def unnamed(self, folder: Path, flags: int = 0) -> int:
        """A new file without a name, for reading and writing: gone when it is closed."""
        return self.open_file(folder, os.O_RDWR | os.O_TMPFILE | flags, 0o600)

    def put_unsynced(self, path: Path, data: Buffer) -> None:
        """Create `path` with `data`; durable only after `sync_everything`, like the directories that
        `mkdir` made."""
        fd = self.open_file(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o444)
        try:
            self.write(fd, data, 0)
        finally:
            os.close(fd)

    def sync_everything(self) -> None:
        """Wait until all that was written to the file system below the lake is on the disk: for many
        files at once, and slow where others write as well."""
        fd = self.open_file(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with translated("syncing"):
                sync_file_system(fd)
        finally:
            os.close(fd)

    def put_new(self, path: Path, data: Buffer) -> None:
        """Create `path` with `data`, durably; ConflictError when it exists."""
        temp = self.temp()
        try:
            temp.write(data)
        except BaseException:
            temp.discard()
            raise
        if not temp.publish(path):
            raise ConflictError(f"{path.name} exists already")

    def replace(self, path: Path, data: Buffer, mode: int = 0o644) -> None:
        """Set the content of a small file in one step, durably."""
        temp = self.root / "tmp" / f"{os.getpid()}-{next(self._names)}"
        fd = self.open_file(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            try:
                self.write(fd, data, 0)
                self.sync(fd)
            finally:
                os.close(fd)
            self.rename(temp, path)
        except BaseException:
            self.remove(temp)
            raise
        self.sync_directory(path.parent)

    def move(self, source: Path, target: Path) -> None:
        """Give a file another name, in any directory of the lake, durably."""
        self.make_directory(target.parent)
        self.rename(source, target)
        self.sync_directory(target.parent)
        self.sync_directory(source.parent)

    def unlink(self, path: Path) -> bool:
        """Take a name away, durably; False when there was none."""
        if not self.remove(path):
            return False
        self.sync_directory(path.parent)
        return True

    def clear_directory(self, path: Path) -> None:
        """Remove the files in a directory; used for what no crash may leave behind to matter."""
        with translated("clearing"):
            names = os.listdir(path) if path.is_dir() else []
        for name in names:
            self.remove(path / name)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory with everything in it; only for what can be rebuilt."""
        if not path.is_dir():
            return
        for child in list(path.iterdir()):
            if child.is_dir() and not child.is_symlink():
                self.remove_tree(child)
            else:
                self.remove(child)
        with translated("removing the directory"):
            os.rmdir(path)
        self.sync_directory(path.parent)


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a small file; IntegrityError when it is larger than `limit` bytes."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read(limit + 1)
            while data and len(data) <= limit and (more := file.read(limit + 1 - len(data))):
                data += more
    except OSError as error:
        raise from_os_error(error, "reading") from error
    if len(data) > limit:
        raise IntegrityError(f"{path.name} is larger than the {limit} bytes that it can have")
    return data


def read_at(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`; IntegrityError when the file ends before them."""
    parts: list[bytes] = []
    missing = size
    with translated("reading"):
        while missing and (part := os.pread(fd, missing, offset)):
            parts.append(part)
            offset += len(part)
            missing -= len(part)
    if missing:
        raise IntegrityError("a file of the lake ends before the bytes that should be there")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def open_for_reading(path: Path) -> int:
    """A read-only descriptor; NotFoundError when there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFoundError(f"{path.name} is missing from {path.parent}") from None
        raise from_os_error(error, "opening") from error
