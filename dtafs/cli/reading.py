"""ls, diff, cat: looking into sealed versions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dtafs.cli.base import Call, standard
from dtafs.cli.words import change_lines, entry_line, table, time_text, totals_line
from dtafs.errors import NotFoundError, RefusedError, UsageError
from dtafs.store.compare import printable

if TYPE_CHECKING:
    from dtafs.core.values import Entry
    from dtafs.store.index import VersionRow
    from dtafs.store.lake import Lake

JSON_CONTENT_MAX_BYTES = 64 * 1024 * 1024
"""`cat --json` holds its document in memory."""


@click.command()
@click.argument("what", metavar="[DATASET[:V]]", required=False)
@click.argument("path", required=False, default="")
@click.option("-l", "long", is_flag=True, help="With mode, owner, size and time.")
@click.option("-R", "recursive", is_flag=True, help="With everything below.")
@standard
def ls(call: Call, what: str | None, path: str, long: bool, recursive: bool) -> None:
    """List datasets; or the versions of DATASET; or a directory of DATASET:V."""
    from dtafs.core.names import VersionSpec, parse_spec

    with call.reading() as lake:
        if what is None:
            rows = [_dataset(lake, row.name) for row in lake.datasets()]
            call.answer({"datasets": rows}, _dataset_lines(rows))
            return
        spec = parse_spec(what)
        if spec == VersionSpec(spec.dataset) and not path:
            rows = [_version(row) for row in lake.versions(spec.dataset)]
            call.answer({"dataset": spec.dataset, "versions": rows}, _version_lines(rows))
            return
        version = lake.resolve(spec)
        entries = list(_listing(lake, version, os.fsencode(path), recursive))
    facts = {"version": version.name, "path": printable(path), "entries": entries}
    call.answer(facts, map(entry_line if long else _short, entries))


def _dataset(lake: Lake, name: str) -> dict[str, Any]:
    row = lake.dataset(name)
    version = lake.newest_kept(name)
    return {
        "dataset": name,
        "versions": row.newest,
        "files": version.manifest.files if version else 0,
        "size_bytes": version.manifest.size_bytes if version else 0,
        "tags": sorted(lake.index.tags(name)),
    }


def _dataset_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = ("DATASET", "VERSIONS", "FILES", "BYTES", "TAGS")
    cells = [
        (
            r["dataset"],
            str(r["versions"]),
            f"{r['files']:,}",
            f"{r['size_bytes']:,}",
            ",".join(r["tags"]),
        )
        for r in rows
    ]
    return table([head, *cells], right=(1, 2, 3)) if rows else iter(())


def _version(row: VersionRow) -> dict[str, Any]:
    from dtafs.store.session import version_facts

    return version_facts(row)


def _version_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = ("VERSION", "SEALED (UTC)", "FILES", "BYTES", "SHA-256", "TAGS", "MESSAGE")
    cells = [
        (
            f"v{r['version']}",
            time_text(r["time"]),
            f"{r['files']:,}",
            f"{r['size_bytes']:,}",
            r["sha256"][:12],
            ",".join(r["tags"]),
            "[disposed] " * r["disposed"] + printable((r["message"].splitlines() or [""])[0]),
        )
        for r in rows
    ]
    return table([head, *cells], right=(2, 3)) if rows else iter(())


def _listing(
    lake: Lake, version: VersionRow, path: bytes, recursive: bool
) -> Iterator[dict[str, Any]]:
    from dtafs.core.tree import scan, walk
    from dtafs.core.values import Kind

    above, entry = locate(lake, version, path)
    if entry.kind != Kind.DIRECTORY:
        yield entry_facts((*above, entry.name), entry)
    elif recursive:
        for below, found in walk(lake.objects.node, entry):
            if below:
                yield entry_facts(below, found)
    else:
        for located in scan(lake.objects.node, entry.ref):
            yield entry_facts((located.entry.name,), located.entry)


def locate(lake: Lake, version: VersionRow, path: bytes) -> tuple[tuple[bytes, ...], Entry]:
    """The names above a path of a version, and what is there; NotFoundError names the nearest."""
    from dtafs.core.names import suggest
    from dtafs.core.tree import find, scan
    from dtafs.core.values import Kind
    from dtafs.store.sources import split_path

    parts = split_path(path)
    entry = lake.objects.top(version)
    for i, name in enumerate(parts):
        here = printable(b"/".join(parts[:i])) or "its top directory"
        if entry.kind != Kind.DIRECTORY:
            raise NotFoundError(f"{here} of {version.name} is not a directory")
        located = find(lake.objects.node, entry.ref, name)
        if located is None:
            names = (printable(e.entry.name) for e in scan(lake.objects.node, entry.ref))
            near = suggest(printable(name), names)
            raise NotFoundError(f"{version.name} has no {printable(name)!r} in {here}{near}")
        entry = located.entry
    return parts[:-1], entry


def entry_facts(path: tuple[bytes, ...], entry: Entry) -> dict[str, Any]:
    """A name of a version as plain values."""
    from dtafs.core.names import format_time
    from dtafs.core.values import Kind
    from dtafs.store.compare import describe_path

    facts: dict[str, Any] = {
        **describe_path(b"/".join(path)),
        "kind": Kind(entry.kind).name.lower(),
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "size_bytes": entry.size,
        "mtime": format_time(entry.mtime_ns),
        "mtime_ns": entry.mtime_ns,
    }
    if entry.kind == Kind.FILE:
        facts["sha256"] = entry.sha256.hex()
        facts["links"] = entry.nlink
    if entry.kind == Kind.SYMLINK:
        facts["target"] = printable(entry.ref)
    if entry.xattrs:
        facts["xattrs"] = {os.fsdecode(name): value.hex() for name, value in entry.xattrs}
    return facts


def _short(facts: dict[str, Any]) -> str:
    mark = {"directory": "/", "symlink": "@", "fifo": "|"}.get(facts["kind"], "")
    return printable(facts["path"]) + mark


@click.command()
@click.argument("before", metavar="DATASET:V")
@click.argument("after", metavar="[DATASET:W]", required=False)
@click.option("--all", "everything", is_flag=True, help="Also directories with only a new time.")
@standard
def diff(call: Call, before: str, after: str | None, everything: bool) -> None:
    """Show what changed between two versions; with one, between it and the version before it."""
    from dtafs.core.difference import compare
    from dtafs.store.compare import describe_change, summarise

    with call.reading() as lake:
        second = lake.resolve(after if after is not None else before)
        first = lake.resolve(before) if after is not None else _previous(lake, second)
        objects = lake.objects
        changes = list(compare(objects.node, objects.top(first), objects.top(second)))
    totals, described = summarise(changes), [describe_change(change) for change in changes]
    facts = {"before": first.name, "after": second.name, "totals": totals, "changes": described}
    lines = [*change_lines(described, everything), totals_line(totals)]
    call.answer(facts, [f"From {first.name} to {second.name}:", *lines])


def _previous(lake: Lake, version: VersionRow) -> VersionRow:
    if version.number == 1:
        raise NotFoundError(f"{version.name} is the first version; name another to compare it with")
    return lake.resolve(f"{version.dataset}:v{version.number - 1}")


@click.command()
@click.argument("version", metavar="DATASET:V")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@standard
def cat(call: Call, version: str, paths: tuple[str, ...]) -> None:
    """Print files of a version. With --json: their facts, and their bytes as base64."""
    from dtafs.core.values import Kind
    from dtafs.store.resolving import while_kept

    with call.reading() as lake:
        row = lake.resolve(version)
        found = []
        for path in paths:
            above, entry = locate(lake, row, os.fsencode(path))
            if entry.kind != Kind.FILE:
                kind = Kind(entry.kind).name.lower()
                raise UsageError(f"{printable(path)!r} of {row.name} is a {kind}, not a file")
            found.append(((*above, entry.name), entry))
        if call.as_json:
            files = [_content(lake, path, entry) for path, entry in found]
            call.answer({"version": row.name, "files": files}, ())
            return
        with while_kept(row, lambda: lake.index):
            for _, entry in found:
                for block in lake.objects.stream(entry.content):
                    sys.stdout.buffer.write(block)


def _content(lake: Lake, path: tuple[bytes, ...], entry: Entry) -> dict[str, Any]:
    import base64

    if entry.size > JSON_CONTENT_MAX_BYTES:
        raise RefusedError(
            f"{printable(b'/'.join(path))!r} is too large for one document; read it without --json"
        )
    data = b"".join(lake.objects.stream(entry.content))
    return {**entry_facts(path, entry), "content_base64": base64.b64encode(data).decode()}
