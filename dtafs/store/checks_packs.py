"""Checks of packs and of the index rows that point into them.

One pass over the packs, one at a time, so that memory does not grow with the lake. Each row of the
chunk table is confirmed by exactly one pack; only when some rows are left unconfirmed are they
looked for one by one.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from dtafs.core.format import pack_key
from dtafs.core.quantities import counted
from dtafs.core.values import HASH_BYTES
from dtafs.errors import DtafsError, NotFoundError
from dtafs.store.checks_parity import read_parity
from dtafs.store.condemn import read_marks
from dtafs.store.database import Database, Txn
from dtafs.store.durable import open_for_reading, read_at
from dtafs.store.findings import WARNING, Affected
from dtafs.store.index_packs import PackRow, decode_place
from dtafs.store.packs import Pack, Place, decode_frame, hash_pack, read_footer
from dtafs.store.pending import TABLES as PENDING_TABLES
from dtafs.store.survey import DAMAGE, Bringer, Survey

FRESH_S = 60.0
"""A pack that is younger, in a lake that another process writes to, is not an orphan yet."""

ROWS_NAMED_MAX = 3
"""How many wrong rows a finding spells out."""


class PackPass(NamedTuple):
    """What the pass over all packs has found, for the checks that judge it."""

    orphans: list[bytes]
    strays: list[str]
    copies_confirmed: int
    rows_absent: dict[bytes, int]
    """Packs with chunks that have no row, and how many."""
    rows_wrong: dict[bytes, int]
    """Packs with chunks whose row says something impossible, and how many."""


def read_pending(survey: Survey) -> None:
    """Fill `pending` and `condemned`: what uncommitted work needs, what a collection will delete."""
    survey.condemned = frozenset(read_marks(survey.root))
    pending = survey.lake.pending
    if pending is not None:
        survey.pending.update(pending.all_packs())
        survey.pending_place = pending.place
        return
    path = survey.root / "staging" / "pending"
    if not (path / "data.mdb").exists():
        return
    database = Database(path, PENDING_TABLES, write=False)
    survey.on_close(database.close)
    with database.read() as txn:
        for key, _value in txn.scan("pack"):
            survey.pending[key[:HASH_BYTES]] = key[HASH_BYTES:].decode()

    def place(chunk: bytes) -> Place | None:
        with database.read() as txn:
            found = next((value for _key, value in txn.scan("chunk", chunk)), None)
        return None if found is None else decode_place(found)

    survey.pending_place = place


def list_packs(survey: Survey) -> tuple[list[bytes], list[str]]:
    """The packs in the home store, sorted, and the names of files there that are none."""
    packs, strays = [], []
    for folder in sorted((survey.root / "packs").iterdir()):
        if not folder.is_dir():
            strays.append(f"packs/{folder.name}")
            continue
        for file in sorted(folder.iterdir()):
            if len(file.name) == 64 and file.name.startswith(folder.name) and _is_hex(file.name):
                packs.append(bytes.fromhex(file.name))
            else:
                strays.append(f"packs/{folder.name}/{file.name}")
    return packs, strays


def _is_hex(text: str) -> bool:
    return all(char in "0123456789abcdef" for char in text)


def pass_over_packs(survey: Survey, present: list[bytes], strays: list[str]) -> PackPass:
    """Read the footer of every pack that is there or should be."""
    result = PackPass([], strays, 0, {}, {})
    confirmed: dict[bytes, int] = {}
    copies = 0
    everything = sorted({*present, *survey.named, *survey.pending})  # with those that are away
    done_bytes = 0
    for done, pack_id in enumerate(everything):
        survey.progress("check packs", done, len(everything), done_bytes)
        referred = pack_id in survey.named or pack_id in survey.pending
        if not referred:
            result.orphans.append(pack_id)
        try:
            pack = read_footer(survey.root, pack_id)
        except DAMAGE as error:
            survey.bad_packs[pack_id] = str(error)
            continue
        done_bytes += pack.size
        if pack_id in survey.named:
            confirmed[pack_id], others = _confirm_rows(survey, pack, result)
            copies += others
    survey.progress("check packs", len(everything), len(everything), done_bytes)
    step = partial(_find_misplaced, survey, result, confirmed)
    survey.attempt(3, "comparing the index with the packs", step)
    return result._replace(copies_confirmed=copies)


def read_data(survey: Survey) -> None:
    """Read all packs that are there and due, those first that were not read for the longest time.

    It may take hours, in which packs come and go: so it is done before anything else is looked at,
    and a pack that is not there any more is passed over.
    """
    scrub = survey.scrub
    present, _strays = list_packs(survey)
    known = scrub.ledger.packs if scrub is not None else {}
    present.sort(key=lambda pack: known[pack].time_ns if pack in known else 0)
    done_bytes = 0
    for done, pack_id in enumerate(present):
        survey.progress("check data", done, len(present), done_bytes)
        if scrub is not None and not scrub.is_due(pack_id):
            continue
        read_parity(survey, pack_id)
        try:
            pack = read_footer(survey.root, pack_id)
        except DAMAGE:
            continue  # the pass over the packs says what is wrong, if it should be there
        _read_data(survey, pack)
        done_bytes += pack.size
    survey.progress("check data", len(present), len(present), done_bytes)
    if scrub is not None:
        scrub.ledger.keep([*present, *survey.stubs])


def _read_data(survey: Survey, pack: Pack) -> None:
    """Read every byte of a pack: against its name, frame by frame, and chunk by chunk."""
    scrub, problems = survey.scrub, []
    try:
        hash_whole = hash_pack if scrub is None else scrub.hash_pack
        if hash_whole(survey.root, pack.id) != pack.id:
            problems.append(f"pack {pack.id.hex()} is not what it was when it was written")
            survey.altered[pack.id] = problems[0]
        fd = open_for_reading(survey.root / pack_key(pack.id))
    except NotFoundError:
        return
    except DAMAGE as error:
        problems.append(f"pack {pack.id.hex()} cannot be read: {error}")
        survey.bad_packs[pack.id] = problems[-1]
    else:
        try:
            problems += read_frames(survey, pack, lambda offset, size: read_at(fd, size, offset))
        finally:
            os.close(fd)
    if scrub is not None:
        scrub.ledger.note(pack.id, problems[0] if problems else "")


ReadAt = Callable[[int, int], bytes]
"""Gives bytes of a pack: from an offset, so many."""


def read_frames(survey: Survey, pack: Pack, read: ReadAt) -> list[str]:
    """Read a pack frame by frame, and note what is wrong with frames and chunks; the problems."""
    problems: list[str] = []
    for places in _by_frame(pack):
        problems += _read_frame(survey, read, places)
    return problems


def _by_frame(pack: Pack) -> Iterator[list[tuple[bytes, Place]]]:
    places = iter(pack.places())
    for frame in pack.frames:
        yield [next(places) for _ in frame.chunks]


def _read_frame(survey: Survey, read: ReadAt, places: list[tuple[bytes, Place]]) -> list[str]:
    if not places:
        return []
    first = places[0][1]
    try:
        plain = decode_frame(read(first.offset, first.stored), first.plain, first.codec)
    except DAMAGE as error:
        problem = f"pack {first.pack.hex()}, frame at {first.offset}: {error}"
        survey.bad_frames[first.pack, first.offset] = problem
        return [problem]
    problems = []
    for chunk, place in places:
        data = memoryview(plain)[place.start : place.start + place.size]
        if survey.objects.chunk_id(hashlib.sha256(data).digest()) != chunk:
            problem = (
                f"chunk {chunk.hex()} is altered in pack {place.pack.hex()}, "
                f"frame at {place.offset}"
            )
            survey.bad_chunks[chunk] = problem
            problems.append(problem)
    return problems


def _confirm_rows(survey: Survey, pack: Pack, result: PackPass) -> tuple[int, int]:
    """Compare the rows of a pack's chunks with its footer; how many rows and copies it confirms."""
    own: dict[bytes, Place] = {}
    for chunk, place in sorted(pack.places()):
        own.setdefault(chunk, place)
    confirmed = copies = 0
    with survey.lake.index.database.read() as txn:
        for chunk, place in own.items():
            try:
                value = txn.get("chunk", chunk)
                row = None if value is None else decode_place(value)
            except DtafsError:
                result.rows_wrong[pack.id] = result.rows_wrong.get(pack.id, 0) + 1
                confirmed += 1
                continue
            if row is None:
                result.rows_absent[pack.id] = result.rows_absent.get(pack.id, 0) + 1
            elif row == place:
                confirmed += 1
            elif row.pack < pack.id and _is_copy(txn, chunk, place):
                copies += 1  # of two packs the one with the smaller name counts
            else:
                result.rows_wrong[pack.id] = result.rows_wrong.get(pack.id, 0) + 1
    return confirmed, copies


