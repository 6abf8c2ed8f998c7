"""The journal: what comes back after each kind of damage that a crash can and cannot do."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from dtafs.errors import IntegrityError, StorageFullError
from dtafs.store.durable import Buffer, Disk
from dtafs.store.staging.journal import FILES, Journal, read_journal


def journal(tmp_path: Path, position: int = 0) -> Journal:
    return Journal(Disk(tmp_path), tmp_path, position)


def payloads(tmp_path: Path, flushed: int = 0) -> list[bytes]:
    return [record.payload for record in read_journal(tmp_path, flushed)]


def test_what_was_appended_comes_back_in_order_across_both_files(tmp_path: Path) -> None:
    j = journal(tmp_path)
    j.append(b"one")
    j.append(b"two")
    flushed = j.switch()
    j.append(b"three")
    assert payloads(tmp_path) == [b"one", b"two", b"three"]
    assert payloads(tmp_path, flushed) == [b"three"]
    j.drop()
    assert payloads(tmp_path, flushed) == [b"three"]
    j.switch()
    j.append(b"four")
    assert payloads(tmp_path, flushed) == [b"three", b"four"]
    j.close()


@pytest.mark.parametrize("cut", range(1, 28))
def test_a_torn_tail_is_ignored(tmp_path: Path, cut: int) -> None:
    j = journal(tmp_path)
    j.append(b"one")
    j.append(b"four")
    j.close()
    file = tmp_path / FILES[0]
    file.write_bytes(file.read_bytes()[:-cut])
    assert payloads(tmp_path) == [b"one"]
    file.write_bytes(file.read_bytes() + bytes(100))
    assert payloads(tmp_path) == [b"one"]


def test_nothing_after_a_lost_record_is_believed(tmp_path: Path) -> None:
    j = journal(tmp_path)
    for payload in (b"one", b"two", b"three"):
        j.append(payload)
    j.close()
    file = tmp_path / FILES[0]
    data = bytearray(file.read_bytes())
    data[30] ^= 1
    file.write_bytes(data)
    assert payloads(tmp_path) == [b"one"]


def test_damage_to_what_was_synced_is_an_error(tmp_path: Path) -> None:
    j = journal(tmp_path)
    j.append(b"one")
    j.append(b"two")
    j.sync()
    j.append(b"three")
    j.close()
    file = tmp_path / FILES[0]
    data = bytearray(file.read_bytes())
    data[30] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match="journal is damaged at position 27"):
        payloads(tmp_path)


def test_a_lost_first_file_takes_the_second_with_it(tmp_path: Path) -> None:
    j = journal(tmp_path)
    j.append(b"one")
    j.switch()
    j.append(b"two")
    j.close()
    (tmp_path / FILES[0]).write_bytes(b"")
    assert payloads(tmp_path) == []


def test_records_that_lmdb_has_are_passed_over_even_as_garbage(tmp_path: Path) -> None:
    j = journal(tmp_path)
    j.append(b"one")
    flushed = j.switch()
    j.append(b"two")
    j.close()
    file = tmp_path / FILES[0]
    file.write_bytes(bytes(11) + file.read_bytes()[11:])
    assert payloads(tmp_path, flushed) == [b"two"]


class FullDisk(Disk):
    """Writes half of what it is given, then has no room."""

    full = False

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        if self.full:
            super().write(fd, bytes(data)[: len(data) // 2], offset)
            raise StorageFullError(str(errno.ENOSPC))
        super().write(fd, data, offset)


def test_an_append_without_room_leaves_nothing(tmp_path: Path) -> None:
    disk = FullDisk(tmp_path)
    j = Journal(disk, tmp_path, 0)
    j.append(b"one")
    disk.full = True
    with pytest.raises(StorageFullError):
        j.append(b"a longer one")
    disk.full = False
    j.append(b"two")
    j.close()
    assert payloads(tmp_path) == [b"one", b"two"]
