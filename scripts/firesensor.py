"""Synthetic readings of wildfire sensors, in versions, from nothing but the standard library.

    python scripts/firesensor.py DIRECTORY [--versions 6] [--stations 60] [--days 16]

Writes DIRECTORY/v1 … vN, each a tree with `stations.csv` and one `readings/station-NNN.csv` a
station, a line a minute. The same arguments give the same bytes on every machine: each random
stream is seeded by what it is for. The first version covers `days` days. Every later one, as such
data sets do,

- appends eight days to every station,
- recalibrates the PM2.5 of about 2 % of the stations over one past day, in the middle of the file,
- has one station more, with all days so far;
- and the fourth inserts rows that arrived late into the middle of three files.

The data is dedicated to the public domain (CC0).
"""

from __future__ import annotations

import argparse
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

FIRST_DAY = datetime(2025, 6, 1, tzinfo=UTC)
DAYS_PER_VERSION = 8
MINUTES = 24 * 60
HEADER = "time,station,temp_c,rh_pct,co_ppm,pm25_ugm3,wind_ms,wind_dir,flame,batt_v\n"

LATE_VERSION = 4
LATE_STATIONS = (5, 6, 7)
LATE_DAY = 5


def date_of(day: int) -> str:
    """The date of a day, counted from the first one, as it starts a line."""
    return (FIRST_DAY + timedelta(days=day)).strftime("%Y-%m-%dT")


def readings(station: int, day: int, recalibrated: bool = False) -> str:
    """One day of one station: slow drifts with noise, and on one day in a hundred a fire."""
    stream = random.Random(f"reading {station} {day}")
    noise, uniform = stream.gauss, stream.random
    mean_c = 18 + 8 * math.sin(station) + noise(0, 2)
    burning = uniform() < 0.01
    pm25, co, wind, direction = 8.0, 0.3, 2 + 3 * uniform(), 360 * uniform()
    battery = 4.1 - 0.001 * day
    date, lines = date_of(day), []
    for minute in range(MINUTES):
        hour = minute / 60
        fire = burning and 13 < hour < 17
        temperature = mean_c + 7 * math.sin((hour - 9) / 12 * math.pi) + noise(0, 0.15)
        humidity = min(99.0, max(3.0, 90 - 2 * temperature + noise(0, 1)))
        pm25 = max(1.0, pm25 + noise(0, 0.4) + (25 if fire else 0.02 * (8 - pm25)))
        co = max(0.05, co + noise(0, 0.01) + (0.4 if fire else 0.02 * (0.3 - co)))
        wind = max(0.0, wind + noise(0, 0.2) + 0.01 * (3 - wind))
        direction = (direction + noise(0, 4)) % 360
        shown = 1.07 * pm25 + 0.4 if recalibrated else pm25
        lines.append(
            f"{date}{minute // 60:02d}:{minute % 60:02d}:00Z,S{station:03d},{temperature:.2f},"
            f"{humidity:.1f},{co:.3f},{shown:.1f},{wind:.2f},{direction:.0f},"
            f"{int(fire and pm25 > 200)},{battery:.3f}\n"
        )
    return "".join(lines)


def revise(text: str, station: int, version: int, days: int) -> str:
    """What a later version changes in the rows that a station had: corrections and late rows."""
    stream = random.Random(f"correction {version} {station}")
    if stream.random() < 0.02 or station == version:
        day = stream.randrange(days)
        start, end = text.find(date_of(day)), text.find(date_of(day + 1))
        text = text[:start] + readings(station, day, recalibrated=True) + text[end:]
    if version == LATE_VERSION and station in LATE_STATIONS:
        rows = readings(station, LATE_DAY - 1).splitlines(keepends=True)[::10]
        late = "".join(row.replace("Z,S", "L,S") for row in rows)
        place = text.find(date_of(LATE_DAY))
        text = text[:place] + late + text[place:]
    return text


def register(stations: int) -> str:
    """The table of the stations: where each stands, and since when."""
    lines = ["station,lat,lon,elev_m,installed\n"]
    for station in range(stations):
        stream = random.Random(f"station {station}")
        latitude, longitude = 38 + stream.random(), -121 + stream.random()
        height = stream.randrange(100, 2200)
        month = 1 + station % 5
        lines.append(
            f"S{station:03d},{latitude:.5f},{longitude:.5f},{height},2025-{month:02d}-01\n"
        )
    return "".join(lines)


def write_version(top: Path, number: int, stations: int, days: int) -> None:
    """Write one version below `top`; the one before it must be there."""
    target, before = top / f"v{number}" / "readings", top / f"v{number - 1}" / "readings"
    target.mkdir(parents=True, exist_ok=True)
    stations += number - 1
    covered = days + DAYS_PER_VERSION * (number - 1)
    for station in range(stations):
        name = f"station-{station:03d}.csv"
        first_new = 0
        text = HEADER
        if number > 1 and (before / name).exists():
            text = revise((before / name).read_text(), station, number, days)
            first_new = covered - DAYS_PER_VERSION
        new = "".join(readings(station, day) for day in range(first_new, covered))
        (target / name).write_text(text + new)
    (target.parent / "stations.csv").write_text(register(stations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--versions", type=int, default=6)
    parser.add_argument("--stations", type=int, default=60)
    parser.add_argument("--days", type=int, default=16)
    chosen = parser.parse_args()
    for number in range(1, chosen.versions + 1):
        write_version(chosen.directory, number, chosen.stations, chosen.days)


if __name__ == "__main__":
    main()
