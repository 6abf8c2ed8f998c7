"""A lake that the tests of the commands drive, in this process' stead or through a daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.evidence import make_tree
from tests.support.programs import ctl, ctl_json

Run = Callable[..., str]


class Commands:
    """`dtafsctl` on one lake."""

    def __init__(self, lake: Path) -> None:
        self.lake = lake

    def __call__(self, *arguments: object, **how: Any) -> str:
        """Run a command; what it printed on stdout."""
        return ctl(self.lake, *arguments, **how).stdout.decode()

    def fails(self, code: int, *arguments: object, **how: Any) -> str:
        """Run a command that must end with `code`; its one sentence, also the one in its JSON."""
        done = ctl(self.lake, *arguments, exit_code=code, **how)
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1 and lines[0].startswith("dtafsctl: "), lines
        sentence = lines[0].removeprefix("dtafsctl: ")
        error = self.json(*arguments, exit_code=code, **how)["error"]
        assert error["message"] == sentence and error["kind"]
        return sentence

    def json(self, *arguments: object, **how: Any) -> Any:
        """Run a command with --json; the one document."""
        return ctl_json(self.lake, *arguments, **how)


@pytest.fixture(params=["alone", "daemon"])
def commands(request: pytest.FixtureRequest, lake_path: Path) -> Commands:
    """The commands on a new lake: without a daemon, and with one that has it mounted."""
    if request.param == "daemon":
        request.getfixturevalue("mount")(lake_path)
    return Commands(lake_path)


@pytest.fixture
def alone(lake_path: Path) -> Commands:
    """The commands on a new lake without a daemon."""
    return Commands(lake_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of everything that can be sealed."""
    top = tmp_path / "tree"
    make_tree(top)
    return top
