"""What the log says of retention: rules, holds, events, approvals, and what was done by them.

Rules, holds, events, approvals and confirmations of the clock concern several datasets and lie in the
lake's own log (`dtafs.core.names.LAKE_LOG`); `archived`, `disposed` and `destroyed` lie in the log of
the dataset whose versions they concern. Each kind has one struct here, its body.

| kind | body | says |
|---|---|---|
| `ruled` | `Ruled` | a rule is made or changed; or removed, where `rule` is null |
| `scheduled` | `Scheduled` | several rules are made or changed at once: all of them, or none |
| `held`, `released` | `Held`, `Released` | a hold is placed; it ends |
| `event` | `Event` | something happened that periods of retention begin with |
| `approved` | `Approved` | a person agrees that versions are disposed of under a rule |
| `clocked` | `Clocked` | a person confirms what the host's clock says |
| `archived` | `Archived` | versions go to a tier, by a rule |
| `disposed` | `Disposed` | versions are destroyed, by a rule: written before the bytes go |
| `destroyed` | `Destroyed` | of a `disposed` entry: the bytes are in these tiers no more |

`dtafs.core.record_checks` says which of them can be, and decodes them.
"""

from __future__ import annotations

import functools
import hashlib

from msgspec import Struct

from dtafs.core.canonical import canonical_json
from dtafs.core.patterns import EVERYTHING
from dtafs.core.periods import Period, parse_period
from dtafs.core.values import Actor

LAKE_KINDS = frozenset({"ruled", "scheduled", "held", "released", "event", "approved", "clocked"})
"""The kinds that lie in the lake's own log, and nowhere else."""

DISPOSITION_KINDS = frozenset({"archived", "disposed", "destroyed"})

COMMITTED, SUPERSEDED, EVENT_PREFIX = "committed", "superseded", "event:"
ARCHIVE, DISPOSE, NOTIFY = "archive", "dispose", "notify"
ACTIONS = (ARCHIVE, DISPOSE, NOTIFY)
GOVERNANCE, COMPLIANCE = "governance", "compliance"
MODES = (GOVERNANCE, COMPLIANCE)


class VersionRef(Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """A version, and the hash of its manifest in hex, so that no other can be meant."""

    dataset: str
    version: int
    manifest: str


class Cutoff(Struct, frozen=True, forbid_unknown_fields=True, rename={"start": "from"}):
    """A time: a period after a version was committed, was superseded, or an event happened.

    `start` is `committed`, `superseded` or `event:NAME`; `period` as `dtafs.core.periods` reads it.
    """

    start: str
    period: str

    @property
    def parsed(self) -> Period:
        return parse_period(self.period)

    @property
    def event(self) -> str | None:
        """The name of the event that it begins with, if it does."""
        after = self.start.removeprefix(EVENT_PREFIX)
        return after if after != self.start else None


class Rule(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be done with versions, when, and on whose authority.

    It concerns the versions of the datasets that the pattern matches, if they carry all the tags. A
    rule that disposes also keeps: until its cutoff. `approvals` is how many other persons have to
    agree to each disposition; `tier` is where what is archived goes.
    """

    cutoff: Cutoff
    action: str
    authority: str
    datasets: str = EVERYTHING
    tags: tuple[str, ...] = ()
    mode: str = GOVERNANCE
    approvals: int = 0
    tier: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical JSON, in hex: an approval is of a rule as it was."""
        return _digest(self)


@functools.lru_cache(maxsize=1_024)
def _digest(rule: Rule) -> str:
    return hashlib.sha256(canonical_json(rule)).hexdigest()


class Ruled(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `ruled` entry."""

    name: str
    rule: Rule | None
    reason: str = ""


class Scheduled(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `scheduled` entry: rules by their names. One entry, since of a schedule that is half in
    force a rule might dispose of what another one is to keep."""

    rules: dict[str, Rule]
    reason: str = ""


class Scope(Struct, frozen=True, forbid_unknown_fields=True):
    """Which versions a hold is on: those that fit all of it. Times are those of commits.

    `committed_after` is the first moment that fits, `committed_before` the first that does not.
    """

    datasets: str = EVERYTHING
    versions: tuple[int, ...] = ()
    """Numbers; empty: all, also those that are yet to come."""
    tags: tuple[str, ...] = ()
    committed_after: str | None = None
    committed_before: str | None = None


class Held(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `held` entry: nothing in its scope is disposed of until it is released.

    With `descendants`, nothing that was made from what is in scope, nor from that in turn, either.
    """

    name: str
    custodian: str
    matter: str
    reason: str
    scope: Scope
    descendants: bool = False


class Released(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `released` entry: by its custodian, a hold ends."""

    name: str
    custodian: str
    reason: str


class Event(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an `event` entry, for one version or all of a dataset."""

    name: str
    dataset: str
    time: str
    version: int | None = None
    reason: str = ""


class Approved(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an `approved` entry. It counts as long as the rule is what it was."""

    rule: str
    rule_sha256: str
    versions: tuple[VersionRef, ...]
    reason: str = ""


class Clocked(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `clocked` entry: what a person says that the time is, and what the host did."""

    time: str
    host_time: str
    reason: str = ""


class Archived(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an `archived` entry: versions whose content a rule has moved to a tier."""

    versions: tuple[VersionRef, ...]
    rule: str
    authority: str
    tier: str
    packs: int = 0
    size_bytes: int = 0


class Amount(Struct, frozen=True, forbid_unknown_fields=True):
    """How much is destroyed, or survives: packs deleted, chunks, and their plain bytes."""

    packs: int = 0
    chunks: int = 0
    size_bytes: int = 0


class Survivor(Struct, frozen=True, forbid_unknown_fields=True):
    """What is not destroyed since a version that is kept needs it too."""

    because: VersionRef
    chunks: int
    size_bytes: int


class Disposed(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `disposed` entry: written before anything is destroyed.

    `plan` is the hash of the plan that it carries out; `destroyed` says by tier what goes.
    """

    versions: tuple[VersionRef, ...]
    rule: str
    rule_sha256: str
    authority: str
    plan: str
    approvers: tuple[Actor, ...] = ()
    destroyed: dict[str, Amount] = {}
    survives: tuple[Survivor, ...] = ()
    before: Amount = Amount()
    after: Amount = Amount()
    """What the lake holds before and after it: packs, chunks, plain bytes."""
    reason: str = ""


class Destroyed(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a `destroyed` entry: what entry `disposed` of this dataset's log announced is in
    none of the objects of these tiers any more."""

    disposed: int
    versions: tuple[VersionRef, ...]
    tiers: dict[str, Amount]


Body = (
    Ruled
    | Scheduled
    | Held
    | Released
    | Event
    | Approved
    | Clocked
    | Archived
    | Disposed
    | Destroyed
)
