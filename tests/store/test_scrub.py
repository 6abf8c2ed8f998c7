"""Scrub: what was verified lately is not read again, what is damaged always is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dtafs.core.format import pack_key
from dtafs.errors import BusyError
from dtafs.store.check import check
from dtafs.store.lake import Lake
from dtafs.store.reindex import reindex
from dtafs.store.scrub import Ledger, Scrub, read_ledger, verification_facts
from dtafs.store.stats import collect_stats
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed

MONTH_S = 30 * 86_400.0


@pytest.fixture
def filled(lake: Lake, tmp_path: Path) -> Lake:
    lake.create_dataset("D", ACTOR)
    for seed in (1, 2):
        put_tree(lake, "D", tree_of_seed(seed), tmp_path / "scratch")
        commit(lake, "D")
    return lake


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the ledger's clock say that so many seconds have passed."""
    from dtafs.store import scrub

    offset_s = 0.0
    real = scrub.time.time_ns
    monkeypatch.setattr(scrub.time, "time_ns", lambda: real() + int(offset_s * 1e9))

    def advance(by_s: float) -> None:
        nonlocal offset_s
        offset_s += by_s

    return advance


def run(lake: Lake, max_age_s: float | None = MONTH_S) -> tuple[Scrub, list[str]]:
    with Ledger(lake.path) as ledger:
        scrub = Scrub(ledger, max_age_s)
        findings = check(lake, read_data=True, scrub=scrub)
    return scrub, [str(finding) for finding in findings if finding.severity == "error"]


def test_only_what_is_due(filled: Lake, clock: Callable[[float], None]) -> None:
    first, errors = run(filled)
    packs = len(filled.index.packs())
    assert (first.packs, first.skipped, errors) == (packs, 0, [])
    assert first.size_bytes == sum(row.size for _pack, row in filled.index.packs())
    again, _ = run(filled)
    assert (again.packs, again.skipped) == (0, packs)
    clock(MONTH_S - 60)
    assert run(filled)[0].packs == 0
    clock(120)
    assert run(filled)[0].packs == packs
    assert run(filled, None)[0].packs == packs, "without an age everything is due"


def test_results_survive_a_reindex(filled: Lake) -> None:
    run(filled)
    before = read_ledger(filled.path)
    reindex(filled)
    assert read_ledger(filled.path) == before and run(filled)[0].packs == 0
    facts = collect_stats(filled)["verified"]
    assert facts["never"] == facts["damaged"] == 0 and facts["oldest"]


@pytest.mark.damages_lake
def test_damage_is_found_remembered_and_read_again(filled: Lake) -> None:
    run(filled)
    pack = filled.index.packs()[0][0]
    path = filled.path / pack_key(pack)
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    assert run(filled)[0].packs == 0, "nobody looks before it is due"
    scrub, errors = run(filled, 0.0)
    assert errors and pack.hex() in errors[0]
    assert read_ledger(filled.path)[pack].problem
    assert collect_stats(filled)["verified"]["damaged"] == 1
    scrub, errors = run(filled)
    assert scrub.packs == 1 and errors, "what is damaged is due whenever somebody asks"
    data[20] ^= 1
    path.write_bytes(data)
    assert run(filled)[1] == [] and not read_ledger(filled.path)[pack].problem


def test_it_goes_on_where_it_was_interrupted(filled: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    real, packs = Scrub.hash_pack, len(filled.index.packs())

    def stopping(self: Scrub, root: Path, pack: bytes) -> bytes:
        if self.packs == 2:
            raise KeyboardInterrupt
        return real(self, root, pack)

    with monkeypatch.context() as patch:
        patch.setattr(Scrub, "hash_pack", stopping)
        with pytest.raises(KeyboardInterrupt):
            run(filled)
    assert len(read_ledger(filled.path)) == 2
    assert run(filled)[0].packs == packs - 2


def test_the_rate(filled: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """No faster than it is told: the sum of the pauses is what the bytes take at the rate."""
    from dtafs.store import scrub as module

    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(module.time, "monotonic", lambda: sum(pauses))
    with Ledger(filled.path) as ledger:
        scrub = Scrub(ledger, None, 10_000)
        check(filled, read_data=True, scrub=scrub)
    assert sum(pauses) == pytest.approx(scrub.size_bytes / 10_000)


def test_a_damaged_ledger_is_no_ledger(filled: Lake, caplog: pytest.LogCaptureFixture) -> None:
    run(filled)
    (filled.path / "upkeep" / "verified").write_bytes(b"\0")
    assert read_ledger(filled.path) == {} and "verified again" in caplog.text
    assert run(filled)[0].skipped == 0


def test_one_at_a_time(filled: Lake) -> None:
    with Ledger(filled.path), pytest.raises(BusyError, match="another check"):
        Ledger(filled.path)


def test_packs_that_are_gone_are_forgotten(filled: Lake) -> None:
    run(filled)
    path = filled.path / "upkeep" / "verified"
    found = json.loads(path.read_bytes())
    found["00" * 32] = [1, ""]
    path.write_text(json.dumps(found))
    run(filled)
    assert bytes(32) not in read_ledger(filled.path)


def test_facts() -> None:
    assert verification_facts([], {}) == {"packs": 0, "never": 0, "damaged": 0, "oldest": None}
    assert verification_facts([bytes(32)], {})["never"] == 1
