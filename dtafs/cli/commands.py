"""The commands of `dtafsctl`, the administrator's command."""

from __future__ import annotations

from pathlib import Path

import click

from dtafs import __version__
from dtafs.cli.base import CONTEXT, LazyGroup, Place, group_options

PLACES = {
    "init": Place("dtafs.cli.datasets", "init", "Make a lake."),
    "create": Place("dtafs.cli.datasets", "create", "Create a dataset."),
    "put": Place("dtafs.cli.staging", "put", "Stage files and directories without a mount."),
    "status": Place("dtafs.cli.staging", "status", "Show what staging adds, changes and removes."),
    "commit": Place("dtafs.cli.staging", "commit", "Seal staging as the next version."),
    "discard": Place("dtafs.cli.staging", "discard", "Drop what is staged."),
    "ls": Place("dtafs.cli.reading", "ls", "List datasets, versions or directories."),
    "log": Place("dtafs.cli.datasets", "log", "Show the signed log."),
    "show": Place("dtafs.cli.datasets", "show", "Show a dataset or a version."),
    "diff": Place("dtafs.cli.reading", "diff", "Show what changed between two versions."),
    "cat": Place("dtafs.cli.reading", "cat", "Print a file of a version."),
    "tag": Place("dtafs.cli.datasets", "tag", "Put tags on a version, or take them off."),
    "lineage": Place("dtafs.cli.datasets", "lineage", "Show what versions were made from."),
    "export": Place("dtafs.cli.evidence", "export", "Write a version out with its proof."),
    "verify": Place("dtafs.cli.evidence", "verify", "Verify an export, or the whole lake."),
    "retain": Place("dtafs.cli.retention", "retain", "Rules of retention, and what they decide."),
    "hold": Place("dtafs.cli.holds", "hold", "Holds, under which nothing is disposed of."),
    "event": Place("dtafs.cli.holds", "event", "Record what periods of retention begin with."),
    "check": Place("dtafs.cli.upkeep", "check", "Check the invariants of the lake."),
    "repair": Place("dtafs.cli.repair", "repair", "Mend what is damaged, from parity or a copy."),
    "restore": Place(
        "dtafs.cli.restore", "restore", "Make a lake again from its mirror in a tier."
    ),
    "reindex": Place("dtafs.cli.upkeep", "reindex", "Rebuild the index from the objects."),
    "collect": Place("dtafs.cli.upkeep", "collect", "Delete what nothing reaches."),
    "tier": Place("dtafs.cli.tiers", "tier", "Attach buckets, archives, directories; list them."),
    "stats": Place("dtafs.cli.upkeep", "stats", "Show counts and sizes."),
}


@click.group(cls=LazyGroup, places=PLACES, context_settings=CONTEXT, no_args_is_help=True)
@group_options
@click.version_option(__version__, prog_name="dtafsctl")
def ctl(lake: Path | None, as_json: bool) -> None:
    """Keep datasets as sealed versions that can be proved.

    A version is written DATASET:v3, DATASET:TAG, DATASET:latest or DATASET@2024-07-04T12:00Z.
    """
