"""Exports: what they hold, that ordinary tools take them, and that their bytes repeat."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from dtafs.core.values import Entry
from dtafs.errors import ConflictError, IntegrityError, UsageError
from dtafs.store import bag, export, provenance
from dtafs.store.export import export_file, export_stream, provenance_text
from dtafs.store.lake import Lake
from dtafs.store.session import Session
from tests.support.evidence import ACTOR, ODD_NAMES, committed, exporter, make_tree
from tests.support.trees import assert_same_tree, tree_of

Export = Callable[..., Path]
DOCUMENTS = {
    "Provenance.txt",
    "manifest-sha256.txt",
    "tagmanifest-sha256.txt",
    "proof/lake.json",
    "proof/public-key.pem",
    "proof/log/0000000001",
    "proof/log/0000000002",
    "proof/nodes",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is committed as D:v1."""
    top = tmp_path / "tree"
    make_tree(top)
    return top


@pytest.fixture
def to(lake: Lake, tree: Path, tmp_path: Path) -> Export:
    """Exports D:v1."""
    committed(lake, tree)
    return exporter(lake, tmp_path)


def unpacked(package: Path, into: Path) -> Path:
    """Unpack with the tool that people have."""
    into.mkdir()
    if package.suffix == ".zip":
        # -^ lets control characters in names through, which unzip leaves out otherwise
        subprocess.run(["unzip", "-q", "-^", package, "-d", into], check=True)
    elif package.suffix == ".tar":
        subprocess.run(["tar", "-xpf", package, "--xattrs", "-C", into], check=True)
    else:
        return package
    return into


