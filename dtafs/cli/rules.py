"""retain rule: make, list and remove rules, and load a schedule of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtafs.cli.base import CONTEXT, Call, LazyGroup, Place, group_options, standard
from dtafs.cli.words import table
from dtafs.core.quantities import counted
from dtafs.store.compare import printable

if TYPE_CHECKING:
    from dtafs.store.index_records import RuleRow

PLACES = {
    "add": Place("dtafs.cli.rules", "add", "Make a rule, or change one."),
    "list": Place("dtafs.cli.rules", "list_rules", "List the rules in force."),
    "remove": Place("dtafs.cli.rules", "remove", "Take a rule out of force."),
    "load": Place("dtafs.cli.rules", "load", "Make the rules of a schedule."),
}
REASON = "Why; needed to change or remove a rule."


@click.group(cls=LazyGroup, places=PLACES, context_settings=CONTEXT, no_args_is_help=True)
@group_options
def rule(lake: Path | None, as_json: bool) -> None:
    """Make, list and remove rules, and load a schedule of them."""


@click.command()
@click.argument("name")
@click.option(
    "--datasets", default="*", metavar="PATTERN", help="Which datasets: *, WF-*, WF-????."
)
@click.option("--tag", "tags", multiple=True, help="Only versions that carry it; may be repeated.")
@click.option("--from", "start", default="committed", help="committed, superseded or event:NAME.")
@click.option("--after", "period", required=True, metavar="PERIOD", help="7y, 6m, 90d or 1y6m.")
@click.option("--archive", "tier", metavar="TIER", help="Send the versions to a tier.")
@click.option("--dispose", is_flag=True, help="Dispose of the versions; until then they are kept.")
@click.option("--notify", is_flag=True, help="Show the versions in each plan.")
@click.option("--authority", required=True, help="On what ground: a schedule item, its citation.")
@click.option("--compliance", is_flag=True, help="Can never be shortened or removed, by anyone.")
@click.option("--approvals", default=0, metavar="N", help="Other persons who must agree.")
@click.option("--reason", default="", help=REASON)
@click.option("--everything", is_flag=True, help="It may dispose of every dataset of the lake.")
@standard
def add(
    call: Call,
    name: str,
    start: str,
    period: str,
    tier: str | None,
    dispose: bool,
    notify: bool,
    compliance: bool,
    reason: str,
    everything: bool,
    **given: Any,
) -> None:
    """Make a rule: what is done with which versions, when, and on whose authority.

    A name that exists changes that rule.
    """
    import msgspec

    from dtafs.core.records import ARCHIVE, COMPLIANCE, DISPOSE, GOVERNANCE, NOTIFY
    from dtafs.store.schedules import make_rule

    actions = ((tier is not None, ARCHIVE), (dispose, DISPOSE), (notify, NOTIFY))
    chosen = [action for wanted, action in actions if wanted]
    if len(chosen) != 1:
        raise click.UsageError("give one of --archive TIER, --dispose and --notify")
    mode = COMPLIANCE if compliance else GOVERNANCE
    made = make_rule(
        name, start=start, period=period, action=chosen[0], mode=mode, tier=tier or "", **given
    )
    rules = {name: msgspec.to_builtins(made)}
    with call.session() as session:
        facts = session.set_rules(rules, reason, [name] if everything else [])
    call.answer(facts, _set_lines(facts))


def _set_lines(facts: dict[str, Any]) -> Iterator[str]:
    words = {"new": "is in force", "changed": "is changed", "unchanged": "is what it was"}
    for name, state in facts["rules"].items():
        yield f"Rule {name} {words[state]}"
    yield from map(printable, facts["remarks"])


@click.command()
@click.argument("schedule", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--reason", default="", help=REASON)
@standard
def load(call: Call, schedule: Path, reason: str) -> None:
    """Make all rules of a schedule, a TOML file, or none of them."""
    import msgspec

    from dtafs.store.schedules import load_schedule

    found = load_schedule(schedule)
    rules = {name: msgspec.to_builtins(one) for name, one in found.rules.items()}
    with call.session() as session:
        facts = session.set_rules(rules, reason or found.reason, found.everything)
    call.answer(facts, _set_lines(facts))


@click.command("list")
@standard
def list_rules(call: Call) -> None:
    """List the rules in force."""
    from dtafs.store.retention_facts import Standing

    with call.reading() as lake:
        rows = Standing(lake.index).rules
    call.answer({"rules": [rule_facts(row) for row in rows]}, _rule_lines(rows))


def rule_facts(row: RuleRow) -> dict[str, Any]:
    """A rule as a document shows it."""
    import msgspec

    from dtafs.core.names import format_time

    return {
        "name": row.name,
        **msgspec.to_builtins(row.rule),
        "since": format_time(row.time_ns),
        "actor": msgspec.to_builtins(row.actor),
        "reason": row.reason,
        "sequence": row.sequence,
    }


def _rule_lines(rows: list[RuleRow]) -> Iterator[str]:
    from dtafs.store.record_texts import describe_rule

    if rows:
        yield from table([("RULE", ""), *((row.name, describe_rule(row.rule)) for row in rows)])
    yield counted(len(rows), "rule")


@click.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why.")
@standard
def remove(call: Call, name: str, reason: str) -> None:
    """Take a rule out of force. What only it disposed of is kept for ever then."""
    with call.session() as session:
        facts = session.remove_rule(name, reason)
    call.answer(facts, [f"Rule {name} is no longer in force"])
