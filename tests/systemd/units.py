"""The unit files as systemd would read them, for one lake, with this checkout's programs in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from tests.support.programs import ROOT

FOLDER = ROOT / "systemd"
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))
TIMERS = sorted(path.name for path in FOLDER.glob("*.timer"))
PROGRAMS = ROOT / ".venv" / "bin"
INSTANCE = "srv-lake"


def settings(name: str) -> dict[str, list[str]]:
    """The values of each setting of a unit, in order."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text().splitlines():
        if re.match(r"[A-Z]\w*=", line):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def instantiate(folder: Path) -> None:
    """Write all units for an instance, so that verifying one finds the others."""
    for path in FOLDER.iterdir():
        text = path.read_text()
        text = re.sub(r"^ExecStart=(?=dtafs)", f"ExecStart={PROGRAMS}/", text, flags=re.M)
        (folder / path.name.replace("@.", f"@{INSTANCE}.")).write_text(text)


def command(name: str, lake: Path, environment: Mapping[str, str]) -> list[str]:
    """The command line that a service starts, as systemd.service(5) says: `${NAME}` is one word,
    `$NAME` as many as there are in it."""
    words: list[str] = []
    for word in settings(name)["ExecStart"][0].replace("%f", str(lake)).split():
        whole, split = re.fullmatch(r"\$\{(\w+)\}", word), re.fullmatch(r"\$(\w+)", word)
        if whole:
            words.append(environment[whole[1]])
        elif split:
            words += shlex.split(environment.get(split[1], ""))
        else:
            words.append(word)
    return words


def example_environment() -> dict[str, str]:
    """What the example environment file sets."""
    lines = (FOLDER / "dtafs.env").read_text().splitlines()
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    return {name: value for name, _, value in pairs}
