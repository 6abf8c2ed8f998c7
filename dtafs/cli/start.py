"""How a command begins and ends, so that little of its time goes there.

Of the 90 ms of processor time that a command took which opens a lake and asks it something, 10 went
into looking for garbage while modules were loaded, of which there is none, and 15 into taking all of
them apart again at the end.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from importlib import import_module
from typing import NoReturn

from dtafs.errors import EXIT_INTERRUPTED


def start(module: str, group: str, program: str) -> NoReturn:
    """Run the command line of this process with a click group, and end the process."""
    gc.disable()  # `run_program` goes on with the collection of garbage
    try:
        commands = getattr(import_module(module), group)
        code = import_module("dtafs.cli.base").run_program(commands, program)
    except KeyboardInterrupt:  # while modules were loaded: `run_program` says it of all after that
        sys.stderr.write(f"{program}: interrupted\n")
        code = EXIT_INTERRUPTED
    end(code)


def end(code: int) -> NoReturn:
    """End the process at once. A command has closed what it opened by the time it has an exit code,
    and no thread of it is left: there is nothing that the end of the interpreter would have to do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody listens any more
            stream.flush()
    os._exit(code)
