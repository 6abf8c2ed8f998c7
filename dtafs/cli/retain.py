"""retain: the rules of retention, what they do, and the proof of it."""

from __future__ import annotations

import click

from dtafs.cli.base import CONTEXT, LazyGroup, Place

PLACES = {
    "certificate": Place(
        "dtafs.cli.certificate", "certificate", "Show the proof that a version was disposed of."
    ),
}


@click.group(cls=LazyGroup, places=PLACES, context_settings=CONTEXT, no_args_is_help=True)
def retain() -> None:
    """Keep versions as long as the rules say, and no longer; and prove both."""