def _is_copy(txn: Txn, chunk: bytes, place: Place) -> bool:
    value = txn.get("copy", chunk + place.pack)
    return value is not None and decode_place(value) == place


def check_named_packs(survey: Survey) -> None:
    """I1: every pack that an entry names is there, whole."""
    for pack, version in survey.named.items():
        problem = survey.bad_packs.get(pack)
        if problem:
            survey.add(1, f"{problem}; {version.name} brought it", [_brought(version)])


def check_altered(survey: Survey) -> None:
    """I4: every pack that was read is what its name says, even where all of it decodes."""
    for pack, problem in survey.altered.items():
        if pack in survey.named:
            survey.add(4, problem, [_brought(survey.named[pack])])
        else:
            dataset = survey.pending.get(pack)
            survey.add(4, problem, [Affected(dataset)] if dataset else ())


def _brought(bringer: Bringer) -> Affected:
    return Affected(bringer.dataset, (bringer.number,) if bringer.number else ())


def check_absent_rows(survey: Survey, result: PackPass) -> None:
    """I2: every chunk of a pack that the log names has a row, and so has the pack."""
    for pack, count in result.rows_absent.items():
        version = survey.named[pack]
        survey.add(
            2,
            f"the index lacks {counted(count, 'chunk')} of pack {pack.hex()}: run dtafsctl reindex",
            [_brought(version)],
        )
    known = dict(survey.lake.index.packs())
    for pack, version in survey.named.items():
        if pack in survey.bad_packs:
            continue
        row, wanted = known.get(pack), _pack_row(read_footer(survey.root, pack), version)
        if row is None:
            survey.add(
                2, f"the index lacks pack {pack.hex()}: run dtafsctl reindex", [_brought(version)]
            )
        elif row != wanted and all(map(survey.log_is_whole, survey.entries)):
            survey.add(
                3, f"the index row of pack {pack.hex()} differs from the pack", [_brought(version)]
            )


