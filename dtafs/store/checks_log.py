"""Checks of the log: that it is whole, signed and chained, and that the index says what it says."""

from __future__ import annotations

import msgspec

from dtafs.core.entries import check_place, manifest_hash
from dtafs.core.names import LAKE_LOG, check_dataset_name
from dtafs.core.record_checks import DECODERS, decode_disposed
from dtafs.errors import DtafsError, UsageError
from dtafs.store.crypto import verify_superblock
from dtafs.store.findings import Affected
from dtafs.store.founding import read_superblock
from dtafs.store.index import DatasetRow, VersionRow
from dtafs.store.survey import DAMAGE, LoggedEntry, LoggedVersion, Survey, in_time_order


def check_superblock(survey: Survey) -> None:
    """I4: the superblock on the disk verifies and is the one that the lake was opened with."""
    try:
        block = read_superblock(survey.root)
        verify_superblock(block)
    except DAMAGE as error:
        survey.add(4, str(error))
        return
    if block != survey.lake.superblock:
        survey.add(4, "lake.json is not the one that this lake was opened with")


def check_entries(survey: Survey) -> None:
    """I4: every entry is as it was signed, and follows the one before it."""
    for name, logged in survey.entries.items():
        try:
            if name != LAKE_LOG:
                check_dataset_name(name)
        except UsageError as error:
            survey.add(4, f"log/ has a directory that cannot be a dataset: {error}")
        before: LoggedEntry | None = None
        for one in logged:
            if one.problem:
                survey.add(4, one.problem, [_lost_with(survey, one.dataset, [one.sequence])])
            else:
                _check_link(survey, one, before)
            before = one


def _lost_with(survey: Survey, dataset: str, sequences: list[int]) -> Affected:
    """The versions of which the index knows that these entries sealed them."""
    try:
        rows = survey.lake.index.versions(dataset)
    except DAMAGE:
        rows = []
    return Affected(dataset, tuple(r.number for r in rows if r.sequence in sequences))


def _check_link(survey: Survey, one: LoggedEntry, before: LoggedEntry | None) -> None:
    entry = one.entry
    assert entry is not None
    where = f"entry {one.sequence} of {one.dataset!r}"
    affects = [] if one.dataset == LAKE_LOG else [Affected(one.dataset)]
    try:
        check_place(one.dataset, one.sequence, entry.kind)
        if entry.kind in DECODERS:
            DECODERS[entry.kind](entry.body)
    except DtafsError as error:
        survey.add(4, str(error), affects)
    if one.sequence == 1 and entry.previous is not None:
        survey.add(4, f"{where} says that it has a predecessor", affects)
    if before is None or before.sequence != one.sequence - 1:
        return  # a gap is reported by check_nothing_destroyed
    if entry.previous != before.digest.hex():
        survey.add(
            4, f"{where} does not follow the entry before it: one of them was exchanged", affects
        )
    if before.entry is not None and entry.time_ns <= before.entry.time_ns:
        survey.add(4, f"{where} is not later than the entry before it", affects)


def check_manifests(survey: Survey) -> None:
    """I4: a version's hash can be recomputed, and each manifest names the one before it."""
    last: dict[str, LoggedVersion] = {}
    for version in sorted(survey.versions, key=lambda v: (v.dataset, v.sequence)):
        affects = [Affected(version.dataset, (version.number,))]
        before = last.get(version.dataset)
        if version.manifest.dataset != version.dataset:
            survey.add(4, f"{version.name} holds the manifest of another dataset", affects)
        if before is not None and version.manifest.parent != before.digest.hex():
            survey.add(4, f"{version.name} does not name {before.name} as its parent", affects)
        if before is None and version.number == 1 and version.manifest.parent is not None:
            survey.add(4, f"{version.name} names a parent and is the first version", affects)
        last[version.dataset] = version
    by_hash = {version.digest.hex(): version for version in survey.versions}
    for version in survey.versions:
        for source in version.manifest.sources:
            known = by_hash.get(source.manifest)
            said = f"{source.dataset}:v{source.version}"
            if known is not None and known.name != said:
                survey.add(
                    4,
                    f"{version.name} is made from {said} and gives the hash of {known.name}",
                    [Affected(version.dataset, (version.number,))],
                )


def check_nothing_destroyed(survey: Survey) -> None:
    """I10: no entry is missing between others, and none that the index has applied."""
    for name, logged in survey.entries.items():
        have = {one.sequence for one in logged}
        missing = sorted(set(range(1, max(have, default=0) + 1)) - have)
        if missing:
            survey.add(
                10,
                f"{_list_entries(missing)} of {name!r} is missing from the log",
                [_lost_with(survey, name, missing)],
            )
        numbers = sorted(v.number for v in survey.versions if v.dataset == name)
        gone = sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers))
        broken = any(one.problem for one in logged)
        if gone and not missing and not broken:
            survey.add(10, f"no entry of {name!r} seals v{gone[0]}", [Affected(name, tuple(gone))])
    for name, (sequence, _digest) in survey.lake.index.heads().items():
        logged = survey.entries.get(name, [])
        newest = logged[-1].sequence if logged else 0
        if newest < sequence and not survey.lake.log.exists(name, sequence):
            lost = survey.lake.index.versions(name)
            survey.add(
                10,
                f"the log of {name!r} ends at entry {newest}, but entry {sequence} existed",
                [Affected(name, tuple(v.number for v in lost if v.sequence > newest))],
            )


