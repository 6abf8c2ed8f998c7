"""check, reindex, stats: keeping a lake in order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from dtafs.cli.base import WRITER_WAIT_S, Call, Failed, standard
from dtafs.cli.words import count_text, fields, size_text
from dtafs.errors import IntegrityError


@click.command()
@click.option("--read-data", is_flag=True, help="Read every frame and hash every file as well.")
@standard
def check(call: Call, read_data: bool) -> None:
    """Check the invariants of the lake; names each that is broken and what it affects."""
    import msgspec

    from dtafs.store.check import check as check_lake
    from dtafs.store.lake import Lake

    # Staging can only be looked at by who holds the lake, which is the daemon where one runs.
    daemon = call.daemon()
    write = daemon is None
    if daemon is not None:
        daemon.close()
    with call.progress() as report, Lake.open(call.path, write=write, wait_s=WRITER_WAIT_S) as lake:
        findings = check_lake(lake, read_data=read_data, progress=report)
    errors = [finding for finding in findings if finding.severity == "error"]
    facts = {
        "sound": not errors,
        "staging_checked": write,
        "findings": [msgspec.to_builtins(finding) for finding in findings],
    }
    texts = [str(finding) for finding in findings]
    if errors:
        if not call.as_json:
            sys.stdout.writelines(text + "\n" for text in texts)
        number = count_text(len(errors), "error")
        raise Failed(IntegrityError(f"the lake {call.path} is not sound: {number}"), facts)
    left_out = "" if write else " (staging apart: the lake is mounted)"
    call.answer(facts, [*texts, f"✔ The lake is sound{left_out}"])


@click.command()
@standard
def reindex(call: Call) -> None:
    """Rebuild the index from the log and the packs."""
    from dtafs.store.reindex import reindex_at

    with call.progress() as report:
        daemon = call.daemon()
        if daemon is not None:
            with daemon:
                facts = daemon.reindex(progress=report)
        else:
            facts = reindex_at(call.path, report)
    call.answer(facts, _reindex_lines(facts))


def _reindex_lines(facts: dict[str, Any]) -> Iterator[str]:
    rows = sum(facts["rows"].values())
    yield f"Applied {facts['entries']:,} log entries: {count_text(rows, 'row')}"
    if facts["changed"] is not None:
        parts = ", ".join(f"{facts[name]:,} {name}" for name in ("added", "removed", "changed"))
        yield f"Against the index before: {parts}"


@click.command()
@standard
def stats(call: Call) -> None:
    """Show what the lake holds and what that takes on the disk."""
    from dtafs.store.stats import collect_stats

    with call.reading() as lake:
        facts = collect_stats(lake)
    call.answer(facts, fields(_stats_fields(facts)))


def _stats_fields(facts: dict[str, Any]) -> list[tuple[str, str]]:
    def ratio(name: str) -> str:
        return f"{facts[name]:.2f}" if facts[name] is not None else "-"

    def size(name: str) -> str:
        return f"{facts[name]:>18,} bytes  {size_text(facts[name]):>9}"

    return [
        ("Datasets", f"{facts['datasets']:>18,}"),
        ("Versions", f"{facts['versions']:>18,}"),
        ("Files of all versions", f"{facts['files']:>18,}"),
        ("Bytes of all versions", size("logical_bytes")),
        ("After deduplication", f"{size('unique_bytes')}  1 : {ratio('deduplication_ratio')}"),
        ("After compression", f"{size('stored_bytes')}  1 : {ratio('space_ratio')}"),
        ("Uncommitted packs", size("uncommitted_pack_bytes")),
        ("Log", size("log_bytes")),
        ("Index", size("index_bytes")),
        ("Staging", size("staging_bytes")),
        ("Cache", size("cache_bytes")),
    ]
