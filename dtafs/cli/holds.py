"""hold, event: what keeps versions from being disposed of, and what periods begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtafs.cli.base import CONTEXT, Call, LazyGroup, Place, group_options, standard
from dtafs.cli.words import fields, time_text
from dtafs.core.quantities import counted
from dtafs.store.compare import printable

if TYPE_CHECKING:
    from dtafs.store.index_records import HoldRow

PLACES = {
    "place": Place("dtafs.cli.holds", "place", "Place a hold."),
    "release": Place("dtafs.cli.holds", "release", "End a hold."),
    "list": Place("dtafs.cli.holds", "list_holds", "List the holds that are on something."),
}
CUSTODIAN = "Who is responsible for it (default: you)."


@click.group(cls=LazyGroup, places=PLACES, context_settings=CONTEXT, no_args_is_help=True)
@group_options
def hold(lake: Path | None, as_json: bool) -> None:
    """Holds: under one, nothing is disposed of or shortened, by anyone, until it is released."""


@click.command()
@click.argument("name")
@click.argument("what", metavar="[DATASET[:V]]...", nargs=-1)
@click.option("--datasets", metavar="PATTERN", help="All datasets that match: *, WF-*, WF-????.")
@click.option("--tag", "tags", multiple=True, help="Only versions that carry it; may be repeated.")
@click.option("--committed-after", metavar="TIME", help="Only versions from this time on.")
@click.option("--committed-before", metavar="TIME", help="Only versions before this time.")
@click.option(
    "--descendants", is_flag=True, help="Also on all that is, or will be, made from them."
)
@click.option("--matter", required=True, help="The case, the audit, the request.")
@click.option("--reason", required=True, help="Why.")
@click.option("--custodian", help=CUSTODIAN)
@standard
def place(
    call: Call,
    name: str,
    what: tuple[str, ...],
    datasets: str | None,
    matter: str,
    reason: str,
    custodian: str | None,
    descendants: bool,
    **limits: Any,
) -> None:
    """Place a hold on versions, on a dataset with its versions to come, or on all that fits a query."""
    pattern, numbers = _what(call, what, datasets)
    scope = {
        "datasets": pattern,
        "versions": numbers,
        "tags": sorted(set(limits["tags"])),
        "committed_after": limits["committed_after"],
        "committed_before": limits["committed_before"],
    }
    with call.session() as session:
        facts = session.place_hold(name, matter, reason, scope, custodian, descendants)
    line = f"Hold {name} is on {counted(facts['versions'], 'version')}"
    if descendants:
        line += f" and {facts['descendants']:,} that were made from them"
    call.answer(facts, [line])
    if facts["disposed"]:
        gone = counted(facts["disposed"], "version")
        call.say(f"{gone} in its scope cannot be held any more: disposed of before")


def _what(call: Call, what: tuple[str, ...], datasets: str | None) -> tuple[str, list[int]]:
    """The pattern and the version numbers that the arguments name."""
    from dtafs.core.names import VersionSpec, parse_spec
    from dtafs.core.patterns import escape

    if bool(what) == (datasets is not None):
        raise click.UsageError("name versions or a dataset, or give --datasets PATTERN")
    if datasets is not None:
        return datasets, []
    specs = [parse_spec(text) for text in what]
    names = {spec.dataset for spec in specs}
    if len(names) > 1:
        raise click.UsageError("one hold names versions of one dataset; of several, use --datasets")
    whole = [spec for spec in specs if spec == VersionSpec(spec.dataset)]
    if whole and len(specs) > 1:
        raise click.UsageError("name a dataset, or versions of it")
    with call.reading() as lake:
        numbers = [] if whole else sorted({lake.resolve(spec).number for spec in specs})
    return escape(names.pop()), numbers


@click.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why.")
@click.option("--custodian", help="On whose behalf (default: yours).")
@standard
def release(call: Call, name: str, reason: str, custodian: str | None) -> None:
    """End a hold, on behalf of its custodian."""
    with call.session() as session:
        facts = session.release_hold(name, reason, custodian)
    call.answer(facts, [f"Hold {name} is released"])


@click.command("list")
@click.argument("version", metavar="[DATASET:V]", required=False)
@standard
def list_holds(call: Call, version: str | None) -> None:
    """List the holds in force, or those on a version."""
    from dtafs.store.retention_facts import Standing

    with call.reading() as lake:
        standing = Standing(lake.index)
        rows = standing.holds
        if version is not None:
            names = {one.held.name for one in standing.holds_on(lake.resolve(version))}
            rows = [row for row in rows if row.name in names]
    call.answer({"holds": [hold_facts(row) for row in rows]}, _hold_lines(rows))


def hold_facts(row: HoldRow) -> dict[str, Any]:
    """A hold as a document shows it."""
    import msgspec

    from dtafs.core.names import format_time

    return {
        **msgspec.to_builtins(row.held),
        "since": format_time(row.time_ns),
        "actor": msgspec.to_builtins(row.actor),
        "sequence": row.sequence,
    }


def _hold_lines(rows: list[HoldRow]) -> Iterator[str]:
    from dtafs.core.names import format_time
    from dtafs.store.record_texts import describe_scope

    for row in rows:
        held = row.held
        followed = ", and what is made from it" if held.descendants else ""
        yield from fields(
            [
                ("Hold", held.name),
                ("On", printable(describe_scope(held.scope)) + followed),
                ("Matter", printable(held.matter)),
                ("Custodian", printable(held.custodian)),
                ("Reason", printable(held.reason)),
                (
                    "Since",
                    f"{time_text(format_time(row.time_ns))} UTC, by {printable(row.actor.user)}",
                ),
            ]
        )
        yield ""
    yield counted(len(rows), "hold")


@click.command()
@click.argument("name")
@click.argument("what", metavar="DATASET[:V]")
@click.option("--time", metavar="TIME", help="When it happened (default: now).")
@click.option("--reason", default="", help="What it was.")
@standard
def event(call: Call, name: str, what: str, time: str | None, reason: str) -> None:
    """Record that something happened, such as the end of a contract, with which periods begin.

    Of several times of one event the latest counts.
    """
    from dtafs.core.names import VersionSpec, parse_spec

    spec = parse_spec(what)
    number = None
    if spec != VersionSpec(spec.dataset):
        with call.reading() as lake:
            number = lake.resolve(spec).number
    with call.session() as session:
        facts = session.record_event(name, spec.dataset, number, time, reason)
    call.answer(facts, [f"Recorded {name} of {what}"])
    if facts["unused"]:
        call.say(facts["unused"])
