"""Parity files: their bytes, what they mend, and what becomes of them in a lake."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dtafs.core import parity as shape
from dtafs.errors import IntegrityError, NotFoundError, UsageError
from dtafs.store.check import check
from dtafs.store.collect import collect
from dtafs.store.durable import Disk
from dtafs.store.lake import Lake
from dtafs.store.parity import ParityFile, Read, write_parity
from dtafs.store.parity_upkeep import parity_files
from dtafs.store.repair import repair
from dtafs.store.stats import collect_stats
from tests.core.test_format import example_pack
from tests.support.collecting import AT_ONCE, assert_whole, big, packs_of
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    (tmp_path / "tmp").mkdir()
    return Disk(tmp_path)


def reading(data: bytes) -> Read:
    return lambda offset, size: data[offset : offset + size]


def make(disk: Disk, data: bytes, percent: int = 2) -> bytes:
    """The parity of some bytes, under the name that a pack of them has; that name."""
    pack = hashlib.sha256(data).digest()
    temp = write_parity(disk, reading(data), len(data), pack, percent)
    disk.make_directory((disk.root / shape.parity_key(pack)).parent)
    assert temp.publish(disk.root / shape.parity_key(pack))
    return pack


def mended(disk: Disk, pack: bytes, damaged: bytes) -> bytes | None:
    """What the parity makes of damaged bytes."""
    with ParityFile(disk.root, pack) as parity:
        temp = parity.mend(disk, reading(damaged))
    if temp is None:
        return None
    data = temp.read(0, temp.size)
    temp.discard()
    return data


def test_the_example_of_the_format(disk: Disk) -> None:
    pack = make(disk, example_pack())
    data = (disk.root / shape.parity_key(pack)).read_bytes()
    padded = example_pack().ljust(256, b"\0")
    assert data[:8] == bytes.fromhex("89 64 74 61 70 61 72 0a")
    assert data[8:12] == bytes([1, 1, 4, 0])
    assert data[12:24] == bytes.fromhex("00 01 00 00  6e 00 00 00 00 00 00 00")
    assert data[24:56] == pack
    assert data[56:96] == hashlib.sha256(padded).digest()[:8] * 5
    assert data[96:128] == hashlib.sha256(data[:96]).digest()
    assert data[128:] == padded * 4
    assert len(data) == 1_152


def test_golden_parity(disk: Disk) -> None:
    """The very code: another Reed-Solomon would not mend what this one wrote."""
    data = random.Random(1).randbytes(60_000)
    pack = make(disk, data)
    found = (disk.root / shape.parity_key(pack)).read_bytes()
    assert len(found) == 56 + 204 * 8 + 32 + 4 * 300
    assert hashlib.sha256(found).hexdigest() == GOLDEN


GOLDEN = "f1153b7b1a9b9c69b8f5386fe229c8c90154df70df48681df70c67c1488d45b5"


def _field() -> tuple[list[int], dict[int, int]]:
    """Powers of 2 in GF(2^8) modulo 0x11d, and their logarithms."""
    powers, value = [], 1
    for _ in range(255):
        powers.append(value)
        value = value << 1 ^ (0x11D if value & 0x80 else 0)
    return powers, {power: i for i, power in enumerate(powers)}


def test_parity_is_what_the_format_says(disk: Disk) -> None:
    """A second implementation, from the words of the format: interpolation, a byte at a time."""
    data = random.Random(6).randbytes(3_000)
    path = disk.root / shape.parity_key(make(disk, data))
    shard, count, extra = shape.layout(len(data), 2)
    parity = path.read_bytes()[-extra * shard :]
    powers, logs = _field()
    points = [0, *powers]

    def times(a: int, b: int) -> int:
        return powers[(logs[a] + logs[b]) % 255] if a and b else 0

    def over(a: int, b: int) -> int:
        return powers[(logs[a] - logs[b]) % 255] if a else 0

    for column in (0, 17, shard - 1):
        values = [data.ljust(count * shard, b"\0")[i * shard + column] for i in range(count)]
        for j in range(extra):
            total = 0
            for i, value in enumerate(values):
                for other in range(count):
                    if other != i:
                        value = times(value, points[count + j] ^ points[other])
                        value = over(value, points[i] ^ points[other])
                total ^= value
            assert parity[j * shard + column] == total


def test_a_region_of_one_percent_touches_what_can_be_mended() -> None:
    """The layout alone, for every size up to some, every percentage, every offset that matters."""
    sizes = [*range(1, 3_000), *range(51_000, 52_000, 7), 1 << 20, (32 << 20) + 17, (1 << 30) + 1]
    for size in sizes:
        for percent in (1, 2, 7, 25):
            shard, data, extra = shape.layout(size, percent)
            assert data <= 200 and data + extra <= 256 and data * shard >= size
            region = min(size, shape.mendable_bytes(size, percent))
            assert region >= min(size, percent * size / 200), "half of the percentage"
            # The worst place to begin is the last byte of a shard.
            assert 1 + -(-max(0, region - 1) // shard) <= extra


def test_every_offset_of_a_small_pack(disk: Disk) -> None:
    data = random.Random(2).randbytes(2_500)
    pack = make(disk, data)
    region = shape.mendable_bytes(len(data), 2)
    assert region >= len(data) // 100
    for start in range(1 - region, len(data)):
        low, high = max(0, start), min(len(data), start + region)
        damaged = data[:low] + bytes(b ^ 0x55 for b in data[low:high]) + data[high:]
        assert mended(disk, pack, damaged) == data, start
    for cut in range(0, region + 1, 13):
        assert mended(disk, pack, data[: len(data) - cut]) == data


def test_random_regions_of_a_larger_pack(disk: Disk) -> None:
    dice = random.Random(3)
    data = dice.randbytes(1_234_567)
    pack = make(disk, data)
    region = len(data) // 100
    for _ in range(40):
        start = dice.randrange(len(data) - region)
        damaged = data[:start] + dice.randbytes(region) + data[start + region :]
        assert mended(disk, pack, damaged) == data
    assert mended(disk, pack, data[:-region]) == data, "the footer and the trailer were cut off"
    assert mended(disk, pack, data + b"more") == data
    assert mended(disk, pack, data[5 * region :]) is None


@settings(max_examples=150)
@given(data=st.data(), percent=st.integers(1, shape.PERCENT_MAX), seed=st.integers(0, 1 << 32))
def test_any_damage_is_mended_or_refused(
    data: st.DataObject, percent: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / "tmp").mkdir()
    disk, dice = Disk(root), random.Random(seed)
    whole = dice.randbytes(data.draw(st.integers(1, 80_000)))
    pack = make(disk, whole, percent)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(whole) - 1))
        size = data.draw(st.integers(0, 2 * shape.mendable_bytes(len(whole), percent)))
        damaged[start : start + size] = dice.randbytes(len(damaged[start : start + size]))
    damaged = damaged[: data.draw(st.integers(0, len(whole)))]
    shard, count, extra = shape.layout(len(whole), percent)
    padded, good = bytes(damaged).ljust(len(whole), b"\0"), 0
    for i in range(count):
        good += padded[i * shard : (i + 1) * shard] == whole[i * shard : (i + 1) * shard]
    found = mended(disk, pack, bytes(damaged))
    assert found == (whole if count - good <= extra else None)


def test_damage_to_the_parity_itself(disk: Disk) -> None:
    """It is found, and what is sound of the parity still mends."""
    data = random.Random(4).randbytes(100_000)
    pack = make(disk, data)
    path = disk.root / shape.parity_key(pack)
    intact = path.read_bytes()
    head = 56 + 204 * 8 + 32
    for at in (*range(0, head, 41), head, head + 700, len(intact) - 1):
        altered = bytearray(intact)
        altered[at] ^= 4
        path.chmod(0o644)
        path.write_bytes(altered)
        with pytest.raises(IntegrityError), ParityFile(disk.root, pack) as parity:
            parity.verify()
        if at >= head:  # three of its four shards are left
            assert mended(disk, pack, bytes(1_500) + data[1_500:]) == data
    for cut in (0, 10, head - 1, head + 5, len(intact) - 1):
        path.write_bytes(intact[:cut])
        with pytest.raises(IntegrityError), ParityFile(disk.root, pack):
            pass
    path.write_bytes(intact)
    other = hashlib.sha256(b"another").digest()
    (disk.root / shape.parity_key(other)).parent.mkdir(exist_ok=True)
    path.rename(disk.root / shape.parity_key(other))
    with pytest.raises(IntegrityError, match="parity of another pack"):
        ParityFile(disk.root, other)
    with pytest.raises(NotFoundError):
        ParityFile(disk.root, pack)


@given(st.binary(max_size=400))
def test_a_head_of_garbage(data: bytes) -> None:
    for garbage in (data, shape.PARITY_MAGIC + data, shape.PARITY_MAGIC + b"\1" + data):
        with pytest.raises(IntegrityError):
            shape.decode_parity_head(garbage)


def test_memory_is_bounded(disk: Disk) -> None:
    block = random.Random(5).randbytes(1 << 20)
    size = (65 << 20) + 11
    digest = hashlib.sha256()

    def read(offset: int, count: int) -> bytes:
        """A file of `size` bytes that repeats, each MiB altered by its number."""
        parts, end = [], min(size, offset + count)
        while offset < end:
            at, number = offset % (1 << 20), offset >> 20
            part = block[at : at + end - offset]
            if at < 8:
                part = (number.to_bytes(8, "big") + block[8:])[at : at + end - offset]
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    for start in range(0, size, 1 << 20):
        digest.update(read(start, 1 << 20))
    pack = digest.digest()
    tracemalloc.start()
    temp = write_parity(disk, read, size, pack, 2)
    disk.make_directory((disk.root / shape.parity_key(pack)).parent)
    temp.publish(disk.root / shape.parity_key(pack))
    bad = size // 3, size // 3 + size // 100
    with ParityFile(disk.root, pack) as parity:
        out = parity.mend(
            disk, lambda at, n: read(at, n) if at + n <= bad[0] or at >= bad[1] else bytes(n)
        )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out is not None and out.size == size
    out.discard()
    assert peak < 40 << 20, f"{peak >> 20} MiB"


@pytest.mark.parametrize("text", ["0", "26%", "-1", "", "%", "two", "1.5%", "²"])
def test_a_bad_percentage(text: str) -> None:
    with pytest.raises(UsageError):
        shape.parse_percent(text)


def test_the_feature_of_the_superblock() -> None:
    assert shape.parse_percent(" 2% ") == shape.parse_percent("2") == 2
    assert shape.parity_percent(("other", shape.parity_feature(7))) == 7
    for name in ("parity-", "parity-0", "parity-99", "parity-x", "other"):
        assert shape.parity_percent((name,)) == 0


# In a lake


@pytest.fixture
def with_parity(tmp_path: Path) -> Lake:
    """A lake with parity and one version, open."""
    lake = Lake.create(tmp_path / "lake", parity=2)
    lake.create_dataset("D", ACTOR)
    put_tree(lake, "D", tree_of_seed(1), tmp_path / "scratch")
    commit(lake, "D")
    return lake


def test_every_pack_has_its_parity(with_parity: Lake, tmp_path: Path) -> None:
    with with_parity as lake:
        assert set(parity_files(lake.path)) == packs_of(lake)
        put_tree(lake, "D", tree_of_seed(2), tmp_path / "scratch")
        assert set(parity_files(lake.path)) == packs_of(lake), "of staged work too"
        assert_whole(lake)
        facts = collect_stats(lake)
        assert facts["parity_files"] == len(packs_of(lake))
        assert facts["parity_bytes"] == sum(parity_files(lake.path).values())
    with Lake.open(lake.path) as again:
        assert again.parity == 2, "every writer sees it"


def test_collect_takes_the_parity_with_the_pack(with_parity: Lake, tmp_path: Path) -> None:
    with with_parity as lake:
        put_tree(lake, "D", tree_of_seed(1) | {b"waste": big(1)}, tmp_path / "scratch")
        put_tree(lake, "D", tree_of_seed(1), tmp_path / "scratch")
        before = packs_of(lake)
        collect(lake, ACTOR, AT_ONCE, settle_s=0.05)
        assert packs_of(lake) < before
        assert set(parity_files(lake.path)) == packs_of(lake)
        assert_whole(lake)


def test_check_finds_and_repair_remakes(with_parity: Lake) -> None:
    with with_parity as lake:
        intact = {p: (lake.path / shape.parity_key(p)).read_bytes() for p in packs_of(lake)}
        gone, head, body = sorted(intact, key=lambda pack: len(intact[pack]))[-3:]
        (lake.path / shape.parity_key(gone)).unlink()
        for pack, at in ((head, 30), (body, len(intact[body]) - 3)):
            data = bytearray(intact[pack])
            data[at] ^= 1
            path = lake.path / shape.parity_key(pack)
            path.unlink()
            path.write_bytes(data)
        found = check(lake, read_data=True)
        assert {(f.invariant, f.severity) for f in found} == {(4, "error"), (6, "warning")}
        assert len(check(lake)) == 2, "without reading data, the head and the missing one"
        assert repair(lake, ACTOR, dry_run=True)["parity"]["written"] == 3
        assert repair(lake, ACTOR)["parity"]["written"] == 3
        assert {p: (lake.path / shape.parity_key(p)).read_bytes() for p in intact} == intact
        assert repair(lake, ACTOR)["parity"]["written"] == 0
        assert_whole(lake)


def test_parity_that_nothing_needs(with_parity: Lake) -> None:
    with with_parity as lake:
        one = next(iter(packs_of(lake)))
        stray = hashlib.sha256(b"gone").digest()
        target = lake.path / shape.parity_key(stray)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((lake.path / shape.parity_key(one)).read_bytes())
        assert [(f.invariant, f.severity) for f in check(lake)] == [(5, "warning")]
        assert repair(lake, ACTOR)["parity"]["removed"] == 1
        assert_whole(lake)
