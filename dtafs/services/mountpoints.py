"""Mountpoints: which can be used, what is mounted there, taking a mount away.

Nothing here touches a mount that exists (the mount may be what hangs): what is mounted is read from
`/proc/self/mountinfo`, and a mount names its lake in its source.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, unquote

from dtafs.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    RefusedError,
    StorageError,
    UnsupportedError,
    UsageError,
)
from dtafs.store.durable import Disk

FILE_SYSTEM = "fuse.dtafs"
SUBTYPE = "dtafs"
UNMOUNTER = "fusermount3"
EXIT_LIMIT_S = 120.0
"""How long `umount` waits for the daemon to write out what it holds."""
USERS_NAMED = 3


class Mounted(NamedTuple):
    """A mount of dtafs."""

    mountpoint: Path
    lake: Path
    device: str
    """`major:minor`, as in /sys/class/bdi."""


def source_of(lake: Path) -> str:
    """The mount source that names a lake: ASCII without commas, as mount options must be."""
    return quote(os.fsencode(lake))


def mounts() -> Iterator[Mounted]:
    """All mounts of dtafs, the last one made last."""
    for fields, kind, source in _mountinfo():
        if kind == FILE_SYSTEM:
            path = Path(os.fsdecode(_unescape(fields[4])))
            yield Mounted(path, Path(unquote(source, errors="surrogateescape")), fields[2].decode())


def mounted_at(path: Path) -> Mounted | None:
    """The dtafs mount whose mountpoint is `path`, or None."""
    return next((mount for mount in reversed([*mounts()]) if mount.mountpoint == path), None)


def _mountinfo() -> Iterator[tuple[list[bytes], str, str]]:
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        after = fields.index(b"-")
        source = _unescape(fields[after + 2]).decode(errors="replace")
        yield fields, fields[after + 1].decode(), source


def _unescape(field: bytes) -> bytes:
    """Undo the octal escapes of mountinfo (space, tab, newline, backslash)."""
    return field.decode("unicode_escape").encode("latin-1")


def resolved(path: Path) -> Path:
    """An absolute path without symlinks, found without touching its last part."""
    path = path.absolute()
    return path.parent.resolve() / path.name if path.name not in ("", "..") else path.resolve()


def check_mountpoint(lake: Path, mountpoint: Path, allow_other: bool) -> Path:
    """The real path of a directory that a lake can be mounted on; the error says why not."""
    place = resolved(mountpoint)
    if any(_unescape(fields[4]) == os.fsencode(place) for fields, _, _ in _mountinfo()):
        known = mounted_at(place)
        if known is None:
            raise ConflictError(
                f"another file system is mounted on {place}; choose a directory of it"
            )
        raise ConflictError(
            f"the lake {known.lake} is mounted on {place} already; "
            f"end it with: dtafs umount {place}"
        )
    if not place.exists():
        raise NotFoundError(f"the mountpoint {place} does not exist; make it with: mkdir {place}")
    place = place.resolve()
    if not place.is_dir():
        raise UsageError(f"the mountpoint {place} is not a directory")
    _check_overlap(lake.resolve(), place)
    try:
        if any(place.iterdir()):
            raise ConflictError(
                f"the mountpoint {place} is not empty; mount on an empty directory, "
                "so that no file is hidden"
            )
    except PermissionError:
        raise RefusedError(f"you may not read the mountpoint {place}") from None
    _check_permission(place, allow_other)
    return place


def _check_overlap(lake: Path, place: Path) -> None:
    if place == lake or lake in place.parents:
        raise UsageError(
            f"the mountpoint {place} lies inside the lake {lake}; mount somewhere else"
        )
    if place in lake.parents:
        raise UsageError(
            f"the mountpoint {place} contains the lake {lake}, which it would hide from its own "
            "daemon; mount somewhere else"
        )


def _check_permission(place: Path, allow_other: bool) -> None:
    if not os.path.exists("/dev/fuse"):
        raise UnsupportedError("there is no /dev/fuse here; load the kernel module: modprobe fuse")
    if shutil.which(UNMOUNTER) is None:
        raise UnsupportedError(f"{UNMOUNTER} is not installed; install the package fuse3")
    if os.geteuid() == 0:
        return
    if not os.access(place, os.W_OK):
        raise RefusedError(
            f"you may not write to the mountpoint {place}, so you cannot mount there"
        )
    if allow_other and not _allows_others():
        raise RefusedError(
            "--allow-other needs the line 'user_allow_other' in /etc/fuse.conf, which root can add"
        )


def _allows_others() -> bool:
    try:
        lines = Path("/etc/fuse.conf").read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def raise_read_ahead(mountpoint: Path, kib: int) -> str:
    """Let the kernel read ahead further, where that is permitted: of what root owns in /sys it is
    not to others, nor in most containers. "" when it was, else what to do."""
    mount = mounted_at(mountpoint)
    if mount is None:
        return ""
    switch = Path("/sys/class/bdi") / mount.device / "read_ahead_kb"
    try:
        switch.write_text(str(kib))
    except OSError as error:
        return (
            f"the kernel's read-ahead stays as it is ({error.strerror}), so that what is not in its "
            f"page cache is read more slowly; as root, after each mount: echo {kib} > {switch}"
        )
    return ""


def detach(mountpoint: Path, lazy: bool = False) -> str:
    """Take a mount away; "" when it is gone, else what the system said. Blocks."""
    command = [UNMOUNTER, "-uz" if lazy else "-u", "--", os.fspath(mountpoint)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        return ""
    said = done.stderr.decode(errors="replace").strip()
    return said or f"{UNMOUNTER} failed with exit code {done.returncode}"


def umount(mountpoint: Path) -> Mounted:
    """End a mount and wait until its daemon has written everything and is gone."""
    place = resolved(mountpoint)
    mount = mounted_at(place) or mounted_at(Path(os.path.realpath(place)))
    if mount is None:
        near = ", ".join(str(other.mountpoint) for other in mounts())
        known = f"; lakes are mounted on {near}" if near else "; no lake is mounted anywhere"
        raise NotFoundError(f"no lake is mounted on {place}{known}")
    daemon = daemon_of(mount)
    watched = _watch(daemon) if daemon is not None else None
    try:
        said = detach(mount.mountpoint)
        if said:
            raise _why_not(mount.mountpoint, said)
        if watched is not None and not select.select([watched], [], [], EXIT_LIMIT_S)[0]:
            raise BusyError(
                f"the mount on {place} is gone, but its daemon (process {daemon}) has not ended "
                f"after {EXIT_LIMIT_S:.0f} s: it is still writing, or another mount namespace keeps "
                f"the mount; its log is {mount.lake / 'run' / 'daemon.log'}"
            )
    finally:
        if watched is not None:
            os.close(watched)
    return mount


def _why_not(place: Path, said: str) -> Exception:
    if "busy" in said.lower():
        users = [f"process {pid} ({name})" for pid, name in _users(place)]
        who = ", ".join(users[:USERS_NAMED]) or "some process"
        return BusyError(f"{place} is in use by {who}; leave it and try again")
    if "not permitted" in said.lower() or "not found in /etc/mtab" in said.lower():
        return RefusedError(f"you may not unmount {place}: {said}")
    return StorageError(f"cannot unmount {place}: {said}")


def _users(place: Path) -> Iterator[tuple[int, str]]:
    """Processes that use what is below a mountpoint, judged by the targets of links in /proc."""
    wanted = os.fspath(place)
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        links = [f"/proc/{pid}/cwd", f"/proc/{pid}/root", f"/proc/{pid}/exe"]
        try:
            links += [f"/proc/{pid}/fd/{fd}" for fd in os.listdir(f"/proc/{pid}/fd")]
            targets = [os.readlink(link) for link in links]
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue
        if any(target == wanted or target.startswith(wanted + "/") for target in targets):
            yield pid, name


def daemon_file(lake: Path) -> Path:
    """The file in which the daemon of a lake says who it is."""
    return lake / "run" / "daemon.json"


def daemon_of(mount: Mounted) -> int | None:
    """The pid of the daemon that serves a mount, where it is known and alive."""
    try:
        said = json.loads(daemon_file(mount.lake).read_bytes())
        pid, where, start = int(said["pid"]), Path(said["mountpoint"]), said["process_start"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if where == mount.mountpoint and start == process_start(pid) else None


def process_start(pid: int) -> int | None:
    """When a process began, in clock ticks since boot: tells it from a later one with its pid."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[19])


def _watch(pid: int) -> int | None:
    """A descriptor that becomes readable when a process ends, or None when it has already."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def announce(disk: Disk, lake: Path, mountpoint: Path, now_ns: int) -> None:
    """Say in `daemon_file` that this process serves a mount."""
    facts = {
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "mountpoint": os.fspath(mountpoint),
        "since_ns": now_ns,
    }
    disk.replace(daemon_file(lake), json.dumps(facts).encode())
