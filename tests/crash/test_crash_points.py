"""A power failure at every durable operation of each scenario, with every fate of unsynced data."""

from __future__ import annotations

import itertools
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.errors import DtafsError, IntegrityError
from dtafs.store.durable import Disk
from dtafs.store.lake import Lake
from dtafs.store.pending import Pending
from dtafs.store.staging import unsynced
from dtafs.store.staging.data import FileData
from dtafs.store.staging.datafiles import DataFiles
from dtafs.store.staging.journal import FILES, Journal
from tests.crash.promises import verify
from tests.crash.scenarios import SCENARIOS, Scenario, clear, record_trace
from tests.crash.simulated_disk import images
from tests.support.tried import tried


@pytest.fixture
def memory_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: an image is written and synced in milliseconds."""
    shared = Path("/dev/shm")
    if not shared.is_dir():
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="dtafs-crash-", dir=shared))
    yield path
    shutil.rmtree(path)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opening of a lake comes after a start of the machine; an image is where the lake was."""
    boots = itertools.count(1)
    monkeypatch.setattr(unsynced, "this_boot", lambda: str(next(boots)))
    monkeypatch.setattr(unsynced, "this_place", lambda directory: "here")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_crash_anywhere(scenario: Scenario, memory_path: Path) -> None:
    recorder = record_trace(scenario, memory_path / "lake", memory_path / "scratch")
    assert len(recorder.trace.events) - recorder.trace.start > 5
    for image in images(recorder.trace):
        tried("power failures")
        try:
            verify(scenario, image, clear(memory_path / "lake"))
        except Exception as error:
            error.add_note(
                f"crash after event {image.point} of {scenario.name!r}, data {image.fate.data}, "
                f"names {image.fate.names}; reached: {', '.join(image.reached) or 'nothing'}"
            )
            raise


@pytest.mark.parametrize(
    ("scenario", "owner", "step"),
    [
        ("create", Disk, "sync_directory"),
        ("first commit", Disk, "sync"),
        ("later commit", Disk, "sync_directory"),
        ("later commit", Pending, "intend"),
        ("record", Disk, "sync_directory"),
        ("export", Disk, "sync"),
        ("export", Disk, "sync_everything"),
        ("collect", Disk, "sync"),
        ("repair", Disk, "sync"),
        ("move", Disk, "sync"),
        ("recall", Disk, "sync"),
        ("mirror", Disk, "sync"),
        ("mirror goes on", Disk, "sync_directory"),
        ("restore", Disk, "sync_everything"),
        ("rewrite in a tier", Disk, "sync"),
        ("dispose of v1", Disk, "sync"),
        ("commit with parity", Disk, "sync_directory"),
        ("write and sync", DataFiles, "sync_names"),
        ("write and sync", FileData, "sync"),
        ("write and sync", Journal, "sync"),
        ("patch and sync another", Journal, "sync"),
    ],
)
def test_a_missing_step_is_found(
    scenario: str, owner: type, step: str, memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These tests would notice if one durable step were left out of the real code."""
    chosen = next(one for one in SCENARIOS if one.name == scenario)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, lambda *_arguments: None)
        recorder = record_trace(chosen, memory_path / "lake", memory_path / "scratch")
    with pytest.raises((AssertionError, DtafsError)):
        for image in images(recorder.trace):
            verify(chosen, image, clear(memory_path / "lake"))


def test_a_lost_patch_that_nobody_looks_for_is_found(
    memory_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = next(one for one in SCENARIOS if one.name == "patch and sync another")
    recorder = record_trace(scenario, memory_path / "lake", memory_path / "scratch")
    monkeypatch.setattr("dtafs.store.staging.area.drop_lost_writes", lambda *_: None)
    with pytest.raises(AssertionError, match="bytes that nobody wrote"):
        for image in images(recorder.trace):
            verify(scenario, image, clear(memory_path / "lake"))


@pytest.mark.parametrize("name", ["write and sync", "patch and sync another"])
def test_damage_after_a_crash_takes_nothing_that_was_synced_in_silence(
    name: str, memory_path: Path
) -> None:
    """A power failure, and a byte of staging's journal that is another one afterwards."""
    scenario = next(one for one in SCENARIOS if one.name == name)
    recorder = record_trace(scenario, memory_path / "lake", memory_path / "scratch")
    dice, refused = random.Random(0), 0
    for image in images(recorder.trace):
        journals = [file for file in FILES if image.files.get(f"staging/{file}", (b"", 0))[0]]
        if not image.reached or not journals:
            continue
        file = f"staging/{dice.choice(journals)}"
        data, mode = image.files[file]
        at = dice.choice((len(data) - 1, dice.randrange(len(data))))
        image.files[file] = (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], mode)
        image.write(clear(memory_path / "lake"))
        try:
            with Lake.open(memory_path / "lake") as lake:
                lake.area.flush()
        except IntegrityError as error:
            assert "which a sync had passed" in str(error)
            refused += 1
        else:
            verify(scenario, image, clear(memory_path / "lake"))
    assert refused > 10
