"""retain apply and certificate: carrying out what the rules say, and the proof of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from dtafs.cli.base import Call, Failed, standard
from dtafs.cli.words import fields, size_text
from dtafs.core.quantities import counted
from dtafs.errors import RecallError, StorageError
from dtafs.store.compare import printable


@click.command()
@click.argument("version", metavar="DATASET:V")
@standard
def certificate(call: Call, version: str) -> None:
    """Show the proof that a version was disposed of: which rule, on whose authority, who approved, what
    was destroyed where, and what survives since another version needs it."""
    from dtafs.store.certificate import certificate as certify
    from dtafs.store.certificate import certificate_lines

    with call.reading() as lake:
        facts = certify(lake, lake.resolve(version))
    lines = [
        (name, "\n".join(map(printable, text.splitlines())))
        for name, text in certificate_lines(facts)
    ]
    call.answer(facts, fields(lines))


@click.command()
@click.option("--plan", metavar="HASH", help="Only if the plan is still this one.")
@click.option("--confirm-clock", metavar="TIME", help="Say that it is this time; recorded.")
@click.option("--reason", default="", help="Why the clock is confirmed.")
@standard
def apply(call: Call, plan: str | None, confirm_clock: str | None, reason: str) -> None:
    """Archive and dispose of what is due by the rules. It may be interrupted; the next run goes on.

    What must be kept a while longer is left, and said; nothing is destroyed on a doubt.
    """
    if reason and confirm_clock is None:
        raise click.UsageError("--reason goes with --confirm-clock")
    with call.progress() as report, call.session() as session:
        if confirm_clock is not None:
            session.confirm_clock(confirm_clock, reason)
        facts = session.apply(plan, report)
    unfinished = {**facts["left"], **facts["not_archived"], **facts["not_locked"]}
    if unfinished:
        if not call.as_json:
            for line in _lines(facts):
                click.echo(line)
        where, why = next(iter(unfinished.items()))
        text = f"not finished, the next run goes on: {where}: {why}"
        if len(unfinished) > 1:
            text += f"; and {len(unfinished) - 1} more"
        raise Failed(RecallError(text) if facts["recalled"] else StorageError(text), facts)
    call.answer(facts, _lines(facts))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    """What was done, a line each, as the nightly log keeps it."""
    for item in facts["archived"]:
        yield f"📦 Archived {item['dataset']} v{item['version']}"
    for name in facts["disposed"]:
        yield f"Disposed of {name}; see: dtafsctl retain certificate {name}"
    for item in facts["notify"]:
        yield f"Due: {item['id']}, by rule {item['rule']}"
    for item in facts["blocked"]:
        yield f"Kept {item['id']}: {printable('; '.join(item['blocked_by']))}"
    for name, why in facts["refused"].items():
        yield f"Kept {name}: {printable(why)}"
    if facts["destroyed_packs"]:
        packs = counted(facts["destroyed_packs"], "pack")
        written = size_text(facts["written_bytes"])
        yield f"{packs} of {size_text(facts['destroyed_bytes'])} destroyed, {written} written anew"
    done = len(facts["archived"]) + len(facts["disposed"]) + facts["destroyed_packs"]
    if not done and not facts["blocked"] and not facts["refused"]:
        yield "Nothing is due"
