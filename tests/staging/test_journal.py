"""The journal: what comes back after each kind of damage that a crash can and cannot do."""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path

import pytest

from dtafs.errors import IntegrityError, StorageError, StorageFullError
from dtafs.store.durable import Buffer, Disk
from dtafs.store.staging.journal import FILES, MARK, Journal, read_journal


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


def synced(tmp_path: Path, position: int = 0) -> Journal:
    """A journal of which all is synced."""
    j = journal(tmp_path, position)
    j.append(b"one")
    j.append(b"two")
    j.sync()
    return j


@pytest.mark.parametrize("place", range(54))
def test_no_byte_of_what_was_synced_is_lost_in_silence(tmp_path: Path, place: int) -> None:
    """The last record, too, after which nothing says that it was synced; cut there, or flipped."""
    synced(tmp_path).close()
    file = tmp_path / FILES[0]
    data = file.read_bytes()
    for damaged in (data[:place], data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]):
        file.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="which a sync had passed"):
            payloads(tmp_path)
    file.unlink()
    with pytest.raises(IntegrityError, match="position 0"):
        payloads(tmp_path)


def test_what_came_after_the_sync_may_be_torn(tmp_path: Path) -> None:
    j = synced(tmp_path)
    j.append(b"three")
    j.close()
    file = tmp_path / FILES[0]
    file.write_bytes(file.read_bytes()[:-1])
    assert payloads(tmp_path) == [b"one", b"two"]


def test_the_mark_is_these_bytes_and_only_a_whole_one_counts(tmp_path: Path) -> None:
    synced(tmp_path, 1 << 40).close()
    file = tmp_path / MARK
    data = file.read_bytes()
    rest = struct.pack("<IQ", 1, (1 << 40) + 54)
    assert data == struct.pack("<I", zlib.crc32(rest)) + rest
    (tmp_path / FILES[0]).write_bytes(b"")
    with pytest.raises(IntegrityError):
        payloads(tmp_path, 1 << 40)
    later = struct.pack("<IQ", 2, (1 << 40) + 54)  # of a program that is to come
    for other in (
        *(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :] for at in range(len(data))),
        *(b"", data[:-1], data + b"0", bytes(len(data))),
        struct.pack("<I", zlib.crc32(later)) + later,
    ):
        file.write_bytes(other)
        assert payloads(tmp_path, 1 << 40) == []


def test_a_journal_of_before_has_no_mark(tmp_path: Path) -> None:
    synced(tmp_path).close()
    (tmp_path / MARK).unlink()
    assert payloads(tmp_path) == [b"one", b"two"]


def test_lmdb_that_fell_back_is_noticed(tmp_path: Path) -> None:
    j = synced(tmp_path)
    flushed = j.switch()
    j.mark_safe(flushed)
    j.drop()
    j.close()
    assert payloads(tmp_path, flushed) == []
    with pytest.raises(IntegrityError, match="position 0"):
        payloads(tmp_path)


class FailingDisk(Disk):
    """Does not sync as long as it is told so."""

    fails = False

    def sync(self, fd: int) -> None:
        if self.fails:
            raise StorageError("the disk has failed")
        super().sync(fd)


def test_a_failed_sync_is_not_made_good_by_asking_again(tmp_path: Path) -> None:
    disk = FailingDisk(tmp_path)
    j = Journal(disk, tmp_path, 0)
    j.append(b"one")
    disk.fails = True
    with pytest.raises(StorageError, match="has failed"):
        j.sync()
    disk.fails = False
    j.append(b"two")
    for _ in range(2):
        with pytest.raises(StorageError, match="lost a part"):
            j.sync()
    assert j.is_doubtful
    j.mark_safe(26)  # not all that was lost
    assert j.is_doubtful
    j.mark_safe(j.switch())
    j.drop()
    j.append(b"three")
    j.sync()
    j.close()
    assert payloads(tmp_path, 54) == [b"three"]


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