def _pack_row(pack: Pack, version: Bringer) -> PackRow:
    plain = sum(frame.plain for frame in pack.frames)
    chunks = sum(len(frame.chunks) for frame in pack.frames)
    return PackRow(
        pack.kind, pack.size, plain, len(pack.frames), chunks, version.dataset, version.sequence
    )


def check_rows(survey: Survey, result: PackPass) -> None:
    """I3: every row points at bytes that decode to its id."""
    for pack, count in result.rows_wrong.items():
        what = f"{counted(count, 'chunk')} of pack {pack.hex()}"
        affects = [_brought(survey.named[pack])]
        survey.add(3, f"the index misplaces {what}: run dtafsctl reindex", affects)
    for where, problem in survey.bad_frames.items():
        affects = [_brought(survey.named[where[0]])] if where[0] in survey.named else []
        survey.add(3, problem, affects)
    for problem in survey.bad_chunks.values():
        survey.add(3, problem)
    database = survey.lake.index.database
    with database.read() as txn:
        copies = txn.count("copy")
    if copies > result.copies_confirmed and not survey.bad_packs:
        surplus = counted(copies - result.copies_confirmed, "copy row")
        survey.add(3, f"the index has {surplus} that no pack explains: run dtafsctl reindex")
    if survey.misplaced:
        named = ", ".join(chunk.hex() for chunk in islice(survey.misplaced, ROWS_NAMED_MAX))
        survey.add(3, f"the index misplaces {counted(len(survey.misplaced), 'chunk')} ({named}, …)")


