"""What a session does about retention: rules, holds, events, approvals, the clock.

Arguments and results fit in JSON, as those of `dtafs.store.session` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dtafs.core.names import format_time
from dtafs.core.records import Event, Held, Rule, Scope
from dtafs.core.values import Actor
from dtafs.errors import UsageError

if TYPE_CHECKING:
    from dtafs.store.lake import Lake

T = TypeVar("T")


class RecordsSession:
    """The part of a session that is about retention."""

    lake: Lake
    actor: Actor

    def set_rules(
        self,
        rules: dict[str, dict[str, Any]],
        reason: str = "",
        everything: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Make or change rules, `dtafs.core.records.Rule` as plain dicts: all of them or none."""
        from dtafs.store.retention_changes import set_rules

        wanted = {name: converted(rule, Rule) for name, rule in rules.items()}
        return set_rules(self.lake, self.actor, wanted, reason, everything)

    def remove_rule(self, name: str, reason: str) -> dict[str, Any]:
        """Take a rule out of force."""
        from dtafs.store.retention_changes import remove_rule

        return remove_rule(self.lake, self.actor, name, reason)

    def place_hold(
        self,
        name: str,
        matter: str,
        reason: str,
        scope: dict[str, Any],
        custodian: str | None = None,
        descendants: bool = False,
    ) -> dict[str, Any]:
        """Place a hold; its custodian is who asks for it unless another is named."""
        from dtafs.store.retention_changes import place_hold

        who = self.actor.user if custodian is None else custodian
        held = Held(name, who, matter, reason, converted(scope, Scope), descendants)
        return place_hold(self.lake, self.actor, held)

    def release_hold(self, name: str, reason: str, custodian: str | None = None) -> dict[str, Any]:
        """End a hold on behalf of its custodian."""
        from dtafs.store.retention_changes import release_hold

        return release_hold(self.lake, self.actor, name, reason, custodian)

    def record_event(
        self,
        name: str,
        dataset: str,
        version: int | None = None,
        time: str | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Record when something happened: now, unless a time is given."""
        from dtafs.store.retention_changes import record_event

        when = format_time(self.lake.clock()) if time is None else time
        event = Event(name, dataset, when, version, reason)
        return record_event(self.lake, self.actor, event)

    def approve(
        self,
        versions: Sequence[Sequence[Any]] = (),
        plan: str | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Agree to dispositions: of versions (dataset and number), or of all that wait in a plan."""
        from dtafs.store.retention_changes import approve, waiting_in_plan

        named = [converted(version, tuple[str, int]) for version in versions]
        if plan is not None:
            named += waiting_in_plan(self.lake, self.actor, plan)
        return approve(self.lake, self.actor, named, reason)

    def confirm_clock(self, time: str, reason: str = "") -> dict[str, Any]:
        """Confirm that the host's clock is right: another one says `time`."""
        from dtafs.store.retention_changes import confirm_clock

        return confirm_clock(self.lake, self.actor, time, reason)


def converted(value: Any, wanted: type[T]) -> T:
    """Plain values as what they describe; UsageError when they do not."""
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        what = getattr(wanted, "__name__", "version").lower()
        raise UsageError(f"this does not describe a {what}: {error}") from None
