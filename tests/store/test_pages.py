"""The pages of an LMDB file: every page is in use or free, and a sound file is never refused."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

import pytest

from dtafs.errors import IntegrityError
from dtafs.store.database import Database, Txn

TABLES = ("a", "b")
VALUE_BYTES = (3, 100, 1_500, 9_000, 70_000)
PAGE_BYTES = 4_096


class GaveUp(Exception):
    """Ends a txn without a commit."""


def churn(database: Database, dice: random.Random, txns: int) -> None:
    """Txns of all sizes that put, delete, and now and then give up or empty everything."""
    for _ in range(txns):

        def work(txn: Txn) -> None:
            for _ in range(dice.choice((1, 5, 300))):
                table = dice.choice(TABLES)
                rows = list(txn.scan(table)) if dice.random() < 0.05 else []
                if rows and dice.random() < 0.3:
                    for key, _value in rows:
                        txn.delete(table, key)
                elif rows:
                    txn.delete(table, dice.choice(rows)[0])
                else:
                    txn.put(table, dice.randbytes(20), dice.randbytes(dice.choice(VALUE_BYTES)))
            if dice.random() < 0.1:
                raise GaveUp

        try:
            database.write(work)
        except GaveUp:
            continue
        database.examine()


@pytest.mark.parametrize("seed", range(4))
def test_a_sound_file_is_never_refused(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(3):
        database = Database(tmp_path, TABLES)
        churn(database, dice, 12)
        with database.read() as txn:
            # A state that is being read: its pages are not used again.
            count = txn.count("a")
            next(iter(txn.scan("a")), None)
        assert count >= 0
        database.close()


def free_list(data: bytes) -> range:
    """Where the rows of the free list lie: its pages are those of the tree that a meta page names."""
    metas = [(int.from_bytes(data[at + 144 : at + 152], "little"), at) for at in (0, PAGE_BYTES)]
    root = int.from_bytes(data[max(metas)[1] + 80 : max(metas)[1] + 88], "little")
    page = data[root * PAGE_BYTES : (root + 1) * PAGE_BYTES]
    return range(root * PAGE_BYTES + int.from_bytes(page[14:16], "little"), (root + 1) * PAGE_BYTES)


def test_no_byte_of_the_free_list_is_altered_in_silence(tmp_path: Path) -> None:
    """A page that is given out twice, or lies outside: LMDB would write over what is in use."""
    made, copy = tmp_path / "made", tmp_path / "copy"
    database = Database(made, TABLES)
    churn(database, random.Random(1), 6)
    database.close()
    data = (made / "data.mdb").read_bytes()
    copy.mkdir()
    places = random.Random(0).sample(free_list(data), 40)
    refused = 0
    for place in places:
        for bit in (0, 3, 6):
            altered = data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]
            (copy / "data.mdb").write_bytes(altered)
            try:
                opened = Database(copy, TABLES)
                with closing(opened):
                    opened.examine()
                    churn(opened, random.Random(2), 2)
            except IntegrityError:
                refused += 1
    assert refused > 2 * len(places), "all but the least of when a page was freed"
