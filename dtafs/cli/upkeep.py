"""check, reindex, collect, stats: keeping a lake in order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from dtafs.cli.base import WRITER_WAIT_S, Call, Failed, standard
from dtafs.cli.words import (
    fields,
    mirror_text,
    requests_text,
    size_text,
    time_text,
    verified_text,
)
from dtafs.core.quantities import counted
from dtafs.errors import IntegrityError, RefusedError, StorageError, UsageError

if TYPE_CHECKING:
    from dtafs.store.scrub import Scrub


@click.command()
@click.option("--read-data", is_flag=True, help="Read every frame and hash every file as well.")
@click.option("--max-age", metavar="TIME", help="Read only what was last read so long ago: 30d.")
@click.option("--rate", metavar="SIZE", help="Read so much a second at most, such as 50M.")
@standard
def check(call: Call, read_data: bool, max_age: str | None, rate: str | None) -> None:
    """Check the invariants of the lake; names each that is broken and what it affects.

    With --read-data it is remembered when each pack was last read: `stats` and `show` tell.
    """
    import msgspec

    from dtafs.core.quantities import parse_duration_s, parse_size_bytes
    from dtafs.store.check import check as check_lake
    from dtafs.store.lake import Lake

    if (max_age or rate) and not read_data:
        raise UsageError("--max-age and --rate go with --read-data")
    max_age_s = None if max_age is None else parse_duration_s(max_age)
    rate_bytes = None if rate is None else parse_size_bytes(rate)
    if rate_bytes == 0:
        raise UsageError("--rate 0 would never end")
    # Staging can only be looked at by who holds the lake, which is the daemon where one runs; and
    # who reads slowly must not keep others from the lake for as long as that takes.
    daemon = call.daemon()
    has_key = (call.path / "keys" / "signing.pem").exists()  # not in a lake that was just restored
    write = daemon is None and has_key and max_age is None and rate is None
    if daemon is not None:
        daemon.close()
    with ExitStack() as stack:
        report = stack.enter_context(call.progress())
        lake = stack.enter_context(Lake.open(call.path, write=write, wait_s=WRITER_WAIT_S))
        scrub = _scrub(stack, call, max_age_s, rate_bytes) if read_data else None
        findings = check_lake(lake, read_data=read_data, progress=report, scrub=scrub)
    errors = [finding for finding in findings if finding.severity == "error"]
    facts = {
        "sound": not errors,
        "staging_checked": write,
        "read": scrub.facts() if scrub is not None else None,
        "findings": [msgspec.to_builtins(finding) for finding in findings],
    }
    texts = [str(finding) for finding in findings]
    if errors:
        if not call.as_json:
            sys.stdout.writelines(text + "\n" for text in texts)
        number = counted(len(errors), "error")
        raise Failed(IntegrityError(f"the lake {call.path} is not sound: {number}"), facts)
    left_out = "" if write else " (staging apart)"
    if scrub is not None:
        read = f"{counted(scrub.packs, 'pack')} of {size_text(scrub.size_bytes)}"
        texts.append(f"Read {read}; {scrub.skipped:,} were read lately")
    call.answer(facts, [*texts, f"✔ The lake is sound{left_out}"])


def _scrub(
    stack: ExitStack, call: Call, max_age_s: float | None, rate_bytes: int | None
) -> Scrub | None:
    """What remembers the results; None for who may not write to the lake, unless that is needed."""
    from dtafs.store.scrub import Ledger, Scrub

    try:
        ledger = stack.enter_context(Ledger(call.path))
    except (RefusedError, StorageError):
        if max_age_s is not None or rate_bytes is not None:
            raise
        return None
    return Scrub(ledger, max_age_s, rate_bytes)


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
    yield f"Applied {facts['entries']:,} log entries: {counted(rows, 'row')}"
    if facts["changed"] is not None:
        parts = ", ".join(f"{facts[name]:,} {name}" for name in ("added", "removed", "changed"))
        yield f"Against the index before: {parts}"


@click.command()
@click.option("--grace", metavar="TIME", help="Delete what was condemned so long ago, such as 7d.")
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be done, and why.")
@standard
def collect(call: Call, grace: str | None, dry_run: bool) -> None:
    """Delete what nothing reaches: condemned now, deleted when the grace period is over."""
    from dtafs.core.quantities import parse_duration_s

    grace_s = None if grace is None else parse_duration_s(grace)
    with call.progress() as report, call.session() as session:
        facts = session.collect(grace_s, dry_run, report)
    call.answer(facts, _collect_lines(facts))


def _collect_lines(facts: dict[str, Any]) -> Iterator[str]:
    for pack in facts["packs"]:
        what = " ".join(word for word in (pack["origin"], pack["kind"], pack["dataset"]) if word)
        due = ""
        if pack["action"] == "wait" and pack["due"]:
            due = f" (due {time_text(pack['due'])} UTC)"
        yield (
            f"{pack['action']:<8} {pack['pack'][:16]}  {size_text(pack['size_bytes']):>9}  "
            f"{what}: {pack['reason']}{due}"
        )
    would = "would be " if facts["dry_run"] else ""
    for name in ("removed", "rewritten", "condemned", "spared"):
        if facts[name]["packs"]:
            yield f"{_packs_text(facts[name])} {would}{name}"
    if facts["written"]["packs"]:
        yield f"{_packs_text(facts['written'])} written in place of what was rewritten"
    for name, text in (("waiting", "for the end of the grace period"), ("kept", "")):
        if facts[name]["packs"]:
            yield f"{_packs_text(facts[name])} {name} {text}".rstrip()


def _packs_text(sums: dict[str, int]) -> str:
    return f"{counted(sums['packs'], 'pack')} of {size_text(sums['size_bytes'])}"


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
        ("Parity", size("parity_bytes")),
        ("Quarantine", size("quarantine_bytes")),
        ("Condemned packs", size("condemned_bytes")),
        ("Data verified", verified_text(facts["verified"])),
        *((f"Tier {tier['name']}", requests_text(tier["counters"])) for tier in facts["tiers"]),
        *([("Mirror", mirror_text(facts["mirror"]))] if facts["mirror"] else []),
        *_tier_fields(facts["placement"]),
    ]


def _tier_fields(placed: dict[str, Any]) -> list[tuple[str, str]]:
    """Where the content lies, of a lake that has tiers."""
    if not placed["tiers"]:
        return []
    shown = {"hot": placed["hot"], **placed["tiers"]}
    lines = [
        (f"In {name}", f"{where['size_bytes']:>18,} bytes  {counted(where['packs'], 'pack')}")
        for name, where in shown.items()
    ]
    away = placed["away"]
    lines.append(("Not on the hot disk", f"{away['size_bytes']:>18,} bytes"))
    if placed["recalls_waiting"]:
        lines.append(("Being recalled", counted(placed["recalls_waiting"], "pack")))
    if placed["being_deleted"]:
        lines.append(("Being deleted", counted(placed["being_deleted"], "pack")))
    return lines
