"""Fixtures of the tests that run real programs on a real mount."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.mounts import Mount

LIMIT_S = 60.0
"""Longer than any of these programs takes; one that meets it hangs."""


class Place:
    """The staging of a dataset, where programs run, and its versions."""

    def __init__(self, mount: Mount) -> None:
        self.mount = mount
        (mount / "D").mkdir()
        self.staging = mount / "D/staging"
        self._versions = 0

    def run(self, *command: object, cwd: Path | None = None, **how: object) -> str:
        """Run a program in staging until it ends well; what it printed."""
        done = subprocess.run(
            [os.fspath(word) if isinstance(word, Path) else str(word) for word in command],
            cwd=self.staging if cwd is None else cwd,
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            timeout=LIMIT_S,
            text=True,
            errors="surrogateescape",
            check=False,
            **how,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return str(done.stdout)

    def commit(self) -> Path:
        """`mv staging vN`; the version."""
        self._versions += 1
        version = self.mount / f"D/v{self._versions}"
        self.run("mv", self.staging, version, cwd=Path("/"))
        return version


ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "PYTHONDONTWRITEBYTECODE": "",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.org",
    "GIT_COMMITTER_NAME": "Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.org",
}


@pytest.fixture
def place(mounted_lake: Mount) -> Place:
    """An empty dataset in a mounted lake."""
    return Place(mounted_lake)


@pytest.fixture
def shared_place(lake_path: Path, mount: Callable[..., Mount], tmp_path: Path) -> Place:
    """An empty dataset that every user can reach."""
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    return Place(mount(lake_path, "--allow-other"))
