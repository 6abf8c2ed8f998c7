"""Checks of stubs, and of what lies in other tiers.

Without reading data, no tier is asked: the stubs have to be whole, and to name tiers that this host
knows. With it, each tier is listed and compared with the stubs, and every copy that can be read is read
and hashed; one in an archive that was not recalled is judged by being there with its size. A tier that
does not answer is a warning: what it has is as unknown as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dtafs.core.format import PackKind, pack_key
from dtafs.core.placed import Stub
from dtafs.core.quantities import counted
from dtafs.errors import IntegrityError, NotFoundError, RecallError
from dtafs.store.checks_packs import read_frames
from dtafs.store.findings import WARNING, Affected
from dtafs.store.packs import read_footer
from dtafs.store.placement.removal import MIRROR
from dtafs.store.placement.stubs import (
    doomed_packs,
    is_away,
    pack_of_name,
    read_stub,
    stubbed_packs,
)
from dtafs.store.survey import DAMAGE, Survey
from dtafs.store.tiers.base import Tier, has_hash
from dtafs.store.tiers.mirror import lacking

MEND = "run dtafsctl repair"


def read_stubs(survey: Survey) -> None:
    """Fill `stubs`; a damaged one is a finding."""
    for pack in stubbed_packs(survey.root):
        try:
            stub = read_stub(survey.root, pack)
        except DAMAGE as error:
            survey.bad_stubs[pack] = str(error)
            continue
        if stub is not None:
            survey.stubs[pack] = stub


def away_packs(survey: Survey) -> list[bytes]:
    """The packs that only other tiers have, sorted."""
    return sorted(pack for pack in survey.stubs if is_away(survey.root, pack))


def check_stubs(survey: Survey) -> None:
    """I6: the stubs are whole, name tiers that this host knows, and belong to packs of the lake."""
    wanted = survey.named.keys() | survey.pending.keys() | survey.condemned
    for pack, problem in survey.bad_stubs.items():
        survey.add(4, f"{problem}: {MEND}", _brought(survey, pack))
    unknown: dict[str, list[bytes]] = {}
    for pack in away_packs(survey):
        tiers = survey.stubs[pack].tiers
        if not any(name in survey.lake.tiers for name in tiers):
            unknown.setdefault(tiers[0], []).append(pack)
        if pack not in wanted:
            text = f"pack {pack.hex()} lies in tier {tiers[0]!r} and nothing needs it"
            survey.add(5, f"{text}: dtafsctl collect", (), WARNING)
    for name, packs in unknown.items():
        affects = [one for pack in packs for one in _brought(survey, pack)]
        text = f"{counted(len(packs), 'pack')} can only be read from tier {name!r}"
        survey.add(
            6, f"{text}, which config.toml does not have: add it again", dict.fromkeys(affects)
        )
    for pack in doomed_packs(survey.root):
        text = f"pack {pack.hex()} is deleted, but for what a tier may still have"
        survey.add(5, f"{text}: dtafsctl collect", (), WARNING)


def _brought(survey: Survey, pack: bytes) -> list[Affected]:
    bringer = survey.named.get(pack)
    if bringer is None:
        return []
    return [Affected(bringer.dataset, (bringer.number,) if bringer.number else ())]


def check_tiers(survey: Survey) -> None:
    """I6: each tier has what the stubs say, and nothing else; every copy that can be read is right."""
    for name in sorted(survey.lake.tiers):
        try:
            listed = dict(_listed(survey, name))
        except DAMAGE as error:
            held = sum(bool(stub.copies.get(name)) for stub in survey.stubs.values())
            text = f"tier {name!r} cannot be asked for its {counted(held, 'pack')}: {error}"
            survey.add(6, text, (), WARNING)
            continue
        _compare(survey, name, listed)
        if name == MIRROR:
            _check_mirror(survey)
    _read_copies(survey)
    judge_lost(survey)


def _check_mirror(survey: Survey) -> None:
    gone = lacking(survey.lake)
    if gone:
        text = f"the mirror in tier {MIRROR!r} has lost {counted(len(gone), 'object')}, such as {gone[0]}"
        survey.add(6, f"{text}, and a restore from it would lack them: {MEND}", (), WARNING)


def _listed(survey: Survey, name: str) -> Iterator[tuple[bytes, int]]:
    for key, size in survey.lake.tier(name).keys("packs/"):
        pack = pack_of_name(key.rpartition("/")[2])
        if pack is not None and key == pack_key(pack):
            yield pack, size


def _compare(survey: Survey, name: str, listed: dict[bytes, int]) -> None:
    for pack, stub in survey.stubs.items():
        if not stub.copies.get(name) or listed.get(pack) == stub.size:
            continue
        state = "has lost" if pack not in listed else "has only a part of"
        survey.bad_copies.setdefault(pack, {})[name] = f"tier {name!r} {state} pack {pack.hex()}"
    mirrored = {p for p, row in survey.lake.index.packs() if row.kind == PackKind.METADATA}
    doomed = doomed_packs(survey.root)
    for pack in sorted(listed.keys() - survey.stubs.keys() - doomed.keys() - mirrored):
        if pack not in survey.bad_stubs:
            text = f"tier {name!r} has pack {pack.hex()}, of which no stub tells: {MEND}"
            survey.add(5, text, (), WARNING)


def _read_copies(survey: Survey) -> None:
    """Read all copies that are due, and can be read."""
    scrub = survey.scrub
    packs = [pack for pack, stub in survey.stubs.items() if stub.tiers]
    for done, pack in enumerate(packs):
        survey.progress("check tiers", done, len(packs))
        away = is_away(survey.root, pack)
        if scrub is not None and not scrub.is_due(pack) and away:
            continue
        problems = [_read_copy(survey, survey.stubs[pack], n) for n in survey.stubs[pack].tiers]
        if scrub is not None and away and None not in problems:
            scrub.ledger.note(pack, next((text for text in problems if text), ""))


def _read_copy(survey: Survey, stub: Stub, name: str) -> str | None:
    """What is wrong with a copy, or nothing; None where it cannot be read now."""
    known = survey.bad_copies.get(stub.pack, {}).get(name)
    if known is not None or name not in survey.lake.tiers:
        return known
    scrub = survey.scrub

    def take(part: bytes) -> None:
        if scrub is not None:
            scrub.count(len(part))

    try:
        sound = has_hash(survey.lake.tier(name), pack_key(stub.pack), stub.pack, take)
    except RecallError:
        return None
    except NotFoundError:
        problem = f"tier {name!r} has lost pack {stub.pack.hex()}"
    except IntegrityError as error:
        problem = str(error)
    except DAMAGE as error:
        survey.add(6, f"pack {stub.pack.hex()} could not be verified: {error}", (), WARNING)
        return None
    else:
        if scrub is not None:
            scrub.packs += 1
        if sound:
            return ""
        problem = f"tier {name!r} gives other bytes than those of pack {stub.pack.hex()}"
    survey.bad_copies.setdefault(stub.pack, {})[name] = problem
    return problem


def judge_lost(survey: Survey) -> None:
    """Find out what cannot be read of packs whose only copies are wrong."""
    for pack, problems in survey.bad_copies.items():
        stub = survey.stubs[pack]
        if not is_away(survey.root, pack) or not set(stub.tiers) <= problems.keys():
            continue
        survey.lost_packs.add(pack)
        name = stub.tiers[0]
        try:
            footer = read_footer(survey.root, pack)
            if not read_frames(survey, footer, partial(_read_part, survey.lake.tier(name), pack)):
                survey.bad_packs[pack] = problems[name]
        except DAMAGE:
            survey.bad_packs[pack] = problems[name]


def _read_part(tier: Tier, pack: bytes, offset: int, size: int) -> bytes:
    data = tier.read(pack_key(pack), offset, size)
    if len(data) != size:
        raise IntegrityError("the copy ends before the bytes that should be there")
    return data


def check_copies(survey: Survey) -> None:
    """I6: what was found wrong with copies in tiers; one that is the only one is lost data."""
    for pack, problems in survey.bad_copies.items():
        lost = pack in survey.lost_packs
        what = ", and nothing else has it" if lost else ", which lies elsewhere too"
        for problem in problems.values():
            affects = _brought(survey, pack) if lost else []
            survey.add(6, f"{problem}{what}: {MEND}", affects)
