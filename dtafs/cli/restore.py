"""restore: a lake on an empty machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from dtafs.cli.base import LAKE_PATH, Call, Failed, standard
from dtafs.cli.words import time_text
from dtafs.core.quantities import counted
from dtafs.errors import IntegrityError, UsageError


@click.command()
@click.option("--from", "source", required=True, metavar="URL", help="Its tier warm.")
@click.option("--endpoint", metavar="URL", help="Of an S3-compatible store: http://HOST:PORT.")
@click.option("--region", metavar="NAME", help="The region of the bucket.")
@click.option("--profile", metavar="NAME", help="A profile of the AWS files.")
@click.option("--tier", "tiers", multiple=True, metavar="NAME=URL", help="Another tier: cold=URL.")
@click.option("--key", type=LAKE_PATH, metavar="FILE", help="Its signing.pem, to go on writing.")
@click.option("--public-key", metavar="HEX", help="What its public key must be.")
@standard
def restore(
    call: Call,
    source: str,
    endpoint: str | None,
    region: str | None,
    profile: str | None,
    tiers: tuple[str, ...],
    key: Path | None,
    public_key: str | None,
) -> None:
    """Make a lake again in an absent or empty directory, from what its tier `warm` mirrors.

    Log and metadata are fetched; content stays in the tiers and is read from there. Without --key the lake
    can be read, and mounted with --read-only.
    """
    from dtafs.store.config import TierSettings
    from dtafs.store.tiers.restore import restore as restore_lake

    others = {}
    for text in tiers:
        name, equals, url = text.partition("=")
        if not equals or name in others or name == "warm":
            raise UsageError(
                f"--tier {text}: write each other tier once, as cold=s3://BUCKET/PREFIX"
            )
        others[name] = TierSettings(url)
    settings = TierSettings(source, endpoint=endpoint, region=region, profile=profile)
    with call.progress() as report:
        facts = restore_lake(
            call.path,
            settings,
            others,
            os.environ,
            public_key=public_key,
            key_file=key,
            report=report,
        )
    lines = list(_lines(facts))
    if facts["problems"]:
        if not call.as_json:
            call.answer(facts, lines)
        number = counted(len(facts["problems"]), "problem")
        text = f"the lake is restored as far as its tiers have it, with {number}"
        raise Failed(IntegrityError(f"{text}; the first: {facts['problems'][0]}"), facts)
    call.answer(facts, lines)


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"Restored the lake {facts['lake']} in {facts['path']} in {facts['seconds']:.1f} s"
    yield ", ".join(
        (
            counted(facts["datasets"], "dataset"),
            counted(facts["versions"], "version"),
            f"{facts['entries']:,} entries of the log",
        )
    )
    packs = counted(facts["content_packs"], "content pack")
    there = f"{facts['content_packs_in_tiers']:,} can be read from tiers"
    yield f"{counted(facts['metadata_packs'], 'metadata pack')} fetched; of {packs} {there}"
    yield from (f"! {problem}" for problem in facts["problems"])
    if facts["newest"]:
        newest = time_text(facts["newest"])
        yield f"The newest entry of the log is of {newest} UTC: what came later was not mirrored"
    yield f"Its public key is {facts['public_key']}: compare it with what you noted"
    if not facts["writable"]:
        yield (
            "It can be read, and mounted with --read-only; to change it, put its key back: "
            f"{facts['path']}/keys/signing.pem (mode 600)"
        )
