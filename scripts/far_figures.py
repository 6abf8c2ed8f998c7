"""Figures of reading a lake whose packs lie in a bucket, and of reading what is hot while others move.

Each round mounts anew, so that nothing of the bucket is in a cache of the daemon; the packs of what is hot
are in the kernel's page cache, as they are for a plain reader of the disk. A plain download gets the very
same objects with the same client library, one after the other.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.store import S3Store

from dtafs.core.format import PackKind, pack_key
from dtafs.store.config import TierSettings
from dtafs.store.lake import Lake
from dtafs.store.placement.moves import move_packs
from dtafs.store.session import Session, actor_here
from dtafs.store.tiers.attach import attach
from scripts.figures import MIB, Figure

READ_BYTES = 1 << 20
DATASETS = ("warm", "hot", "moving")


def reading_far(
    directory: Path, url: str, client: S3Store, prefix: str, rounds: int, size_mib: int
) -> Iterator[Figure]:
    """`cat` of a file that is warm beside a download of its packs, and a hot one beside itself."""
    lake_path, mountpoint = directory / "far", directory / "far-mount"
    mountpoint.mkdir()
    keys = _fill(lake_path, directory / "far-source", url, size_mib)
    down_s, warm_s, alone_s, beside_s = [], [], [], []
    for _ in range(rounds):
        began_s = time.monotonic()
        for key in keys:
            obstore.get(client, f"{prefix}/{key}").bytes()
        down_s.append(time.monotonic() - began_s)
        warm_s.append(_mounted_read(lake_path, mountpoint, "warm", ()))
        alone_s.append(_mounted_read(lake_path, mountpoint, "hot", ()))
        move = ("tier", "move", "moving", "--to", "warm")
        beside_s.append(_mounted_read(lake_path, mountpoint, "hot", move))
        _run("dtafs.cli.ctl", "--lake", lake_path, "tier", "recall", "moving")
        # It goes again in the next round: what the tier has already would not be sent.
        _forget_copies(lake_path)
    down, warm, alone, beside = map(statistics.median, (down_s, warm_s, alone_s, beside_s))
    name = f"cat of {size_mib:,} MiB that is warm"
    yield Figure(name, "download of the same bytes", down, warm, "s", 1.5, more_is_better=False)
    name = f"reading {size_mib:,} MiB that is hot while packs move"
    yield Figure(name, "while none do", alone, beside, "s", 1.1, more_is_better=False)


def _fill(path: Path, source: Path, url: str, size_mib: int) -> list[str]:
    """A lake of three files, the first in the bucket; the keys of its packs there."""
    with Lake.create(path) as lake:
        session = Session(lake, actor_here("benchmark"))
        for dataset in DATASETS:
            session.create(dataset)
            with source.open("wb") as file:
                for _ in range(size_mib):
                    file.write(os.urandom(MIB))
            session.put(dataset, [str(source)])
            session.commit(dataset, "random")
        source.unlink()
        attach(lake, "warm", TierSettings(url))
        packs = _packs(lake, "warm")
        assert not move_packs(lake, packs, "warm").left
        return [pack_key(pack) for pack in packs]


def _packs(lake: Lake, dataset: str) -> list[bytes]:
    rows = lake.index.packs()
    return [p for p, r in rows if r.kind == PackKind.CONTENT and r.dataset == dataset]


def _forget_copies(path: Path) -> None:
    from dtafs.store.placement.moves import drop_copy

    with Lake.open(path, wait_s=10.0) as lake:
        for pack in _packs(lake, "moving"):
            drop_copy(lake, pack, "warm")


def _mounted_read(lake: Path, mountpoint: Path, dataset: str, meanwhile: tuple[str, ...]) -> float:
    """Seconds to read a file through a fresh mount, while a command runs."""
    _run("dtafs.cli.daemon", "mount", lake, mountpoint)
    try:
        (path,) = (mountpoint / dataset / "v1").iterdir()
        command = [sys.executable, "-m", "dtafs.cli.ctl", "--lake", str(lake), *meanwhile]
        beside = subprocess.Popen(command, stdout=subprocess.DEVNULL) if meanwhile else None
        began_s = time.monotonic()
        with path.open("rb", buffering=0) as file:
            while file.read(READ_BYTES):
                continue
        took_s = time.monotonic() - began_s
        if beside is not None:
            assert beside.wait() == 0
        return took_s
    finally:
        _run("dtafs.cli.daemon", "umount", mountpoint)


def _run(module: str, *arguments: object) -> None:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
