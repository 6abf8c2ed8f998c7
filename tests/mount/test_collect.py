"""Collecting through the daemon while programs work on the mount."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from tests.support.mounts import Mount
from tests.support.programs import ctl, ctl_json


def test_programs_go_on(mounted_lake: Mount) -> None:
    """Files are written, read back, replaced and committed while collections run without grace."""
    (mounted_lake / "D").mkdir()
    staging, lake = mounted_lake / "D/staging", mounted_lake.lake
    failures: list[BaseException] = []
    stop = threading.Event()
    expected: dict[str, bytes] = {}
    source = mounted_lake.lake.parent / "source"

    def work() -> None:
        dice = random.Random(5)
        try:
            for step in range(12):
                for name in ("a", "b", "c"):
                    expected[name] = random.Random(dice.randrange(5)).randbytes(600_000)
                    (staging / name).write_bytes(expected[name])
                if step % 3 == 0:
                    (staging / "gone").write_bytes(os.urandom(300_000))
                if step % 3 == 1:
                    (staging / "gone").unlink()
                    source.write_bytes(os.urandom(200_000))
                    ctl(lake, "put", "D", source)
                if step % 4 == 3:
                    ctl(lake, "commit", "D", "-m", str(step))
                for name, data in expected.items():
                    assert (staging / name).read_bytes() == data
        except BaseException as error:
            failures.append(error)
        finally:
            stop.set()

    worker = threading.Thread(target=work)
    worker.start()
    removed = 0
    while not stop.is_set():
        removed += ctl_json(lake, "collect", "--grace", "0")["removed"]["packs"]
    worker.join()
    assert not failures, failures
    for name, data in expected.items():
        assert (mounted_lake / "D/v3" / name).read_bytes() == data
    assert removed, "nothing was garbage: this test tests nothing"


def test_an_open_file_that_was_removed(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    data = os.urandom(500_000)
    ctl(mounted_lake.lake, "create", "E")
    source = Path(mounted_lake.lake).parent / "source"
    source.write_bytes(data)
    ctl(mounted_lake.lake, "put", "D", source)
    with (mounted_lake / "D/staging/source").open("rb") as handle:
        os.unlink(mounted_lake / "D/staging/source")
        ctl(mounted_lake.lake, "collect", "--grace", "0")
        assert handle.read() == data
    ctl(mounted_lake.lake, "collect", "--grace", "0")
    facts = ctl_json(mounted_lake.lake, "collect", "--grace", "0")
    assert facts["kept"]["packs"] == 0, "once nobody has it open, it goes"


@pytest.mark.parametrize("grace", ["7", "-1d", "soon", "200000d"])
def test_a_bad_grace(mounted_lake: Mount, grace: str) -> None:
    done = ctl(mounted_lake.lake, "collect", "--grace", grace, exit_code=2)
    assert done.stderr.count(b"\n") == 1
