"""The catalog on a real mount, for SQLite's own client: read-only, and as of the newest commit."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
from pathlib import Path

from tests.support.mounts import Mount
from tests.support.programs import ctl


def ask(catalog: Path, sql: str) -> list[str]:
    """What the client prints, line by line; it may make no file beside the catalog."""
    done = subprocess.run(
        ["sqlite3", "-readonly", catalog, sql], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_client_sees_the_newest_commit(mounted_lake: Mount) -> None:
    catalog = mounted_lake / ".dtafs/catalog.sqlite"
    (mounted_lake / "D").mkdir()
    assert ask(catalog, "SELECT ver FROM versions") == []
    for number in (1, 2, 3):
        (mounted_lake / "D/staging/x").write_bytes(b"%d" % number)
        if number == 2:
            ctl(mounted_lake.lake, "commit", "D", "-m", "second", "--tag", "raw")
        else:
            os.rename(mounted_lake / "D/staging", mounted_lake / f"D/v{number}")
        seen = ask(catalog, "SELECT ver FROM versions ORDER BY ver")
        assert seen == [f"v{n}" for n in range(1, number + 1)]
    assert ask(catalog, "SELECT comment FROM versions WHERE ver = 'v2'") == ["second"]
    assert ask(catalog, "SELECT id FROM datasets") == ["D"]
    assert ask(catalog, "SELECT tag, ver FROM tags") == ["raw|v2"]
    assert os.listdir(mounted_lake / ".dtafs") == ["catalog.sqlite", "provenance", "status"]


def test_who_has_it_open_goes_on_with_one_state(mounted_lake: Mount) -> None:
    (mounted_lake / "D").mkdir()
    url = (mounted_lake / ".dtafs/catalog.sqlite").as_uri() + "?mode=ro"
    count = "SELECT count(*) FROM versions"
    with contextlib.closing(sqlite3.connect(url, uri=True)) as before:
        assert before.execute(count).fetchone() == (0,)
        os.setxattr(mounted_lake / "D/staging", "user.dtafs.message", b"first")
        (mounted_lake / "D/staging/x").touch()
        os.rename(mounted_lake / "D/staging", mounted_lake / "D/v1")
        assert before.execute(count).fetchone() == (0,)
        assert before.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        with contextlib.closing(sqlite3.connect(url, uri=True)) as after:
            assert after.execute(count).fetchone() == (1,)
