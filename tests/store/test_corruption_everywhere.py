"""Every file of a lake damaged, each damage judged by a process of its own.

Whatever is done to a file: what is read is right or one documented error, no process is ended, and
what is not derived from other files is refused by name or found by the checker. `--soak` flips
every byte of every file below 4 KiB, every eighth of the others, and cuts at every length; that takes
hours, of which DTAFS_SHARE=3/40 does the third of forty shares.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dtafs.core.format import pack_key
from tests.support.damage import (
    STAGED,
    VERSIONS,
    Outcome,
    copy_of,
    files_of,
    make_damageable,
    outcome_of,
    restored,
)
from tests.support.placed_lake import add_what_tiers_bring, use_what_tiers_bring
from tests.support.tried import tried

FLIPS, CUTS = 1, 1
"""Of each file in the normal run, besides its first and last byte."""
SMALL_BYTES = 4_096
LARGE_STEP = 8

PLACED_STEP = 3

PLACED = (
    *(
        "placed/",
        "doomed/",
        "references/",
        "quarantine/",
        "cache/catalog/",
        "log/.lake",
        "log/gone",
    ),
    *(
        "upkeep/mirror.json",
        "upkeep/recalls",
        "upkeep/tier-warm.json",
        "upkeep/pins",
        "config.toml",
    ),
    *("tiers/near/lake.json", "tiers/near/packs/", "tiers/warm/log/a/", "tiers/warm/footers/"),
)
"""What only a lake with tiers and records has; of the mirror, a part of it."""

HARMLESS = ("upkeep/", "references/", "quarantine/", "cache/", "tiers/warm/", "doomed/")
"""What losing is harmless: the README says that it begins anew."""
MAY_BE_FREE = ("index/data.mdb", "staging/data.mdb", "staging/pending/data.mdb")
"""Most of a small LMDB file is no longer, or not yet, used: a flip there alters nothing."""
MARK = "staging/journal.synced"
"""It only says what the journal must have."""
UNSEALED = "staging/data/"
"""Bytes that are being written have no checksum yet, as in any file system."""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A directory in memory where there is one: each damage takes a copy."""
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dtafs-damage-", dir=shared) as top:
        yield Path(top)


@pytest.fixture(scope="module")
def intact(memory: Path) -> Path:
    """A lake without tiers."""
    (memory / "plain").mkdir()
    return make_damageable(memory / "plain")


@pytest.fixture(scope="module")
def placed(memory: Path) -> Path:
    """A lake with tiers, records and a disposition."""
    (memory / "placed").mkdir()
    return make_damageable(memory / "placed", add_what_tiers_bring)


COUNTED: Counter[str] = Counter()


class Damage(NamedTuple):
    """What is done to a file."""

    name: str
    what: str
    data: bytes | None
    """Its bytes then; None: it is gone."""
    is_flip: bool = False
    is_directory: bool = False


def judged(intact: Path, damage: Damage) -> Outcome:
    """What becomes of a lake with a damaged file; fails for a broken promise."""
    name, what, data = damage.name, damage.what, damage.data
    use = use_what_tiers_bring if intact.parent.name == "placed" else None
    with restored(copy_of(intact), intact) as path:
        (path / name).unlink()
        if damage.is_directory:
            (path / name).mkdir()
        elif data is not None:
            (path / name).write_bytes(data)
            (path / name).chmod((intact / name).stat().st_mode)
        outcome = outcome_of(path, use)
    if name.startswith(UNSEALED) and outcome.commit == "WRONG":
        outcome.commit = "right"
    assert not outcome.wrong, f"{name}, {what}: {outcome.wrong}"
    COUNTED["noticed" if outcome.is_noticed else "without effect"] += 1
    return outcome


def condemned_in(intact: Path) -> list[str]:
    """The packs that nothing needs, which a collection is going to delete."""
    marks = json.loads((intact / "upkeep" / "condemned").read_bytes())
    return [pack_key(bytes.fromhex(pack)) for pack in marks]


