"""Starting: how long it takes, what is imported for it, what help says."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import dtafs
from dtafs.cli.commands import PLACES, ctl
from dtafs.cli.hms import hms
from tests.support.programs import CTL, HMS, ROOT, command_line, environment, run

START_LIMIT_S = 0.15
COMMANDS = tuple(PLACES)


def test_starting_is_quick() -> None:
    """CPU time, the best of five: what else the machine does at the moment is not the command's."""
    best = min(_cpu_s("--help") for _ in range(5))
    assert best < START_LIMIT_S, f"dtafsctl --help takes {best:.3f} s"


def _cpu_s(*arguments: str) -> float:
    before = os.times()
    subprocess.run(
        command_line(CTL, *arguments), env=environment(), check=True, stdout=subprocess.DEVNULL
    )
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    )


@pytest.mark.parametrize("arguments", [("--help",), ("put", "--help"), ("--version",)])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    heavy = ("lmdb", "cryptography", "zstandard", "rich", "trio", "pyfuse3", "pyfastcdc")
    code = (
        "import sys; from dtafs.cli.commands import ctl\n"
        f"ctl.main({list(arguments)!r}, standalone_mode=False)\n"
        f"found = [name for name in {heavy!r} if name in sys.modules]\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True)


def test_importing_the_package_is_cheap() -> None:
    code = "import sys, dtafs; assert 'dtafs.api' not in sys.modules; dtafs.Dataset; dtafs.Lake"
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def test_the_package_says_what_it_has() -> None:
    assert {"Lake", "Dataset", "Transform"} <= set(dir(dtafs))
    with pytest.raises(AttributeError, match="nothing"):
        dtafs.nothing  # noqa: B018


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert dtafs.__version__ == project["version"]
    assert run(CTL, "--version").stdout.decode() == f"dtafsctl, version {dtafs.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_json(name: str) -> None:
    command = ctl.commands[name]
    assert command.help
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--lake"} <= options
    context = click.Context(command, info_name=name)
    assert "Usage:" in command.get_help(context)


def test_options_of_later_work_do_not_exist() -> None:
    options = {o for name in COMMANDS for p in ctl.commands[name].params for o in p.opts}
    assert not {"--encrypt", "--format"} & options


def test_the_summary_of_a_command_is_in_the_help() -> None:
    text = run(CTL, "--help").stdout.decode()
    for name, place in PLACES.items():
        assert name in text and place.summary.split()[0] in text


def test_no_arguments_show_help() -> None:
    done = run(CTL)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Usage: ") and b"Commands:" in done.stderr


def test_hms_has_the_same_commands() -> None:
    assert set(hms.commands["dta"].commands) == set(COMMANDS)  # type: ignore[attr-defined]
    assert b"export" in run(HMS, "dta", "--help").stdout


def test_a_pipe_that_closes_is_no_error(tmp_path: Path) -> None:
    """`dtafsctl --help | true`: quiet, whatever arrives at the other end."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        command_line(CTL, "--help"),
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode in (0, 141)


def test_an_interruption_while_modules_load_is_said_without_a_traceback() -> None:
    program = (
        "import sys, dtafs.cli.start as start\n"
        "def interrupted(name): raise KeyboardInterrupt\n"
        "start.import_module = interrupted\n"
        "start.start('dtafs.cli.commands', 'ctl', 'dtafsctl')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, b"dtafsctl: interrupted\n")
