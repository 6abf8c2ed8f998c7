"""repair: mending what is damaged, from parity, another lake, or what else has the bytes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from dtafs.cli.base import WRITER_WAIT_S, Call, Failed, standard
from dtafs.cli.words import size_text
from dtafs.core.quantities import counted
from dtafs.errors import IntegrityError
from dtafs.store.compare import printable

RANGES_SHOWN = 3


@click.command()
@click.option(
    "--from", "lakes", multiple=True, metavar="LAKE", help="A lake to take from; may be repeated."
)
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done.")
@standard
def repair(call: Call, lakes: tuple[str, ...], dry_run: bool) -> None:
    """Mend what is damaged, from parity or wherever another copy of the bytes is.

    Reads every pack. What cannot be mended is named, with the versions and paths that need it, and
    kept in quarantine/; everything else stays readable.
    """
    with call.progress() as report:
        daemon = call.daemon()
        if daemon is not None:
            with daemon:
                facts = daemon.repair(lakes, dry_run, report)
        else:
            from dtafs.store.repair_closed import repair_at
            from dtafs.store.session import actor_here

            facts = repair_at(
                call.path,
                actor_here(call.program_version),
                lakes,
                wait_s=WRITER_WAIT_S,
                dry_run=dry_run,
                report=report,
            )
    lines = list(_lines(facts))
    if facts["lost"]:
        if not call.as_json:
            sys.stdout.writelines(line + "\n" for line in lines)
        number = counted(len(facts["lost"]), "object")
        failure = f"{number} of the lake {call.path} cannot be mended"
        raise Failed(IntegrityError(failure), facts)
    call.answer(facts, [*lines, "✔ Nothing is lost"])


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    would = "would be " if facts["dry_run"] else ""
    for one in facts["mended"]:
        yield f"{would}mended    {one['object']}  from {one['how']}"
    for one in facts["replaced"]:
        text = f"{would}replaced  {one['object']}  {counted(one['chunks_saved'], 'chunk')} saved"
        if one["chunks_lost"]:
            text += f", {one['chunks_lost']:,} not"
        yield text + (f", from {', '.join(one['sources'])}" if one["sources"] else "")
    for one in facts["quarantined"]:
        yield f"{would}moved     {one['object']}  to {one['to']}"
    parity = facts["parity"]
    if parity["written"]:
        size = f" ({size_text(parity['size_bytes'])})" if parity["size_bytes"] else ""
        yield f"Parity of {counted(parity['written'], 'pack')} {would}made{size}"
    if parity["removed"]:
        yield f"Parity of {counted(parity['removed'], 'pack')} that are gone {would}removed"
    tiers = facts["tiers"]
    if tiers["stubs"]:
        yield f"{counted(tiers['stubs'], 'stub')} of packs that lie in tiers {would}made again"
    if tiers["copies"]:
        yield f"{counted(tiers['copies'], 'pack')} in tiers {would}put again"
    if tiers["mirrored"]:
        yield f"{counted(tiers['mirrored'], 'object')} of the mirror {would}put again"
    if tiers["deleted"]:
        yield f"{counted(tiers['deleted'], 'pack')} that nothing needs {would}deleted from tiers"
    if facts["reindexed"]:
        yield "The index was made again"
    for one in facts["lost"]:
        yield f"LOST      {one['object']}: {one['problem']}"
        for affected in one["affects"]:
            yield from _affected(affected)


def _affected(affected: dict[str, Any]) -> Iterator[str]:
    where = [f"v{number}" for number in affected["versions"]]
    where += ["staging"] if affected.get("staged") else []
    yield f"  {affected['dataset']}" + (":" + ",".join(where) if where else "")
    for one in affected["paths"]:
        text = f"    {printable(one['path'])}"
        if one["ranges"]:
            shown = [f"{start}-{end - 1}" for start, end in one["ranges"][:RANGES_SHOWN]]
            text += "  bytes " + ", ".join(shown)
            text += ", …" if len(one["ranges"]) > RANGES_SHOWN else ""
        yield text
    if affected["more"]:
        yield f"    and {affected['more']:,} more"
