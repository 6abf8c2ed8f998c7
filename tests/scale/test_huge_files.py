"""A file much larger than what is in it, and one much larger than what changes, on a real mount."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.support import programs
from tests.support.mounts import Mount
from tests.support.sizes import sizes

MIB = 1 << 20
GIB = 1 << 30
COMMAND_LIMIT_S = 3_600.0
MEMORY_BYTES = 256 * MIB
PATCH_BYTES = 3 * MIB


def patches(size: int) -> dict[int, bytes]:
    """What is written where, into a file of so many bytes: at both ends and at odd places."""
    rng = random.Random(size)
    places = [0, *(rng.randrange(size - PATCH_BYTES) for _ in range(3)), size - PATCH_BYTES]
    return {place: rng.randbytes(PATCH_BYTES) for place in places}


def sha256_of(size: int, parts: dict[int, bytes]) -> str:
    """The hash of a file of zeros with these parts in it."""
    whole, zeros, at = hashlib.sha256(), memoryview(bytes(8 * MIB)), 0
    for place in [*sorted(parts), size]:
        while at < place:
            step = min(place - at, len(zeros))
            whole.update(zeros[:step])
            at += step
        whole.update(parts.get(place, b""))
        at += len(parts.get(place, b""))
    return whole.hexdigest()


def commit(mount: Mount, message: str) -> int:
    """Commit; by how much that made the packs larger."""
    before = stored_bytes(mount)
    programs.ctl(mount.lake, "commit", "D", "-m", message, limit_s=COMMAND_LIMIT_S)
    return stored_bytes(mount) - before


def stored_bytes(mount: Mount) -> int:
    packs = (mount.lake / "packs").rglob("*")
    return sum(path.stat().st_size for path in packs if path.is_file())


@sizes(GIB // 2, 100 * GIB)
def test_a_sparse_file(lake_path: Path, mount: Callable[..., Mount], size: int) -> None:
    mounted = mount(lake_path, limit_s=COMMAND_LIMIT_S)
    (mounted / "D").mkdir()
    path = mounted / "D/staging/sparse"
    parts = patches(size)
    with path.open("wb") as stream:
        stream.truncate(size)
        for place, data in parts.items():
            stream.seek(place)
            stream.write(data)
    status = path.stat()
    assert status.st_size == size
    assert status.st_blocks * 512 < 2 * sum(map(len, parts.values()))
    assert commit(mounted, "sparse") < 1.2 * sum(map(len, parts.values()))
    assert mounted.resident_bytes() < MEMORY_BYTES

    later, tail = size // 2 + 12_345, b"the end"
    with path.open("r+b") as stream:
        stream.seek(later)
        stream.write(b"a patch")
        stream.seek(0, os.SEEK_END)
        stream.write(tail)
    assert commit(mounted, "patched and appended to") < 3 * MIB

    sealed = mounted / "D/v2/sparse"
    assert sealed.stat().st_size == size + len(tail)
    assert os.getxattr(mounted / "D/v1/sparse", "user.dtafs.sha256").decode() == sha256_of(
        size, parts
    )
    now = apply(parts, later, b"a patch")
    assert os.getxattr(sealed, "user.dtafs.sha256").decode() == sha256_of(
        size + len(tail), {**now, size: tail}
    )
    with sealed.open("rb") as stream:
        for place, data in {**now, size: tail}.items():
            stream.seek(place)
            assert stream.read(len(data)) == data
        stream.seek(later - 1000)
        assert stream.read(1000) == bytes(1000)
    assert mounted.resident_bytes() < MEMORY_BYTES


def apply(parts: dict[int, bytes], place: int, data: bytes) -> dict[int, bytes]:
    """The parts with one more, which may lie within one that is there."""
    for start, old in parts.items():
        if start <= place < start + len(old):
            at = place - start
            return {**parts, start: old[:at] + data + old[at + len(data) :]}
    return {**parts, place: data}


@sizes(64 * MIB, 4 * GIB)
def test_an_append_to_a_sealed_file(
    lake_path: Path, mount: Callable[..., Mount], size: int
) -> None:
    """By the daemon that sealed it, and by another one that has to hash what was there."""
    block = random.Random(3).randbytes(MIB)
    added = [random.Random(n).randbytes(MIB) for n in range(4, 6)]
    whole = hashlib.sha256()
    mounted = mount(lake_path, limit_s=COMMAND_LIMIT_S)
    (mounted / "D").mkdir()
    with (mounted / "D/staging/large").open("wb") as stream:
        for number in range(size // MIB):
            data = number.to_bytes(8, "big") + block[8:]
            whole.update(data)
            stream.write(data)
    commit(mounted, "large")
    for number, data in enumerate(added, 2):
        if number == 3:
            os.sync()
            programs.run(programs.DAEMON, "umount", mounted.mountpoint)
            mounted = mount(lake_path, limit_s=COMMAND_LIMIT_S)
        with (mounted / "D/staging/large").open("ab") as stream:
            stream.write(data)
        assert commit(mounted, "longer") < 3 * MIB
        whole.update(data)
        sealed = mounted / f"D/v{number}/large"
        assert os.getxattr(sealed, "user.dtafs.sha256").decode() == whole.hexdigest()
        with sealed.open("rb") as stream:
            stream.seek(-MIB, os.SEEK_END)
            assert stream.read() == data
    assert mounted.resident_bytes() < MEMORY_BYTES
