"""No permission, no room: nothing is taken for damage, and what is safe is said to be."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from dtafs.errors import BusyError, RefusedError, StorageFullError
from dtafs.store import packfiles, packs
from dtafs.store.lake import Lake
from dtafs.store.lock import WriterLock
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import Place, read_footer
from dtafs.store.session import Session, actor_here
from dtafs.store.staging.staging import Staging
from tests.support.programs import CTL, DAEMON, command_line, ctl, ctl_json, environment, run


def _refuse(path: Path) -> int:
    raise RefusedError(f"opening {path}: {os.strerror(errno.EACCES)}")


def test_a_pack_that_may_not_be_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a replay by the wrong user would leave the pack's chunks out of the index for good."""
    monkeypatch.setattr(packs, "open_for_reading", _refuse)
    monkeypatch.setattr(packfiles, "open_for_reading", _refuse)
    with pytest.raises(RefusedError):
        read_footer(tmp_path, bytes(32))
    with pytest.raises(RefusedError):
        PackFiles(tmp_path).read_frame(Place(bytes(32), 0, 1, 1, 0, 0, 1))


def _without_privileges(
    module: str, *arguments: object, cwd: Path
) -> subprocess.CompletedProcess[bytes]:
    """Run a command as who is held to the modes of files: root, too, without these capabilities."""
    caps = "--bounding-set=-dac_override,-dac_read_search,-fowner"
    before = ("setpriv", caps) if os.geteuid() == 0 else ()
    done = subprocess.run(
        [*before, *command_line(module, *arguments)],
        capture_output=True,
        env=environment(),
        cwd=cwd,
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    ("closed", "calls"),
    [
        (".", [(CTL, "ls"), (CTL, "create", "E"), (CTL, "check"), (CTL, "reindex"), (DAEMON,)]),
        ("lake.json", [(CTL, "ls"), (CTL, "commit", "D", "-m", "m"), (DAEMON,)]),
        ("index", [(CTL, "ls"), (CTL, "create", "E"), (CTL, "check"), (DAEMON,)]),
        ("run", [(CTL, "create", "E"), (CTL, "put", "D", "."), (DAEMON,)]),
        ("log", [(CTL, "create", "E"), (CTL, "log", "D"), (CTL, "verify", "--all")]),
        ("keys", [(CTL, "create", "E"), (DAEMON,)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_lake_that_may_not_be_used(
    lake_path: Path, tmp_path: Path, closed: str, calls: list[tuple[str, ...]]
) -> None:
    """One sentence, exit code 5, and the lake is as it was."""
    ctl(lake_path, "create", "D")
    (tmp_path / "mnt").mkdir()
    mode = (lake_path / closed).stat().st_mode
    before = ctl_json(lake_path, "log")
    (lake_path / closed).chmod(0)
    try:
        for module, *words in calls:
            how = ("--lake", lake_path, *words) if words else ("mount", lake_path, "mnt")
            done = _without_privileges(module, *how, cwd=tmp_path)
            assert done.returncode == 5, (words, done.stderr)
            assert b"Permission denied" in done.stderr and done.stderr.count(b"\n") == 1
            assert os.fsencode(lake_path) in done.stderr and done.stdout == b""
    finally:
        (lake_path / closed).chmod(mode)
    assert ctl_json(lake_path, "log") == before
    assert os.listdir(tmp_path / "mnt") == []


def test_an_error_of_the_system_ends_a_mount_without_a_traceback(
    lake_path: Path, tmp_path: Path
) -> None:
    """A component longer than the system takes stands for all that `stat` can refuse."""
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    done = run(DAEMON, "mount", f"{lake_path}/{'x' * 300}", mountpoint)
    assert done.returncode in (1, 3) and len(done.stderr.splitlines()) == 1
    done = run(DAEMON, "mount", lake_path)
    assert done.returncode == 2 and done.stderr == b"dtafs: missing argument 'MOUNTPOINT'\n"


def test_an_index_file_that_was_emptied(lake_path: Path) -> None:
    (lake_path / "index" / "data.mdb").write_bytes(b"")
    done = run(CTL, "--lake", lake_path, "ls")
    assert done.returncode == 3 and b"run dtafsctl reindex" in done.stderr
    assert run(CTL, "--lake", lake_path, "reindex").returncode == 0


def test_a_lock_that_cannot_be_described_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, who holds the lake is unknown, but nobody else gets it."""

    def full(*_args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        lock = WriterLock(tmp_path / "run" / "lock")
    with pytest.raises(BusyError, match="in use by another process"):
        WriterLock(tmp_path / "run" / "lock")
    lock.release()
    WriterLock(tmp_path / "run" / "lock").release()


def test_a_commit_that_only_staging_could_not_follow(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error says that the version is there; the next open moves staging onto it."""
    (tmp_path / "x").write_bytes(b"one")
    session = Session(lake, actor_here("tests"))
    session.create("D")
    session.put("D", [str(tmp_path / "x")])

    def full(*_args: object) -> None:
        raise StorageFullError("no room")

    monkeypatch.setattr(Staging, "rebase", full)
    with pytest.raises(StorageFullError, match="D:v1 is sealed and safe"):
        session.commit("D", "m")
    monkeypatch.undo()
    lake.close()
    with Lake.open(lake.path) as again:
        assert not Session(again, actor_here("tests")).status("D")["changes"]
        assert again.resolve("D:latest").number == 1
