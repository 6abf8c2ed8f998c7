"""Sealing: files become contents that read back, once each, with nothing handed out too early."""

from __future__ import annotations

import hashlib
import io
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from dtafs.core.values import Actor, Content
from dtafs.errors import DtafsError, StorageError, StorageFullError
from dtafs.store import framing
from dtafs.store.durable import Buffer, Disk
from dtafs.store.lake import Lake
from dtafs.store.packs import read_footer
from dtafs.store.sealing import Sealer

ANN = Actor("ann", 1000, "host", "test")


@pytest.fixture
def data_lake(lake: Lake) -> Lake:
    lake.create_dataset("D", ANN)
    lake.create_dataset("E", ANN)
    return lake


def seal(lake: Lake, files: dict[str, bytes], dataset: str = "D") -> dict[str, Content]:
    with Sealer(lake, dataset) as sealer:
        for name, data in files.items():
            sealer.submit(name, lambda data=data: io.BytesIO(data), len(data))
        results = sealer.flush()
    assert all(result.error is None for result in results)
    return {str(result.key): result.content for result in results if result.content is not None}


def read(lake: Lake, content: Content) -> bytes:
    return b"".join(lake.objects.stream(content))


def pack_bytes(lake: Lake) -> int:
    return sum(p.stat().st_size for p in (lake.path / "packs").rglob("*") if p.is_file())


SIZES = [0, 1, 100, 16384, 16385, 65536, 262144, 300_000, 4 << 20, (4 << 20) + 1, 9_000_001]


