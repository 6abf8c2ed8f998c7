"""The lmdb gate: maps that grow, values that are checked, files that are cut short."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import lmdb
import pytest

from dtafs.errors import IntegrityError, NotFoundError, RefusedError
from dtafs.store.check import check
from dtafs.store.database import Database, Txn
from dtafs.store.findings import ERROR
from dtafs.store.lake import Lake
from tests.support.small_lakes import ACTOR, commit, put_tree, read_version, tree_of_seed


def test_the_map_grows_by_itself(tmp_path: Path) -> None:
    database = Database(tmp_path, ["a", "b"], map_bytes=1 << 20)
    calls = []

    def fill(txn: Txn) -> int:
        calls.append(1)
        for i in range(5000):
            txn.put("a", b"%06d" % i, bytes(1000))
        return txn.count("a")

    assert database.write(fill) == 5000
    assert len(calls) > 1 and database.bytes_used > 5 << 20
    with database.read() as txn:
        assert txn.get("a", b"004999") == bytes(1000)
    database.close()


def test_growing_waits_for_readers_of_this_process(tmp_path: Path) -> None:
    database = Database(tmp_path, ["a"], map_bytes=1 << 20)
    writer = threading.Thread(
        target=database.write,
        args=(lambda txn: [txn.put("a", b"%d" % i, bytes(900)) for i in range(4000)],),
    )
    with database.read() as txn:
        writer.start()
        assert txn.count("a") == 0
    writer.join(30)
    assert not writer.is_alive()
    with database.read() as txn:
        assert txn.count("a") == 4000
    database.close()


def test_scans_follow_a_prefix_in_both_directions(tmp_path: Path) -> None:
    database = Database(tmp_path, ["a"])
    keys = [b"x", b"x\0", b"x\xff", b"x\xff\xff", b"y", b"\xff\xff"]
    database.write(lambda txn: [txn.put("a", key, key) for key in keys])
    with database.read() as txn:
        assert [k for k, _v in txn.scan("a", b"x")] == [b"x", b"x\0", b"x\xff", b"x\xff\xff"]
        assert [k for k, _v in txn.scan("a", b"x", reverse=True)] == [
            b"x\xff\xff",
            b"x\xff",
            b"x\0",
            b"x",
        ]
        assert [k for k, _v in txn.scan("a", b"x", b"x\1")] == [b"x\xff", b"x\xff\xff"]
        assert [k for k, _v in txn.scan("a", b"\xff", reverse=True)] == [b"\xff\xff"]
        assert list(txn.scan("a", b"z")) == [] and list(txn.scan("a", b"z", reverse=True)) == []
        assert len(list(txn.scan("a"))) == 6
    database.close()


def test_a_failing_function_changes_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path, ["a"])

    def fail(txn: Txn) -> None:
        txn.put("a", b"k", b"v")
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        database.write(fail)
    with database.read() as txn:
        assert txn.get("a", b"k") is None
    database.close()


def test_a_txn_stays_on_its_thread(tmp_path: Path) -> None:
    database = Database(tmp_path, ["a"])
    failures: list[BaseException] = []

    def misuse(txn: Txn) -> None:
        try:
            txn.get("a", b"k")
        except AssertionError as error:
            failures.append(error)

    with database.read() as txn:
        thread = threading.Thread(target=misuse, args=(txn,))
        thread.start()
        thread.join()
    assert len(failures) == 1
    database.close()


def test_a_reader_sees_no_file_and_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Database(tmp_path / "none", ["a"], write=False)
    Database(tmp_path, ["a"]).close()
    reader = Database(tmp_path, ["a"], write=False)
    with pytest.raises(RefusedError):
        reader.write(lambda txn: txn.put("a", b"k", b"v"))
    reader.close()


def test_to_a_reader_a_table_that_nobody_has_made_is_empty(tmp_path: Path) -> None:
    writer = Database(tmp_path, ["a"])
    writer.write(lambda txn: txn.put("a", b"k", b"v"))
    writer.close()
    reader = Database(tmp_path, ["a", "b"], write=False)
    with reader.read() as txn:
        assert txn.get("a", b"k") == b"v"
        assert (txn.get("b", b"k"), [*txn.scan("b")], txn.count("b")) == (None, [], 0)
    # LMDB lets a process open a file only once.
    newer = (
        "import sys; from pathlib import Path; from dtafs.store.database import Database;"
        "Database(Path(sys.argv[1]), ['a', 'b']).write(lambda txn: txn.put('b', b'k', b'w'))"
    )
    subprocess.run([sys.executable, "-c", newer, str(tmp_path)], check=True)
    assert reader.get("b", b"k") == b"w"
    reader.close()
    with pytest.raises(IntegrityError, match="none of its tables"):
        Database(tmp_path, ["c", "d"], write=False)


def fill(path: Path) -> Path:
    database = Database(path, ["a"])
    database.write(
        lambda txn: [txn.put("a", b"%04d" % i, b"value %d" % i * 9) for i in range(2000)]
    )
    database.close()
    return path / "data.mdb"


@pytest.mark.parametrize("keep", [1, 4096, 8191, 20000])
def test_a_file_that_is_cut_short_is_noticed_before_it_is_mapped(tmp_path: Path, keep: int) -> None:
    file = fill(tmp_path)
    os.truncate(file, keep)
    with pytest.raises(IntegrityError):
        Database(tmp_path, ["a"])


def test_a_file_of_something_else_is_noticed(tmp_path: Path) -> None:
    file = fill(tmp_path)
    file.write_bytes(os.urandom(file.stat().st_size))
    with pytest.raises(IntegrityError, match="not an LMDB file"):
        Database(tmp_path, ["a"])


def test_an_altered_value_is_never_returned(tmp_path: Path) -> None:
    file = fill(tmp_path)
    data = bytearray(file.read_bytes())
    at = data.index(b"value 1234value")
    data[at] ^= 1
    file.write_bytes(data)
    database = Database(tmp_path, ["a"])
    with database.read() as txn:
        assert txn.get("a", b"0001") is not None
        with pytest.raises(IntegrityError, match="damaged"):
            txn.get("a", b"1234")
    database.close()


@pytest.mark.parametrize("value", [b"", b"v", bytes(9), bytes(range(40))])
def test_each_bit_of_a_row_counts_and_so_does_its_place(tmp_path: Path, value: bytes) -> None:
    with lmdb.open(str(tmp_path), max_dbs=2) as env:
        tables = {name: env.open_db(name.encode()) for name in ("a", "b")}
        with env.begin(write=True) as raw:
            txn = Txn(raw, tables)
            txn.put("a", b"key", value)
            row = raw.get(b"key", db=tables["a"])
            crc = zlib.crc32(b"akey" + value)
            assert row == value + crc.to_bytes(4, "little") and txn.get("a", b"key") == value
            damaged = [row[:size] for size in range(len(row))]
            for bit in range(len(row) * 8):
                flipped = bytearray(row)
                flipped[bit // 8] ^= 1 << bit % 8
                damaged.append(bytes(flipped))
            for other in damaged:
                raw.put(b"key", other, db=tables["a"])
                with pytest.raises(IntegrityError, match="damaged"):
                    txn.get("a", b"key")
            raw.put(b"kez", row, db=tables["a"])
            raw.put(b"key", row, db=tables["b"])
            for table, key in (("a", b"kez"), ("b", b"key")):
                with pytest.raises(IntegrityError, match="damaged"):
                    txn.get(table, key)


@pytest.mark.parametrize(("folder", "table"), [("staging", b"bytes"), ("index", b"copy")])
def test_a_lake_that_no_writer_of_this_release_has_had_is_sound(
    tmp_path: Path, folder: str, table: bytes
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        lake.create_dataset("D", ACTOR)
        put_tree(lake, "D", tree_of_seed(1), tmp_path / "tree")
        commit(lake, "D", "first")
    with lmdb.open(str(tmp_path / "lake" / folder), max_dbs=20) as env:
        database = env.open_db(table)
        with env.begin(write=True) as txn:
            txn.drop(database)
    with Lake.open(tmp_path / "lake", write=False) as lake:
        assert not [found for found in check(lake, read_data=True) if found.severity == ERROR]
        assert read_version(lake, lake.versions("D")[0]) == tree_of_seed(1)
    Lake.open(tmp_path / "lake").close()


def test_a_damaged_page_is_refused_before_lmdb_uses_it(tmp_path: Path) -> None:
    """Every byte of the heads of all pages: LMDB ends the process over some of them."""
    database = Database(tmp_path / "made", ("rows",))
    for number in range(40):
        key = b"%03d" % number
        database.write(lambda txn, key=key: txn.put("rows", key, key * 100))
    database.close()
    data = (tmp_path / "made" / "data.mdb").read_bytes()
    refused = 0
    for place in (page + at for page in range(0, len(data), 4_096) for at in range(0, 24, 3)):
        folder = tmp_path / "copy"
        folder.mkdir(exist_ok=True)
        altered = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        (folder / "data.mdb").write_bytes(altered)
        try:
            opened = Database(folder, ("rows",))
        except IntegrityError:
            refused += 1
            continue
        opened.examine()
        with opened.read() as txn:
            assert txn.count("rows") == 40
        opened.close()
    assert refused > 10
