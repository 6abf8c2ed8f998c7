"""What a command asks the daemon about retention: `dtafs.store.session_records`, done elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dtafs.store.progress import Report


class RemoteRecords:
    """The part of `dtafs.services.client.RemoteSession` that is about retention."""

    def _ask(self, call: str, progress: Report | None = None, **arguments: Any) -> dict[str, Any]:
        raise AssertionError("the session that this is a part of asks")

    def set_rules(
        self,
        rules: dict[str, dict[str, Any]],
        reason: str = "",
        everything: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Make or change rules, all of them or none."""
        return self._ask("set_rules", rules=rules, reason=reason, everything=list(everything))

    def remove_rule(self, name: str, reason: str) -> dict[str, Any]:
        """Take a rule out of force."""
        return self._ask("remove_rule", name=name, reason=reason)

    def place_hold(
        self,
        name: str,
        matter: str,
        reason: str,
        scope: dict[str, Any],
        custodian: str | None = None,
        descendants: bool = False,
    ) -> dict[str, Any]:
        """Place a hold."""
        return self._ask(
            "place_hold",
            name=name,
            matter=matter,
            reason=reason,
            scope=scope,
            custodian=custodian,
            descendants=descendants,
        )

    def release_hold(self, name: str, reason: str, custodian: str | None = None) -> dict[str, Any]:
        """End a hold on behalf of its custodian."""
        return self._ask("release_hold", name=name, reason=reason, custodian=custodian)

    def record_event(
        self,
        name: str,
        dataset: str,
        version: int | None = None,
        time: str | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Record when something happened."""
        return self._ask(
            "record_event", name=name, dataset=dataset, version=version, time=time, reason=reason
        )

    def approve(
        self,
        versions: Sequence[Sequence[Any]] = (),
        plan: str | None = None,
        reason: str = "",
    ) -> dict[str, Any]:
        """Agree to dispositions."""
        named = [list(version) for version in versions]
        return self._ask("approve", versions=named, plan=plan, reason=reason)

    def apply(self, plan: str | None = None, progress: Report | None = None) -> dict[str, Any]:
        """Carry out what the rules say."""
        return self._ask("apply", progress, plan=plan)

    def freed(
        self, versions: Sequence[Sequence[Any]], progress: Report | None = None
    ) -> dict[str, Any]:
        """What disposing of versions would free."""
        return self._ask("freed", progress, versions=[list(version) for version in versions])

    def confirm_clock(self, time: str, reason: str = "") -> dict[str, Any]:
        """Confirm that the host's clock is right."""
        return self._ask("confirm_clock", time=time, reason=reason)
