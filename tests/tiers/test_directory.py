"""A tier in a directory: what it does that no other tier does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dtafs.errors import ConflictError, NotFoundError, RecallError
from dtafs.store.tiers.base import State
from dtafs.store.tiers.directory import DirectoryTier
from tests.crash.simulated_disk import Recorder, images

KEY = "packs/ab/" + "ab" * 32


def test_a_directory_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    root = tmp_path / "tape"
    root.mkdir()
    tier = DirectoryTier("cold", root)
    tier.put(KEY, b"these")
    root.rename(tmp_path / "elsewhere")
    calls = (
        lambda: tier.put(KEY, b"these"),
        lambda: tier.read(KEY),
        lambda: tier.facts(KEY),
        lambda: tier.delete(KEY),
        lambda: list(tier.keys("")),
    )
    for call in calls:
        with pytest.raises(NotFoundError, match="of tier cold is gone"):
            call()
    assert not root.exists()


def test_a_recalled_object_goes_back_after_its_days(tmp_path: Path) -> None:
    tier = DirectoryTier("cold", tmp_path, archive=True, recall_days=2.0)
    tier.put(KEY, b"these")
    tier.recall(KEY)
    mark = tmp_path / "recalled" / KEY
    before = time.time() - 1.9 * 86_400
    os.utime(mark, (before, before))
    assert tier.read(KEY) == b"these"
    before -= 0.2 * 86_400
    os.utime(mark, (before, before))
    with pytest.raises(RecallError):
        tier.read(KEY)
    tier.recall(KEY)
    facts = tier.facts(KEY)
    assert facts is not None and facts.state is State.READY


def test_what_a_crash_left_goes_when_it_is_old(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    old, fresh = tmp_path / "tmp" / "old", tmp_path / "tmp" / "fresh"
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    tier = DirectoryTier("cold", tmp_path)
    tier.put(KEY, b"these")
    assert not old.exists() and fresh.exists()
    assert [key for key, _size in tier.keys("")] == [KEY]


def test_a_source_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    tier = DirectoryTier("cold", tmp_path)
    with pytest.raises(NotFoundError):
        tier.put(KEY, tmp_path / "absent")
    assert tier.facts(KEY) is None
    assert not list((tmp_path / "tmp").iterdir())


def test_a_file_that_was_altered_is_a_conflict(tmp_path: Path) -> None:
    tier = DirectoryTier("cold", tmp_path)
    tier.put(KEY, b"these")
    (tmp_path / KEY).chmod(0o644)
    (tmp_path / KEY).write_bytes(b"thesf")
    with pytest.raises(ConflictError):
        tier.put(KEY, b"these")


def test_what_a_killed_writer_put_is_there_for_good_once_it_was_put_again(tmp_path: Path) -> None:
    """It had its name, which nobody had synced; after the second put no power failure takes it."""
    root = tmp_path / "tier"
    (root / "packs" / "ab").mkdir(parents=True)
    tier = DirectoryTier("cold", root)
    with Recorder(root) as recorder:
        (root / "left").write_bytes(b"these")
        with (root / "left").open("rb") as file:
            os.fsync(file.fileno())
        os.link(root / "left", root / KEY)
        tier.put(KEY, b"these")
        recorder.reached("put")
    promised = [image for image in images(recorder.trace) if image.reached]
    assert promised and all(image.files[KEY][0] == b"these" for image in promised)
