"""The units of `systemd/`: systemd takes them, they give up what they can, and the daemon runs so."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from dtafs.cli.commands import ctl
from tests.systemd.units import (
    FOLDER,
    INSTANCE,
    SERVICES,
    TIMERS,
    example_environment,
    instantiate,
    settings,
)

EXPOSURE_MAX = {"dtafs@.service": 4.6}
"""`systemd-analyze security`, 0 to 10: what a daemon that has to mount can reach; see its comments."""
EXPOSURE_MAX_ELSE = 2.5


def analyze(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, cwd=folder, check=False
    )


def instance(name: str) -> str:
    return "./" + name.replace("@.", f"@{INSTANCE}.")


@pytest.mark.parametrize("name", [*SERVICES, *TIMERS])
def test_systemd_takes_it(name: str, tmp_path: Path) -> None:
    instantiate(tmp_path)
    done = analyze("verify", instance(name), folder=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", SERVICES)
def test_it_gives_up_what_it_can(name: str, tmp_path: Path) -> None:
    """The exposure is low, and what adds to it is named in the unit, with a reason."""
    instantiate(tmp_path)
    said = analyze("security", "--offline=true", "--no-pager", instance(name), folder=tmp_path)
    level = re.search(r"exposure level for \S+: ([\d.]+)", said.stdout)
    assert level, said.stderr
    assert float(level[1]) <= EXPOSURE_MAX.get(name, EXPOSURE_MAX_ELSE), said.stdout
    text = (FOLDER / name).read_text()
    for line in re.findall(r"^✗ (\S+)", said.stdout, re.M):
        options = [option for option in re.split(r"[=/]", line) if re.match(r"[A-Z]\w+$", option)]
        assert any(option in text for option in options), f"{name} does not speak of {line}"


@pytest.mark.parametrize("name", TIMERS)
def test_a_timer_has_its_service(name: str) -> None:
    assert name.replace(".timer", ".service") in SERVICES


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "dtafs@.service"])
def test_its_command_exists(name: str) -> None:
    words = settings(name)["ExecStart"][0].split()
    assert words[:3] == ["dtafsctl", "--lake", "%f"]
    assert words[3] in ctl.commands


def test_the_example_says_what_the_units_ask_for() -> None:
    asked = re.findall(r"\$\{?(\w+)", settings("dtafs@.service")["ExecStart"][0])
    assert set(asked) == set(example_environment()) == {"MOUNTPOINT", "MOUNT_OPTIONS"}
