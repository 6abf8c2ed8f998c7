"""tier add, remove, list: the places beyond the lake's own disk."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dtafs.cli.base import CONTEXT, Call, LazyGroup, Place, group_options, standard
from dtafs.cli.words import fields, mirror_text, requests_text, time_text
from dtafs.core.quantities import counted
from dtafs.errors import UsageError

if TYPE_CHECKING:
    from dtafs.store.config import TierSettings

TIER_PLACES = {
    "list": Place("dtafs.cli.tiers", "list_", "List the tiers and what their stores do."),
    "add": Place("dtafs.cli.tiers", "add", "Attach a tier, after its store was tried out."),
    "remove": Place("dtafs.cli.tiers", "remove", "Take a tier away."),
    "move": Place("dtafs.cli.placement", "move", "Move what something needs to a tier."),
    "recall": Place("dtafs.cli.placement", "recall", "Bring it back to the hot disk."),
    "pin": Place("dtafs.cli.placement", "pin", "Keep something on the hot disk."),
    "plan": Place("dtafs.cli.placement", "plan", "Show what the policy would move, and why."),
    "plan-read": Place("dtafs.cli.placement", "plan_read", "Show what reading something takes."),
}


@click.group(cls=LazyGroup, places=TIER_PLACES, context_settings=CONTEXT, no_args_is_help=True)
@group_options
def tier(lake: Path | None, as_json: bool) -> None:
    """Other places for packs than the lake's own disk: a warm bucket, a cold archive.

    Credentials are looked for in the systemd credential dtafs-NAME, in AWS_ACCESS_KEY_ID and its
    companions, and in the AWS profile files.
    """


@click.command()
@click.argument("name")
@click.argument("url", required=False, default="")
@click.option("--endpoint", metavar="URL", help="Of an S3-compatible store: http://HOST:PORT.")
@click.option("--region", metavar="NAME", help="The region of the bucket.")
@click.option("--profile", metavar="NAME", help="A profile of the AWS files.")
@click.option(
    "--storage-class", metavar="NAME", help="For packs: GLACIER, say; of a directory, TAPE."
)
@click.option("--mirror-content", is_flag=True, help="Of warm: copy all content there as well.")
@standard
def add(
    call: Call,
    name: str,
    url: str,
    endpoint: str | None,
    region: str | None,
    profile: str | None,
    storage_class: str | None,
    mirror_content: bool,
) -> None:
    """Attach a tier: s3://BUCKET/PREFIX, or file:///DIRECTORY.

    Its store is tried out first. A tier that is called cold is an archive (GLACIER; of a directory,
    TAPE) unless --storage-class says otherwise. Without URL, the table of config.toml is used.
    """
    from dtafs.store.config import TierSettings
    from dtafs.store.tiers.settings import settled

    settings = TierSettings(
        url,
        endpoint=endpoint,
        region=region,
        profile=profile,
        storage_class=storage_class,
        mirror_content=mirror_content,
    )
    if url:  # the endpoint may be in this environment and not in that of the daemon
        settings = settled(name, settings, os.environ)
    with call.session() as session:
        facts = session.tier_add(name, _given(settings))
    lines = [f"Attached tier {name}", *_tier_lines(facts)]
    if facts["missing_packs"]:
        lines.append(
            f"! the only copy of {counted(facts['missing_packs'], 'pack')} was in this tier, which is empty: "
            "bring back what was there, or see with dtafsctl check --read-data what is lost"
        )
    call.answer(facts, lines)


def _given(settings: TierSettings) -> dict[str, Any]:
    """The keys that are said, as a table."""
    names = ("url", "endpoint", "region", "profile", "storage_class", "mirror_content")
    values = {name: getattr(settings, name) for name in names}
    return {name: value for name, value in values.items() if value}


def tried_tiers(path: Path, texts: Sequence[str]) -> dict[str, TierSettings]:
    """The tiers that `init` was given as NAME=URL, each looked at and tried out."""
    from dtafs.store.config import TierSettings
    from dtafs.store.founding import check_place_for_new
    from dtafs.store.tiers.attach import try_place
    from dtafs.store.tiers.settings import check_tiers

    check_place_for_new(path.absolute())
    found: dict[str, TierSettings] = {}
    for text in texts:
        name, equals, url = text.partition("=")
        if not equals or name in found:
            raise UsageError(f"--tier {text}: write each tier once, as warm=s3://BUCKET/PREFIX")
        found[name] = TierSettings(url)
    check_tiers(path / "config.toml", found)
    return {
        name: try_place(name, settings, os.environ, None)[0] for name, settings in found.items()
    }


@click.command()
@click.argument("name")
@standard
def remove(call: Call, name: str) -> None:
    """Take a tier away: its table in config.toml. What lies in it stays there.

    Refused while it holds the only copy of a pack.
    """
    with call.session() as session:
        facts = session.tier_remove(name)
    call.answer(facts, [f"Removed tier {name}; what lies at {facts['url']} stays there"])


@click.command("list")
@click.option("--probe", is_flag=True, help="Try the stores out again.")
@standard
def list_(call: Call, probe: bool) -> None:
    """List the tiers: where they are, what their stores really do, and whether they answer."""
    daemon = call.daemon()
    if daemon is not None:
        with daemon:
            facts = daemon.tier_list(probe)
    elif probe:
        with call.session() as session:
            facts = session.tier_list(probe)
    else:
        from dtafs.store.tiers.attach import list_tiers

        with call.reading() as lake:
            lake.tiers.hurry()
            facts = list_tiers(lake, False)
    lines = [line for found in facts["tiers"] for line in (*_tier_lines(found), "")][:-1]
    if facts["mirror"] is not None:
        lines += ["", *fields([("Mirror", mirror_text(facts["mirror"]))])]
    call.answer(facts, lines or ["There is no tier but the lake's own disk"])


def _tier_lines(facts: dict[str, Any]) -> Iterator[str]:
    where = facts["url"] + (f" at {facts['endpoint']}" if facts["endpoint"] else "")
    does = facts["capabilities"]
    pairs = [("Tier", facts["name"]), ("Place", where)]
    if facts["storage_class"]:
        pairs.append(("Storage class", facts["storage_class"]))
    if "answers" in facts:
        state = "yes" if facts["answers"] else f"no: {facts['problem']['message']}"
        pairs.append(("Answers", state))
    if facts["probed"]:
        pairs += [
            ("Tried out", f"{time_text(facts['probed'])} UTC"),
            ("Conditional put", CONDITIONAL.get(does["conditional_put"], does["conditional_put"])),
            ("Overwriting", does["overwrite"]),
            ("Ranges", does["ranges"]),
            ("Archive", ARCHIVE.get(does["archive"], does["archive"])),
            ("Object Lock", does["object_lock"]),
        ]
    else:
        pairs.append(("Tried out", "never: dtafsctl tier list --probe"))
    yield from fields([*pairs, ("Traffic", requests_text(facts["counters"]))])


CONDITIONAL = {
    "ignored": "ignored: this store replaces what is there and says it did not; nothing but packs goes there",
    "raced": "holds for one writer at a time only; nothing but packs goes there",
    "refused": "unknown to this store; nothing but packs goes there",
}
ARCHIVE = {"recall": "objects must be recalled before they are read", "at once": "read at once"}
