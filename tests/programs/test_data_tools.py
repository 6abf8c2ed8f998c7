"""sqlite, pandas, pyarrow, DuckDB: databases in staging, tables in sealed versions."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.programs.conftest import Place

ROWS = 20_000


@pytest.mark.parametrize(("journal", "mapped"), [("wal", 0), ("wal", 1 << 26), ("delete", 1 << 26)])
def test_sqlite(place: Place, journal: str, mapped: int) -> None:
    path = place.staging / "data.db"
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(path)) as two:
        assert one.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal,)
        for connection in (one, two):
            connection.execute(f"PRAGMA mmap_size={mapped}")
        one.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x TEXT)")
        for start in range(0, 5_000, 500):
            with one:
                rows = ((n, f"text {n}") for n in range(start, start + 500))
                one.executemany("INSERT INTO t VALUES (?, ?)", rows)
            assert two.execute("SELECT count(*) FROM t").fetchone() == (start + 500,)
        with two:
            two.execute("DELETE FROM t WHERE n % 3 = 0")
        one.execute("VACUUM")
        assert two.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        two.close()
    version = place.commit()
    sealed = f"file:{version}/data.db?mode=ro&immutable=1"
    with closing(sqlite3.connect(sealed, uri=True)) as reader:
        reader.execute(f"PRAGMA mmap_size={mapped}")
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (3_333,)
    assert place.run("sqlite3", "data.db", "PRAGMA integrity_check") == "ok\n"


def test_sqlite_writers_in_several_processes(place: Place) -> None:
    script = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect('data.db', timeout=50)\n"
        "for n in range(40):\n"
        "    with db: db.execute('INSERT INTO t VALUES (?)', (int(sys.argv[1]) * 1000 + n,))\n"
    )
    with closing(sqlite3.connect(place.staging / "data.db")) as made:
        made.execute("PRAGMA journal_mode=wal")
        made.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(number)], cwd=place.staging)
        for number in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert place.run("sqlite3", "data.db", "SELECT count(*) FROM t") == "120\n"


READ_TABLES = """
import json, sys, duckdb, pandas, pyarrow, pyarrow.feather, pyarrow.parquet
top = sys.argv[1]
def ask(query, database=":memory:", **how):
    return duckdb.connect(database, **how).execute(query).fetchone()[0]
query = "SELECT sum(n)::BIGINT FROM '%s'"
with pyarrow.memory_map(top + "/t.arrow") as mapped:
    arrow = pyarrow.ipc.open_file(mapped).read_all().to_pandas().n.sum()
print(json.dumps([int(found) for found in (
    pandas.read_csv(top + "/t.csv").n.sum(),
    pandas.read_parquet(top + "/t.parquet").n.sum(),
    pyarrow.parquet.read_table(top + "/t.parquet", memory_map=True).to_pandas().n.sum(),
    arrow,
    pyarrow.feather.read_table(top + "/t.arrow", memory_map=True).to_pandas().n.sum(),
    ask(query % (top + "/t.csv")),
    ask(query % (top + "/t.parquet")),
    ask("SELECT sum(n)::BIGINT FROM t", top + "/t.duckdb", read_only=True),
)]))
"""
WRITE_TABLES = """
import sys, duckdb, pandas, pyarrow, pyarrow.feather
frame = pandas.DataFrame({"n": range(int(sys.argv[1])), "x": ["text"] * int(sys.argv[1])})
frame.to_csv("t.csv", index=False)
frame.to_parquet("t.parquet")
pyarrow.feather.write_feather(frame, "t.arrow", compression="uncompressed")
duckdb.connect("t.duckdb").execute("CREATE TABLE t AS SELECT * FROM 't.parquet'")
"""


def test_tables(place: Place) -> None:
    place.run(sys.executable, "-c", WRITE_TABLES, ROWS)
    expected = [ROWS * (ROWS - 1) // 2] * 8
    version = place.commit()
    for top in (place.staging, version):
        found = place.run(sys.executable, "-c", READ_TABLES, top, cwd=Path("/"))
        assert json.loads(found) == expected


def test_numpy_maps_a_file(place: Place) -> None:
    script = (
        "import numpy\n"
        "made = numpy.memmap('a', dtype='int64', mode='w+', shape=(300_000,))\n"
        "made[:] = numpy.arange(300_000)\n"
        "made.flush()\n"
        "other = numpy.memmap('a', dtype='int64', mode='r+')\n"
        "other[::2] = 0\n"
        "assert made[1_000] == 0 and made[1_001] == 1_001\n"
    )
    place.run(sys.executable, "-c", script)
    version = place.commit()
    check = (
        "import numpy, sys\n"
        "print(numpy.memmap(sys.argv[1], dtype='int64', mode='r').sum(),\n"
        "      numpy.memmap(sys.argv[1], dtype='int64', mode='c')[1::2].sum())\n"
    )
    found = place.run(sys.executable, "-c", check, version / "a").split()
    assert found == [str(sum(range(1, 300_000, 2)))] * 2
