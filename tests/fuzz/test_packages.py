"""Exports from strangers: whatever a zip, a tar or a directory holds, `verify` ends in words."""

from __future__ import annotations

import bz2
import gzip
import io
import random
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given

from dtafs.errors import DtafsError, IntegrityError
from dtafs.store.lake import Lake
from dtafs.store.verify import verify_package
from tests.fuzz.mutations import SEEDS, fuzz, how_many
from tests.support.evidence import committed, exporter, make_tree


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same version as a zip, a tar and a directory."""
    top = tmp_path_factory.mktemp("exports")
    with Lake.create(top / "lake") as lake:
        make_tree(top / "tree", odd=False)
        committed(lake, top / "tree")
        export = exporter(lake, top)
        return {form: export(form) for form in ("zip", "tar", "dir")}


def verified(path: Path) -> list[str]:
    return verify_package(path).findings


@pytest.mark.parametrize("form", ["zip", "tar"])
@how_many(0.05)
@given(seed=SEEDS)
def test_containers(
    form: str, exports: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    path = tmp_path_factory.mktemp("altered") / f"altered.{form}"

    def decode(data: bytes) -> None:
        path.write_bytes(data)
        verified(path)

    fuzz(f"{form} of an export", [exports[form].read_bytes()], decode, (DtafsError,), seed)


@how_many(0.02)
@given(seed=SEEDS)
def test_documents(exports: dict[str, Path], seed: int) -> None:
    """A file of an unpacked export altered: it is never proved unless it is as it was."""
    top = exports["dir"]
    files = sorted(path for path in top.rglob("*") if path.is_file())
    path = random.Random(seed).choice(files)
    data = path.read_bytes()

    def decode(given: bytes) -> None:
        path.write_bytes(given)
        assert verified(top) or given == data, f"{path} was altered and nothing was found"

    try:
        fuzz("document of an export", [data], decode, (DtafsError,), seed)
    finally:
        path.write_bytes(data)


def altered_zip(
    zip_path: Path,
    target: Path,
    change: Callable[[zipfile.ZipInfo, bytes], tuple[zipfile.ZipInfo, bytes]],
) -> Path:
    with zipfile.ZipFile(zip_path) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(*change(info, old.read(info)))
    return target


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_way_to_compress_that_no_export_uses(
    exports: dict[str, Path], tmp_path: Path, method: int
) -> None:
    """A few bytes of bzip2 or LZMA become tens of megabytes in one step."""

    def change(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        info.compress_type = method
        return info, data

    with pytest.raises(IntegrityError, match="not a zip that dtafs writes"):
        verified(altered_zip(exports["zip"], tmp_path / "other.zip", change))


def test_an_encrypted_member_is_refused(exports: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(exports["zip"].read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    with pytest.raises(IntegrityError):
        verified(tmp_path / "locked.zip")


def deep_tar() -> bytes:
    """A thousand long-name headers, each the header of the next."""
    name = tarfile.TarInfo("././@LongLink")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 100
    return (name.tobuf(tarfile.GNU_FORMAT) + b"a" * 100 + bytes(412)) * 2_000


def large_header() -> bytes:
    """A header of 512 MiB, of which there is nothing in the file but zeros, compressed."""
    head = tarfile.TarInfo("pax")
    head.type, head.size = tarfile.XHDTYPE, 512 << 20
    return head.tobuf(tarfile.PAX_FORMAT) + bytes(64 << 20)


@pytest.mark.parametrize("make", [deep_tar, large_header])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_headers_that_ask_for_much(
    make: Callable[[], bytes], pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "evil.tar"
    path.write_bytes(pack(make()))
    tracemalloc.start()
    try:
        with pytest.raises(DtafsError):
            verified(path)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


def bombs() -> Iterator[tuple[str, bytes]]:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("proof/lake.json", bytes(64 << 20))
        made.writestr("proof/nodes", bytes(64 << 20))
    yield "zip", data.getvalue()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as packed:
        info = tarfile.TarInfo("proof/lake.json")
        info.size = 64 << 20
        packed.addfile(info, io.BytesIO(bytes(64 << 20)))
    yield "tar", data.getvalue()


def test_bombs_take_little_memory(tmp_path: Path) -> None:
    for form, data in bombs():
        path = tmp_path / f"bomb.{form}"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(DtafsError):
                verified(path)
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
