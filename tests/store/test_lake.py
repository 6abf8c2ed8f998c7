"""Making, opening, locking a lake; its log and index; names that do not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dtafs.core.entries import log_key
from dtafs.core.format import encode_superblock
from dtafs.core.names import format_time
from dtafs.core.values import Actor, Kind
from dtafs.errors import (
    BusyError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StorageFullError,
    UnsupportedError,
    UsageError,
)
from dtafs.store import log
from dtafs.store.founding import read_superblock
from dtafs.store.lake import Lake

ANN = Actor("ann", 1000, "host", "test")


def test_a_new_lake_opens_again(tmp_path: Path) -> None:
    with Lake.create(tmp_path / "deep" / "lake") as lake:
        block = lake.superblock
    assert oct((tmp_path / "deep/lake/keys/signing.pem").stat().st_mode)[-3:] == "600"
    with Lake.open(tmp_path / "deep" / "lake") as lake:
        assert lake.superblock == block and lake.datasets() == []


def test_a_place_that_cannot_be_a_lake_says_why(tmp_path: Path) -> None:
    Lake.create(tmp_path / "lake").close()
    with pytest.raises(ConflictError, match="is a lake already"):
        Lake.create(tmp_path / "lake")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    with pytest.raises(ConflictError, match="not empty"):
        Lake.create(tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a directory"):
        Lake.create(tmp_path / "file")


def test_a_place_that_is_no_lake_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist; make a lake"):
        Lake.open(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError, match="is not a directory"):
        Lake.open(tmp_path / "file")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "x").touch()
    with pytest.raises(NotFoundError, match=r"no lake\.json"):
        Lake.open(tmp_path / "dir")


def test_a_half_made_lake_is_finished_by_making_it_again(tmp_path: Path) -> None:
    path = tmp_path / "lake"
    for folder in ("packs", "log", "keys", "tmp"):
        (path / folder).mkdir(parents=True)
    (path / "keys" / "signing.pem").touch()
    with pytest.raises(NotFoundError, match="was interrupted"):
        Lake.open(path)
    Lake.create(path).close()
    Lake.open(path).close()


def test_a_lake_that_lost_its_superblock_is_not_made_anew(lake_path: Path) -> None:
    block = (lake_path / "lake.json").read_bytes()
    (lake_path / "lake.json").unlink()
    with pytest.raises(NotFoundError, match=r"no lake\.json"):
        Lake.open(lake_path)
    with pytest.raises(ConflictError, match="not empty"):
        Lake.create(lake_path)
    (lake_path / "lake.json").write_bytes(block)


def test_a_lake_of_the_future_is_refused_by_name(lake_path: Path) -> None:
    text = json.loads((lake_path / "lake.json").read_text())
    (lake_path / "lake.json").chmod(0o644)
    good = (lake_path / "lake.json").read_text()
    (lake_path / "lake.json").write_text(json.dumps(text | {"required": ["time-travel"]}))
    with pytest.raises(UnsupportedError, match="time-travel"):
        Lake.open(lake_path)
    (lake_path / "lake.json").write_text(good)


def test_an_altered_superblock_is_noticed(lake_path: Path) -> None:
    block = read_superblock(lake_path)
    file = lake_path / "lake.json"
    good = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(encode_superblock(block).replace(b'"average":65536', b'"average":65537'))
    with pytest.raises(IntegrityError, match=r"lake\.json does not verify"):
        Lake.open(lake_path)
    file.write_bytes(good)


def test_a_second_writer_is_told_who_is_the_first(lake: Lake) -> None:
    with pytest.raises(BusyError, match=f"in use by process {os.getpid()}"):
        Lake.open(lake.path)


def test_a_reader_takes_no_lock_and_changes_nothing(lake_path: Path) -> None:
    with Lake.open(lake_path, write=False) as reader, pytest.raises(RefusedError, match="only"):
        reader.create_dataset("D", ANN)


def test_a_killed_writer_leaves_no_lock(lake_path: Path) -> None:
    script = (
        "import os, sys, signal; from pathlib import Path; from dtafs.store.lake import Lake; "
        "Lake.open(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(lake_path)], check=False)
    assert done.returncode == -9
    Lake.open(lake_path).close()


def test_a_readable_signing_key_is_refused(lake_path: Path) -> None:
    key = lake_path / "keys" / "signing.pem"
    key.chmod(0o644)
    with pytest.raises(RefusedError, match="chmod 600"):
        Lake.open(lake_path)
    key.chmod(0o600)
    text = key.read_bytes()
    key.write_bytes(b"not a key")
    with pytest.raises(IntegrityError, match="damaged"):
        Lake.open(lake_path)
    key.write_bytes(text)
    Lake.open(lake_path).close()


def test_the_log_is_chained_and_signed(lake: Lake) -> None:
    lake.create_dataset("D", ANN, ("raw",))
    lake.record("D", "exported", {"to": "zip"}, ANN)
    first, second = lake.log.read("D", 1), lake.log.read("D", 2)
    assert first.entry.kind == "created" and first.entry.body == {"tags": ["raw"]}
    assert first.entry.actor == ANN and first.entry.previous is None
    assert second.entry.previous == first.object_hash.hex()
    assert second.entry.time > first.entry.time
    with pytest.raises(ConflictError, match="entry 2"):
        lake.log.append("D", 2, first.object_hash, 5, ANN, "exported", {})


def test_log_times_never_run_backwards(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.create_dataset("D", ANN)
    monkeypatch.setattr("time.time_ns", lambda: 5)
    lake.create_dataset("E", ANN)
    assert lake.dataset("E").created_ns == lake.dataset("D").created_ns + 1


@pytest.mark.damages_lake
def test_an_altered_log_entry_is_noticed(lake_path: Path) -> None:
    with Lake.open(lake_path) as lake:
        lake.create_dataset("D", ANN)
        lake.create_dataset("E", ANN)
    file = lake_path / log_key("D", 1)
    good = file.read_bytes()
    file.chmod(0o644)
    with Lake.open(lake_path) as lake:
        for at in range(0, len(good), 7):
            bad = bytearray(good)
            bad[at] ^= 0x04
            file.write_bytes(bad)
            with pytest.raises(IntegrityError, match=r"D|log entry"):
                lake.log.read("D", 1)
        file.write_bytes((lake_path / log_key("E", 1)).read_bytes())
        with pytest.raises(IntegrityError, match="another place"):
            lake.log.read("D", 1)


def test_opening_replays_what_the_index_has_not(lake_path: Path) -> None:
    with Lake.open(lake_path) as lake:
        lake.create_dataset("D", ANN)
        lake.log.append("D", 2, lake.dataset("D").head, lake.now_ns(), ANN, "exported", {})
        lake.log.append("F", 1, None, lake.now_ns(), ANN, "created", {"tags": []})
    with Lake.open(lake_path) as lake:
        assert lake.dataset("D").sequence == 2
        assert [d.name for d in lake.datasets()] == ["D", "F"]


def test_what_does_not_exist_is_named_with_the_nearest(lake: Lake) -> None:
    lake.create_dataset("WF-2024-07", ANN)
    with pytest.raises(NotFoundError, match="did you mean 'WF-2024-07'"):
        lake.resolve("WF-2024-70:v1")
    with pytest.raises(NotFoundError, match="no version yet"):
        lake.resolve("WF-2024-07:v1")
    with pytest.raises(NotFoundError, match="carries the tag 'raw'"):
        lake.resolve("WF-2024-07:raw")
    with pytest.raises(NotFoundError, match=f"no version at {format_time(0)[:10]}"):
        lake.resolve("WF-2024-07@1970-01-01")
    with pytest.raises(ConflictError, match="exists already"):
        lake.create_dataset("WF-2024-07", ANN)


def test_a_wrong_configuration_key_is_named(lake_path: Path) -> None:
    (lake_path / "config.toml").write_text("[cache]\nframe_mib = 1\n")
    with pytest.raises(UsageError, match=r"'cache\.frame_mib'; did you mean 'frames_mib'"):
        Lake.open(lake_path)
    (lake_path / "config.toml").write_text("cache = 3\n")
    with pytest.raises(UsageError, match="cache"):
        Lake.open(lake_path)
    for line in (
        "writer_wait_s = nan",
        "writer_wait_s = -1",
        "writer_wait_s = inf",
        "read_ahead_kib = -1",
    ):
        (lake_path / "config.toml").write_text(f"[mount]\n{line}\n")
        with pytest.raises(UsageError, match=r"mount.* numbers from 0 up"):
            Lake.open(lake_path)
    (lake_path / "config.toml").write_text("[cache]\nframes_mib = 64\n")
    with Lake.open(lake_path) as lake:
        assert lake.config.cache.frames_mib == 64


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("staging/data.mdb", b"garbage" * 2000),
        ("staging/data.mdb", b""),
        ("staging/data.mdb", None),
        ("staging/pending/data.mdb", b"garbage" * 2000),
    ],
)
def test_damaged_staging_is_said_and_can_be_left_behind(
    lake_path: Path, file: str, content: bytes | None
) -> None:
    with Lake.open(lake_path) as lake:
        lake.create_dataset("D", ANN)
        lake.staging("D")
    if content is None:
        (lake_path / file).unlink()
    else:
        (lake_path / file).write_bytes(content)
    with (
        pytest.raises(IntegrityError, match=r"sealed versions are safe.*move .*staging away"),
        Lake.open(lake_path) as lake,
    ):
        lake.staging("D")
    with Lake.open(lake_path, write=False) as lake:
        assert lake.dataset("D").newest == 0
    (lake_path / "staging").rename(lake_path.parent / "staging.damaged")
    with Lake.open(lake_path) as lake:
        assert lake.staging("D").is_clean()


def test_a_lake_whose_staging_cannot_be_flushed_is_closed_all_the_same(
    lake_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(lake_path)
    lake.create_dataset("D", ANN)
    staging = lake.staging("D")
    staging.make(staging.root_ino, b"x", Kind.DIRECTORY, 0o755, 0, 0, 1)

    def full(_limit: int = 0) -> None:
        raise StorageFullError("no space left on device")

    monkeypatch.setattr(lake.area.tables, "flush", full)
    with pytest.raises(StorageFullError, match="no space"):
        lake.close()
    with Lake.open(lake_path) as again:
        staging = again.staging("D")
        assert staging.lookup(staging.root_ino, b"x") is not None, "it was in the journal"


def test_an_entry_that_could_not_be_read_again_is_not_written(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.create_dataset("D", ANN)
    monkeypatch.setattr(log, "ENTRY_LIMIT_BYTES", 4_000)
    body = {"version": 1, "manifest": "", "format": "zip", "name": "x" * 4_000}
    with pytest.raises(RefusedError, match="takes no entry as large as this exported"):
        lake.record("D", "exported", body, ANN)
    assert lake.dataset("D").sequence == 1
    assert [one.entry.kind for one in lake.log.read_from("D", 1)] == ["created"]
