"""Records of retention for tests, put into a log as they are: no command is asked whether they may."""

from __future__ import annotations

from dtafs.core.names import LAKE_LOG
from dtafs.core.record_checks import encode_body
from dtafs.core.records import (
    DISPOSITION_KINDS,
    Archived,
    Body,
    Cutoff,
    Destroyed,
    Disposed,
    Held,
    Rule,
    Scope,
    VersionRef,
)
from dtafs.core.values import Actor
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from tests.support.small_lakes import ACTOR

TIME = "2024-07-04T12:00:00.000000000Z"
SEVEN = Rule(Cutoff("committed", "7y"), "dispose", "GRS 3.1 item 020", "D")
NOW = Rule(Cutoff("committed", "0d"), "dispose", "GRS", "D")
ALWAYS = Rule(Cutoff("committed", "7y"), "dispose", "44 U.S.C. 3303a", "D", mode="compliance")
HELD = Held("case", "ann", "Doe v. Roe", "subpoena", Scope("D"))


def record(lake: Lake, body: Body, actor: Actor = ACTOR) -> int:
    """Append a record to the log that it belongs to; its number."""
    kind, dataset = type(body).__name__.lower(), LAKE_LOG
    if isinstance(body, Archived | Disposed | Destroyed):
        assert kind in DISPOSITION_KINDS
        dataset = body.versions[0].dataset
    return lake.record(dataset, kind, encode_body(body), actor).entry.sequence


def ref(row: VersionRow) -> VersionRef:
    """A version as records name it."""
    return VersionRef(row.dataset, row.number, row.manifest_sha256.hex())
