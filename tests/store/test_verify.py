"""Verification: every byte of an export counts, and every forgery is named."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.errors import DtafsError, IntegrityError, NotFoundError, UnsupportedError, UsageError
from dtafs.store.audit import verify_lake
from dtafs.store.lake import Lake
from dtafs.store.session import Session
from dtafs.store.verify import verify_package
from tests.support.evidence import ACTOR, committed, exporter, make_tree

Export = Callable[..., Path]


@pytest.fixture
def to(lake: Lake, tmp_path: Path) -> Export:
    """Exports D:v2, which has a version before it."""
    make_tree(tmp_path / "tree", odd=False)
    committed(lake, tmp_path / "tree")
    (tmp_path / "tree" / "a.csv").write_text("x,y\n3,4\n")
    committed(lake, tmp_path / "tree", message="Second")
    return exporter(lake, tmp_path)


@pytest.fixture
def package(to: Export) -> Path:
    """An export as a directory, easy to tamper with."""
    return to("dir")


def findings(path: Path) -> list[str]:
    """What verification says against a package, however it says it."""
    try:
        return verify_package(path).findings
    except IntegrityError as error:
        return [str(error)]


@pytest.mark.parametrize("form", ["zip", "tar", "dir"])
def test_an_export_is_proved(to: Export, lake: Lake, form: str) -> None:
    verified = verify_package(to(form), lake.superblock.public_key)
    assert verified.findings == []
    assert verified.id == "D:v2"
    assert verified.facts["sha256"] == lake.resolve("D:v2").manifest_sha256.hex()
    assert verified.facts["message"] == "Second"


@pytest.mark.parametrize("form", ["zip", "tar", "dir"])
def test_odd_names_are_proved_too(lake: Lake, tmp_path: Path, form: str) -> None:
    make_tree(tmp_path / "tree", odd=True)
    os.mkfifo(tmp_path / "tree" / "fifo")
    committed(lake, tmp_path / "tree")
    assert verify_package(exporter(lake, tmp_path)(form)).findings == []


def test_a_zip_without_compression_is_proved(to: Export) -> None:
    assert verify_package(to("zip", compress=False)).findings == []


def test_an_unpacked_zip_is_proved(to: Export, tmp_path: Path) -> None:
    shutil.unpack_archive(to("zip"), tmp_path / "out")
    # shutil makes symlinks into files: what has the wrong kind is named, the rest holds
    assert findings(tmp_path / "out") == ["data/link is a file; sealed was a symlink"]


def test_every_file_of_the_package_counts(package: Path) -> None:
    """Each file of it in turn gets one byte changed, is cut, is removed."""
    for path in sorted(p for p in package.rglob("*") if p.is_file() and not p.is_symlink()):
        before = path.read_bytes()
        other_name = path.stat().st_nlink > 1
        middle = len(before) // 2
        damages = [before[:-1], before + b"x"]
        if before:
            changed = bytes((before[middle] ^ 1,))
            damages.append(before[:middle] + changed + before[middle + 1 :])
        for damage in damages:
            if damage == before:
                continue
            path.write_bytes(damage)
            assert findings(package), f"{path} was altered and nobody noticed"
        path.write_bytes(before)
        if not other_name:
            path.rename(package.parent / "aside")
            assert findings(package), f"{path} was removed and nobody noticed"
            (package.parent / "aside").rename(path)
    assert findings(package) == []


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (lambda top: (top / "data/a.csv").write_text("x,y\n3,5\n"), "data/a.csv was altered"),
        (lambda top: (top / "data/a.csv").write_text("x"), "1 bytes; sealed were 8"),
        (lambda top: (top / "data/more").touch(), "data/more is not in D:v2"),
        (lambda top: (top / "more").touch(), "more is not part of the export"),
        (lambda top: (top / "data/bare").rmdir(), "data/bare is missing"),
        (lambda top: _relink(top / "data/link", "a.csv"), "leads to a.csv; sealed was sub/large"),
        (lambda top: _relink(top / "data/a.csv", "empty"), "is a symlink; sealed was a file"),
        (lambda top: (top / "proof/log/0000000001").unlink(), "does not seal a version"),
        (lambda top: (top / "proof/log/0000000002").unlink(), "does not seal a version"),
        (lambda top: (top / "proof/lake.json").unlink(), "not a complete export"),
        (lambda top: _swap(top, 1, 2), "cannot be|chain|does not follow"),
        (lambda top: _edit(top / "Provenance.txt", b"alice", b"mallo"), "Provenance.txt is not"),
        (lambda top: _edit(top / "bag-info.txt", b"D:v2", b"D:v3"), "bag-info.txt is not"),
        (lambda top: _edit(top / "proof/lake.json", b'"format":1', b'"format":01'), "damaged"),
    ],
)
def test_what_was_done_is_named(package: Path, tamper: Callable[[Path], object], said: str) -> None:
    tamper(package)
    found = "; ".join(findings(package))
    assert any(part in found for part in said.split("|")), found


def _relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _edit(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def _swap(top: Path, one: int, two: int) -> None:
    first, second = (top / f"proof/log/{n:010d}" for n in (one, two))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def test_a_forged_entry_is_refused(package: Path) -> None:
    """The message changed inside the signed payload, everything else as it was."""
    import base64

    path = package / "proof" / "log" / "0000000003"
    envelope = json.loads(path.read_bytes())
    payload = base64.b64decode(envelope["payload"]).replace(b"Second", b"Secund")
    envelope["payload"] = base64.b64encode(payload).decode()
    canonical = json.dumps(envelope, sort_keys=True, separators=(",", ":"))
    path.write_text(canonical + "\n")
    assert findings(package) == [
        "the signature of log entry 3 does not verify: it was altered or is not of this lake"
    ]


def test_a_whole_forgery_needs_another_key(to: Export, lake: Lake, tmp_path: Path) -> None:
    """Somebody makes the same version in a lake of their own: only the key tells."""
    with Lake.create(tmp_path / "forged") as other:
        committed(other, tmp_path / "tree")
        path = tmp_path / "forged.zip"
        exporter(other, tmp_path)("zip", "forged")
    assert verify_package(path).findings == []
    with pytest.raises(IntegrityError, match="was signed with the key"):
        verify_package(path, lake.superblock.public_key)


def test_a_name_that_comes_twice_is_named(to: Export) -> None:
    path = to("zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.getinfo("data/a.csv"), b"x,y\n3,4\n")
    assert findings(path)[0] == "data/a.csv is in the package twice"


def test_a_mode_that_differs_is_named(to: Export, tmp_path: Path) -> None:
    path, other = to("zip"), tmp_path / "other.zip"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for info in old.infolist():
            if info.filename == "data/a.csv":
                info.external_attr |= 0o111 << 16
            new.writestr(info, old.read(info))
    assert findings(other) == ["data/a.csv has the mode 0755; sealed was 0644"] or findings(
        other
    ) == ["data/a.csv has the mode 0751; sealed was 0640"]


@pytest.mark.parametrize("keep", [0, 3, 100, 10_000, -1, -30])
def test_a_zip_that_is_cut_short(to: Export, tmp_path: Path, keep: int) -> None:
    data = to("zip").read_bytes()
    path = tmp_path / "cut.zip"
    path.write_bytes(data[:keep])
    with pytest.raises((IntegrityError, UsageError)):
        verify_package(path)


def test_damaged_bytes_of_a_zip_are_named(to: Export, tmp_path: Path) -> None:
    data = bytearray(to("zip").read_bytes())
    path = tmp_path / "bad.zip"
    for at in range(200, len(data), len(data) // 40):
        data[at] ^= 0x40
        path.write_bytes(data)
        assert findings(path), f"byte {at} was altered and nobody noticed"
        data[at] ^= 0x40


def test_a_tar_cut_short_is_damaged(to: Export, tmp_path: Path) -> None:
    data = to("tar").read_bytes()
    path = tmp_path / "cut.tar"
    path.write_bytes(data[: len(data) // 2])
    assert findings(path)


def test_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        verify_package(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(UsageError, match="neither a zip, a tar nor a directory"):
        verify_package(tmp_path / "text")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("hello", "world")
    assert "not a complete export" in findings(tmp_path / "other.zip")[0]
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.add(tmp_path / "text", "text")
    assert "not a complete export" in findings(tmp_path / "other.tar")[0]


def test_a_newer_layout_says_so(package: Path) -> None:
    _edit(package / "Provenance.txt", b"Layout       1\n", b"Layout       2\n")
    with pytest.raises(UnsupportedError, match=r"layout 2.*install a newer dtafs"):
        verify_package(package)


def test_a_symlink_is_never_followed(package: Path, tmp_path: Path) -> None:
    """The bytes of another place under a name of the version: refused though they are right."""
    right = package / "data" / "a.csv"
    right.rename(tmp_path / "elsewhere")
    right.symlink_to(tmp_path / "elsewhere")
    assert findings(package) == ["data/a.csv is a symlink; sealed was a file"]


# The whole lake.


def test_a_sound_lake_is_proved(to: Export, lake: Lake) -> None:
    audit = verify_lake(lake)
    assert audit.findings == []
    assert (audit.datasets, audit.versions, audit.entries) == (1, 2, 3)


@pytest.mark.damages_lake
def test_damage_in_a_pack_is_named(to: Export, lake: Lake) -> None:
    pack = lake.path / pack_key(bytes.fromhex(lake.resolve("D:v1").manifest.packs[0]))
    data = bytearray(pack.read_bytes())
    data[200] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    lake.objects.clear()
    found = verify_lake(lake).findings
    assert found and all(text.startswith(("D:v1", "D:v2")) for text in found)


@pytest.mark.damages_lake
@pytest.mark.parametrize(
    ("sequence", "said"), [(1, "log entry 1"), (2, "log entry 2"), (3, "log entry 3")]
)
def test_an_altered_entry_is_named(to: Export, lake: Lake, sequence: int, said: str) -> None:
    path = lake.log.path("D", sequence)
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"payload":"ey', b'"payload":"fy'))
    assert said in verify_lake(lake).findings[0]


@pytest.mark.damages_lake
def test_a_missing_entry_is_named(to: Export, lake: Lake) -> None:
    lake.log.path("D", 2).unlink()
    assert verify_lake(lake).findings == ["D: the log has a gap: entries are missing"]


@pytest.mark.damages_lake
def test_a_log_that_was_cut_is_noticed(to: Export, lake: Lake) -> None:
    lake.log.path("D", 3).unlink()
    assert "the log and the index disagree" in verify_lake(lake).findings[0]


def test_one_dataset_that_is_broken_hides_no_other(lake: Lake, tmp_path: Path) -> None:
    session = Session(lake, ACTOR)
    for name in ("A", "B"):
        session.create(name)
    assert verify_lake(lake).datasets == 2
    with pytest.raises(DtafsError):
        verify_package(lake.path)
