"""The errors that dtafs raises on purpose, grouped by what a handler does about them.

Every expected failure is one of these classes; its text is one sentence that says what is wrong
and, where something can be done, what to do. `OUTCOMES` is the one table that maps a class to the
errno a file system call gets, the exit code of a command and the `kind` in a JSON document.
Anything else that leaves a public function is a defect of dtafs.
"""

from __future__ import annotations

import errno
from typing import NamedTuple


class DtafsError(Exception):
    """A failure that the user can understand; `str()` of it is the sentence to show."""


class UsageError(DtafsError):
    """The request itself is malformed: a bad name, an option that contradicts another."""


class NotFoundError(DtafsError):
    """What was named does not exist; the text names the nearest that does."""


class DisposedError(NotFoundError):
    """A version that was disposed of lawfully: its entry is there, its bytes are not."""


class ConflictError(DtafsError):
    """It exists already, or somebody else changed it meanwhile."""


class BusyError(DtafsError):
    """Somebody is using it now: an open writer, another process that holds the lake."""


class TooManyOpenError(BusyError):
    """No descriptor is free, in this process or in the system: one that is closed makes room."""


class RefusedError(DtafsError):
    """A rule, a hold or permissions forbid it, whoever asks again."""


class SealedError(RefusedError):
    """A change was asked of something that is immutable."""


class IntegrityError(DtafsError):
    """Bytes that the lake holds are not what they must be."""


class UnsupportedError(DtafsError):
    """The lake was written by a newer release, or needs a feature that this one lacks."""


class RecallError(DtafsError):
    """The data lies in an archive tier and must be recalled first."""


class StorageFullError(DtafsError):
    """There is no room left; nothing was lost, and the same call works once there is."""


class StorageError(DtafsError):
    """The disk or the network below the lake failed."""


class Outcome(NamedTuple):
    """What one class of error means to a file system caller, to a shell, and in JSON."""

    errno: int
    exit_code: int
    kind: str


OUTCOMES: dict[type[DtafsError], Outcome] = {
    DtafsError: Outcome(errno.EIO, 1, "failed"),
    UsageError: Outcome(errno.EINVAL, 2, "usage"),
    NotFoundError: Outcome(errno.ENOENT, 3, "not-found"),
    DisposedError: Outcome(errno.ENODATA, 3, "disposed"),
    ConflictError: Outcome(errno.EEXIST, 4, "conflict"),
    BusyError: Outcome(errno.EBUSY, 4, "busy"),
    TooManyOpenError: Outcome(errno.ENFILE, 4, "busy"),
    RefusedError: Outcome(errno.EPERM, 5, "refused"),
    SealedError: Outcome(errno.EROFS, 5, "sealed"),
    IntegrityError: Outcome(errno.EIO, 6, "integrity"),
    UnsupportedError: Outcome(errno.EIO, 1, "unsupported"),
    RecallError: Outcome(errno.EAGAIN, 7, "recall"),
    StorageFullError: Outcome(errno.ENOSPC, 1, "full"),
    StorageError: Outcome(errno.EIO, 1, "storage"),
}

EXIT_INTERRUPTED = 130


def outcome_of(error: DtafsError) -> Outcome:
    """The row of `OUTCOMES` for the nearest class of `error`."""
    for cls in type(error).__mro__:
        if cls in OUTCOMES:
            return OUTCOMES[cls]
    return OUTCOMES[DtafsError]


def error_of_kind(kind: str, message: str) -> DtafsError:
    """The error that another process described by `kind` (see `OUTCOMES`) and `message`."""
    for cls, outcome in OUTCOMES.items():
        if outcome.kind == kind:
            return cls(message)
    return DtafsError(message)


def from_os_error(error: OSError, doing: str) -> DtafsError:
    """Translate an operating system error met while `doing` (a phrase such as "writing a pack")."""
    name = error.filename
    if isinstance(name, bytes):
        name = name.decode(errors="surrogateescape")
    where = f" {name!r}" if name else ""
    text = f"{doing}{where}: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFullError(f"{text}; free some space and try again")
    if error.errno in (errno.EACCES, errno.EPERM):
        return RefusedError(text)
    if error.errno == errno.ENOENT:
        return NotFoundError(text)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return TooManyOpenError(f"{text}; close some files and try again")
    if error.errno == errno.EROFS:
        return StorageError(f"{text}; the file system below the lake is read-only")
    return StorageError(text)
