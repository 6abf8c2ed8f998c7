"""Every file of a lake damaged, each damage judged by a process of its own.

Whatever is done to a file: what is read is right or one documented error, no process is ended, and
what is not derived from other files is refused by name or found by the checker. `--soak` flips
every byte of every file below 4 KiB, every eighth of the others, and cuts at every length.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from tests.support.damage import (
    STAGED,
    VERSIONS,
    Outcome,
    files_of,
    make_damageable,
    outcome_of,
    restored,
)
from tests.support.tried import tried

FLIPS, CUTS = 1, 1
"""Of each file in the normal run, besides its first and last byte."""
SMALL_BYTES = 4_096
LARGE_STEP = 8

HARMLESS = ("upkeep/",)
"""What losing is harmless: the README says that it begins anew."""
MAY_BE_FREE = ("index/data.mdb", "staging/data.mdb", "staging/pending/data.mdb")
"""Most of a small LMDB file is no longer, or not yet, used: a flip there alters nothing."""
MARK = "staging/journal.synced"
"""It only says what the journal must have."""
UNSEALED = "staging/data/"
"""Bytes that are being written have no checksum yet, as in any file system."""


@pytest.fixture(scope="module")
def intact() -> Iterator[Path]:
    """In memory where there is one: each damage takes a copy."""
    shared = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="dtafs-damage-", dir=shared) as top:
        yield make_damageable(Path(top))


COUNTED: Counter[str] = Counter()


def judged(intact: Path, name: str, data: bytes | None, what: str) -> Outcome:
    """What becomes of a lake of which one file has these bytes, or is gone; fails for a broken promise."""
    with restored(intact.parent / "copy", intact) as path:
        (path / name).unlink()
        if data is not None:
            (path / name).write_bytes(data)
            (path / name).chmod((intact / name).stat().st_mode)
        outcome = outcome_of(path)
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


def damage_everything(intact: Path, *, exhaustive: bool) -> None:
    names = files_of(intact)
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
            outcome = judged(intact, name, flipped(data, place, place % 8), what)
            expect_noticed(intact, name, outcome, what)
        for end in sorted(cuts):
            judged(intact, name, data[:end], f"cut to {end} bytes")
        other = dice.choice([one for one in names if one != name])
        judged(intact, name, (intact / other).read_bytes(), f"replaced by {other}")
        judged(intact, name, dice.randbytes(size), "replaced by noise")
        judged(intact, name, bytes(size), "zeroed")
        judged(intact, name, data + data, "doubled")
        judged(intact, name, None, "gone")


def test_the_lake_is_sound_and_has_every_kind_of_file(intact: Path) -> None:
    outcome = judged(intact, "config.toml", (intact / "config.toml").read_bytes(), "rewritten")
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


def test_every_file_damaged(intact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    COUNTED.clear()
    damage_everything(intact, exhaustive=False)
    report(capsys, "sample of bytes")


@pytest.mark.soak
def test_every_byte_damaged(intact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    COUNTED.clear()
    damage_everything(intact, exhaustive=True)
    report(capsys, "every byte of small files, every eighth of large ones")
