"""Directories and versions with very many names, on a real mount.

What would be quick is held by what the daemon has to read and to keep for it, which no busy machine
changes; the seconds are in the README's figures.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from dtafs.core.nodes import Node
from dtafs.core.tree import edit, find, scan
from dtafs.store.lake import Lake
from scripts.generated import Generated, content_of
from tests.support import programs
from tests.support.mounts import Mount
from tests.support.sizes import sizes

MIB = 1 << 20
SEALED_MEMORY_BYTES = 160 * MIB
"""What the daemon may take for listing and reading sealed names, however many there are."""

STAGED_MEMORY_BYTES = 1_000
"""What it may take for a name of staging that the kernel knows."""


def name_of(number: int) -> bytes:
    return b"reading-%08d.csv" % number


def make(lake_path: Path, files: int, per_directory: int) -> None:
    """One version with the directory `all` or, when there are more files, several of them."""
    with Lake.open(lake_path) as lake:
        generated = Generated(lake, "D")
        generated.commit(
            generated.directory(
                b"part-%06d" % (first // per_directory),
                (
                    generated.file(name_of(number), number)
                    for number in range(first, min(files, first + per_directory))
                ),
            )
            for first in range(0, files, per_directory)
        )


def has_read_bytes(mount: Mount) -> int:
    """All bytes that the daemon has read so far, also those of its packs."""
    fields = Path(f"/proc/{mount.pid}/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


@sizes(30_000, 1_000_000)
def test_one_directory(lake_path: Path, mount: Callable[..., Mount], size: int) -> None:
    make(lake_path, size, size)
    mounted = mount(lake_path, limit_s=3_600.0)
    for version in ("v1", "staging"):
        directory = mounted / f"D/{version}/part-000000"
        before = has_read_bytes(mounted)
        with os.scandir(directory) as listing:
            first = list(islice(listing, 10))
            assert has_read_bytes(mounted) - before < MIB, "a listing starts before all is read"
            names = [entry.name for entry in first] + [entry.name for entry in listing]
        assert len(names) == len(set(names)) == size
        for number in random.Random(1).sample(range(size), 20):
            path = directory / os.fsdecode(name_of(number))
            assert path.read_bytes() == content_of(number)
        assert not (directory / "absent").exists()
    staged = mounted.resident_bytes()
    assert staged < SEALED_MEMORY_BYTES + size * STAGED_MEMORY_BYTES
    packs = lake_path / "packs"
    for number in range(3):
        stored = stored_bytes(packs)
        path = mounted / "D/staging/part-000000" / os.fsdecode(name_of(size // 2 + number))
        path.write_bytes(b"changed %d" % number)
        programs.ctl(lake_path, "commit", "D", "-m", "one file")
        assert stored_bytes(packs) - stored < 128 * 1024, "a commit writes what changed"
    latest = mounted / "D/latest/part-000000"
    assert len(os.listdir(latest)) == size
    assert (latest / os.fsdecode(name_of(size // 2))).read_bytes() == b"changed 0"


def stored_bytes(packs: Path) -> int:
    return sum(path.stat().st_size for path in packs.rglob("*") if path.is_file())


@sizes(60_000, 5_000_000)
def test_many_files_in_one_version(lake_path: Path, mount: Callable[..., Mount], size: int) -> None:
    make(lake_path, size, 1_000)
    assert stored_bytes(lake_path / "packs") < 64 * 1024 + size * 20
    mounted = mount(lake_path, limit_s=3_600.0)
    found = sum(len(files) for _path, _directories, files in os.walk(mounted / "D/v1"))
    assert found == size
    assert mounted.resident_bytes() < SEALED_MEMORY_BYTES
    for number in random.Random(2).sample(range(size), 20):
        path = mounted / "D/v1" / f"part-{number // 1000:06}" / os.fsdecode(name_of(number))
        assert path.read_bytes() == content_of(number)
    (mounted / "D/staging/part-000007/added").write_bytes(b"more")
    programs.ctl(lake_path, "commit", "D", "-m", "one file more")
    shown = programs.ctl_json(lake_path, "show", "D:v2")
    assert shown["files"] == size + 1
    changes = programs.ctl_json(lake_path, "diff", "D:v1", "D:v2")["changes"]
    assert [change["path"] for change in changes if change["path"].endswith("added")] == [
        "part-000007/added"
    ]


@sizes(100_000, 1_000_000)
def test_what_a_search_and_an_edit_touch(lake_path: Path, size: int) -> None:
    """The nodes that are read for a name, for the first name, and that a change writes."""
    make(lake_path, size, size)
    with Lake.open(lake_path, write=False) as lake:
        fetched: list[bytes] = []

        def fetch(wanted: bytes) -> Node:
            fetched.append(wanted)
            return lake.objects.node(wanted)

        top = lake.objects.top(lake.resolve("D:v1"))
        located = find(lake.objects.node, top.ref, b"part-000000")
        assert located is not None
        root = located.entry.ref
        assert find(fetch, root, name_of(size // 3)) is not None
        assert next(scan(fetch, root)).entry.name == name_of(0)
        assert next(scan(fetch, root, size // 2)).position == size // 2
        assert len(fetched) <= 3 * 3
        fetched.clear()
        built = edit(fetch, root, [(name_of(size // 2), None)])
        assert len(fetched) <= 30 and len(built.nodes) <= 6