@pytest.mark.parametrize(
    "make", [os.urandom, bytes, lambda n: (b"row,of,a,table\n" * (n // 15 + 1))[:n]]
)
def test_every_size_reads_back(data_lake: Lake, make: Callable[[int], bytes]) -> None:
    files = {str(n): make(n) for n in SIZES}
    contents = seal(data_lake, files)
    data_lake.objects.clear()
    for name, data in files.items():
        content = contents[name]
        assert content.size == len(data) and content.sha256 == hashlib.sha256(data).digest()
        assert read(data_lake, content) == data
        for _ in range(5):
            at, size = random.randrange(len(data) + 1), random.randrange(70_000)
            assert data_lake.objects.read(content, at, size) == data[at : at + size]
    assert contents["0"] == Content(0, hashlib.sha256(b"").digest())
    assert contents["100"].chunk_list == b"" and contents["9000001"].chunk_list != b""


def test_a_file_is_the_same_content_however_it_is_read(data_lake: Lake) -> None:
    data = random.Random(3).randbytes(5_000_000)

    class Dribble(io.BytesIO):
        def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
            return super().readinto(buffer[: random.randrange(1, 600_000)])

    with Sealer(data_lake, "D") as sealer:
        sealer.submit(1, lambda: Dribble(data), len(data))
        (result,) = sealer.flush()
    assert result.content == seal(data_lake, {"x": data})["x"]


def test_what_the_lake_has_is_not_stored_again(data_lake: Lake) -> None:
    data = os.urandom(3_000_000)
    seal(data_lake, {"a": data})
    before = pack_bytes(data_lake)
    same = seal(data_lake, {"b": data, "c": data[:2_000_000] + b"!" + data[2_000_000:]})
    assert pack_bytes(data_lake) - before < 600_000
    assert read(data_lake, same["b"]) == data


def test_a_known_content_spares_a_hash_and_nothing_else(data_lake: Lake) -> None:
    """What a file may have is believed only where the chunks say so."""
    random_bytes = random.Random(7).randbytes
    old, new, short = random_bytes(700_000), random_bytes(700_000), random_bytes(9_000)
    known = seal(data_lake, {"old": old})["old"]
    with Sealer(data_lake, "D") as sealer:
        for name, data in {"same": old, "other": new, "longer": old + b"!", "short": short}.items():
            sealer.submit(name, lambda data=data: io.BytesIO(data), len(data), known)
        found = {str(result.key): result.content for result in sealer.flush()}
    assert found["same"] is known
    for name, data in {"other": new, "longer": old + b"!", "short": short}.items():
        content = found[name]
        assert content is not None and content.sha256 == hashlib.sha256(data).digest()
        assert read(data_lake, content) == data


def test_a_dataset_does_not_rely_on_what_another_only_staged(data_lake: Lake) -> None:
    data = os.urandom(500_000)
    seal(data_lake, {"a": data}, "D")
    content = seal(data_lake, {"a": data}, "E")["a"]
    assert data_lake.pending is not None
    for dataset in "DE":
        held = set()
        for pack in data_lake.pending.packs(dataset):
            held |= {chunk for chunk, _place in read_footer(data_lake.path, pack).places()}
        assert {piece.id for piece in data_lake.objects.pieces(content)} <= held


def test_small_files_share_frames(data_lake: Lake) -> None:
    seal(data_lake, {str(i): b"%d " % i * 200 for i in range(500)})
    assert data_lake.pending is not None
    packs = [read_footer(data_lake.path, p) for p in data_lake.pending.packs("D")]
    frames = [frame for pack in packs for frame in pack.frames]
    assert sum(len(frame.chunks) for frame in frames) == 500
    assert len(frames) <= 500 * 1000 // framing.FRAME_BYTES + 4


def test_a_source_that_fails_fails_alone(data_lake: Lake) -> None:
    def broken() -> io.BytesIO:
        raise FileNotFoundError(2, "No such file or directory", "gone.csv")

    class Untrusted(io.BytesIO):
        def close(self) -> None:
            super().close()
            raise DtafsError("it changed while it was read")

    with Sealer(data_lake, "D") as sealer:
        sealer.submit("broken", broken)
        sealer.submit("untrusted", lambda: Untrusted(b"x"))
        sealer.submit("good", lambda: io.BytesIO(b"y"))
        results = {r.key: r for r in sealer.flush()}
    assert "gone.csv" in str(results["broken"].error) and results["broken"].content is None
    assert "changed" in str(results["untrusted"].error) and results["untrusted"].content is None
    assert results["good"].error is None


class FullDisk(Disk):
    """A disk that takes so many bytes more."""

    room = 0

    def write(self, fd: int, data: Buffer, offset: int) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise StorageFullError(
                "writing: No space left on device; free some space and try again"
            )
        super().write(fd, data, offset)


def test_a_full_disk_hands_out_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lake"
    disk = FullDisk(path)
    disk.room = 10 << 20
    with Lake.create(path, disk=disk) as lake:
        lake.create_dataset("D", ANN)
        disk.room = 300_000
        with Sealer(lake, "D") as sealer:
            for i in range(40):
                data = os.urandom(100_000)
                sealer.submit(i, lambda data=data: io.BytesIO(data), len(data))
            with pytest.raises(StorageFullError, match="free some space"):
                sealer.flush()
        assert list((path / "tmp").iterdir()) == []
        disk.room = 100 << 20
        assert read(lake, seal(lake, {"x": b"works again" * 9000})["x"]) == b"works again" * 9000


def test_many_packs_are_finished_on_the_way(
    data_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framing, "PACK_BYTES", 1 << 20)
    files = {str(i): os.urandom(400_000) for i in range(20)}
    contents = seal(data_lake, files)
    assert data_lake.pending is not None and len(data_lake.pending.packs("D")) >= 5
    for name, data in files.items():
        assert read(data_lake, contents[name]) == data


@pytest.mark.parametrize("buffer_bytes", [1, 3 << 20, 1 << 40])
def test_the_size_of_a_read_does_not_change_the_content(data_lake: Lake, buffer_bytes: int) -> None:
    data = random.Random(7).randbytes(5_000_000)
    with Sealer(data_lake, "D", buffer_bytes=buffer_bytes) as sealer:
        sealer.submit(1, lambda: io.BytesIO(data), len(data))
        (result,) = sealer.flush()
    assert result.content == seal(data_lake, {"x": data})["x"]


def test_a_collection_does_not_wait_for_a_sealer_that_failed_to_clear_up(
    data_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_pack: framing.OpenPack) -> None:
        raise StorageError("the disk is gone")

    monkeypatch.setattr(framing.OpenPack, "discard", broken)
    with pytest.raises(StorageError, match="gone"), Sealer(data_lake, "D"):
        pass
    users = data_lake.condemned.users
    assert users.await_older(users.moment(), 0)