def _list_entries(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
    return f"entry {shown}"


def check_rows_of_log(survey: Survey) -> None:
    """I3, for what the index says of datasets, versions and tags: exactly what the log says."""
    index = survey.lake.index
    rows = {row.name: row for row in index.datasets()}
    serials = {
        (v.dataset, v.number): serial
        for serial, v in enumerate(in_time_order(survey.versions), start=1)
    }
    if not all(survey.log_is_whole(name) for name in survey.entries.keys() | rows.keys()):
        # Which numbers the versions in lost entries had cannot be known: take those of the index.
        known = {(v.dataset, v.number): v.serial for name in rows for v in index.versions(name)}
        serials.update(known)
    for name, logged in survey.entries.items():
        if name == LAKE_LOG:
            continue  # `dtafs.store.checks_records` has its rows
        usable = [one for one in logged if one.entry is not None]
        if not usable or not survey.log_is_whole(name):
            continue  # reported already, and what the rows should be is not known
        row = rows.get(name)
        if row is None or row.sequence < usable[-1].sequence:
            state = "nothing" if row is None else f"entry {row.sequence}"
            survey.add(
                2,
                f"the index has applied {state} of {name!r}, whose log ends at entry "
                f"{usable[-1].sequence}: run dtafsctl reindex",
                [Affected(name)],
            )
        elif row.sequence == usable[-1].sequence:
            _compare_rows(survey, name, usable, row, serials)
    for name in sorted(rows.keys() - survey.entries.keys()):
        if not survey.lake.log.exists(name, 1):
            survey.add(3, f"the index has a dataset {name!r} that has no log", [Affected(name)])


def _compare_rows(
    survey: Survey,
    name: str,
    logged: list[LoggedEntry],
    row: DatasetRow,
    serials: dict[tuple[str, int], int],
) -> None:
    wanted_row, wanted = replay(survey, name, logged, serials)
    if row != wanted_row:
        survey.add(3, f"the index row of dataset {name!r} differs from the log", [Affected(name)])
    index = survey.lake.index
    found = {version.number: version for version in index.versions(name)}
    for number in sorted(wanted.keys() | found.keys()):
        version = wanted.get(number)
        ok = found.get(number) == version
        if ok and version is not None:
            ok = index.version_by_serial(version.serial) == version
        if not ok:
            survey.add(
                3,
                f"the index row of {name}:v{number} differs from the log",
                [Affected(name, (number,))],
            )
    tags = {tag for version in wanted.values() for tag in version.tags}
    for tag in sorted(tags | index.tags(name).keys()):
        carriers = [n for n, version in sorted(wanted.items()) if tag in version.tags]
        if index.tagged(name, tag) != carriers:
            survey.add(
                3,
                f"the index row of tag {tag!r} of {name!r} differs from the log",
                [Affected(name)],
            )


def replay(
    survey: Survey, name: str, logged: list[LoggedEntry], serials: dict[tuple[str, int], int]
) -> tuple[DatasetRow, dict[int, VersionRow]]:
    """What the index must say of a dataset whose entries are all readable."""
    manifests = {v.sequence: v.manifest for v in survey.versions if v.dataset == name}
    versions: dict[int, VersionRow] = {}
    newest = 0
    for one in logged:
        entry = one.entry
        assert entry is not None
        if entry.kind == "committed" and one.sequence in manifests:
            manifest = manifests[one.sequence]
            newest = manifest.version
            versions[newest] = VersionRow(
                name,
                newest,
                serials[name, newest],
                manifest,
                manifest_hash(manifest),
                entry.time_ns,
                one.sequence,
                entry.actor,
                tuple(sorted(manifest.tags)),
            )
        elif entry.kind in ("tagged", "untagged") and entry.body.get("version") in versions:
            version = versions[entry.body["version"]]
            named = set(entry.body["tags"])
            tags = set(version.tags)
            tags = tags | named if entry.kind == "tagged" else tags - named
            changed = msgspec.structs.replace(version, tags=tuple(sorted(tags)))
            versions[version.number] = changed
        elif entry.kind == "disposed":
            for ref in decode_disposed(entry.body).versions:
                if ref.version in versions:
                    version = versions[ref.version]
                    gone = msgspec.structs.replace(version, disposed=one.sequence)
                    versions[ref.version] = gone
    first = logged[0].entry
    assert first is not None
    given = tuple(first.body.get("tags", ()))
    row = DatasetRow(name, first.time_ns, given, newest, logged[-1].sequence, logged[-1].digest)
    return row, versions