def checks_out(top: Path) -> None:
    """Both lists of checksums are accepted by plain sha256sum, and nothing is left over."""
    for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        done = subprocess.run(
            ["sha256sum", "--strict", "-c", name], cwd=top, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("form", ["zip", "tar", "dir"])
def test_ordinary_tools_take_it(to: Export, tree: Path, tmp_path: Path, form: str) -> None:
    top = unpacked(to(form), tmp_path / "out")
    checks_out(top)
    expected, actual = tree_of(tree), tree_of(top / "data")
    if form == "zip":  # seconds only, and a symlink's time is lost on unpacking
        expected = {k: v._replace(mtime_ns=0) for k, v in expected.items()}
        actual = {k: v._replace(mtime_ns=0) for k, v in actual.items()}
    assert_same_tree(expected, actual)
    listed = (top / "manifest-sha256.txt").read_bytes()
    assert listed.count(b"data/") == 5 + len(ODD_NAMES)


@pytest.mark.parametrize("form", ["tar", "dir"])
def test_links_and_xattrs_are_kept(to: Export, tmp_path: Path, form: str) -> None:
    top = unpacked(to(form), tmp_path / "out") / "data"
    assert (top / "sub/hard").stat().st_ino == (top / "sub/deep/harder").stat().st_ino
    assert os.getxattr(top / "a.csv", "user.unit") == b"degrees"


def test_a_zip_keeps_times_to_the_second(to: Export, tree: Path, tmp_path: Path) -> None:
    top = unpacked(to("zip"), tmp_path / "out")
    for name in ("a.csv", "sub/large"):
        ours, theirs = (tree / name).stat(), (top / "data" / name).stat()
        assert theirs.st_mtime_ns == ours.st_mtime_ns // 10**9 * 10**9


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_two_exports_are_equal(
    to: Export, lake: Lake, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    first = to(form).read_bytes()
    Session(lake, ACTOR).set_tags("D", 1, ["later"])
    Session(lake, ACTOR).record("D", "exported", {"version": 1, "format": form})
    lake.objects.clear()
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    try:
        stream = io.BytesIO()
        export_stream(lake, lake.resolve("D:v1"), form, stream)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert stream.getvalue() == first


def test_what_the_result_says_is_true(lake: Lake, to: Export, tmp_path: Path) -> None:
    out = tmp_path / "x.zip"
    done = export_file(lake, lake.resolve("D"), "zip", out)
    assert done.package_sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert done.package_bytes == out.stat().st_size
    assert done.size_bytes == lake.resolve("D").manifest.size_bytes


def test_documents_are_all_there(to: Export) -> None:
    with zipfile.ZipFile(to("zip")) as archive:
        names = set(archive.namelist())
        assert names >= DOCUMENTS
        assert archive.namelist()[0] == "Provenance.txt"
        assert archive.namelist()[-1] == "tagmanifest-sha256.txt"
    with tarfile.open(to("tar")) as archive:
        assert set(archive.getnames()) >= DOCUMENTS


def test_only_with_agreeable_names_it_is_a_bag(lake: Lake, tmp_path: Path) -> None:
    make_tree(tmp_path / "odd")
    committed(lake, tmp_path / "odd")
    to = exporter(lake, tmp_path)
    assert not (to("dir", "first") / "bagit.txt").exists()
    make_tree(tmp_path / "plain", odd=False)
    committed(lake, tmp_path / "plain")
    top = to("dir", "second")
    assert (top / "bagit.txt").read_text().startswith("BagIt-Version: 1.0\n")
    row = lake.resolve("D")
    oxum = f"Payload-Oxum: {row.manifest.size_bytes}.{row.manifest.files}\n"
    assert oxum in (top / "bag-info.txt").read_text()
    checks_out(top)


def test_provenance_says_who_when_what_from_what(lake: Lake, tree: Path) -> None:
    committed(lake, tree)
    (tree / "a.csv").write_text("x\n1\n")
    session = Session(lake, ACTOR)
    session.put("D", [f"{tree}/."])
    first = lake.resolve("D:v1")
    source = {"dataset": "D", "version": 1, "manifest": first.manifest_sha256.hex()}
    transform = {"name": "csv_trim", "parameters": {"cols": "x"}, "program_sha256": "ab" * 32}
    session.commit("D", "Cleaned\nof y", ["clean"], sources=[source], transform=transform)
    row = lake.resolve("D:v2")
    text = provenance_text(lake, row).decode()
    for part in (
        "PROVENANCE OF D:v2\n",
        f"SHA-256      {row.manifest_sha256.hex()}\n",
        "alice (uid 1000) on host1, with tests 1.0\n",
        "Message      Cleaned\n             of y\n",
        "Tags         clean\n",
        "Made from    D:v1\n",
        f"manifest {first.manifest_sha256.hex()}\n",
        "Made by      csv_trim\n",
        "cols = x\n",
        "program SHA-256 " + "ab" * 32,
        f"Previous     v1, SHA-256 {first.manifest_sha256.hex()}\n",
        lake.superblock.lake,
        lake.superblock.public_key,
        "created, first version to be tagged raw",
        "v1 committed: First",
        hashlib.sha256(b"x\n1\n").hexdigest(),
        "line\\nfeed",
        "link -> sub/large",
    ):
        assert part in text, part


def test_a_large_version_points_to_the_manifest(
    lake: Lake, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed(lake, tree)
    monkeypatch.setattr(provenance, "LISTED_MAX", 3)
    text = provenance_text(lake, lake.resolve("D")).decode()
    assert "a.csv" not in text and "manifest-sha256.txt lists every file" in text


def test_the_steps_by_hand_work(to: Export, lake: Lake, tmp_path: Path) -> None:
    """The commands that Provenance.txt shows are run as they stand."""
    top = unpacked(to("zip"), tmp_path / "out")
    text = (top / "Provenance.txt").read_text()
    steps = text[text.index("HOW TO VERIFY THIS") :]
    blocks = re.findall(r"(?:^    .*\n(?:    .*\n)*)", steps, re.M)
    said: list[str] = []
    for block in blocks:
        command = "\n".join(line[4:] for line in block.splitlines())
        if command.startswith("dtafsctl"):
            continue
        done = subprocess.run(
            ["bash", "-e", "-c", command], cwd=top, capture_output=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said.append(done.stdout.decode(errors="replace"))
    row = lake.resolve("D")
    entry = json.loads(said[1])
    assert entry["body"]["message"] == "First" and entry["kind"] == "committed"
    assert said[2].strip() == row.manifest_sha256.hex()
    assert entry["previous"] in said[3]
    assert "Verified Successfully" in said[4]


def test_proof_nodes_begin_with_the_root(to: Export, lake: Lake) -> None:
    data = (to("dir") / "proof" / "nodes").read_bytes()
    size = int.from_bytes(data[:4], "big")
    assert hashlib.sha256(data[4 : 4 + size]).digest() == lake.resolve("D").root


def test_the_key_is_one_that_openssl_reads(to: Export, lake: Lake) -> None:
    pem = to("dir") / "proof" / "public-key.pem"
    done = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", pem, "-outform", "DER"],
        capture_output=True,
        check=True,
    )
    assert done.stdout[-32:].hex() == lake.superblock.public_key
    assert base64.b64encode(done.stdout) in pem.read_bytes()


def test_nothing_is_replaced_unless_told(to: Export, tmp_path: Path) -> None:
    out = to("zip")
    before = out.read_bytes()
    with pytest.raises(ConflictError, match="exists already"):
        to("zip")
    out.write_bytes(b"something else")
    to("zip", force=True)
    assert out.read_bytes() == before
    to("dir")
    with pytest.raises(ConflictError, match="exists already"):
        to("dir", force=True)


def test_impossible_targets(lake: Lake, to: Export, tmp_path: Path) -> None:
    row = lake.resolve("D")
    with pytest.raises(UsageError, match="no directory"):
        export_file(lake, row, "zip", tmp_path / "no" / "such" / "x.zip")
    with pytest.raises(UsageError, match="choose zip or tar"):
        export_stream(lake, row, "dir", io.BytesIO())


@pytest.mark.parametrize("form", ["zip", "tar", "dir"])
def test_damage_is_never_exported(
    lake: Lake, to: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A content that is not what was sealed, though each of its chunks is: no package remains."""
    stream = type(lake.objects).stream
    large = 1_500_000 + 2_000_000

    def wrong(self: object, content: Entry) -> object:
        blocks = list(stream(self, content))  # type: ignore[arg-type]
        return reversed(blocks) if content.size == large else iter(blocks)

    monkeypatch.setattr(type(lake.objects), "stream", wrong)
    before = set(os.listdir(tmp_path))
    with pytest.raises(IntegrityError, match=r"data/sub/large.*not what was sealed"):
        to(form)
    assert set(os.listdir(tmp_path)) == before


def test_a_directory_that_cannot_be_finished_is_removed(
    lake: Lake, to: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: bytes, blocks: object) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr("dtafs.store.sinks._write_file", full)
    before = set(os.listdir(tmp_path))
    with pytest.raises(Exception, match="No space left"):
        to("dir")
    assert set(os.listdir(tmp_path)) == before


def test_checksum_lines_escape_as_coreutils_do(tmp_path: Path) -> None:
    for name in ODD_NAMES:
        path = os.path.join(os.fsencode(tmp_path), name)
        with open(path, "wb") as file:
            file.write(name)
        done = subprocess.run(["sha256sum", name], cwd=tmp_path, capture_output=True, check=True)
        assert bag.checksum_line(hashlib.sha256(name).digest(), name) == done.stdout


def test_an_empty_version_can_be_exported(lake: Lake, tmp_path: Path) -> None:
    session = Session(lake, ACTOR)
    session.create("D")
    session.commit("D", "nothing yet", allow_empty=True)
    top = exporter(lake, tmp_path)("dir")
    assert os.listdir(top / "data") == []
    assert (top / "manifest-sha256.txt").read_bytes() == b""
    assert export.FORMATS == ("zip", "tar", "dir")
