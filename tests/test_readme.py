"""The README's examples, run as they stand, with its two directories put elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import programs
from tests.support.mounts import end_daemon_of
from tests.support.programs import ROOT

README = (ROOT / "README.md").read_text()
LIMIT_S = 120


class Places(NamedTuple):
    """Where the README's /srv/lake and /lake are in a test, and the directory it starts in."""

    lake: Path
    mountpoint: Path
    start: Path

    def put_into(self, text: str) -> str:
        """A text of the README with its directories replaced."""
        text = re.sub(r"(?<![\w/])/srv/lake\b", str(self.lake), text)
        return re.sub(r"(?<![\w/.-])/lake\b", str(self.mountpoint), text)


def fences(heading: str, language: str) -> list[str]:
    """The code of one language in the section under a heading."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, re.M | re.S)


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Places]:
    found = Places(tmp_path / "srv", tmp_path / "mounted", tmp_path / "start")
    (found.start / "readings").mkdir(parents=True)
    for directory in (found.start, found.start / "readings"):
        for sensor in ("A", "B"):
            rows = f"time,sensor,pm25,temp\n2024-07-04T12:00Z,{sensor},9999,31\n"
            (directory / f"sensor{sensor}.csv").write_text(rows)
    yield found
    end_daemon_of(found.lake, found.mountpoint)


def test_the_tour_runs(places: Places) -> None:
    (tour,) = fences("A tour", "sh")
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", places.put_into(tour)],
        cwd=places.start,
        env=programs.environment({"PATH": path}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^WF-2024-07:v1 [0-9a-f]{64}$", done.stdout, re.M)
    dataset = places.mountpoint / "WF-2024-07"
    assert sorted(path.name for path in dataset.iterdir()) == [
        "latest",
        "raw",
        "staging",
        "v1",
        "v2",
    ]
    assert ",9999," in (dataset / "v1" / "sensorA.csv").read_text()
    assert ",9999," not in (dataset / "v2" / "sensorA.csv").read_text()


def test_the_python_example_runs(places: Places, tmp_path: Path) -> None:
    (example,) = fences("A tour", "python")
    program = tmp_path / "example.py"
    program.write_text(example)
    programs.ctl(places.lake, "init")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=places.start,
        env=programs.environment({"DTAFS_LAKE": str(places.lake)}),
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "WF-2024-07:v1\n"), done.stderr


def test_the_configuration_shown_is_the_default(tmp_path: Path) -> None:
    from dtafs.store.config import Config, TierSettings, load_config

    (shown,) = fences("A lake on disk", "toml")
    path = tmp_path / "config.toml"
    path.write_text(shown)
    assert load_config(path) == Config()
    path.write_text("".join(fences("Tiers", "toml")))
    assert load_config(path) == Config(tiers={"warm": TierSettings(url="s3://bucket/prefix")})


def test_the_exit_codes_shown_are_those_of_the_errors() -> None:
    from dtafs.errors import EXIT_INTERRUPTED, OUTCOMES

    shown = set(
        map(int, re.findall(r"(?:codes: |· |\n)(\d+) ", README.partition("Exit codes:")[2][:300]))
    )
    codes = {outcome.exit_code for outcome in OUTCOMES.values()} | {EXIT_INTERRUPTED}
    assert codes <= shown
