"""Who may do what: the kernel judges by modes and owners, for every user."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import Mount

NOBODY = 65_534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def as_nobody(*command: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command as another user, with no groups."""
    return subprocess.run(
        [str(word) for word in command],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        umask=0o022,
        capture_output=True,
        check=False,
        cwd="/",
    )


@pytest.fixture
def shared(lake_path: Path, mount: Callable[..., Mount], tmp_path: Path) -> Mount:
    """A lake that everybody can reach, with a version and an open directory in staging."""
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    mounted = mount(lake_path, "--allow-other")
    (mounted / "D").mkdir()
    (mounted / "D/staging/secret").write_bytes(b"for root only")
    (mounted / "D/staging/secret").chmod(0o600)
    (mounted / "D/staging/public").write_bytes(b"for all")
    os.rename(mounted / "D/staging", mounted / "D/v1")
    (mounted / "D/staging/shared").mkdir()
    (mounted / "D/staging/shared").chmod(0o1777)
    return mounted


def test_others_read_what_modes_allow(shared: Mount) -> None:
    assert as_nobody("cat", shared / "D/v1/public").stdout == b"for all"
    for path in ("D/v1/secret", "D/staging/secret"):
        assert b"Permission denied" in as_nobody("cat", shared / path).stderr
    assert b"Permission denied" in as_nobody("mkdir", shared / "E").stderr
    assert b"Permission denied" in as_nobody("mv", shared / "D/staging", shared / "D/v2").stderr
    assert b"Permission denied" in as_nobody("touch", shared / "D/staging/x").stderr


def test_what_others_make_is_theirs(shared: Mount) -> None:
    place = shared / "D/staging/shared"
    assert as_nobody("sh", "-c", f"umask 027; echo 1 > {place}/x; mkdir {place}/d").stderr == b""
    found = (place / "x").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (NOBODY, NOBODY, 0o640)
    assert stat.S_IMODE((place / "d").stat().st_mode) == 0o750
    (place / "mine").touch()
    assert b"Operation not permitted" in as_nobody("rm", "-f", place / "mine").stderr
    assert as_nobody("rm", "-f", place / "x").returncode == 0


def test_writing_takes_the_set_id_bits_away(shared: Mount) -> None:
    place = shared / "D/staging/shared"
    (place / "tool").write_bytes(b"1")
    os.chown(place / "tool", NOBODY, NOBODY)
    (place / "tool").chmod(0o6755)
    assert as_nobody("sh", "-c", f"echo 2 >> {place}/tool").stderr == b""
    assert stat.S_IMODE((place / "tool").stat().st_mode) & 0o6000 == 0


def test_a_set_group_directory_gives_its_group(shared: Mount) -> None:
    place = shared / "D/staging/shared"
    os.chown(place, 0, 1234)
    place.chmod(0o3777)
    assert as_nobody("mkdir", place / "d").stderr == b""
    found = (place / "d").stat()
    assert found.st_gid == 1234 and found.st_mode & stat.S_ISGID


def test_without_the_option_others_stay_out(
    lake_path: Path, mount: Callable[..., Mount], tmp_path: Path
) -> None:
    for place in (tmp_path, *tmp_path.parents[:2]):
        place.chmod(0o755)
    mounted = mount(lake_path)
    assert b"Permission denied" in as_nobody("ls", mounted.mountpoint).stderr


def test_the_socket_is_for_the_owner(shared: Mount) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX);"
        "s.connect(sys.argv[1] + '/run/daemon.sock')"
    )
    done = as_nobody("python3", "-c", script, shared.lake)
    assert b"PermissionError" in done.stderr or b"FileNotFoundError" in done.stderr
