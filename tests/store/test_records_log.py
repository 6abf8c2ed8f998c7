"""The lake's own log and the rows of retention: chained, applied, checked, rebuilt and mended."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from dtafs.core.names import LAKE_LOG
from dtafs.core.record_checks import encode_body
from dtafs.core.records import (
    Amount,
    Approved,
    Archived,
    Clocked,
    Destroyed,
    Disposed,
    Event,
    Released,
    Ruled,
)
from dtafs.core.values import Actor, Source
from dtafs.errors import IntegrityError, UsageError
from dtafs.store.audit import verify_lake
from dtafs.store.check import check
from dtafs.store.commit import finish
from dtafs.store.export import export_file
from dtafs.store.index_records import children, decode_event_row, get_clock, split_event_key
from dtafs.store.lake import Lake
from dtafs.store.reindex import dump, reindex, reindex_at
from dtafs.store.repair_closed import repair_at
from dtafs.store.retention import clock_doubt
from dtafs.store.verify import verify_package
from tests.support.records import ALWAYS, HELD, NOW, SEVEN, TIME, record, ref
from tests.support.small_lakes import ACTOR, commit, put_tree, tree_of_seed

TABLES = ("rule", "hold", "event", "approval", "archived", "disposition", "child")
DAY_NS = 86_400 * 10**9
EVE = Actor("eve", 3, "host", "tests")


@pytest.fixture
def filled(lake: Lake, tmp_path: Path) -> Lake:
    """Three versions, and one record of each kind."""
    lake.create_dataset("D", ACTOR)
    for seed in (1, 2, 3):
        put_tree(lake, "D", tree_of_seed(seed), tmp_path / "scratch")
        commit(lake, "D")
    first = lake.resolve("D:v1")
    record(lake, Ruled("seven", NOW))
    record(lake, Archived((ref(lake.resolve("D:v3")),), "old", "GRS", "cold"))
    number = record(lake, Disposed((ref(first),), "seven", NOW.digest, "GRS", "ab" * 32))
    record(lake, Destroyed(number, (ref(first),), {"hot": Amount(1, 2, 3)}))
    record(lake, Ruled("seven", SEVEN, "the schedule"))
    record(lake, Ruled("always", ALWAYS))
    record(lake, Ruled("brief", SEVEN))
    record(lake, Ruled("brief", None, "a mistake"))
    record(lake, HELD)
    record(lake, msgspec.structs.replace(HELD, name="other"))
    record(lake, Released("other", "ann", "settled"))
    record(lake, Event("closed", "D", TIME, 2))
    record(lake, Event("closed", "D", "2023-01-01"))
    record(lake, Approved("seven", SEVEN.digest, (ref(first), ref(lake.resolve("D:v2")))))
    record(lake, Clocked(TIME, TIME))
    return lake


def rows(lake: Lake, table: str) -> int:
    with lake.index.database.read() as txn:
        return txn.count(table)


def test_what_is_recorded_is_in_the_index(filled: Lake) -> None:
    found = {table: rows(filled, table) for table in TABLES}
    assert found == {
        "rule": 2,
        "hold": 1,
        "event": 2,
        "approval": 2,
        "archived": 1,
        "disposition": 1,
        "child": 0,
    }
    assert filled.resolve("D:v1").disposed == 6 and not filled.resolve("D:v2").disposed
    assert [row.name for row in filled.datasets()] == ["D"]
    own = filled.index.own()
    assert own is not None and own.sequence == 12
    assert filled.index.heads().keys() == {"D", LAKE_LOG}


def test_the_index_follows_from_the_log(filled: Lake) -> None:
    before = list(dump(filled.index.database))
    facts = reindex(filled)
    assert list(dump(filled.index.database)) == before
    assert (facts["added"], facts["removed"], facts["changed"]) == (0, 0, 0)
    record(filled, Ruled("more", SEVEN))
    filled.close()
    shutil.rmtree(filled.path / "index")
    assert reindex_at(filled.path)["entries"] == 20


def test_nothing_is_found_wrong(filled: Lake) -> None:
    assert check(filled, read_data=True) == []
    audit = verify_lake(filled)
    assert audit.findings == [] and (audit.datasets, audit.entries) == (1, 19)


def test_the_later_time_of_an_event_counts(lake: Lake) -> None:
    """To say that a contract ended earlier than was said must not end what the law asks for."""
    lake.create_dataset("D", ACTOR)
    for time in ("2024-05-01", "2025-05-01", "1999-01-01"):
        record(lake, Event("closed", "D", time))
    with lake.index.database.read() as txn:
        ((key, value),) = txn.scan("event")
    assert split_event_key(key) == ("D", "closed", 0)
    assert decode_event_row(value).sequence == 2


def test_what_a_record_may_not_say_has_no_effect(lake: Lake) -> None:
    """Whoever has the key can write such entries; they are ignored by all, and named by the check."""
    record(lake, Ruled("always", ALWAYS))
    record(lake, HELD)
    before = {
        table: list(lake.index.database.read().__enter__().scan(table)) for table in ("rule",)
    }
    shorter = msgspec.structs.replace(
        ALWAYS, cutoff=msgspec.structs.replace(ALWAYS.cutoff, period="1d")
    )
    for body in (
        Ruled("always", shorter),
        Ruled("always", None),
        Ruled("always", msgspec.structs.replace(ALWAYS, mode="governance")),
        Ruled("unknown", None),
        Released("case", "bob", "mine now"),
        Released("case", "ann", "she would say so"),
        Released("unknown", "bob", "x"),
        msgspec.structs.replace(HELD, custodian="bob"),
    ):
        record(lake, body, EVE)
    with lake.index.database.read() as txn:
        assert list(txn.scan("rule")) == before["rule"] and txn.count("hold") == 1
    said = [finding.message for finding in check(lake)]
    assert len(said) == 8 and all("has no effect" in text for text in said)
    assert any("compliance mode" in text for text in said)
    assert any("custody of 'ann'" in text for text in said)


@pytest.mark.parametrize("table", ["rule", "hold", "event", "approval", "archived", "disposition"])
@pytest.mark.damages_lake
def test_a_row_that_the_log_does_not_say(filled: Lake, table: str) -> None:
    def damage(txn) -> None:  # type: ignore[no-untyped-def]
        key, _value = next(iter(txn.scan(table)))
        txn.delete(table, key)

    filled.index.database.write(damage)
    (finding,) = check(filled)
    assert finding.invariant == 3 and f"of the {table} of" in finding.message
    assert reindex(filled)["added"] == 1


@pytest.mark.damages_lake
@pytest.mark.parametrize("key", [b"own", b"clock"])
def test_a_row_of_the_own_log_that_is_wrong(filled: Lake, key: bytes) -> None:
    filled.index.database.write(lambda txn: txn.delete("meta", key))
    assert any(key.decode() in finding.message for finding in check(filled))


@pytest.mark.damages_lake
@pytest.mark.parametrize("number", [1, 5, 11])
@pytest.mark.parametrize("how", ["altered", "gone"])
def test_a_damaged_entry_is_named_and_mended(
    filled: Lake, tmp_path: Path, number: int, how: str
) -> None:
    path = filled.path
    filled.close()
    copy = shutil.copytree(path, tmp_path / "copy")
    file = path / "log" / LAKE_LOG / f"{number:010d}"
    data = bytearray(file.read_bytes())
    file.unlink()
    if how == "altered":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with Lake.open(path) as lake:
        findings = check(lake)
        assert any(LAKE_LOG in finding.message for finding in findings)
        assert verify_lake(lake).findings
        with pytest.raises(IntegrityError):
            reindex(lake)
    facts = repair_at(path, ACTOR, [str(copy)])
    assert [one["object"] for one in facts["mended"]] == [f"log/{LAKE_LOG}/{number:010d}"]
    with Lake.open(path) as lake:
        assert check(lake) == [] and reindex(lake)["changed"] == 0


@pytest.mark.damages_lake
def test_a_lost_end_of_the_own_log_stops_what_is_added(filled: Lake) -> None:
    (filled.path / "log" / LAKE_LOG / "0000000012").unlink()
    with pytest.raises(IntegrityError, match="gone or altered"):
        record(filled, Ruled("more", SEVEN))
    assert any("but entry 12 existed" in finding.message for finding in check(filled))


def test_kinds_stay_in_their_log(lake: Lake) -> None:
    lake.create_dataset("D", ACTOR)
    ruled = encode_body(Ruled("seven", SEVEN))
    with pytest.raises(UsageError, match="begin with a dot"):
        lake.create_dataset(LAKE_LOG, ACTOR)
    for dataset, kind, body in (("D", "ruled", ruled), (LAKE_LOG, "tagged", {"tags": []})):
        with pytest.raises(IntegrityError, match="cannot be of the kind"):
            lake.record(dataset, kind, body, ACTOR)


def test_versions_that_cannot_be_disposed_of(filled: Lake) -> None:
    """An entry that names another version than there is, or one twice, is never written."""
    second = ref(filled.resolve("D:v2"))
    gone = Disposed((ref(filled.resolve("D:v1")),), "seven", "ab" * 32, "GRS", "ab" * 32)
    head = filled.index.head("D")
    for versions in (
        gone.versions,
        (msgspec.structs.replace(second, manifest="cd" * 32),),
        (msgspec.structs.replace(second, version=9),),
        (second, second),
    ):
        with pytest.raises(IntegrityError, match=r"does not exist|second time"):
            record(filled, msgspec.structs.replace(gone, versions=versions))
    assert filled.index.head("D") == head
    assert not (filled.path / "log" / "D" / "0000000008").exists()


def test_children_are_found_by_their_sources(lake: Lake, tmp_path: Path) -> None:
    for name in ("D", "E"):
        lake.create_dataset(name, ACTOR)
    put_tree(lake, "D", tree_of_seed(1), tmp_path / "scratch")
    source = Source("D", 1, commit(lake, "D").manifest_sha256.hex())
    forged = Source("x" * 300, 1, "ab" * 32)  # no dataset has such a name
    for name in ("D", "E"):
        finish(
            lake,
            name,
            message="made",
            tags=(),
            allow_empty=True,
            sources=(source, forged),
            transform=None,
            actor=ACTOR,
            report=None,
        )
    with lake.index.database.read() as txn:
        assert [row.name for row in children(txn, "D", 1)] == ["D:v2", "E:v1"]
        assert children(txn, "E", 1) == []


def test_gaps_of_the_clock_are_remembered(lake: Lake) -> None:
    """A clock that jumped is in doubt however many entries were made since."""
    now = [2_000_000_000 * 10**9]
    lake.clock = lambda: now[0]
    lake.create_dataset("D", ACTOR)
    record(lake, Ruled("seven", SEVEN))
    for days in (3, 50, 1, -20, 7):
        now[0] += days * DAY_NS
        record(lake, Event("tick", "D", TIME))
    with lake.index.database.read() as txn:
        clock = get_clock(txn)
    assert clock.gap_ns == 50 * DAY_NS and clock.confirmed_ns == 0
    record(lake, Clocked(TIME, TIME))
    now[0] += 2 * DAY_NS
    record(lake, Event("tick", "D", TIME))
    with lake.index.database.read() as txn:
        clock = get_clock(txn)
    assert clock.gap_ns < 2 * DAY_NS and clock.confirmed_ns > 0


def test_a_jump_before_the_first_rule_is_remembered(lake: Lake) -> None:
    """Else whoever set the clock forward, and wrote anything before the first rule, would be believed."""
    now = [2_000_000_000 * 10**9]
    lake.clock = lambda: now[0]
    lake.create_dataset("D", ACTOR)
    now[0] += 8 * 365 * DAY_NS
    lake.create_dataset("E", ACTOR)
    record(lake, Ruled("seven", SEVEN))
    assert "set forward" in (clock_doubt(lake, now[0]) or "")


def test_an_index_of_an_earlier_release_is_brought_up_to_date(filled: Lake, tmp_path: Path) -> None:
    """One that has neither these tables nor the mark of a disposition in its rows."""
    whole = list(dump(filled.index.database))

    def age(txn) -> None:  # type: ignore[no-untyped-def]
        txn.delete("meta", b"form")
        txn.delete("meta", b"clock")
        for key, value in list(txn.scan("version")):
            fields = msgspec.msgpack.decode(value)
            if not fields[-1]:
                txn.put("version", key, msgspec.msgpack.encode(fields[:-1]))
        for key, _ in list(txn.scan("child")):
            txn.delete("child", key)

    filled.index.database.write(age)
    filled.close()
    with Lake.open(filled.path) as lake:
        assert list(dump(lake.index.database)) == whole
        assert reindex(lake)["changed"] == 0


def test_an_export_carries_what_was_archived_and_disposed_of(filled: Lake, tmp_path: Path) -> None:
    """The log of a dataset up to a version, with all its kinds, is verified without the lake."""
    put_tree(filled, "D", tree_of_seed(4), tmp_path / "scratch")
    commit(filled, "D")
    out = tmp_path / "out"
    export_file(filled, filled.resolve("D:v4"), "dir", out)
    assert verify_package(out).findings == []
    text = (out / "Provenance.txt").read_text()
    assert "disposed by rule seven (GRS): D:v1" in text and "archived to cold by rule old" in text
