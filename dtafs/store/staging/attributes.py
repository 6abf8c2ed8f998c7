"""Changes of attributes and extended attributes. POSIX semantics, errors as OSError."""

from __future__ import annotations

import errno

from dtafs.core.values import Kind, Xattrs
from dtafs.store.staging.data import FileData
from dtafs.store.staging.operation import Operation
from dtafs.store.staging.overlay import Overlay, Virtual, failure, kind_of
from dtafs.store.staging.rows import XATTR_NAME_MAX, XATTRS_MAX_BYTES, InodeRow

SETUID, SETGID, GROUP_EXECUTE = 0o4000, 0o2000, 0o0010
XATTR_CREATE, XATTR_REPLACE = 1, 2
USER = b"user."


def set_attributes(
    overlay: Overlay,
    files: FileData,
    ino: int,
    now_ns: int,
    *,
    mode: int | None,
    uid: int | None,
    gid: int | None,
    size: int | None,
    atime_ns: int | None,
    mtime_ns: int | None,
    ctime_ns: int | None,
    drop_set_id: bool = False,
) -> InodeRow:
    """Change what is not None, all together; ctime moves to `now_ns` unless it is given, but a
    size that stays as it is moves no time.

    A new owner or group takes the set-id bits of what is no directory away, as chown(2) says, and so
    does `drop_set_id`, unless a mode comes with it.
    """
    op = Operation(overlay)
    if size is not None:
        files.truncate(op, ino, size, now_ns)
    row = op.row(ino)
    given = {"uid": uid, "gid": gid, "atime_ns": atime_ns, "mtime_ns": mtime_ns}
    fields: dict[str, object] = {k: value for k, value in given.items() if value is not None}
    if mode is not None:
        fields["mode"] = mode & 0o7777
    elif row.kind != Kind.DIRECTORY and (drop_set_id or uid is not None or gid is not None):
        lost = SETUID | (SETGID if row.mode & GROUP_EXECUTE else 0)
        fields["mode"] = row.mode & ~lost
    if fields or size is None or ctime_ns is not None:
        fields["ctime_ns"] = now_ns if ctime_ns is None else ctime_ns
    row = op.change(row, **fields)
    op.commit()
    if size is not None:
        files.truncated(row)
    return row


def readlink(overlay: Overlay, ino: int) -> bytes:
    """The target of a symlink; EINVAL for anything else."""
    node = overlay.node(ino)
    if kind_of(node) != Kind.SYMLINK:
        raise failure(errno.EINVAL)
    return node.entry.ref if isinstance(node, Virtual) else node.target


def get_xattrs(overlay: Overlay, ino: int) -> Xattrs:
    """All extended attributes of an inode, sorted by name."""
    node = overlay.node(ino)
    return node.entry.xattrs if isinstance(node, Virtual) else node.xattrs


def get_xattr(overlay: Overlay, ino: int, name: bytes) -> bytes:
    """One value; ENODATA when there is none, EOPNOTSUPP outside of `user.`."""
    _check_space(name)
    for known, value in get_xattrs(overlay, ino):
        if known == name:
            return value
    raise failure(errno.ENODATA)


def set_xattr(
    overlay: Overlay, ino: int, name: bytes, value: bytes, flags: int, now_ns: int
) -> None:
    """Set one value; `flags` as setxattr(2): XATTR_CREATE, XATTR_REPLACE."""
    _check_space(name)
    xattrs = dict(get_xattrs(overlay, ino))
    if flags & XATTR_CREATE and name in xattrs:
        raise failure(errno.EEXIST)
    if flags & XATTR_REPLACE and name not in xattrs:
        raise failure(errno.ENODATA)
    xattrs[name] = value
    check_xattrs(tuple(xattrs.items()))
    overlay.shared.data.check_room()
    _put(overlay, ino, xattrs, now_ns)


def remove_xattr(overlay: Overlay, ino: int, name: bytes, now_ns: int) -> None:
    """Remove one; ENODATA when there is none."""
    _check_space(name)
    xattrs = dict(get_xattrs(overlay, ino))
    if xattrs.pop(name, None) is None:
        raise failure(errno.ENODATA)
    _put(overlay, ino, xattrs, now_ns)


def check_xattrs(xattrs: Xattrs) -> None:
    """Raise ERANGE or ENOSPC for names or values that are too long."""
    if any(len(name) > XATTR_NAME_MAX for name, _ in xattrs):
        raise failure(errno.ERANGE)
    if sum(len(name) + len(value) for name, value in xattrs) > XATTRS_MAX_BYTES:
        raise failure(errno.ENOSPC)


def _check_space(name: bytes) -> None:
    if not name.startswith(USER):
        raise failure(errno.EOPNOTSUPP)
    if len(name) == len(USER):
        raise failure(errno.EINVAL)


def _put(overlay: Overlay, ino: int, xattrs: dict[bytes, bytes], now_ns: int) -> None:
    op = Operation(overlay)
    op.change(op.row(ino), xattrs=tuple(sorted(xattrs.items())), ctime_ns=now_ns)
    op.commit()
