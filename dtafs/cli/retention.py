"""retain: rules of retention, what they decide, what is to be done by them, and the proof of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dtafs.cli.base import CONTEXT, Call, LazyGroup, Place, group_options, standard
from dtafs.cli.words import ever_text, fields, size_text, table, time_text
from dtafs.core.quantities import counted
from dtafs.store.compare import printable

PLACES = {
    "rule": Place("dtafs.cli.rules", "rule", "Make, list and remove rules; load a schedule."),
    "explain": Place("dtafs.cli.retention", "explain", "Which rule or hold keeps a version."),
    "plan": Place("dtafs.cli.retention", "plan", "What is to be archived and disposed of."),
    "approve": Place("dtafs.cli.retention", "approve", "Agree to a disposition."),
    "apply": Place("dtafs.cli.dispositions", "apply", "Carry out what the rules say."),
    "certificate": Place("dtafs.cli.dispositions", "certificate", "Prove a disposition."),
}


@click.group(cls=LazyGroup, places=PLACES, context_settings=CONTEXT, no_args_is_help=True)
@group_options
def retain(lake: Path | None, as_json: bool) -> None:
    """Rules of retention, what they decide, and what is to be done by them."""


@click.command()
@click.argument("version", metavar="DATASET:V")
@click.option("--at", metavar="TIME", help="As it will be, or was, at a time.")
@standard
def explain(call: Call, version: str, at: str | None) -> None:
    """Say which rule or hold keeps a version, until when, and what else is to come."""
    from dtafs.core.names import parse_time
    from dtafs.store.retention import explain as explained

    with call.reading() as lake:
        now_ns = lake.clock() if at is None else parse_time(at)
        facts = explained(lake, lake.resolve(version), now_ns)
    call.answer(facts, fields(_explained(facts)))


def _explained(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "Version", facts["id"]
    if facts["fate"] != "disposed":
        yield "Keep until", ever_text(facts["keep_until"])
    yield "State", FATES[facts["fate"]]
    texts = [reason["text"] for reason in facts["reasons"]]
    yield "Decides", printable(texts[0])
    if texts[1:]:
        yield "Also", "\n".join(map(printable, texts[1:]))
    if facts["approvals_needed"]:
        yield "Approvals", f"{len(facts['approvers'])} of {facts['approvals_needed']}"
    if facts["archived_to"]:
        yield "Archived", f"to {facts['archived_to']}"
    for deed in facts["deeds"]:
        where = f" to {deed['tier']}" if deed["tier"] else ""
        label = {"archive": "Archive", "notify": "Notify"}[deed["action"]]
        yield label, f"{time_text(deed['due'])} UTC{where}, by rule {deed['rule']}"


FATES = {
    "kept": "kept",
    "due": "to be disposed of",
    "blocked": "due, and its disposition is blocked",
    "disposed": "disposed of",
}


@click.command()
@click.option("--at", metavar="TIME", help="Simulate another day than today.")
@click.option(
    "--bytes/--no-bytes", "measured", default=None, help="Count, or do not, what would be freed."
)
@standard
def plan(call: Call, at: str | None, measured: bool | None) -> None:
    """Show what is to be archived and disposed of, what is blocked, and by what. Nothing is done.

    The hash of the plan stays the same as long as the plan does. What would be freed, since nothing else
    needs it, is counted for up to 1,000 dispositions, where this user may write to the lake.
    """
    from dtafs.core.names import format_time, parse_time
    from dtafs.core.retention_plan import Tally, item_facts
    from dtafs.store.retention import clock_doubt, plan_items

    with call.reading() as lake:
        now_ns = lake.clock() if at is None else parse_time(at)
        tally = Tally()
        items = [item_facts(item) for item in plan_items(lake, now_ns, tally)]
        doubt = clock_doubt(lake, lake.clock())
    facts = {
        "at": format_time(now_ns),
        "plan": tally.digest,
        "versions": tally.versions,
        "counts": dict(tally.counts),
        "clock": doubt,
        "items": items,
        "freed": _freed(call, items, measured),
    }
    call.answer(facts, _plan_lines(facts))
    if doubt is not None:
        call.say(f"nothing will be disposed of until the clock is confirmed: {doubt}")


MEASURED_MAX = 1_000
"""Dispositions up to which it is counted what they would free: it takes as long as they hold much."""


def _freed(call: Call, items: list[dict[str, Any]], measured: bool | None) -> dict[str, Any] | None:
    """What the dispositions of a plan would free; None where it is not counted."""
    from dtafs.errors import DtafsError

    due = [(item["dataset"], item["version"]) for item in items if item["action"] == "dispose"]
    if not due:
        return {"chunks": 0, "size_bytes": 0, "stored_bytes": 0}
    if measured is False or (measured is None and len(due) > MEASURED_MAX):
        return None
    try:
        with call.progress() as report, call.session() as session:
            return session.freed(due, report)
    except DtafsError as error:
        if measured:
            raise
        call.say(f"what would be freed was not counted: {error}")
        return None


def _plan_lines(facts: dict[str, Any]) -> Iterator[str]:
    rows = [("ACTION", "VERSION", "DUE", "RULE", "")]
    for item in facts["items"]:
        notes = item.get("blocked_by") or ([f"to {item['tier']}"] if "tier" in item else [""])
        for i, note in enumerate(notes):
            head = (item["action"], item["id"], item["due"][:10], item["rule"])
            rows.append((*(("", "", "", "") if i else head), printable(note)))
    if facts["items"]:
        yield from table(rows)
    counts = facts["counts"]
    done = ", ".join(f"{counts[name]:,} to {name}" for name in ("archive", "dispose", "notify"))
    freed = facts["freed"]
    if freed is not None and freed["chunks"]:
        alone = f"{size_text(freed['size_bytes'])} that nothing else needs"
        yield f"Disposing of them frees about {size_text(freed['stored_bytes'])}: {alone}"
    looked_at = counted(facts["versions"], "version")
    yield f"{looked_at}: {done}, {counts['blocked']:,} blocked"
    yield f"Plan {facts['plan']}"


@click.command()
@click.argument("versions", metavar="[DATASET:V]...", nargs=-1)
@click.option("--plan", "digest", metavar="HASH", help="All that this plan blocks for want of you.")
@click.option("--reason", default="", help="Why.")
@standard
def approve(call: Call, versions: tuple[str, ...], digest: str | None, reason: str) -> None:
    """Agree that versions are disposed of, as another person than the one who made the rule."""
    if not versions and digest is None:
        raise click.UsageError("name the versions, or a plan with --plan")
    with call.reading() as lake:
        rows = [lake.resolve(version) for version in versions]
        named = [(row.dataset, row.number) for row in rows]
    with call.session() as session:
        facts = session.approve(named, digest, reason)
    lines = [
        f"{one['id']}: {one['approvals']} of {one['needed']} approvals under rule {one['rule']}"
        + (f"; held by {', '.join(one['holds'])}" if one["holds"] else "")
        for one in facts["approved"]
    ]
    call.answer(facts, lines)
