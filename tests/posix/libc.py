"""Calls that Python does not have: with the errors of Python's."""

from __future__ import annotations

import ctypes
import os

from tests.support.twins import AT_FDCWD, LIBC

AT_SYMLINK_NOFOLLOW = 0x100
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
SPECIAL_TIMES = {"now": (0, UTIME_NOW), "omit": (0, UTIME_OMIT)}


def check(result: int) -> int:
    """The result of a call; raises the OSError of its errno when it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def utimensat(path: str, atime: str, mtime: str, follow: bool) -> None:
    """utimensat(2); a time is in ns, `now` or `omit`."""
    times = (ctypes.c_longlong * 4)()
    for at, word in enumerate((atime, mtime)):
        times[2 * at : 2 * at + 2] = list(
            SPECIAL_TIMES.get(word) or divmod(int(word), 1_000_000_000)
        )
    flags = 0 if follow else AT_SYMLINK_NOFOLLOW
    check(LIBC.utimensat(AT_FDCWD, os.fsencode(path), times, flags))


def fallocate(fd: int, mode: int, offset: int, size: int) -> None:
    """fallocate(2) itself, which the library's posix_fallocate replaces where there is none."""
    check(LIBC.fallocate(fd, mode, ctypes.c_longlong(offset), ctypes.c_longlong(size)))
