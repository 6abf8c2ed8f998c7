"""How long a version is kept, by which rule or hold, and what is to be done with it now: pure.

`decide` is the lattice. A version is kept until the latest cutoff of all rules that dispose of it, and as
long as any hold is on it; without a rule that disposes of it, for ever. A rule that archives or notifies
keeps nothing and destroys nothing. So a further hold never makes anything go earlier, and neither does a
further rule where one disposes of it already.

A cutoff is a period after a *start*: the commit; the commit of the next version (of the newest none, so
that it is kept); or an event, but no earlier than the commit. What has no start yet has no end. Times are
nanoseconds since the epoch, UTC; only those of the log count, never those of files.

`now_ns` is an argument everywhere. Nothing is read, and no input is changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from dtafs.core.names import format_time
from dtafs.core.periods import DAY_NS, Period, end_of
from dtafs.core.records import ARCHIVE, COMMITTED, DISPOSE, NOTIFY, SUPERSEDED, Held, Rule
from dtafs.core.values import Actor

Fate = Literal["kept", "due", "blocked", "disposed"]


class VersionFacts(NamedTuple):
    """What of a version matters to retention; `manifest` is its hash in hex."""

    dataset: str
    number: int
    manifest: str
    committed_ns: int
    superseded_ns: int | None
    """When the next version was committed; None for the newest."""
    tags: tuple[str, ...] = ()
    disposed: int = 0

    @property
    def name(self) -> str:
        return f"{self.dataset}:v{self.number}"


class ActiveRule(NamedTuple):
    """A rule in force, taken apart once for all that it is asked about."""

    name: str
    rule: Rule
    author: Actor
    period: Period
    tags: frozenset[str]
    event: str | None
    shortest_ns: int
    """Its period is never shorter, so what began less long ago need not be looked at."""
    sequence: int = 0
    """Of the entry that made it what it is."""

    def concerns(self, tags: tuple[str, ...]) -> bool:
        """Whether a version of a dataset that it matches is meant, by its tags."""
        return not self.tags or self.tags.issubset(tags)


def activate(name: str, rule: Rule, author: Actor, sequence: int = 0) -> ActiveRule:
    """A rule of the log, ready to be asked."""
    period, event = rule.cutoff.parsed, rule.cutoff.event
    shortest_ns = period.shortest_days * DAY_NS
    tags = frozenset(rule.tags)
    return ActiveRule(name, rule, author, period, tags, event, shortest_ns, sequence)


class ActiveHold(NamedTuple):
    """A hold that is on a version; `through` names the version that it was made from, if that is why."""

    held: Held
    through: str = ""


class Approval(NamedTuple):
    """That a person agrees to the disposition of a version under a rule as it was."""

    rule: str
    rule_sha256: str
    manifest: str
    person: Actor
    sequence: int = 0
    """Of its entry in the log."""


class Events(NamedTuple):
    """When events happened: of a whole dataset, and of single versions of it."""

    dataset: Mapping[str, int]
    versions: Mapping[tuple[str, int], int]

    def of(self, name: str, number: int) -> int | None:
        """The later of the times that concern a version; None when it has not happened."""
        times = (self.dataset.get(name), self.versions.get((name, number)))
        return max((time for time in times if time is not None), default=None)


class Reason(NamedTuple):
    """One thing that keeps a version, or did; `until_ns` None: without an end."""

    kind: Literal["rule", "hold", "none", "disposed"]
    name: str
    until_ns: int | None
    text: str


class Decision(NamedTuple):
    """What becomes of a version; `keep_until_ns` None: for ever, as things are."""

    fate: Fate
    keep_until_ns: int | None
    reasons: tuple[Reason, ...]
    """All that keep it, the one that decides first."""
    rule: ActiveRule | None = None
    """Under which it is, or will be, disposed of: the one whose cutoff is the latest."""
    approvals_needed: int = 0
    approvers: tuple[Actor, ...] = ()
    authors: tuple[Actor, ...] = ()
    """Of that rule, and of those that ask for approvals: they cannot approve."""

    @property
    def holds(self) -> tuple[str, ...]:
        """The names of the holds on it."""
        return tuple(reason.name for reason in self.reasons if reason.kind == "hold")


def start_of(active: ActiveRule, version: VersionFacts, events: Events) -> int | None:
    """When the period of a rule begins for a version: never before its commit; None when it has not."""
    if active.event is not None:
        start = events.of(active.event, version.number)
    elif active.rule.cutoff.start == COMMITTED:
        start = version.committed_ns
    else:
        start = version.superseded_ns
    return None if start is None else max(start, version.committed_ns)


def cutoff_of(active: ActiveRule, version: VersionFacts, events: Events) -> int | None:
    """When the period of a rule is over for a version; None for never, as things are."""
    start = start_of(active, version, events)
    return None if start is None else end_of(start, active.period)


class Cutoffs:
    """`cutoff_of` for one version and many rules, which begin and end with few different times."""

    __slots__ = ("_ends", "_events", "_starts", "_version")

    def __init__(self, version: VersionFacts, events: Events) -> None:
        self._version, self._events = version, events
        self._starts: dict[str, int | None] = {}
        self._ends: dict[tuple[int, Period], int | None] = {}

    def over(self, active: ActiveRule, now_ns: int) -> int | None:
        """The cutoff of a rule, if it is over at a time; None when it is not."""
        since = active.rule.cutoff.start
        if since not in self._starts:
            self._starts[since] = start_of(active, self._version, self._events)
        start = self._starts[since]
        # Of most rules this tells without a look at the calendar.
        if start is None or start + active.shortest_ns > now_ns:
            return None
        key = start, active.period
        if key not in self._ends:
            self._ends[key] = end_of(start, active.period)
        end = self._ends[key]
        return end if end is not None and end <= now_ns else None


class RuleSet:
    """The rules that concern versions of one dataset with the same tags, sorted out once for them all."""

    __slots__ = ("alike", "approvals", "disposing", "soonest_ns")

    def __init__(self, rules: Iterable[ActiveRule]) -> None:
        """`rules` are those whose pattern and tags fit."""
        self.disposing: list[ActiveRule] = []
        alike: dict[tuple[str, Period], list[ActiveRule]] = {}
        for active in rules:
            if active.rule.action == DISPOSE:
                self.disposing.append(active)
            else:
                alike.setdefault((active.rule.cutoff.start, active.period), []).append(active)
        self.alike = list(alike.values())
        """Those that archive or notify; together, those with the same cutoff."""
        # The longest first: if it is not over, nothing else needs to be asked.
        self.disposing.sort(key=lambda active: -active.shortest_ns)
        self.approvals = max((active.rule.approvals for active in self.disposing), default=0)
        others = (active for active, *_ in self.alike)
        soonest = (active.shortest_ns for active in (*self.disposing[:1], *others))
        self.soonest_ns = min(soonest, default=None)
        """Of nothing that was committed less long ago anything is due."""


def latest_cutoff(rules: RuleSet, cutoffs: Cutoffs, now_ns: int) -> tuple[int, ActiveRule] | None:
    """The latest cutoff of the rules that dispose of a version, and whose it is, if there are such rules
    and all of their cutoffs are over: what is left to ask is what blocks it."""
    latest: tuple[int, ActiveRule] | None = None
    for active in rules.disposing:
        until_ns = cutoffs.over(active, now_ns)
        if until_ns is None:
            return None
        if latest is None or (-until_ns, active.name) < (-latest[0], latest[1].name):
            latest = until_ns, active
    return latest


def decide(
    version: VersionFacts,
    rules: Sequence[ActiveRule],
    holds: Sequence[ActiveHold],
    events: Events,
    approvals: Iterable[Approval],
    now_ns: int,
) -> Decision:
    """What becomes of a version at a time.

    `rules` and `holds` are those whose pattern or scope it is in; tags of rules are looked at here.
    """
    if version.disposed:
        text = f"it was disposed of by entry {version.disposed} of its log"
        return Decision("disposed", None, (Reason("disposed", "", None, text),))
    keeping = [
        (cutoff_of(active, version, events), active)
        for active in rules
        if active.rule.action == DISPOSE and active.concerns(version.tags)
    ]
    keeping.sort(key=lambda pair: (pair[0] is not None, -(pair[0] or 0), pair[1].name))
    reasons = hold_reasons(holds)
    reasons += [_rule_reason(active, until, version) for until, active in keeping]
    if not keeping:
        text = "no rule disposes of it, so it is kept for ever"
        return Decision("kept", None, (*reasons, Reason("none", "", None, text)))
    until_ns, deciding = keeping[0]
    end_ns = None if holds else until_ns
    if until_ns is None or until_ns > now_ns:
        return Decision("kept", end_ns, tuple(reasons), deciding)
    needed = max(active.rule.approvals for _until, active in keeping)
    authors = authors_of(deciding, [active for _until, active in keeping])
    approvers = agreeing(deciding, version, approvals, authors) if needed else ()
    blocked = bool(holds) or len(approvers) < needed
    fate: Fate = "blocked" if blocked else "due"
    return Decision(fate, end_ns, tuple(reasons), deciding, needed, approvers, authors)


def hold_reasons(holds: Sequence[ActiveHold]) -> list[Reason]:
    """What holds have to say, by their names."""
    return [_hold_reason(hold) for hold in sorted(holds, key=lambda hold: hold.held.name)]


def _hold_reason(hold: ActiveHold) -> Reason:
    held = hold.held
    text = f"hold {held.name!r} keeps it without end: {held.matter}, custodian {held.custodian}"
    if hold.through:
        text += f"; it was made from {hold.through}"
    return Reason("hold", held.name, None, text)


def _rule_reason(active: ActiveRule, until_ns: int | None, version: VersionFacts) -> Reason:
    rule = active.rule
    period, authority = rule.cutoff.period, rule.authority
    if until_ns is not None:
        since = f"event {active.event!r}" if active.event else f"it was {rule.cutoff.start}"
        text = (
            f"rule {active.name!r} keeps it until {format_time(until_ns)}: {period} after {since}"
        )
    elif active.event is not None:
        text = f"rule {active.name!r} keeps it until {period} after event {active.event!r}"
    elif rule.cutoff.start == SUPERSEDED and version.superseded_ns is None:
        text = f"rule {active.name!r} keeps it until {period} after a newer version supersedes it"
    else:
        text = f"rule {active.name!r} keeps it for ever: {period} are longer than time is written"
    return Reason("rule", active.name, until_ns, f"{text} ({authority}; {rule.mode})")


def authors_of(deciding: ActiveRule, disposing: Iterable[ActiveRule]) -> tuple[Actor, ...]:
    """Who cannot approve: who made the rule that decides, or one that asks for other persons to agree."""
    return (
        deciding.author,
        *(active.author for active in disposing if active.rule.approvals and active != deciding),
    )


def agreeing(
    active: ActiveRule,
    version: VersionFacts,
    approvals: Iterable[Approval],
    authors: Sequence[Actor],
) -> tuple[Actor, ...]:
    """The persons who have approved a disposition under a rule as it is, each once, `authors` not.

    An approval that is older than the entry which made the rule is of one that was taken out of force. Who
    could be the same person, by name or by uid on one host, counts as the same.
    """
    digest = active.rule.digest
    found: list[Actor] = []
    for approval in approvals:
        person = approval.person
        meant = approval.rule == active.name and approval.manifest == version.manifest
        if not meant or approval.rule_sha256 != digest or approval.sequence < active.sequence:
            continue
        if not any(same_person(person, other) for other in (*authors, *found)):
            found.append(person)
    return tuple(found)


def same_person(one: Actor, other: Actor) -> bool:
    """Whether two actors could be the same person: by name, or by uid on the same host."""
    return one.user == other.user or (one.uid, one.host) == (other.uid, other.host)


class Deed(NamedTuple):
    """What a rule wants done with a version besides disposing of it, now or at `due_ns`."""

    active: ActiveRule
    due_ns: int


def deeds(version: VersionFacts, rules: Iterable[ActiveRule], events: Events) -> list[Deed]:
    """What rules that archive and notify want of a version, now or later, in the order of their
    cutoffs."""
    wanted = (rule for rule in rules if rule.rule.action != DISPOSE and rule.concerns(version.tags))
    found = ((active, cutoff_of(active, version, events)) for active in wanted)
    return sorted((Deed(rule, due_ns) for rule, due_ns in found if due_ns is not None), key=_order)


def due_deeds(rules: RuleSet, cutoffs: Cutoffs, now_ns: int) -> list[Deed]:
    """Those of the `deeds` whose cutoff is over."""
    found: list[Deed] = []
    for alike in rules.alike:
        due_ns = cutoffs.over(alike[0], now_ns)
        if due_ns is not None:
            found += [Deed(active, due_ns) for active in alike]
    return sorted(found, key=_order)


def _order(deed: Deed) -> tuple[int, str]:
    return deed.due_ns, deed.active.name


def archiving(due: Sequence[Deed], sent_to: str | None) -> Deed | None:
    """Which of the deeds that are due sends a version to a tier: the one that became due last, unless
    the version was sent there already."""
    last = next((deed for deed in reversed(due) if deed.active.rule.action == ARCHIVE), None)
    return last if last is not None and last.active.rule.tier != sent_to else None


def notifying(due: Sequence[Deed]) -> list[Deed]:
    """Those of the deeds that are due of which somebody is to be told."""
    return [deed for deed in due if deed.active.rule.action == NOTIFY]
