"""What all commands share: their options, their two forms of output, how they fail.

A command prints its result on stdout, as text or (`--json`) as one JSON document, also when it
fails: then the document has the one member `error`, with `kind` and `message`, and whatever details
the failure has. Everything else goes to stderr. Exit codes are those of `dtafs.errors.OUTCOMES`.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from dtafs.errors import EXIT_INTERRUPTED, DtafsError, from_os_error, outcome_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from dtafs.services.client import AnySession, RemoteSession
    from dtafs.store.lake import Lake
    from dtafs.store.progress import Report

F = TypeVar("F", bound=Callable[..., Any])

EXIT_BROKEN_PIPE = 141
"""What a shell reports of a program that SIGPIPE ended, as it ends others in a pipeline."""

WRITER_WAIT_S = 3.0
"""How long a command waits for another one that is using the lake."""

LAKE_PATH = click.Path(path_type=Path, readable=False)
"""Opening the lake says what is wrong with its directory, with the right exit code."""

COLLECT_AFTER = 50_000
"""Objects that Python makes before it looks for cycles among the young ones, instead of 700. Rows and
nodes are many and in no cycle: looking at them took a tenth of a commit's time."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Place(NamedTuple):
    """Where a command is, and its line in the help: looked at without importing it."""

    module: str
    attribute: str
    summary: str


class LazyCommands(MutableMapping[str, click.Command]):
    """Commands by name, each imported when it is used: start-up costs only what is run."""

    def __init__(self, places: dict[str, Place]) -> None:
        self.places = places
        self._loaded: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._loaded:
            place = self.places[name]
            self._loaded[name] = getattr(import_module(place.module), place.attribute)
        return self._loaded[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places


class LazyGroup(click.Group):
    """A group whose help needs none of its commands, and which knows what was probably meant."""

    def __init__(self, *, places: dict[str, Place], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands = LazyCommands(places)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in the order of their table, which is that of a day's work."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.summary) for name, place in self.places.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it; an unknown command is answered with the nearest."""
        if args and args[0] not in self.places and not args[0].startswith("-"):
            from dtafs.core.names import suggest

            ctx.fail(f"there is no command {args[0]!r}{suggest(args[0], self.places)}")
        return super().resolve_command(ctx, args)


class Failed(DtafsError):
    """A failure with details for `--json`; it ends as `cause` would."""

    def __init__(self, cause: DtafsError, details: dict[str, Any]) -> None:
        super().__init__(str(cause))
        self.cause, self.details = cause, details


class Call:
    """One call of a command: which lake, which form of output."""

    def __init__(self, lake: Path, as_json: bool, program: str) -> None:
        self.path, self.as_json, self.program = lake, as_json, program

    def reading(self) -> Lake:
        """The lake for reading only, also while another process writes; a context manager."""
        from dtafs.store.lake import Lake

        return Lake.open(self.path, write=False)

    def session(self, wait_s: float = WRITER_WAIT_S) -> AbstractContextManager[AnySession]:
        """What changes the lake: the daemon that has it mounted, else this process."""
        from dtafs.services.client import open_session

        return open_session(self.path, self.program_version, wait_s)

    def daemon(self) -> RemoteSession | None:
        """The daemon that has the lake mounted, if one does; to be closed."""
        from dtafs.services.client import connect_to_daemon

        return connect_to_daemon(self.path, self.program_version)

    @property
    def program_version(self) -> str:
        """The program as the log names it."""
        from dtafs import __version__

        return f"{self.program} {__version__}"

    def answer(self, value: Any, lines: Iterable[str]) -> None:
        """Print the result: `value` as JSON, or `lines`."""
        if self.as_json:
            print_json(value)
            return
        for line in lines:
            sys.stdout.write(line + "\n")

    def say(self, text: str) -> None:
        """Print a remark on stderr."""
        complain(self.program, text)

    def progress(self) -> AbstractContextManager[Report | None]:
        """Bars on stderr while the block runs, where it is a terminal."""
        from dtafs.cli.bars import shown

        return shown(sys.stderr)


def standard(function: F) -> F:
    """Give a command its `Call` and the options that every command has."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.option("--lake", type=LAKE_PATH, metavar="DIR", help="The lake.")
    @functools.wraps(function)
    def run(lake: Path | None, as_json: bool, **arguments: Any) -> Any:
        ctx = click.get_current_context()
        outer: click.Context | None = ctx
        while outer is not None:
            lake = lake or outer.params.get("lake")
            as_json = as_json or outer.params.get("as_json", False)
            outer = outer.parent
        program = ctx.find_root().info_name or "dtafsctl"
        return function(Call(_lake(lake), as_json, program), **arguments)

    return run  # type: ignore[return-value]


def group_options(function: F) -> F:
    """The same options in front of the command."""
    function = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(
        function
    )
    return click.option(
        "--lake",
        type=LAKE_PATH,
        metavar="DIR",
        help="The lake (default: $DTAFS_LAKE, or dtafs/lake in the user data directory).",
    )(function)


def _lake(named: Path | None) -> Path:
    if named is not None:
        return named
    from dtafs.store.places import default_lake_path

    return default_lake_path(os.environ)


def run_program(group: click.Group, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code. Nothing that is expected to fail shows a traceback."""
    gc.set_threshold(COLLECT_AFTER)
    gc.freeze()  # what was loaded so far stays
    gc.enable()
    given = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    as_json = "--json" in given
    try:
        # Not `group.main`, which has its own way with a broken pipe.
        with group.make_context(program, given) as context:
            group.invoke(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        sys.stderr.write(f"{error.format_message()}\n")
        return 2
    except click.ClickException as error:
        text = error.format_message()
        return _fail(program, as_json, "usage", text[:1].lower() + text[1:].rstrip("."), 2)
    except (KeyboardInterrupt, click.Abort):
        return _fail(program, as_json, "interrupted", "interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except DtafsError as error:
        return _fail_as(program, as_json, error)
    except OSError as error:
        return _fail_as(program, as_json, from_os_error(error, "the command met"))


def _fail_as(program: str, as_json: bool, error: DtafsError) -> int:
    details: dict[str, Any] = {}
    if isinstance(error, Failed):
        details, error = error.details, error.cause
    outcome = outcome_of(error)
    return _fail(program, as_json, outcome.kind, str(error), outcome.exit_code, details)


def _fail(
    program: str,
    as_json: bool,
    kind: str,
    text: str,
    code: int,
    details: dict[str, Any] | None = None,
) -> int:
    try:
        if as_json:
            print_json({"error": {"kind": kind, "message": text}, **(details or {})})
        sys.stdout.flush()
    except OSError:
        pass
    complain(program, text)
    return code


def complain(program: str, text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{program}: {text}\n")


def print_json(value: Any) -> None:
    """One document on stdout; pure ASCII, so that a file name of any bytes survives."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(value, indent=indent) + "\n")
