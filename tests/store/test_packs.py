"""Packs and objects: what is written reads back, and nothing else does."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import zstandard

from dtafs.core.format import Chunk, Codec, PackKind, pack_key
from dtafs.core.values import Content
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, StorageFullError
from dtafs.store.config import Cache
from dtafs.store.durable import Disk
from dtafs.store.objects import ColdNode, Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import (
    TRIAL_FRAMES,
    FrameEncoder,
    Pack,
    PackWriter,
    Place,
    decode_frame,
    hash_pack,
    read_footer,
)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "tmp").mkdir()
    return Disk(tmp_path)


def write(disk: Disk, *frames: list[bytes], kind: PackKind = PackKind.CONTENT) -> Pack:
    writer = PackWriter(disk, kind)
    for chunks in frames:
        plain = b"".join(chunks)
        codec, stored = FrameEncoder(kind).encode(plain)
        listed = tuple(Chunk(hashlib.sha256(c).digest(), len(c)) for c in chunks)
        writer.add_frame(stored, len(plain), codec, listed)
    return writer.finish(lambda _pack: None)


def objects(disk: Disk, *packs: Pack) -> Objects:
    places = {chunk: place for pack in packs for chunk, place in pack.places()}
    return Objects(PackFiles(disk.root), places.get, Cache(1, 1))


def test_a_closed_table_of_packs_holds_no_descriptor(disk: Disk) -> None:
    pack = write(disk, [b"x"])
    files = PackFiles(disk.root)
    before = len(os.listdir("/proc/self/fd"))
    assert files.read_frame(pack.places()[0][1]) == b"x"
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pack_is_named_by_its_hash_and_describes_itself(disk: Disk) -> None:
    pack = write(disk, [b"a" * 5000, b"b" * 100], [os.urandom(3000)])
    path = disk.root / pack_key(pack.id)
    assert hashlib.sha256(path.read_bytes()).digest() == pack.id == hash_pack(disk.root, pack.id)
    assert read_footer(disk.root, pack.id) == pack
    assert [frame.codec for frame in pack.frames] == [Codec.ZSTD, Codec.RAW]
    assert path.stat().st_mode & 0o777 == 0o444 and list((disk.root / "tmp").iterdir()) == []


def test_writing_the_same_pack_again_is_the_same_pack(disk: Disk) -> None:
    assert write(disk, [b"x" * 100]) == write(disk, [b"x" * 100])


def test_every_chunk_reads_back(disk: Disk) -> None:
    chunks = [os.urandom(n) if n % 2 else bytes(n) for n in range(1, 200, 7)]
    pack = write(disk, chunks[:10], chunks[10:])
    reader = objects(disk, pack)
    for chunk in chunks:
        assert reader.chunk(hashlib.sha256(chunk).digest()) == chunk
    single = Content(len(chunks[5]), hashlib.sha256(chunks[5]).digest())
    assert reader.read(single, 3, 4) == chunks[5][3:7]
    assert reader.read(single, single.size - 2, 10) == chunks[5][-2:]
    assert reader.read(single, single.size, 10) == b""


def test_an_unknown_chunk_and_a_missing_pack_are_integrity_errors(disk: Disk) -> None:
    pack = write(disk, [b"x" * 50])
    with pytest.raises(IntegrityError, match="no pack that the index knows"):
        objects(disk).chunk(bytes(32))
    (disk.root / pack_key(pack.id)).unlink()
    with pytest.raises(IntegrityError, match=f"pack {pack.id.hex()} cannot be read"):
        objects(disk, pack).chunk(hashlib.sha256(b"x" * 50).digest())
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_footer(disk.root, pack.id)


@pytest.mark.parametrize("plain", [b"compressible " * 500, os.urandom(500)])
def test_no_flipped_byte_of_a_frame_ever_gives_other_data(disk: Disk, plain: bytes) -> None:
    pack = write(disk, [plain])
    path, wanted = disk.root / pack_key(pack.id), hashlib.sha256(plain).digest()
    good = path.read_bytes()
    path.chmod(0o644)
    for at in range(16, 16 + pack.frames[0].stored):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        path.write_bytes(bad)
        assert hash_pack(disk.root, pack.id) != pack.id
        try:
            data = objects(disk, pack).chunk(wanted)
        except IntegrityError:
            continue
        assert data == plain  # zstandard ignores a bit or two of its header


def test_swapped_frames_are_noticed(disk: Disk) -> None:
    a, b = os.urandom(400), os.urandom(400)
    pack = write(disk, [a], [b])
    path = disk.root / pack_key(pack.id)
    data = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(data[:16] + b + a + data[816:])
    with pytest.raises(IntegrityError, match="damaged"):
        objects(disk, pack).chunk(hashlib.sha256(a).digest())


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(100 << 20))
    with pytest.raises(IntegrityError, match="another size"):
        decode_frame(bomb, 1000, Codec.ZSTD)
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 << 20))
    with pytest.raises(IntegrityError, match="another size"):
        decode_frame(unsized, 1000, Codec.ZSTD)


def test_a_place_outside_its_pack_is_an_integrity_error(disk: Disk) -> None:
    pack = write(disk, [b"x" * 50])
    place = Place(pack.id, 10_000, 50, 50, Codec.RAW, 0, 50)
    with pytest.raises(IntegrityError, match="ends before"):
        PackFiles(disk.root).read_frame(place)


def test_a_node_is_cold_until_it_was_read(disk: Disk) -> None:
    node = bytes.fromhex("930201 91 93 c420") + bytes(32) + b"\x05\x02"
    pack = write(disk, [node], kind=PackKind.METADATA)
    reader, wanted = objects(disk, pack), hashlib.sha256(node).digest()
    with pytest.raises(ColdNode) as cold:
        reader.cached_node(wanted)
    assert cold.value.id == wanted
    assert reader.node(wanted).level == 1 and reader.cached_node(wanted).level == 1
    reader.clear()
    with pytest.raises(ColdNode):
        reader.cached_node(wanted)


def test_many_packs_can_be_read_with_few_descriptors(disk: Disk) -> None:
    before = len(os.listdir("/proc/self/fd"))
    packs = [write(disk, [b"%d" % i * 20]) for i in range(200)]
    reader = objects(disk, *packs)
    for _round in range(2):
        for i in range(200):
            assert reader.chunk(hashlib.sha256(b"%d" % i * 20).digest()) == b"%d" % i * 20
        reader.clear()
    assert len(os.listdir("/proc/self/fd")) < before + 140


def test_the_level_that_stores_less_is_found() -> None:
    words = [
        b'"name":',
        b'"type":',
        b'"string",',
        b'"required":',
        b"[",
        b"]",
        b"{",
        b"},",
        b" " * 8,
    ]
    json = b"".join(words[i * i % 7] + b"%d" % (i % 97) for i in range(60_000))[:256_000]
    best = min(len(FrameEncoder(PackKind.CONTENT).encode(json)[1]) for _ in range(1))
    encoder = FrameEncoder(PackKind.CONTENT)
    sizes = [len(encoder.encode(json)[1]) for _ in range(TRIAL_FRAMES + 2)]
    assert set(sizes) == {best}
    for codec, stored in (encoder.encode(os.urandom(1000)), encoder.encode(b"x" * 1000)):
        assert decode_frame(stored, 1000, codec)


def test_a_pack_that_a_full_disk_does_not_begin_leaves_nothing(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_where: object, _size: int = 0) -> None:
        raise StorageFullError("no space left on device")

    monkeypatch.setattr(disk, "check_room", full)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StorageFullError):
        PackWriter(disk, PackKind.CONTENT)
    assert len(os.listdir("/proc/self/fd")) == before and not os.listdir(disk.root / "tmp")


def test_a_small_file_that_cannot_be_named_leaves_nothing(disk: Disk) -> None:
    (disk.root / "taken").mkdir()
    with pytest.raises(DtafsError):
        disk.replace(disk.root / "taken", b"x")
    assert not os.listdir(disk.root / "tmp")


def test_a_pack_that_is_gone_is_not_found_for_its_hash(disk: Disk) -> None:
    pack = write(disk, [b"x"])
    (disk.root / pack_key(pack.id)).unlink()
    with pytest.raises(NotFoundError):
        hash_pack(disk.root, pack.id)
