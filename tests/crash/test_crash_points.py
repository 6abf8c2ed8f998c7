"""A power failure at every durable operation of each scenario, with every fate of unsynced data."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.scenarios import SCENARIOS, Scenario, clear, record_trace, verify
from tests.crash.simulated_disk import images

IMAGES_MAX = 150
"""Images tried of each scenario unless --soak is given; the seed is the scenario's name."""


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


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_crash_anywhere(
    scenario: Scenario, memory_path: Path, request: pytest.FixtureRequest
) -> None:
    recorder = record_trace(scenario, memory_path / "lake", memory_path / "scratch")
    every = list(images(recorder.trace))
    assert len(recorder.trace.events) - recorder.trace.start > 5
    chosen = every
    if len(every) > IMAGES_MAX and not request.config.getoption("--soak"):
        chosen = random.Random(scenario.name).sample(every, IMAGES_MAX)
    for image in chosen:
        try:
            verify(scenario, image, clear(memory_path / "image"))
        except Exception as error:
            error.add_note(
                f"crash after event {image.point} of {scenario.name!r} with data {image.fate.data}, "
                f"names {image.fate.names}; reached: {', '.join(image.reached) or 'nothing'}"
            )
            raise
