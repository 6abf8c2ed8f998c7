"""When closed files are sealed in the background."""

from __future__ import annotations

from dtafs.services.background import (
    BATCH_BYTES,
    BATCH_FILES,
    QUIET_S,
    WAITING_MAX,
    _Waiting,
)


def filled(count: int, size: int) -> _Waiting:
    waiting = _Waiting()
    for ino in range(count):
        waiting.add(ino, size, 10.0)
    return waiting


def test_less_than_a_batch_is_left_to_the_commit() -> None:
    assert not filled(BATCH_FILES - 1, 100).is_due(100.0)


def test_large_files_wait_for_nobody() -> None:
    assert filled(1, BATCH_BYTES).is_due(10.0)


def test_small_files_wait_for_a_lull() -> None:
    waiting = filled(BATCH_FILES, 100)
    assert not waiting.is_due(10.0 + QUIET_S / 2)
    assert waiting.is_due(10.0 + QUIET_S)


def test_not_too_many_wait_for_a_lull() -> None:
    assert filled(WAITING_MAX, 100).is_due(10.0)


def test_a_file_that_is_closed_again_counts_once() -> None:
    waiting = filled(1, BATCH_BYTES)
    waiting.add(0, 5, 11.0)
    assert not waiting.is_batch()
    assert waiting.take(10) == [0]
    assert waiting.take(10) == []
