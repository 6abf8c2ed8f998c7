"""Whether the host's clock can be believed where it decides what may be destroyed. Pure.

The log is what there is to hold it to: times in it grow, and each entry was written when the clock said
so. A clock behind the newest entry, or far ahead of it, is in doubt; so is one that has jumped since: an
entry that came long after the one before it may have been written for that very purpose, so the longest
such time is remembered until a person has confirmed what time it is. A lake in which nothing happens for
so long looks the same, and is asked about as well: nothing is destroyed on a doubt.
"""

from __future__ import annotations

from typing import NamedTuple

from dtafs.core.names import format_time
from dtafs.core.periods import DAY_NS

TOLERANCE_NS = 60 * 10**9
"""How far the log may be ahead: entries that follow each other fast are a nanosecond apart."""

STATED_WITHIN_NS = DAY_NS
"""How far what a person says may be from what the host's clock says."""


class ClockFacts(NamedTuple):
    """What the log tells; 0 where there is nothing to tell.

    `gap_ns` is the longest time between two entries since the last confirmation, `gap_at_ns` when it
    ended; `confirmed_ns` what the host's clock said when a person confirmed it, at the
    entry of the time `confirmed_at_ns`.
    """

    newest_ns: int
    gap_ns: int = 0
    gap_at_ns: int = 0
    confirmed_ns: int = 0
    confirmed_at_ns: int = 0


def why_doubted(now_ns: int, facts: ClockFacts, span_ns: int) -> str | None:
    """Why nothing may be destroyed by what the clock says, in a sentence; None when it may.

    `span_ns` is how far the clock may be ahead of the newest entry.
    """
    if not facts.newest_ns:
        return None
    span = f"{span_ns / DAY_NS:g} days"
    if now_ns < facts.newest_ns - TOLERANCE_NS:
        if _confirmed_behind(now_ns, facts, span_ns):
            return None
        return (
            f"the clock of this host says {format_time(now_ns)}, and the newest entry of the log is of "
            f"{format_time(facts.newest_ns)}, which is later"
        )
    if now_ns - facts.newest_ns > span_ns:
        return (
            f"the clock of this host says {format_time(now_ns)}, more than {span} after the newest "
            f"entry of the log, of {format_time(facts.newest_ns)}"
        )
    if facts.gap_ns > span_ns:
        return (
            f"the log has an entry of {format_time(facts.gap_at_ns)} that came more than {span} after "
            "the one before it, as if the clock had been set forward"
        )
    return None


def _confirmed_behind(now_ns: int, facts: ClockFacts, span_ns: int) -> bool:
    """Whether a person has confirmed a clock that is behind the log, which went ahead by mistake."""
    passed_ns = now_ns - facts.confirmed_ns
    went_on_ns = facts.newest_ns - facts.confirmed_at_ns
    return (
        facts.confirmed_ns > 0
        and -TOLERANCE_NS <= passed_ns <= span_ns
        and went_on_ns <= max(passed_ns, 0) + TOLERANCE_NS
    )


def why_not_confirmed(stated_ns: int, now_ns: int) -> str | None:
    """Why what a person says of the time does not confirm the clock; None when it does."""
    if abs(stated_ns - now_ns) <= STATED_WITHIN_NS:
        return None
    return (
        f"the clock of this host says {format_time(now_ns)}, not {format_time(stated_ns)}: set it "
        "right first"
    )
