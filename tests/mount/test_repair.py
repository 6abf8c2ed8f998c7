"""Repairing a mounted lake: errors before, the right bytes after, no mount in between."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import Mount
from tests.support.programs import ctl, ctl_json

FILES = {"large": random.Random(1).randbytes(3_000_000), "small": b"some bytes"}


@pytest.fixture
def sealed(lake_path: Path, mount: Callable[..., Mount], tmp_path: Path) -> Mount:
    """A mounted lake with a version that nobody has read yet, and a copy of it beside it."""
    source = tmp_path / "dir"
    source.mkdir()
    for name, data in FILES.items():
        (source / name).write_bytes(data)
    ctl(lake_path, "create", "D")
    ctl(lake_path, "put", "D", source)
    ctl(lake_path, "commit", "D", "-m", "First")
    shutil.copytree(lake_path, lake_path.parent / "whole", ignore=shutil.ignore_patterns("run"))
    return mount(lake_path, allow=rb"damaged|cannot be read|in no pack|frame at")


def packs(lake: Path) -> list[Path]:
    return sorted((lake / "packs").glob("*/*"), key=lambda file: file.stat().st_size)


def garble(file: Path) -> None:
    """Alter every 4,000th byte, in place, as a disk would."""
    data = bytearray(file.read_bytes())
    for at in range(20, len(data), 4_000):
        data[at] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def error_of(path: Path) -> int | None:
    """The errno of reading a file or listing a directory, None when it works."""
    try:
        if path.is_dir():
            os.listdir(path)
        else:
            path.read_bytes()
    except OSError as error:
        return error.errno
    return None


def test_content(sealed: Mount) -> None:
    top, lake = sealed / "D/v1/dir", sealed.lake
    for file in packs(lake):
        if file.stat().st_size > 1_000_000:
            garble(file)
    with (top / "large").open("rb") as handle:
        for _ in range(3):
            assert error_of(top / "large") == errno.EIO
            with pytest.raises(OSError, match="Input/output"):
                os.pread(handle.fileno(), 4_096, 1_000_000)
        facts = ctl_json(lake, "repair", "--from", lake.parent / "whole")
        assert facts["mended"] and not facts["lost"]
        assert os.pread(handle.fileno(), 4_096, 1_000_000) == FILES["large"][1_000_000:1_004_096]
    assert {name: (top / name).read_bytes() for name in FILES} == FILES


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "altered"])
def test_metadata(sealed: Mount, gone: bool) -> None:
    top, lake = sealed / "D/v1", sealed.lake
    for file in packs(lake):
        if file.stat().st_size < 1_000_000:
            if gone:
                file.unlink()
            else:
                garble(file)
    assert error_of(top / "dir") == errno.EIO
    assert ctl_json(lake, "repair", "--dry-run", "--from", lake.parent / "whole")["mended"]
    assert error_of(top / "dir") == errno.EIO
    ctl(lake, "repair", "--from", lake.parent / "whole")
    assert {name: (top / "dir" / name).read_bytes() for name in FILES} == FILES
    assert ctl_json(lake, "check", "--read-data")["sound"]


def test_what_was_just_committed_is_still_in_staging(sealed: Mount) -> None:
    data = random.Random(2).randbytes(700_000)
    staged = sealed / "D/staging/new"
    staged.write_bytes(data)
    with staged.open("rb"):  # what is in use is not tidied, however long the rest takes
        ctl(sealed.lake, "commit", "D", "-m", "Second")
        whole = {file.name for file in packs(sealed.lake.parent / "whole")}
        lost = [file for file in packs(sealed.lake) if file.name not in whole]
        content = lost[-1]
        garble(content)
        assert error_of(sealed / "D/v2/new") == errno.EIO
        assert ctl_json(sealed.lake, "repair")["mended"][0]["how"] == "staging"
    assert (sealed / "D/v2/new").read_bytes() == data


def test_lost_ranges_are_errors_and_the_rest_is_readable(sealed: Mount) -> None:
    lake = sealed.lake
    large = next(file for file in packs(lake) if file.stat().st_size > 1_000_000)
    data = bytearray(large.read_bytes())
    data[1_500_000] ^= 1
    large.chmod(0o644)
    large.write_bytes(data)
    facts = ctl_json(lake, "repair", exit_code=6)
    (affected,) = facts["lost"][0]["affects"]
    (path,) = affected["paths"]
    assert path["path"] == "dir/large"
    ((start, end),) = path["ranges"]
    fd = os.open(sealed / "D/v1/dir/large", os.O_RDONLY | os.O_DIRECT)
    try:
        for at in (start + 4_096, end - 4_096):
            with pytest.raises(OSError, match="Input/output"):
                os.pread(fd, 512, at // 4_096 * 4_096)
        for at in (0, (start - 4_096) // 4_096 * 4_096, -(-end // 4_096) * 4_096):
            assert os.pread(fd, 4_096, at) == FILES["large"][at : at + 4_096]
    finally:
        os.close(fd)
    ctl(lake, "repair", "--from", lake.parent / "whole")
    assert (sealed / "D/v1/dir/large").read_bytes() == FILES["large"]
