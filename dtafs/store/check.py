"""The checker: reads a lake as a stranger would, and names every promise that it does not keep.

`INVARIANTS` has one function for each invariant of `dtafs/DESIGN.md`. They judge what one pass over
the log, one over the packs and one walk over all versions have found (`Facts`). Damaged input never
stops the check: what cannot be read is itself a finding, and the rest is checked all the same.

Without `read_data` every log entry, pack footer, index row and metadata node is read; with it,
every frame and chunk, every pack's own hash, and every file's hash as well; tiers are asked, and
their copies read, as far as they can be without a recall.

Nothing is changed. A lake that is open for reading only may be written to by another process
meanwhile; its log is read last, so that what was just sealed is no finding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dtafs.store import (
    checks_log,
    checks_packs,
    checks_parity,
    checks_records,
    checks_staging,
    checks_tiers,
    checks_tree,
)
from dtafs.store.checks_packs import PackPass
from dtafs.store.checks_staging import StagingFacts
from dtafs.store.checks_tree import Reach
from dtafs.store.findings import Affected, Finding
from dtafs.store.progress import Report
from dtafs.store.survey import Survey

if TYPE_CHECKING:
    from dtafs.store.lake import Lake
    from dtafs.store.scrub import Scrub

__all__ = ["INVARIANTS", "Affected", "Finding", "check"]


class Facts(NamedTuple):
    """What the passes over a lake have found."""

    survey: Survey
    packs: PackPass
    reach: Reach
    staging: StagingFacts


def durable_before_visible(facts: Facts) -> None:
    """I1: a log entry that exists was durable, and so was every pack it names."""
    checks_packs.check_named_packs(facts.survey)


def every_chunk_has_a_row(facts: Facts) -> None:
    """I2: every chunk reachable from a live version has an index row."""
    checks_packs.check_absent_rows(facts.survey, facts.packs)
    checks_tree.check_rows_exist(facts.survey, facts.reach)


def rows_point_at_their_bytes(facts: Facts) -> None:
    """I3: an index row points at bytes that decode to its id, or says what the log says."""
    checks_packs.check_rows(facts.survey, facts.packs)
    checks_log.check_rows_of_log(facts.survey)
    checks_records.check_records(facts.survey)


def sealed_never_changes(facts: Facts) -> None:
    """I4: sealed objects never change, and a version's hash can be recomputed from them."""
    checks_log.check_superblock(facts.survey)
    checks_log.check_entries(facts.survey)
    checks_log.check_manifests(facts.survey)
    checks_packs.check_altered(facts.survey)
    checks_parity.check_parity(facts.survey)


def reference_goes_before_bytes(facts: Facts) -> None:
    """I5: a reference is removed before the bytes."""
    checks_packs.check_references(facts.survey, facts.packs)


def live_chunks_are_readable(facts: Facts) -> None:
    """I6: a live chunk is readable from some tier, after a recall where it is in an archive."""
    checks_tree.check_readable(facts.survey, facts.reach)
    checks_tiers.check_stubs(facts.survey)
    checks_tiers.check_copies(facts.survey)


def versions_are_whole(facts: Facts) -> None:
    """I7: a version is wholly there or wholly absent, and staging is consistent."""
    checks_tree.check_whole(facts.survey, facts.reach)
    checks_staging.check_structure(facts.survey, facts.staging)


def deduplication_is_safe(facts: Facts) -> None:
    """I8: what uncommitted work relies on is present."""
    checks_packs.check_pending(facts.survey)
    checks_staging.check_contents(facts.survey, facts.staging)


def inodes_are_not_reused(facts: Facts) -> None:
    """I9: no inode number is given twice while it may be known."""
    checks_staging.check_numbers(facts.survey, facts.staging)


def nothing_destroyed_in_silence(facts: Facts) -> None:
    """I10: what is gone was destroyed by a log entry that says so."""
    checks_log.check_nothing_destroyed(facts.survey)


INVARIANTS: dict[int, Callable[[Facts], None]] = {
    1: durable_before_visible,
    2: every_chunk_has_a_row,
    3: rows_point_at_their_bytes,
    4: sealed_never_changes,
    5: reference_goes_before_bytes,
    6: live_chunks_are_readable,
    7: versions_are_whole,
    8: deduplication_is_safe,
    9: inodes_are_not_reused,
    10: nothing_destroyed_in_silence,
}


def check(
    lake: Lake,
    *,
    read_data: bool = False,
    progress: Report | None = None,
    scrub: Scrub | None = None,
) -> list[Finding]:
    """Check an open lake; the findings, errors first, each by its invariant.

    `scrub` says which packs are due and remembers the results. Where it leaves some out, files are
    not hashed as a whole: what they consist of is in their nodes, which are always checked.

    Blocks; takes time in proportion to the metadata, and with `read_data` to all that is stored.
    Staging, where the lake is open for writing, is flushed first, so the caller must be the one who
    uses it. Never raises for damage.
    """
    survey = Survey(lake, read_data=read_data, report=progress, scrub=scrub)
    try:
        # Over a damaged page LMDB may end the process, so such a file is not read any further.
        survey.attempt(3, "looking at the index", lake.index.examine)
        if lake.pending is not None:
            survey.attempt(8, "looking at the table of uncommitted packs", lake.pending.examine)
        if not survey.findings:
            facts = _gather(survey)
            for number, function in INVARIANTS.items():
                survey.attempt(number, _first_line(function), partial(function, facts))
    finally:
        survey.close()
    order = dict.fromkeys(survey.findings)
    return sorted(order, key=lambda finding: (finding.severity, finding.invariant))


def _gather(survey: Survey) -> Facts:
    present: list[bytes] = []
    strays: list[str] = []
    packs = PackPass([], strays, 0, {}, {})
    staging = StagingFacts()
    reach = Reach(survey)

    def read_packs() -> None:
        nonlocal packs
        packs = checks_packs.pass_over_packs(survey, present, strays)

    def list_packs() -> None:
        found, others = checks_packs.list_packs(survey)
        present.extend(found)
        strays.extend(others)

    survey.attempt(6, "reading the stubs", partial(checks_tiers.read_stubs, survey))
    if survey.read_data:
        survey.attempt(4, "reading the data", partial(checks_packs.read_data, survey))
        survey.attempt(6, "reading the tiers", partial(checks_tiers.check_tiers, survey))
    survey.attempt(5, "listing the packs", list_packs)
    survey.attempt(
        8, "reading the table of uncommitted packs", partial(checks_packs.read_pending, survey)
    )
    survey.attempt(4, "reading the log", survey.read_log)
    survey.attempt(4, "reading the packs", read_packs)
    survey.attempt(6, "walking over the versions", reach.walk)
    if survey.read_data and not survey.skips_contents:
        survey.attempt(6, "reading the contents", reach.read_contents)
    survey.attempt(7, "reading staging", partial(checks_staging.gather, survey, staging))
    return Facts(survey, packs, reach, staging)


def _first_line(function: Callable[[Facts], None]) -> str:
    return (function.__doc__ or "").partition(":")[0] + ", its check,"
