"""The zip writer: what other programs read in it, and that its bytes depend on the input alone."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.store import zipwriter
from dtafs.store.zipwriter import BLOCK_BYTES, ZipWriter, regrouped

MTIME_NS = 1_720_094_400_000_000_000  # 2024-07-04 12:00:00 UTC
Member = tuple[bytes, int, bytes]


class Pipe:
    """An output that can only be appended to."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes, /) -> int:
        self.parts.append(data)
        return len(data)

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)


def written(members: Iterable[Member], compress: bool = True, piece: int = 70_000) -> bytes:
    out = Pipe()
    writer = ZipWriter(out, compress)
    for name, mode, data in members:
        pieces = [data[i : i + piece] for i in range(0, len(data), piece)]
        writer.add(name, mode, MTIME_NS, len(data), pieces)
    writer.finish()
    writer.close()
    return out.data


def long_text(size: int = 3 * BLOCK_BYTES + 12_345) -> bytes:
    line = b"2024-07-04T12:00Z,station-7,21.5,40,7\n"
    return (line * (size // len(line) + 1))[:size]


@pytest.mark.parametrize("compress", [True, False])
def test_the_standard_library_reads_it(compress: bool) -> None:
    noise = os.urandom(2 * BLOCK_BYTES)
    members = [
        (b"data/", stat.S_IFDIR | 0o755, b""),
        (b"data/empty", stat.S_IFREG | 0o600, b""),
        (b"data/small", stat.S_IFREG | 0o640, b"hello"),
        (b"data/exact", stat.S_IFREG | 0o644, long_text(BLOCK_BYTES)),
        (b"data/long", stat.S_IFREG | 0o644, long_text()),
        (b"data/noise", stat.S_IFREG | 0o644, noise),
        (b"data/link", stat.S_IFLNK | 0o777, b"small"),
    ]
    with zipfile.ZipFile(io.BytesIO(written(members, compress))) as archive:
        assert archive.testzip() is None
        for name, mode, data in members:
            info = archive.getinfo(name.decode())
            assert info.external_attr >> 16 == mode
            assert info.date_time == (2024, 7, 4, 12, 0, 0)
            assert archive.read(info) == data
        assert archive.getinfo("data/long").compress_size < len(long_text()) / 10 or not compress


def test_a_stream_reader_finds_every_member() -> None:
    """Without its directory, from the local headers alone, as a reader of a pipe does."""
    data = written([(b"a", stat.S_IFREG | 0o644, long_text()), (b"b", stat.S_IFREG, b"x" * 100)])
    assert data[:4] == b"PK\3\4"
    flags, method = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    assert (flags & 8, method) == (8, zipwriter.DEFLATED)  # a descriptor needs a self-ending stream


def test_the_bytes_depend_on_the_input_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [(b"%d" % i, stat.S_IFREG | 0o644, long_text(i * 300_000)) for i in range(9)]
    first = written(members, piece=1_000)
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert written(members, piece=999_999) == first


def test_names_are_bytes() -> None:
    names = [b"data/\xff\xfe", "data/\u00fc\U0001f525".encode(), b"data/back\\slash", b"data/a\nb"]
    data = written([(name, stat.S_IFREG | 0o644, name) for name in names])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info, name in zip(archive.infolist(), names, strict=True):
            utf8 = info.flag_bits & zipwriter.IS_UTF8
            assert info.orig_filename.encode("utf-8" if utf8 else "cp437") == name
            assert archive.read(info) == name


def test_more_members_than_16_bits_count() -> None:
    data = written((b"%d" % i, stat.S_IFREG | 0o644, b"") for i in range(70_000))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert len(archive.infolist()) == 70_000


@pytest.mark.soak
def test_sizes_beyond_32_bits(tmp_path: Path) -> None:
    block = bytes(BLOCK_BYTES)
    count = (5 << 30) // BLOCK_BYTES
    path = tmp_path / "large.zip"
    with path.open("wb") as out:
        writer = ZipWriter(out)
        writer.add(b"large", stat.S_IFREG, MTIME_NS, 5 << 30, (block for _ in range(count)))
        writer.add(b"after", stat.S_IFREG, MTIME_NS, 5, [b"hello"])
        writer.finish()
        writer.close()
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("large").file_size == 5 << 30
        assert archive.read("after") == b"hello"
    subprocess.run(["unzip", "-tq", path], check=True, capture_output=True)


def test_unzip_restores_modes_links_and_names(tmp_path: Path) -> None:
    members = [
        (b"data/", stat.S_IFDIR | 0o750, b""),
        (b"data/run", stat.S_IFREG | 0o755, long_text()),
        (b"data/link", stat.S_IFLNK | 0o777, b"run"),
    ]
    (tmp_path / "a.zip").write_bytes(written(members))
    subprocess.run(["unzip", "-q", "a.zip"], cwd=tmp_path, check=True, env={"TZ": "UTC"})
    run = tmp_path / "data" / "run"
    assert run.read_bytes() == long_text() and run.stat().st_mode & 0o777 == 0o755
    assert run.stat().st_mtime == MTIME_NS // 1_000_000_000
    assert os.readlink(tmp_path / "data" / "link") == "run"
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("year_ns", [-(10**18), 0, 10**18, 5 * 10**18])
def test_times_outside_of_what_zip_can_say_are_held_within(year_ns: int) -> None:
    out = Pipe()
    writer = ZipWriter(out)
    writer.add(b"x", stat.S_IFREG, year_ns, 0, [])
    writer.finish()
    writer.close()
    with zipfile.ZipFile(io.BytesIO(out.data)) as archive:
        assert 1980 <= archive.infolist()[0].date_time[0] <= 2107


def test_a_source_that_fails_passes_through() -> None:
    def broken() -> Iterable[bytes]:
        yield b"x" * BLOCK_BYTES
        raise ValueError("gone")

    writer = ZipWriter(Pipe())
    with pytest.raises(ValueError, match="gone"):
        writer.add(b"x", stat.S_IFREG, 0, 2 * BLOCK_BYTES, broken())
    writer.close()


@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_regrouped_keeps_the_bytes(parts: list[bytes], size: int) -> None:
    blocks = list(regrouped(parts, size))
    assert b"".join(blocks) == b"".join(parts)
    assert all(len(block) == size for block in blocks[:-1])
    assert not blocks or 0 < len(blocks[-1]) <= size
