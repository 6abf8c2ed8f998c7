"""What `status` tells of work on a mount is what differs, also where directories took another's place."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator

import pytest

from dtafs.services.client import RemoteSession, connect_to_daemon
from tests.support.differing import Facts, change_something, expected, facts, told
from tests.support.mounts import Mount
from tests.support.programs import ctl_json

STEPS, VERSIONS = 12, 4


@pytest.fixture
def session(mounted_lake: Mount) -> Iterator[RemoteSession]:
    """A session with the daemon of `mounted_lake`, which has the dataset D."""
    (mounted_lake / "D").mkdir()
    opened = connect_to_daemon(mounted_lake.lake, "tests 1.0")
    assert opened is not None
    with opened:
        yield opened


@pytest.mark.parametrize("seed", range(2))
def test_what_is_told_is_what_differs(
    mounted_lake: Mount, session: RemoteSession, seed: int
) -> None:
    dice, top = random.Random(seed), mounted_lake / "D/staging"
    before: dict[str, Facts] = {}
    for number in range(1, VERSIONS + 1):
        for _ in range(STEPS):
            change_something(top, dice)
        after = facts(top)
        assert told(session.status("D")["changes"]) == expected(before, after)
        session.commit("D", "m", allow_empty=True, wait=True)
        assert facts(mounted_lake / f"D/v{number}") == after
        assert session.status("D")["changes"] == []
        if number % 2:
            session.discard("D")  # so that nothing has a row
        before = after


@pytest.mark.parametrize("touched", [False, True])
def test_a_directory_that_took_the_place_of_another(
    mounted_lake: Mount, session: RemoteSession, touched: bool
) -> None:
    """As after `rm -r old; mv new old`: what both have is changed, or the same."""
    staging = mounted_lake / "D/staging"
    for name, content in (("old", b"1"), ("new", b"2")):
        (staging / name / "sub").mkdir(parents=True)
        for path in ("both", "sub/both", f"only {name}", f"sub/only {name}"):
            (staging / name / path).write_bytes(content * 400_000)
        (staging / name / "kind").write_bytes(b"a file")
    (staging / "new/kind").unlink()
    (staging / "new/kind").mkdir()
    for name in ("old", "new"):
        (staging / name / "same").write_bytes(b"the same")
        os.utime(staging / name / "same", ns=(1, 1))
    session.commit("D", "first")
    session.discard("D")
    shutil.rmtree(staging / "old")
    os.rename(staging / "new", staging / "old")
    if touched:
        (staging / "old/sub/more").write_bytes(b"more")
        (staging / "old/only new").unlink()
    found = told(session.status("D")["changes"])
    assert {("changed", "old/both"), ("changed", "old/sub/both"), ("removed", "old/kind")} <= found
    assert {("added", "old/kind"), ("removed", "old/only old"), ("removed", "new/same")} <= found
    assert ("added", "old/sub/only new") in found
    assert "old/same" not in {path for _, path in found}
    session.commit("D", "second", wait=True)
    assert found == told(ctl_json(mounted_lake.lake, "diff", "D:v1", "D:v2")["changes"])
