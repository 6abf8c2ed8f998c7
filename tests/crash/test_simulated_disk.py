"""The simulated disk itself: it must find the faults that it is there to find."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.crash.fates import FATES
from tests.crash.simulated_disk import Image, Recorder, images


def _write(path: Path, data: bytes, *, sync: bool) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(fd, data)
    if sync:
        os.fsync(fd)
    os.close(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def careful(top: Path) -> None:
    """Replace a file the way that survives: new file, sync, rename, sync the directory."""
    _write(top / "new", b"second", sync=True)
    os.rename(top / "new", top / "file")
    _sync_directory(top)


def no_file_sync(top: Path) -> None:
    _write(top / "new", b"second", sync=False)
    os.rename(top / "new", top / "file")
    _sync_directory(top)


def no_directory_sync(top: Path) -> None:
    _write(top / "new", b"second", sync=True)
    os.rename(top / "new", top / "file")


def in_place(top: Path) -> None:
    _write(top / "file", b"second", sync=True)


def crash_everywhere(act: Callable[[Path], None], top: Path) -> list[Image]:
    (top / "file").write_bytes(b"first.")
    with Recorder(top) as recorder:
        act(top)
        recorder.reached("replaced")
    return list(images(recorder.trace))


def is_kept(image: Image) -> bool:
    content = image.files.get("file", (b"", 0))[0]
    return content == b"second" or (content == b"first." and "replaced" not in image.reached)


def test_the_careful_way_survives_everything(tmp_path: Path) -> None:
    found = crash_everywhere(careful, tmp_path)
    assert all(map(is_kept, found))
    assert {image.files["file"][0] for image in found} == {b"first.", b"second"}


@pytest.mark.parametrize("act", [no_file_sync, no_directory_sync, in_place])
def test_each_careless_way_loses(act: Callable[[Path], None], tmp_path: Path) -> None:
    assert not all(map(is_kept, crash_everywhere(act, tmp_path)))


def test_torn_and_zeroed_bytes(tmp_path: Path) -> None:
    def act(top: Path) -> None:
        _write(top / "file", b"first.and more", sync=False)

    contents = {image.files["file"][0] for image in crash_everywhere(act, tmp_path)}
    assert {b"first.", b"first.and ", b"first." + bytes(8), b"first.and more"} <= contents


def test_new_directory_without_a_sync_takes_all_below_with_it(tmp_path: Path) -> None:
    def act(top: Path) -> None:
        os.mkdir(top / "folder")
        _write(top / "folder" / "in", b"x", sync=True)
        _sync_directory(top / "folder")

    found = crash_everywhere(act, tmp_path)
    assert any("folder/in" in image.files for image in found)
    assert any("folder" not in image.directories for image in found if image.reached)


def test_an_image_can_be_written_and_read_back(tmp_path: Path) -> None:
    top, copy = tmp_path / "top", tmp_path / "copy"
    top.mkdir()
    copy.mkdir()
    last = crash_everywhere(careful, top)[-1]
    last.write(copy)
    assert (copy / "file").read_bytes() == b"second"


def test_every_fate_is_tried() -> None:
    assert len(set(FATES)) == 13
