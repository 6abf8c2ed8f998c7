"""Schedules: files of rules, in TOML, that are loaded as a whole or not at all.

reason = "Schedule of 2026"            # why rules that exist are changed, if they are

[rules.seven-years]
from = "committed"                     # or "superseded", or "event:NAME"
period = "7y"
action = "archive"                     # or "dispose", or "notify"
tier = "cold"                          # of a rule that archives
authority = "GRS 3.1 item 020"
datasets = "*"                         # a pattern; this is the default
tags = []                              # all must be carried
mode = "governance"                    # or "compliance", which can never be shortened
approvals = 0                          # by other persons, to dispose
everything = false                     # true where a rule is to dispose of every dataset
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dtafs.core.names import nearest
from dtafs.core.periods import parse_period
from dtafs.core.record_checks import RULES_MAX, check_rule
from dtafs.core.records import GOVERNANCE, Cutoff, Rule
from dtafs.errors import UsageError, from_os_error

T = TypeVar("T")

SCHEDULE_LIMIT_BYTES = 16 * 1024 * 1024
_KEYS: dict[str, type] = {
    "from": str,
    "period": str,
    "action": str,
    "tier": str,
    "authority": str,
    "datasets": str,
    "tags": list,
    "mode": str,
    "approvals": int,
    "everything": bool,
}
_NEEDED = ("from", "period", "action", "authority")
_WORDS = {str: "a text", list: "a list of texts", int: "a number", bool: "true or false"}


class Schedule(NamedTuple):
    """The rules of a file; `everything` names those that may be for every dataset."""

    rules: dict[str, Rule]
    everything: tuple[str, ...]
    reason: str


def make_rule(
    name: str,
    *,
    start: str,
    period: str,
    action: str,
    authority: str,
    datasets: str = "*",
    tags: tuple[str, ...] = (),
    mode: str = GOVERNANCE,
    approvals: int = 0,
    tier: str = "",
) -> Rule:
    """A rule of what a person writes; UsageError says what is wrong with it."""
    try:
        period = str(parse_period(period))
    except UsageError as error:
        raise UsageError(f"rule {name!r}: {error}") from None
    tags = tuple(sorted(set(tags)))
    rule = Rule(Cutoff(start, period), action, authority, datasets, tags, mode, approvals, tier)
    check_rule(name, rule)
    return rule


def load_schedule(path: Path) -> Schedule:
    """The schedule in a file; UsageError names the file and what is wrong in it."""
    try:
        if path.stat().st_size > SCHEDULE_LIMIT_BYTES:
            raise UsageError(f"{path} is too large for a schedule")
        text = path.read_bytes()
    except OSError as error:
        raise from_os_error(error, "reading the schedule") from error
    try:
        data = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    try:
        return _schedule(data)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _schedule(data: Mapping[str, Any]) -> Schedule:
    _refuse_unknown(data, ("rules", "reason"), "")
    tables, reason = data.get("rules"), data.get("reason", "")
    if not isinstance(tables, dict) or not tables:
        raise UsageError("a schedule has rules: [rules.NAME]")
    if not isinstance(reason, str):
        raise UsageError("'reason' is a text")
    if len(tables) > RULES_MAX:
        raise UsageError(f"a schedule has at most {RULES_MAX:,} rules")
    rules = {name: _rule(name, table) for name, table in tables.items()}
    everything = tuple(name for name, table in tables.items() if table.get("everything"))
    return Schedule(rules, everything, reason)


def _refuse_unknown(data: Mapping[str, Any], known: Any, prefix: str) -> None:
    for key in data:
        if key not in known:
            near = nearest(key, known, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"unknown key {prefix + key!r}{meant}")


def _rule(name: str, table: Any) -> Rule:
    if not isinstance(table, dict):
        raise UsageError(f"'rules.{name}' is a table, not a value")
    prefix = f"rules.{name}."
    _refuse_unknown(table, _KEYS, prefix)
    for key, value in table.items():
        wanted = _KEYS[key]
        wrong = not isinstance(value, wanted) or (wanted is int and isinstance(value, bool))
        if wrong or (wanted is list and not all(isinstance(one, str) for one in value)):
            raise UsageError(f"{prefix + key!r} is {_WORDS[wanted]}, not {value!r}")
    missing = [key for key in _NEEDED if key not in table]
    if missing:
        raise UsageError(f"rule {name!r} lacks {', '.join(map(repr, missing))}")
    given = {key: value for key, value in table.items() if key not in ("from", "everything")}
    return make_rule(name, start=table["from"], **{**given, "tags": tuple(given.get("tags", ()))})
