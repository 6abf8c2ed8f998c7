"""A dataset with very many versions: everything that lists or checks them still works."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dtafs.core.values import Kind
from dtafs.store.commit import commit
from dtafs.store.lake import Lake
from scripts.generated import MAKER
from tests.support import programs
from tests.support.mounts import Mount
from tests.support.sizes import sizes

FILES = 50
MEMORY_BYTES = 96 << 20
"""Of a daemon that has listed all versions and told the whole log; 250 MiB are what one may take."""
COMMAND_LIMIT_S = 3_600.0


def make(lake_path: Path, versions: int) -> None:
    """Each version changes one of the files."""
    with Lake.open(lake_path) as lake:
        lake.create_dataset("D", MAKER)
        staging = lake.staging("D")
        root = staging.root_ino
        for number in range(1, versions + 1):
            name = b"f%02d" % (number % FILES)
            node = staging.lookup(root, name)
            if node is None:
                node = staging.make(root, name, Kind.FILE, 0o644, 0, 0, number)
            handle = staging.open(node.ino, True)
            data = b"version %08d\n" % number
            os.pwrite(staging.begin_write(node.ino), data, 0)
            staging.wrote(node.ino, 0, len(data), number)
            staging.close(handle)
            commit(lake, "D", f"change {number}", MAKER, tags=("tenth",) * (number % 10 == 0))


@sizes(150, 10_000)
def test_many_versions(lake_path: Path, mount: Callable[..., Mount], size: int) -> None:
    make(lake_path, size)
    mounted = mount(lake_path, limit_s=COMMAND_LIMIT_S)
    names = {f"v{number}" for number in range(1, size + 1)} | {"latest", "staging", "tenth"}
    assert set(os.listdir(mounted / "D")) == names
    for number in (1, size // 2, size):
        path = mounted / f"D/v{number}/f{number % FILES:02}"
        assert path.read_bytes() == b"version %08d\n" % number
    assert os.readlink(mounted / "D/latest") == f"v{size}"
    (mounted / "D/staging/more").write_bytes(b"one more")

    def ctl(*arguments: str) -> dict:
        return programs.ctl_json(lake_path, *arguments, limit_s=COMMAND_LIMIT_S)

    assert ctl("commit", "D", "-m", "one more")["id"] == f"D:v{size + 1}"
    assert len(ctl("log", "D")["entries"]) == size + 2
    assert ctl("show", f"D:v{size // 2}")["version"] == size // 2
    assert ctl("show", "D:tenth")["version"] == size // 10 * 10
    assert len(ctl("diff", "D:v1", f"D:v{size + 1}")["changes"]) == FILES + 2  # and the directory
    assert ctl("ls", f"D:v{size}")["entries"]
    assert (mounted / f"D/v{size + 1}/more").read_bytes() == b"one more"
    assert mounted.resident_bytes() < MEMORY_BYTES
    again = ctl("reindex")
    assert (again["added"], again["removed"], again["changed"]) == (0, 0, 0)
    ctl("check")