def expect_noticed(intact: Path, name: str, outcome: Outcome, what: str) -> None:
    """What is not noticed must have had no effect at all."""
    if outcome.is_noticed:
        return
    assert set(outcome.reads.values()) == {"right"}, f"{name}, {what}: {outcome.reads}"
    assert outcome.commit == "right", f"{name}, {what}: {outcome.commit}"
    covered = (
        *condemned_in(intact),
        *HARMLESS,
        *MAY_BE_FREE,
        UNSEALED,
        MARK,
        "config.toml",
        "keys",
    )
    assert name.startswith(covered), f"{name}, {what}: nothing was noticed"


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def damages(intact: Path, names: list[str], *, exhaustive: bool) -> Iterator[Damage]:
    """All damages to some files of a lake."""
    dice = random.Random(0)
    for name in names:
        data = (intact / name).read_bytes()
        size = len(data)
        places = {0, size - 1, *dice.sample(range(size), min(size, FLIPS))}
        cuts = {0, size - 1, *dice.sample(range(size), min(size, CUTS))}
        if exhaustive:
            places |= set(range(0, size, 1 if size < SMALL_BYTES else LARGE_STEP))
            cuts |= set(range(0, size, 1 if size < SMALL_BYTES else size // 200))
        if name in MAY_BE_FREE:
            pages = range(0, size, 4_096)
            heads = {page + at for page in pages for at in range(40)}
            places |= heads if exhaustive else set(dice.sample(sorted(heads), 20))
        for place in sorted(places):
            what = f"byte {place} flipped"
            yield Damage(name, what, flipped(data, place, place % 8), is_flip=True)
        for end in sorted(cuts):
            yield Damage(name, f"cut to {end} bytes", data[:end])
        other = dice.choice([one for one in names if one != name])
        yield Damage(name, f"replaced by {other}", (intact / other).read_bytes())
        yield Damage(name, "replaced by noise", dice.randbytes(size))
        yield Damage(name, "zeroed", bytes(size))
        yield Damage(name, "doubled", data + data)
        yield Damage(name, "gone", None)
        yield Damage(name, "a directory", None, is_directory=True)


def damage(intact: Path, some: Iterable[Damage]) -> None:
    """Damage a lake in these ways, one after the other."""
    for one in some:
        outcome = judged(intact, one)
        if one.is_flip:
            expect_noticed(intact, one.name, outcome, one.what)


def share_of(some: Iterable[Damage]) -> Iterator[Damage]:
    """The share that DTAFS_SHARE=K/N names: the K-th of N; all of it where it says nothing."""
    share, _, of = os.environ.get("DTAFS_SHARE", "1/1").partition("/")
    return itertools.islice(some, int(share) - 1, None, int(of))


def test_the_lake_is_sound_and_has_every_kind_of_file(intact: Path) -> None:
    config = (intact / "config.toml").read_bytes()
    outcome = judged(intact, Damage("config.toml", "rewritten", config))
    assert outcome.reads == dict.fromkeys(VERSIONS, "right")
    assert (outcome.opened, outcome.findings, outcome.commit) == ("", [], "right")
    names = files_of(intact)
    for kind in (
        *("lake.json", "config.toml", "keys/signing.pem", "log/", "packs/", "index/data.mdb"),
        *(
            "staging/data.mdb",
            "staging/journal.",
            MARK,
            "staging/data/",
            "staging/pending/data.mdb",
        ),
        *("upkeep/condemned", "upkeep/verified"),
    ):
        assert any(name.startswith(kind) for name in names), kind
    assert VERSIONS["b:v1"] != STAGED


def report(capsys: pytest.CaptureFixture[str], what: str) -> None:
    total = sum(COUNTED.values())
    tried("files damaged", total)
    with capsys.disabled():
        print(f"\n{what}: {total:,} damages, {COUNTED['noticed']:,} noticed, no broken promise")


def test_the_lake_with_tiers_has_every_kind_of_file(placed: Path) -> None:
    config = (placed / "config.toml").read_bytes()
    outcome = judged(placed, Damage("config.toml", "rewritten", config))
    assert outcome.reads == outcome.after == dict.fromkeys(VERSIONS, "right")
    assert (outcome.opened, outcome.findings, outcome.commit) == ("", [], "right")
    names = placed_files_of(placed)
    for kind in PLACED:
        assert any(name.startswith(kind) for name in names), kind


def placed_files_of(placed: Path) -> list[str]:
    """The files that only a lake with tiers and records has."""
    return [name for name in files_of(placed) if name.startswith(PLACED)]


def test_every_file_damaged(intact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    COUNTED.clear()
    damage(intact, damages(intact, files_of(intact), exhaustive=False))
    report(capsys, "sample of bytes")


def test_every_file_that_tiers_bring_damaged(
    placed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And used, with nothing lost that could be read; a part of the damages."""
    COUNTED.clear()
    some = damages(placed, placed_files_of(placed), exhaustive=False)
    damage(placed, itertools.islice(some, 0, None, PLACED_STEP))
    report(capsys, "sample of bytes of a lake with tiers")


@pytest.mark.soak
def test_every_byte_damaged(intact: Path, placed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    COUNTED.clear()
    damage(intact, share_of(damages(intact, files_of(intact), exhaustive=True)))
    damage(placed, share_of(damages(placed, placed_files_of(placed), exhaustive=True)))
    share = os.environ.get("DTAFS_SHARE", "all")
    report(capsys, f"every byte of small files, every eighth of large ones; share: {share}")
