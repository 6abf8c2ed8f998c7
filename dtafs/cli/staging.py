"""put, status, commit, discard: the way into a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from dtafs.cli.base import Call, standard
from dtafs.cli.words import change_lines, totals_line
from dtafs.core.quantities import counted


@click.command()
@click.argument("dataset")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option("--into", default="", metavar="DIR", help="Directory in the dataset to put them in.")
@click.option("--delete", is_flag=True, help="Remove from staged directories what PATH lacks.")
@click.option("--commit", "message", metavar="MESSAGE", help="Commit as well, with this message.")
@click.option("--tag", "tags", multiple=True, help="With --commit: a tag; may be repeated.")
@standard
def put(
    call: Call,
    dataset: str,
    paths: tuple[str, ...],
    into: str,
    delete: bool,
    message: str | None,
    tags: tuple[str, ...],
) -> None:
    """Stage files and directories, with all their attributes, without a mount.

    As with `cp -a`, PATH arrives under its own last name; `PATH/.` puts what is in PATH, and with
    --delete staging becomes a mirror of it. With --commit everything staged is sealed as the next
    version, unless something of PATH could not be staged.
    """
    if tags and message is None:
        raise click.UsageError("--tag belongs to --commit")
    facts = None
    with call.progress() as report, call.session() as session:
        done = session.put(dataset, paths, into, delete, progress=report)
        if message is not None:
            facts = session.commit(dataset, message, tags, progress=report)
    if facts is None:
        call.answer(done, [_put_line(done)])
    else:
        call.answer({**facts, "put": done}, [_put_line(done), _version_line(facts)])


def _version_line(facts: dict[str, Any]) -> str:
    return f"{facts['id']} {facts['sha256']}"


def _put_line(done: dict[str, Any]) -> str:
    text = f"Staged {counted(done['files'], 'file')}, {done['size_bytes']:,} bytes"
    return f"{text}; removed {done['removed']:,}" if done["removed"] else text


@click.command()
@click.argument("dataset")
@click.option("--all", "everything", is_flag=True, help="Also directories with only a new time.")
@standard
def status(call: Call, dataset: str, everything: bool) -> None:
    """Show what staging adds (A), changes (M) and removes (D) against the newest version."""
    with call.session() as session:
        facts = session.status(dataset)
    call.answer(facts, _status_lines(facts, everything))


def _status_lines(facts: dict[str, Any], everything: bool) -> Iterator[str]:
    base = f"{facts['dataset']}:v{facts['base']}" if facts["base"] else "an empty dataset"
    yield f"Staging of {facts['dataset']} against {base}:"
    if not facts["changes"]:
        yield "no changes"
        return
    yield from change_lines(facts["changes"], everything)
    yield totals_line(facts["totals"])


@click.command()
@click.argument("dataset")
@click.option("-m", "--message", required=True, help="What this version is.")
@click.option("--tag", "tags", multiple=True, help="A tag for the version; may be repeated.")
@click.option("--allow-empty", is_flag=True, help="Commit even if nothing changed.")
@click.option("--wait", is_flag=True, help="Wait for programs that are still writing to staging.")
@standard
def commit(
    call: Call, dataset: str, message: str, tags: tuple[str, ...], allow_empty: bool, wait: bool
) -> None:
    """Seal staging as the next version; prints its name and SHA-256."""
    with call.progress() as report, call.session() as session:
        facts = session.commit(
            dataset, message, tags, allow_empty=allow_empty, wait=wait, progress=report
        )
    call.answer(facts, [_version_line(facts)])


@click.command()
@click.argument("dataset")
@standard
def discard(call: Call, dataset: str) -> None:
    """Drop everything that is staged and not committed."""
    with call.session() as session:
        facts = session.discard(dataset)
    base = f"v{facts['base']}" if facts["base"] else "empty"
    call.answer(facts, [f"Staging of {dataset} is {base} again"])
