"""Rows on their way from memory to LMDB: in several txns, in whichever place a reader finds them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dtafs.errors import IntegrityError, StorageError
from dtafs.store.database import Database
from dtafs.store.durable import Disk
from dtafs.store.staging import tables as module
from dtafs.store.staging.batch import Put
from dtafs.store.staging.rows import TABLES
from dtafs.store.staging.tables import Tables

TXN_ROWS = 5


class Store:
    """Tables in a directory that can be opened again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open()

    def open(self) -> None:
        self.database = Database(self.directory, TABLES)
        self.tables = Tables(Disk(self.directory), self.directory, self.database)

    def kill(self) -> None:
        """What the death of the process leaves."""
        self.tables._journal.close()
        self.database.close()
        self.open()

    def close(self) -> None:
        self.tables.close()
        self.database.close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(module, "TXN_ROWS", TXN_ROWS)
    monkeypatch.setattr(module, "SCAN_FIRST_ROWS", 2)
    monkeypatch.setattr(module, "SCAN_ROWS", 3)
    return Store(tmp_path)


def some(dice: random.Random, model: dict[bytes, bytes]) -> list[Put]:
    """Changes to rows of one owner, also made in the model."""
    puts: list[Put] = []
    for _ in range(dice.randrange(1, 30)):
        rest = b"%02d" % dice.randrange(60)
        value = dice.choice((None, dice.randbytes(3)))
        puts.append(("dentry", b"owner", rest, value))
        if value is None:
            model.pop(rest, None)
        else:
            model[rest] = value
    return puts


@pytest.mark.parametrize("seed", range(20))
def test_a_scan_sees_all_places_at_once(store: Store, seed: int) -> None:
    dice, model = random.Random(seed), dict[bytes, bytes]()
    for _ in range(6):
        store.tables.apply(some(dice, model))
        dice.choice((store.tables.flush, store.kill, lambda: None))()
        start = b"%02d" % dice.randrange(60)
        expected = sorted(row for row in model.items() if row[0] >= start)
        assert list(store.tables.scan("dentry", b"owner", start)) == expected
        assert store.tables.first("dentry", b"owner", start) == (expected or [None])[0]
        assert store.tables.some("dentry", b"owner", start)[:1] == expected[:1]
        assert all(store.tables.get("dentry", b"owner", k) == v for k, v in model.items())
    store.close()


@pytest.mark.parametrize("txns", range(5))
def test_a_flush_that_ends_between_two_txns_is_made_again(
    store: Store, txns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, model = random.Random(txns), dict[bytes, bytes]()
    for _ in range(4):
        store.tables.apply(some(dice, model))
    synced: list[int] = []
    sync, write, left = store.tables._journal.sync, Database.write, [txns]

    def fail(database: Database, function: object) -> object:
        if not left[0]:
            raise StorageError("the disk is gone")
        assert synced, "rows are in LMDB of which the journal may lose the rest"
        left[0] -= 1
        return write(database, function)  # type: ignore[arg-type]

    monkeypatch.setattr(store.tables._journal, "sync", lambda: (synced.append(1), sync()))
    with monkeypatch.context() as patched:
        patched.setattr(Database, "write", fail)
        with pytest.raises(StorageError):
            store.tables.flush()
    assert dict(store.tables.scan("dentry", b"owner")) == model
    if txns % 2:
        store.kill()
    else:
        store.tables.flush()
    with store.database.read() as txn:
        assert {key[5:]: value for key, value in txn.scan("dentry")} == model
    store.close()


def test_what_the_journal_could_not_sync_goes_to_lmdb(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, model = random.Random(1), dict[bytes, bytes]()
    tables, txns = store.tables, list[int]()
    for _ in range(4):
        tables.apply(some(dice, model))

    def fail(_disk: Disk, _fd: int) -> None:
        raise StorageError("the disk has failed")

    with monkeypatch.context() as patched:
        patched.setattr(Disk, "sync", fail)
        with pytest.raises(StorageError, match="has failed"):
            tables.sync()
    write = Database.write
    monkeypatch.setattr(Database, "write", lambda d, f: (txns.append(1), write(d, f))[1])
    tables.sync()
    assert len(txns) == 1, "a crash between two txns would find a part of the journal"
    tables.apply(some(dice, model))
    tables.sync()
    assert len(txns) == 1
    with store.database.read() as txn:
        assert txn.count("dentry")
    store.kill()
    assert dict(store.tables.scan("dentry", b"owner")) == model
    store.close()


def test_a_state_of_lmdb_that_is_older_than_what_was_promised_is_refused(store: Store) -> None:
    """One flipped bit in the newer of its two meta pages, and LMDB takes the other for the newest."""
    dice, model = random.Random(2), dict[bytes, bytes]()
    store.tables.apply(some(dice, model))
    store.tables.flush()
    file = store.directory / "data.mdb"
    older = file.read_bytes()
    store.tables.apply(some(dice, model))
    store.close()
    file.write_bytes(older)
    with pytest.raises(IntegrityError, match="which a sync had passed"):
        store.open()
