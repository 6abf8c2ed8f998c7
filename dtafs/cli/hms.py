"""`hms dta …`: the commands of `dtafsctl` under the name by which HMS-DTA knows them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dtafs.cli.base import CONTEXT, LazyGroup, Place, group_options, run_program

PLACES = {
    "dta": Place("dtafs.cli.commands", "ctl", "Data core and lake: the commands of dtafsctl."),
}


@click.group(cls=LazyGroup, places=PLACES, context_settings=CONTEXT, no_args_is_help=True)
@group_options
def hms(lake: Path | None, as_json: bool) -> None:
    """HMS on this machine."""


def main() -> None:
    """The entry point."""
    sys.exit(run_program(hms, "hms"))


if __name__ == "__main__":
    main()
