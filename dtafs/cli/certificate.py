"""retain certificate: what the signed log says of a disposition."""

from __future__ import annotations

import click

from dtafs.cli.base import Call, standard
from dtafs.cli.words import fields
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