def _find_misplaced(survey: Survey, result: PackPass, confirmed: dict[bytes, int]) -> None:
    """Note the chunks that a pack does not have where the index looks for them in it.

    `confirmed`: how many rows the footer of each pack confirms.
    """
    index = survey.lake.index
    with index.database.read() as txn:
        total = txn.count("chunk")
    if total == sum(confirmed.values()) and not result.rows_wrong:
        return
    rows = Counter(place.pack for _chunk, place in index.places())
    suspects = {
        pack
        for pack in survey.named.keys() - survey.bad_packs.keys()
        if rows[pack] != confirmed.get(pack, 0) or pack in result.rows_wrong
    }
    led: dict[bytes, list[tuple[bytes, Place]]] = {pack: [] for pack in suspects}
    for chunk, place in index.places():
        if place.pack in suspects:
            led[place.pack].append((chunk, place))
    for pack, pairs in led.items():
        there = set(read_footer(survey.root, pack).places())
        problem = f"the index looks for it where pack {pack.hex()} does not have it"
        survey.misplaced.update((chunk, problem) for chunk, at in pairs if (chunk, at) not in there)


def check_references(survey: Survey, result: PackPass) -> None:
    """I5: no row refers to a pack that is gone; packs that nothing refers to only cost room."""
    known = dict(survey.lake.index.packs())
    suspects = {pack for pack in survey.bad_packs if not (survey.root / pack_key(pack)).exists()}
    suspects |= known.keys() - survey.named.keys()
    complete = len(known) == len(survey.named) and not suspects
    rows: dict[bytes, int] = dict.fromkeys(suspects & known.keys(), 0)
    for _chunk, place in () if complete else survey.lake.index.places():
        if place.pack in suspects or place.pack not in survey.named:
            rows[place.pack] = rows.get(place.pack, 0) + 1
    for pack, count in rows.items():
        row = known.get(pack)
        why = survey.bad_packs.get(pack)
        if why is None and row is not None and not survey.log_is_whole(row.dataset):
            continue  # the entry that named it is lost, which is reported
        why = why or f"no entry of the log names pack {pack.hex()}"
        pointing = counted(count, "index row")
        survey.add(5, f"{why}, yet {pointing} led into it", _brought_by(survey, row))
    for pack in result.orphans:
        row = known.get(pack)
        lost_entry = row is not None and not survey.log_is_whole(row.dataset)
        waits = pack in survey.condemned  # for a collection to delete it
        if not lost_entry and not waits and not _is_fresh(survey, pack):
            text = f"pack {pack.hex()} is named by no log entry and by no staging: dtafsctl collect"
            survey.add(5, text, (), WARNING)
    for name in result.strays:
        survey.add(5, f"{name} is not a pack", (), WARNING)


def _brought_by(survey: Survey, row: PackRow | None) -> list[Affected]:
    if row is None:
        return []
    rows = survey.lake.index.versions(row.dataset)
    return [Affected(row.dataset, tuple(r.number for r in rows if r.sequence == row.sequence))]


def _is_fresh(survey: Survey, pack: bytes) -> bool:
    if survey.lake.can_write:
        return False
    try:
        age_s = time.time() - (survey.root / pack_key(pack)).stat().st_mtime
    except OSError:
        return True
    return age_s < FRESH_S


def check_pending(survey: Survey) -> None:
    """I8: what deduplication of uncommitted work relies on is there."""
    for pack, dataset in survey.pending.items():
        if pack in survey.bad_packs and pack not in survey.named:
            affects = [Affected(dataset)] if dataset else []
            survey.add(8, f"{survey.bad_packs[pack]}; the staging of a dataset needs it", affects)
