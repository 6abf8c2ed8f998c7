"""init, create, log, show, tag, lineage: what the log says of a lake, and what adds to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dtafs.cli.base import Call, standard
from dtafs.cli.words import ever_text, fields, time_text, verified_text, version_fields
from dtafs.core.names import LAKE_LOG
from dtafs.store.compare import printable

if TYPE_CHECKING:
    from dtafs.store.index import VersionRow
    from dtafs.store.lake import Lake


@click.command()
@click.option("--parity", metavar="SHARE", help="Reed-Solomon parity beside each pack: 2%.")
@click.option("--tier", "tiers", multiple=True, metavar="NAME=URL", help="Attach a tier: warm=URL.")
@standard
def init(call: Call, parity: str | None, tiers: tuple[str, ...]) -> None:
    """Make a lake, in a directory that is absent or empty.

    With --parity 2%, any one damaged region of up to 1 % of a pack can be mended without a copy.
    --tier is as `dtafsctl tier add` afterwards; a place that does not suit leaves no lake behind.
    """
    from dtafs.core.parity import parse_percent
    from dtafs.store.lake import Lake

    percent = 0 if parity is None else parse_percent(parity)
    wanted = {}
    if tiers:
        from dtafs.cli.tiers import tried_tiers

        wanted = tried_tiers(call.path, tiers)
    with Lake.create(call.path, parity=percent) as lake:
        if wanted:
            from dtafs.store.tiers.attach import attach
        attached = [attach(lake, name, settings) for name, settings in wanted.items()]
        facts = {
            "lake": lake.superblock.lake,
            "path": str(lake.path),
            "parity_percent": lake.parity,
            "created": lake.superblock.created,
            "public_key": lake.superblock.public_key,
            "tiers": attached,
        }
    lines = [
        f"Made the lake {facts['lake']} in {facts['path']}",
        *(f"Its tier {tier['name']} is {tier['url']}" for tier in attached),
        f"Its public key is {facts['public_key']}: note it where the lake is not",
    ]
    call.answer(facts, lines)


@click.command()
@click.argument("dataset")
@click.option("--tag", "tags", multiple=True, help="A tag for the first version; may be repeated.")
@standard
def create(call: Call, dataset: str, tags: tuple[str, ...]) -> None:
    """Create a dataset. Its name is for ever."""
    with call.session() as session:
        facts = session.create(dataset, tags)
    call.answer(facts, [f"Created {dataset}"])


@click.command()
@click.argument("dataset", required=False)
@click.option("-n", "count", type=click.IntRange(1), metavar="N", help="Only the last N entries.")
@standard
def log(call: Call, dataset: str | None, count: int | None) -> None:
    """Show the signed log of a dataset, or of all; each signature is checked.

    The lake's own log, of rules, holds, events and approvals, is called .lake.
    """
    with call.reading() as lake:
        if dataset is None:
            names = list(lake.index.heads())
        else:
            names = [dataset if dataset == LAKE_LOG else lake.dataset(dataset).name]
        entries = [facts for name in names for facts in _log_of(lake, name)]
    entries.sort(key=lambda facts: facts["time"])
    entries = entries[-count:] if count else entries
    call.answer({"entries": entries}, _log_lines(entries))


def _log_of(lake: Lake, dataset: str) -> Iterator[dict[str, Any]]:
    import msgspec

    from dtafs.store.provenance import describe_entry

    for appended in lake.log.read_from(dataset, 1):
        entry = appended.entry
        yield {
            "dataset": dataset,
            "sequence": entry.sequence,
            "time": entry.time,
            "kind": entry.kind,
            "summary": describe_entry(entry),
            "actor": msgspec.to_builtins(entry.actor),
            "sha256": appended.object_hash.hex(),
            "body": entry.body,
        }


def _log_lines(entries: list[dict[str, Any]]) -> Iterator[str]:
    for facts in entries:
        actor = facts["actor"]
        who = printable(f"{actor['user']}@{actor['host']}")
        where = f"{facts['dataset']} {facts['sequence']}"
        yield f"{time_text(facts['time'])}  {where}  {facts['summary']}  ({who})"


@click.command()
@click.argument("version", metavar="DATASET[:V]")
@click.option("--verified", is_flag=True, help="Of a version: when its chunks were last verified.")
@standard
def show(call: Call, version: str, verified: bool) -> None:
    """Show a dataset, or a version with its origin and what proves it."""
    from dtafs.core.names import VersionSpec, parse_spec

    spec = parse_spec(version)
    with call.reading() as lake:
        if spec == VersionSpec(spec.dataset):
            facts = _dataset_facts(lake, spec.dataset)
            call.answer(facts, fields(_dataset_fields(facts)))
        else:
            row = lake.resolve(spec)
            facts = _whole_version(lake, row)
            if verified:
                facts["verified"] = _verified_facts(lake, row)
            call.answer(facts, fields(_whole_version_fields(facts)))


def _dataset_facts(lake: Lake, name: str) -> dict[str, Any]:
    from dtafs.core.names import format_time

    row = lake.dataset(name)
    newest = lake.newest_kept(name)
    return {
        "dataset": name,
        "created": format_time(row.created_ns),
        "versions": row.newest,
        "latest": newest.name if newest is not None else None,
        "tags": {tag: f"{name}:v{number}" for tag, number in lake.index.tags(name).items()},
        "pending_tags": [] if row.newest else list(row.tags),
        "entries": row.sequence,
        "head": row.head.hex(),
        "lake": lake.superblock.lake,
    }


def _dataset_fields(facts: dict[str, Any]) -> list[tuple[str, str]]:
    tags = [f"{tag} -> {version}" for tag, version in sorted(facts["tags"].items())]
    if facts["pending_tags"]:
        tags = [f"{', '.join(facts['pending_tags'])} (for the first version)"]
    return [
        ("Dataset", facts["dataset"]),
        ("Created", f"{time_text(facts['created'])} UTC"),
        ("Versions", str(facts["versions"])),
        ("Latest", facts["latest"] or "none"),
        ("Tags", "\n".join(tags) or "none"),
        ("Log", f"{facts['entries']} entries, the last is {facts['head']}"),
        ("Lake", facts["lake"]),
    ]


def _whole_version(lake: Lake, row: VersionRow) -> dict[str, Any]:
    import msgspec

    from dtafs.store.session import version_facts

    manifest = row.manifest
    return {
        **version_facts(row),
        "root": manifest.root,
        "parent": manifest.parent,
        "sources": msgspec.to_builtins(manifest.sources),
        "transform": msgspec.to_builtins(manifest.transform),
        "packs": list(manifest.packs),
        "sequence": row.sequence,
        "retention": _retention_facts(lake, row),
        "lake": lake.superblock.lake,
        "public_key": lake.superblock.public_key,
    }


def _retention_facts(lake: Lake, row: VersionRow) -> dict[str, Any]:
    """Until when a version is kept, and what decides."""
    from dtafs.store.retention import decision_facts
    from dtafs.store.retention_facts import Standing

    return decision_facts(Standing(lake.index).decide(row, lake.clock()))


def _verified_facts(lake: Lake, row: VersionRow) -> dict[str, Any]:
    """When the packs that hold the chunks of a version were last read and found sound."""
    from dtafs.store.collect_reach import Reached
    from dtafs.store.scrub import read_ledger, verification_facts

    lake.objects.top(row)  # which says so if it was disposed of
    reached = Reached(lake)
    try:
        reached.look_at(row)
        return verification_facts(reached.packs(), read_ledger(lake.path))
    finally:
        reached.close()


def _whole_version_fields(facts: dict[str, Any]) -> list[tuple[str, str]]:
    sources = [f"{s['dataset']}:v{s['version']} ({s['manifest']})" for s in facts["sources"]]
    transform = facts["transform"]
    made_by = transform_text(transform) if transform else "nothing that was recorded"
    return [
        *version_fields(facts),
        ("Made from", "\n".join(sources) or "nothing that was recorded"),
        ("Made by", made_by),
        ("Previous", facts["parent"] or "none"),
        ("Kept", f"{ever_text(facts['retention']['keep_until'])}: {_why_kept(facts)}"),
        ("On hold", ", ".join(facts["retention"]["holds"]) or "no"),
        ("Root node", facts["root"]),
        ("New packs", str(len(facts["packs"]))),
        ("Log entry", str(facts["sequence"])),
        ("Signed with", facts["public_key"]),
        *([("Verified", verified_text(facts["verified"]))] if "verified" in facts else []),
    ]


def _why_kept(facts: dict[str, Any]) -> str:
    return printable(facts["retention"]["reasons"][0]["text"])


def transform_text(transform: dict[str, Any]) -> str:
    """`csv_trim (cols=a,b)`."""
    given = ", ".join(f"{k}={v}" for k, v in sorted(transform["parameters"].items()))
    return printable(f"{transform['name']} ({given})" if given else transform["name"])


@click.command()
@click.argument("version", metavar="DATASET:V")
@click.argument("tags", metavar="TAG...", nargs=-1, required=True)
@click.option("--remove", is_flag=True, help="Take the tags off.")
@standard
def tag(call: Call, version: str, tags: tuple[str, ...], remove: bool) -> None:
    """Put tags on a version, or take them off."""
    with call.reading() as lake:
        row = lake.resolve(version)
    with call.session() as session:
        if remove:
            facts = session.set_tags(row.dataset, row.number, remove=tags)
        else:
            facts = session.set_tags(row.dataset, row.number, add=tags)
    call.answer(facts, [f"{facts['id']} is tagged {', '.join(facts['tags']) or 'no more'}"])


@click.command()
@click.argument("version", metavar="DATASET[:V]")
@standard
def lineage(call: Call, version: str) -> None:
    """Show what a version, or each version of a dataset, was made from, back to the beginning."""
    from dtafs.core.names import VersionSpec, parse_spec
    from dtafs.store.lineage import lineage_of

    spec = parse_spec(version)
    with call.reading() as lake:
        whole = spec == VersionSpec(spec.dataset)
        rows = lake.versions(spec.dataset) if whole else [lake.resolve(spec)]
        trees = lineage_of(lake, rows)
    call.answer({"versions": trees}, _lineage_lines(trees))


ENDS = {
    "above": "  (see above)",
    "below": "  (goes on below)",
    "circle": "  (a circle: it was made from itself, as its sources have it)",
    "missing": "  (not in this lake)",
    None: "",
}


def _lineage_lines(trees: list[dict[str, Any]]) -> Iterator[str]:
    todo = [(tree, 0) for tree in reversed(trees)]
    while todo:
        tree, depth = todo.pop()
        made = f" by {transform_text(tree['transform'])}" if tree["transform"] else ""
        mark = "  " * depth + ("<- " if depth else "")
        message = printable(next(iter(tree["message"].splitlines()), ""))
        gone = "[disposed] " * tree["disposed"]
        text = f"{mark}{tree['id']}  {tree['sha256'][:12]}{made}  {gone}{message}".rstrip()
        yield text + ENDS[tree["ends"]]
        todo += [(source, depth + 1) for source in reversed(tree["sources"])]
