"""Sealing by layers: what is patched, appended to or full of holes becomes the content that reading
the whole file would give, and of what is sealed already nothing is stored or taken on trust."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.core.values import Actor, Content, Kind
from dtafs.errors import IntegrityError
from dtafs.store import resealing
from dtafs.store.commit import commit, prepare
from dtafs.store.lake import Lake
from dtafs.store.packs import read_footer
from dtafs.store.sealing import Sealer
from dtafs.store.staging.staging import Opener, Staging

ANN = Actor("ann", 1000, "host", "test")
MIB = 1 << 20


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


class File:
    """One staged file of a lake beside the bytes that it should have."""

    def __init__(self, path: Path) -> None:
        self.path, self.data, self.clock = path, bytearray(), 0
        self.lake = Lake.open(path)
        if self.lake.index.dataset("D") is None:
            self.lake.create_dataset("D", ANN)
            self.lake.create_dataset("WHOLE", ANN)

    @property
    def staging(self) -> Staging:
        return self.lake.staging("D")

    def _open(self) -> tuple[Staging, int, int]:
        staging, self.clock = self.staging, self.clock + 1
        found = staging.lookup(staging.root_ino, b"file")
        if found is None:
            found = staging.make(staging.root_ino, b"file", Kind.FILE, 0o644, 7, 8, self.clock)
        return staging, found.ino, staging.open(found.ino, True, Opener(1, "test"))

    def write(self, offset: int, data: bytes) -> None:
        staging, ino, handle = self._open()
        os.pwrite(staging.begin_write(ino), data, offset)
        staging.wrote(ino, offset, len(data), self.clock)
        staging.close(handle)
        self.data.extend(bytes(max(0, offset - len(self.data))))
        self.data[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        staging, ino, handle = self._open()
        staging.truncate(ino, size, self.clock)
        staging.close(handle)
        self.data[size:] = bytes(max(0, size - len(self.data)))

    def seal(self) -> Content:
        """Seal in the background; what came of it."""
        prepare(self.lake, "D")
        staging = self.staging
        node = staging.lookup(staging.root_ino, b"file")
        assert node is not None and not list(staging.unsealed())
        row = staging._overlay.find_row(node.ino)
        assert row is not None and row.whole_content is not None
        return row.whole_content

    def commit(self) -> None:
        commit(self.lake, "D", "c", ANN, allow_empty=True)

    def reopen(self) -> None:
        self.lake.close()
        self.lake = Lake.open(self.path)

    def as_a_whole(self) -> Content:
        """The content that a file with these bytes gets when all of it is read."""
        with Sealer(self.lake, "WHOLE") as sealer:
            sealer.submit(0, lambda: io.BytesIO(self.data))
            (result,) = sealer.flush()
        assert result.content is not None
        return result.content

    def pending_bytes(self) -> int:
        assert self.lake.pending is not None
        packs = self.lake.pending.packs("D")
        return sum(read_footer(self.path, pack).size for pack in packs)


@pytest.fixture
def file(lake_path: Path) -> Iterator[File]:
    opened = File(lake_path)
    yield opened
    opened.lake.close()


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many kept chunks were decoded, run by run."""
    counts: list[int] = []
    decode = resealing._decode

    def counting(lake: Lake, chunks: list[tuple]) -> list[memoryview]:
        counts.append(len(chunks))
        return decode(lake, chunks)

    monkeypatch.setattr(resealing, "_decode", counting)
    return counts


@pytest.mark.parametrize("seed", range(6))
def test_any_history_gives_the_content_of_the_whole_file(file: File, seed: int) -> None:
    rng = random.Random(seed)
    for step in range(25):
        size = len(file.data)
        match rng.choice(["patch", "patch", "append", "grow", "cut", "seal", "commit", "reopen"]):
            case "patch":
                at = rng.randrange(size + 1)
                file.write(at, noise(rng.choice([1, 5_000, 700_000]), step))
            case "append":
                file.write(size, noise(rng.choice([1, 100, MIB]), step))
            case "grow":
                file.truncate(size + rng.choice([1, 3 * MIB]))
            case "cut":
                file.truncate(max(0, size - rng.randrange(2 * MIB)))
            case "seal":
                assert file.seal() == file.as_a_whole()
            case "commit":
                file.commit()
            case "reopen":
                file.reopen()
    assert file.seal() == file.as_a_whole()
    file.commit()


@pytest.mark.parametrize("reopened", [False, True])
def test_an_append_stores_what_it_adds(file: File, decoded: list[int], reopened: bool) -> None:
    """Also where the process does not know the hash of what was there: then that is decoded."""
    file.write(0, noise(20 * MIB, 1))
    file.commit()
    if reopened:
        file.reopen()
    file.write(20 * MIB, noise(MIB, 2))
    assert file.seal() == file.as_a_whole()
    assert MIB < file.pending_bytes() < 1.5 * MIB
    assert sum(decoded) > 200 if reopened else not decoded


def test_one_append_after_the_other_hashes_only_what_it_adds(
    file: File, decoded: list[int]
) -> None:
    file.write(0, noise(8 * MIB, 1))
    file.commit()
    file.reopen()
    for number in range(4):
        file.write(len(file.data), noise(100_000, number))
        assert file.seal() == file.as_a_whole()
        file.commit()
        if number == 0:
            assert decoded  # a new process has to hash what was there once
            decoded.clear()
    assert not decoded


def test_the_hash_goes_on_only_where_the_beginning_is_the_same(
    file: File, decoded: list[int]
) -> None:
    file.write(0, noise(8 * MIB, 1))
    file.commit()
    file.write(8 * MIB, noise(10, 2))
    file.write(MIB, b"!")
    assert file.seal() == file.as_a_whole()
    file.truncate(7 * MIB)
    assert file.seal() == file.as_a_whole()
    assert decoded


def test_kept_chunks_are_checked_before_they_are_hashed(lake_path: Path) -> None:
    file = File(lake_path)
    file.write(0, noise(4 * MIB, 1))
    file.commit()
    file.reopen()
    packs = [p for p in (lake_path / "packs").rglob("*") if p.is_file()]
    largest = max(packs, key=lambda p: p.stat().st_size)
    intact = largest.read_bytes()
    largest.chmod(0o644)
    largest.write_bytes(intact[: 2 * MIB] + bytes(100) + intact[2 * MIB + 100 :])
    file.write(4 * MIB, b"more")
    with pytest.raises(IntegrityError, match="damaged"):
        file.commit()
    largest.write_bytes(intact)
    assert file.seal() == file.as_a_whole()
    file.lake.close()


def test_holes_cost_nothing_but_the_hash(file: File, decoded: list[int]) -> None:
    file.truncate(300 * MIB)
    file.write(100 * MIB + 3, noise(MIB, 1))
    assert file.seal() == file.as_a_whole()
    assert file.pending_bytes() < 2 * MIB
    file.commit()
    file.reopen()
    file.write(200 * MIB, noise(10, 2))
    file.seal()
    assert sum(decoded) < 30  # chunks of zeros are hashed from memory


def test_many_patches_at_once(file: File) -> None:
    file.write(0, noise(6 * MIB, 1))
    file.commit()
    file.reopen()
    for at in range(0, 6 * MIB, 40_000):
        file.write(at, b"patch")
    assert file.seal() == file.as_a_whole()
