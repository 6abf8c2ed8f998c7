"""export and verify: handing a version to somebody else, with its proof."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtafs.cli.base import Call, Failed, standard
from dtafs.cli.words import time_text
from dtafs.core.quantities import counted
from dtafs.errors import DtafsError, IntegrityError, UsageError
from dtafs.store.compare import printable

if TYPE_CHECKING:
    from dtafs.store.audit import Audit
    from dtafs.store.export import Exported
    from dtafs.store.index import VersionRow
    from dtafs.store.verify import Verified

SHOWN_MAX = 20
"""How many findings are printed; --json has all."""


@click.command()
@click.argument("version", metavar="DATASET:V")
@click.argument("out")
@click.option(
    "--to",
    "form",
    type=click.Choice(["zip", "tar", "dir"]),
    required=True,
    help="The form of the package.",
)
@click.option("--force", is_flag=True, help="Replace the file OUT if it exists.")
@click.option("--store", is_flag=True, help="Zip without compression: the same bytes everywhere.")
@standard
def export(call: Call, version: str, out: str, form: str, force: bool, store: bool) -> None:
    """Write a version to OUT with Provenance.txt, checksums and the proof of all of it.

    OUT may be - for stdout, except for a directory. Two exports of a version are equal, byte for
    byte. The export is recorded in the log.
    """
    if out == "-" and call.as_json:
        raise UsageError("with OUT -, stdout is the package: there is no room for --json")
    if store and form != "zip":
        raise UsageError("--store is for a zip: a tar or a directory is never compressed")
    with call.reading() as lake, call.progress() as report:
        from dtafs.store.export import export_file, export_stream

        row = lake.resolve(version)
        if out == "-":
            stream = sys.stdout.buffer
            done = export_stream(lake, row, form, stream, compress=not store, report=report)
            stream.flush()
        else:
            path = Path(out)
            done = export_file(
                lake, row, form, path, compress=not store, force=force, report=report
            )
    sequence = _record(call, row, form, out, done)
    facts = {
        "id": row.name,
        "sha256": row.manifest_sha256.hex(),
        "format": form,
        "out": out,
        "files": done.files,
        "size_bytes": done.size_bytes,
        "package_bytes": done.package_bytes,
        "package_sha256": done.package_sha256 or None,
        "recorded": sequence,
    }
    lines = [f"✔ Exported {done.size_bytes:,} bytes", "✔ Provenance.txt attached"]
    if out == "-":
        for line in lines:
            sys.stderr.write(line + "\n")
    else:
        call.answer(facts, lines)


def _record(call: Call, row: VersionRow, form: str, out: str, done: Exported) -> int | None:
    """Add the export to the log; its entry's number, None where that is not possible."""
    body = {
        "version": row.number,
        "manifest": row.manifest_sha256.hex(),
        "format": form,
        "name": "-" if out == "-" else printable(os.path.basename(os.path.abspath(out))),
        "package_sha256": done.package_sha256,
    }
    try:
        with call.session() as session:
            sequence: int = session.record(row.dataset, "exported", body)["sequence"]
            return sequence
    except DtafsError as error:
        call.say(f"the export is complete, but the log could not record it: {error}")
        return None


@click.command()
@click.argument("package", required=False, type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="Verify the whole lake instead.")
@click.option("--key", metavar="HEX", help="The public key that must have signed the export.")
@standard
def verify(call: Call, package: Path | None, everything: bool, key: str | None) -> None:
    """Verify an export (no lake is needed), or with --all every log entry and file of the lake."""
    if (package is None) != everything:
        raise UsageError("name an export to verify, or --all for the whole lake")
    if key is not None and everything:
        raise UsageError("--key is for an export: a lake states its own")
    if package is not None:
        from dtafs.store.verify import verify_package

        with call.progress() as report:
            verified = verify_package(package, key, report)
        _answer(call, verified.facts, verified.findings, _verified_lines(verified), str(package))
        return
    from dtafs.store.audit import verify_lake

    with call.reading() as lake, call.progress() as report:
        audit = verify_lake(lake, report)
    facts = {name: getattr(audit, name) for name in audit.__struct_fields__ if name != "findings"}
    _answer(call, facts, audit.findings, _audit_lines(audit), f"the lake {call.path}")


def _answer(
    call: Call, facts: dict[str, Any], findings: list[str], lines: Iterable[str], what: str
) -> None:
    """Print that it is proved, or fail with what was found."""
    facts = {"verified": not findings, **facts, "findings": findings}
    if not findings:
        call.answer(facts, lines)
        return
    if not call.as_json:
        for text in findings[:SHOWN_MAX]:
            sys.stdout.write(f"✘ {text}\n")
        if len(findings) > SHOWN_MAX:
            sys.stdout.write(f"✘ and {len(findings) - SHOWN_MAX:,} more\n")
    number = counted(len(findings), "finding")
    raise Failed(IntegrityError(f"{what} does not verify: {number}"), facts)


def _verified_lines(verified: Verified) -> Iterator[str]:
    facts = verified.facts
    actor = {name: printable(str(value)) for name, value in facts["actor"].items()}
    yield f"✔ {facts['id']}: {counted(facts['files'], 'file')}, {facts['size_bytes']:,} bytes"
    yield f"✔ SHA-256 {facts['sha256']}"
    yield f"✔ Sealed {time_text(facts['time'])} UTC by {actor['user']} on {actor['host']}"
    yield f"✔ Log entries 1 to {facts['entries']} chained and signed"
    yield f"  with the key {facts['public_key']}"


def _audit_lines(audit: Audit) -> Iterator[str]:
    yield f"✔ {audit.entries:,} log entries of {counted(audit.datasets, 'dataset')}"
    yield f"✔ {counted(audit.versions, 'version')} proved down to the last file"
    yield f"✔ {counted(audit.files, 'distinct content')} read, {audit.size_bytes:,} bytes"
