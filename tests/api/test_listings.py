"""The listings of the user's own description (HMS-DTA, section 3), run as they stand."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.programs import HMS, ROOT, command_line, environment

INGEST = """\
# file: ingest_wildfire.py
from hms_dta import Dataset
ds = Dataset.create("WF-2024-07", tags=["raw"])

for path in ("sensorA.csv", "sensorB.csv"):
    ds.put_file(path)          # uploads & computes SHA-256

ds.commit("Initial sensor dump")   # creates version v1
print(ds.version_id)               # → WF-2024-07:v1
"""

CLEAN = """\
# file: clean_and_save.py
from hms_dta import Dataset, Transform

ds = Dataset.open("WF-2024-07")
clean = Transform.csv_trim(ds, cols=["timestamp","temp","pm25"])
clean.commit("Removed unused columns", tags=["clean"])
"""

EXPORT = ("dta", "export", "WF-2024-07:v1", "--to", "zip", "wildfires_raw.zip")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with the two sensors' files, and `hms_dta` importable as once installed."""
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "hms_dta").symlink_to(ROOT / folders["package-dir"]["hms_dta"])
    for sensor in "AB":
        rows = [f"2024-07-04T{i % 24:02}:00Z,{sensor},{20 + i % 9},40,{i % 80}" for i in range(900)]
        text = "\n".join(["timestamp,station,temp,hum,pm25", *rows]) + "\n"
        (tmp_path / f"sensor{sensor}.csv").write_text(text)
    return tmp_path


def run(place: Path, *command: str) -> str:
    """Run a command there, with a user data directory of its own; what it printed."""
    env = environment({"XDG_DATA_HOME": str(place / "data")})
    env["PYTHONPATH"] = f"{ROOT}:{place / 'site'}"
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b""
    return done.stdout.decode()


def test_the_listings(place: Path) -> None:
    (place / "ingest_wildfire.py").write_text(INGEST)
    (place / "clean_and_save.py").write_text(CLEAN)
    assert run(place, sys.executable, "ingest_wildfire.py") == "WF-2024-07:v1\n"
    assert (place / "data" / "dtafs" / "lake" / "lake.json").exists()
    assert run(place, sys.executable, "clean_and_save.py") == ""
    size = sum((place / f"sensor{sensor}.csv").stat().st_size for sensor in "AB")
    said = run(place, *command_line(HMS, *EXPORT))
    assert said == f"✔ Exported {size:,} bytes\n✔ Provenance.txt attached\n"
    lineage = run(place, *command_line(HMS, "dta", "lineage", "WF-2024-07:clean"))
    assert "by csv_trim (cols=timestamp,temp,pm25)" in lineage.splitlines()[0]
    assert lineage.splitlines()[1].startswith("  <- WF-2024-07:v1 ")
    trimmed = run(place, *command_line(HMS, "dta", "cat", "WF-2024-07:v2", "sensorA.csv"))
    assert trimmed.splitlines()[:2] == ["timestamp,temp,pm25", "2024-07-04T00:00Z,20,0"]
    assert len(trimmed.splitlines()) == 901


def test_the_second_name_is_the_same_api() -> None:
    code = "import dtafs, hms_dta; assert hms_dta.Dataset is dtafs.Dataset"
    env = environment()
    env["PYTHONPATH"] = f"{ROOT}:{ROOT / 'dtafs'}"
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
