"""The command `dtafs`: mount a lake, take a mount away."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from dtafs.cli.base import run_program
from dtafs.errors import DtafsError, StorageError, error_of_kind, from_os_error, outcome_of

LOG_MAX_BYTES = 10 * 1024 * 1024
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

PATH = click.Path(path_type=Path, readable=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dtafs")
def cli() -> None:
    """Mount a data lake as a directory, and take the mount away again.

    Everything else is done by dtafsctl.
    """


@cli.command()
@click.argument("lake", type=PATH)
@click.argument("mountpoint", type=PATH)
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to stderr.")
@click.option("--allow-other", is_flag=True, help="Let other users in, as permissions allow.")
@click.option("--read-only", is_flag=True, help="Show sealed versions only; take no lock.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def mount(
    lake: Path,
    mountpoint: Path,
    foreground: bool,
    allow_other: bool,
    read_only: bool,
    as_json: bool,
) -> None:
    """Mount LAKE on the empty directory MOUNTPOINT; returns once the mount answers."""

    def say() -> None:
        facts = {"lake": os.fspath(lake.absolute()), "mountpoint": os.fspath(mountpoint.absolute())}
        text = f"{facts['lake']} is mounted on {facts['mountpoint']}"
        click.echo(json.dumps(facts) if as_json else text)

    def serve(ready: Callable[[], None]) -> None:
        from dtafs.services.daemon import MountOptions
        from dtafs.services.daemon import serve as run
        from dtafs.services.supervisor import Supervisor

        options = MountOptions(mountpoint, allow_other, read_only)
        # A daemon in the background is not what a unit has started.
        environment = os.environ if foreground else {}
        run(lake, options, ready, Supervisor.of(environment, os.getpid()))

    if foreground:
        _log_to(sys.stderr)
        serve(lambda: None)
    else:
        _in_background(lake, serve)
        say()


@cli.command()
@click.argument("mountpoint", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def umount(mountpoint: Path, as_json: bool) -> None:
    """End the mount on MOUNTPOINT; returns once everything is written."""
    from dtafs.services.mountpoints import umount as end

    ended = end(mountpoint)
    facts = {"lake": os.fspath(ended.lake), "mountpoint": os.fspath(ended.mountpoint)}
    click.echo(json.dumps(facts) if as_json else f"{facts['mountpoint']} is no longer mounted")


def _log_to(stream: IO[str]) -> None:
    import logging

    logging.basicConfig(stream=stream, format=LOG_FORMAT, level=logging.INFO)


def _in_background(lake: Path, serve: Callable[[Callable[[], None]], None]) -> None:
    """Run `serve` in a process of its own; returns once it is ready, raises what kept it from it.

    The fork comes before any import of an event loop, a thread or an open lake.
    """
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(reading)
        _be_daemon(lake, serve, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    if not said:
        raise StorageError(f"the daemon ended before the mount answered; see {_log_path(lake)}")
    answer: dict[str, Any] = json.loads(said)
    if "error" in answer:
        raise error_of_kind(answer["error"]["kind"], answer["error"]["message"])


def _be_daemon(lake: Path, serve: Callable[[Callable[[], None]], None], writing: int) -> NoReturn:
    """The life of the background process."""

    def tell(message: dict[str, Any]) -> None:
        nonlocal writing
        if writing >= 0:
            os.write(writing, json.dumps(message).encode())
            os.close(writing)
            writing = -1

    code = 1
    try:
        os.setsid()
        _redirect(lake)
        serve(lambda: tell({"ready": True}))
        code = 0
    except (DtafsError, OSError) as error:
        if isinstance(error, OSError):
            error = from_os_error(error, "the daemon met")
        tell({"error": {"kind": outcome_of(error).kind, "message": str(error)}})
        code = outcome_of(error).exit_code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(lake: Path) -> None:
    """Send what the daemon says to the lake's log, or nowhere when it may not write there."""
    path = _log_path(lake)
    try:
        if path.exists() and path.stat().st_size > LOG_MAX_BYTES:
            path.replace(path.with_suffix(".log.1"))
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError:
        out = os.open(os.devnull, os.O_WRONLY)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for fd, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(fd, target)
    os.close(nothing)
    os.close(out)
    _log_to(sys.stderr)


def _log_path(lake: Path) -> Path:
    return lake.absolute() / "run" / "daemon.log"


def main() -> None:
    """The entry point."""
    sys.exit(run_program(cli, "dtafs"))


if __name__ == "__main__":
    main()
