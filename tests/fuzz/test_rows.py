"""Rows, journals, messages, names and settings: whatever they hold, one documented error."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given

from dtafs.core.names import check_dataset_name, check_tag, format_time, parse_spec, parse_time
from dtafs.core.quantities import parse_duration_s, parse_size_bytes
from dtafs.core.values import Actor, Content, Manifest
from dtafs.errors import IntegrityError, NotFoundError, UsageError
from dtafs.services.protocol import decode_call, decode_line, encode_line
from dtafs.store import index_records as records
from dtafs.store.condemn import read_marks
from dtafs.store.config import load_config
from dtafs.store.crypto import Signer
from dtafs.store.durable import Disk
from dtafs.store.index import DatasetRow, Index, VersionRow
from dtafs.store.index_packs import PackRow, decode_pack, decode_place, encode_place
from dtafs.store.packs import Place
from dtafs.store.pending import Pending
from dtafs.store.retention_facts import Standing
from dtafs.store.scrub import Verified, read_ledger
from dtafs.store.staging import rows
from dtafs.store.staging.journal import Journal, read_journal
from tests.fuzz.mutations import SEEDS, fuzz, how_many
from tests.support.records import HELD, SEVEN

H = bytes(range(32))
ACTOR = Actor("ann", 1000, "host", "dtafsctl")
MANIFEST = Manifest("WF", 2, H.hex(), H.hex(), 2, 10, "m", ("clean",), packs=(H.hex(),))
encode = msgspec.msgpack.encode


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return Index(tmp_path_factory.mktemp("index"), write=True)


@pytest.fixture(scope="module")
def pending(tmp_path_factory: pytest.TempPathFactory) -> Pending:
    return Pending(tmp_path_factory.mktemp("pending"))


DATASET = encode(DatasetRow("D", 10**18, ("raw",), 2, 7, H))
VERSION = encode(VersionRow("D", 2, 5, MANIFEST, H, 10**18, 7, ACTOR, ("clean",)))
PACK = encode(PackRow(1, 1_000, 5_000, 3, 9, "D", 7))
PLACE = encode_place(Place(H, 16, 300, 400, 1, 0, 400))
INTENT = encode((3, H))


def with_row(
    database: object, table: str, key: bytes, read: Callable[[], object]
) -> Callable[[bytes], object]:
    """A decoder of a row's value: it is put into the table, its checksum right, and read."""

    def decode(value: bytes) -> object:
        database.write(lambda txn: txn.put(table, key, value))  # type: ignore[attr-defined]
        return read()

    return decode


@how_many(0.02)
@given(seed=SEEDS)
def test_rows_of_the_index(index: Index, pending: Pending, seed: int) -> None:
    """A row with a right checksum that no release has written."""
    base, own = index.database, pending._database
    number = b"\0\0\0\2"
    for what, valid, decode in (
        ("dataset", DATASET, with_row(base, "dataset", b"D", lambda: index.dataset("D"))),
        ("dataset", DATASET, with_row(base, "dataset", b"D", index.datasets)),
        (
            "version",
            VERSION,
            with_row(base, "version", b"D\0" + number, lambda: index.version("D", 2)),
        ),
        (
            "version",
            VERSION,
            with_row(base, "version", b"D\0" + number, lambda: index.versions("D")),
        ),
        ("pack", PACK, with_row(base, "pack", H, lambda: index.pack(H))),
        ("pack", PACK, with_row(base, "pack", H, index.packs)),
        ("place", PLACE, with_row(base, "chunk", H, lambda: index.place(H))),
        ("intent", INTENT, with_row(own, "intent", b"D", pending.intents)),
    ):
        fuzz(f"row {what}", [valid, encode([])], decode, (IntegrityError,), seed)


RULE = encode(records.RuleRow("r", SEVEN, 5, 1, ACTOR, "why"))
HOLD = encode(records.HoldRow(HELD, 5, 1, ACTOR))
OWN = encode(records.OwnRow(3, H))


@how_many(0.02)
@given(seed=SEEDS)
def test_rows_of_retention(index: Index, seed: int) -> None:
    """Whatever a rule or hold in the index says, it decides or is refused."""
    base = index.database
    row = VersionRow("D", 1, 1, MANIFEST, H, 10**18, 7, ACTOR, ("clean",))

    def ask() -> object:
        try:
            return Standing(index).decide(row, 10**18)
        finally:
            base.write(lambda txn: [txn.delete("rule", b"r"), txn.delete("hold", b"h")])

    for table, key, valid in (("rule", b"r", RULE), ("hold", b"h", HOLD)):
        decode = with_row(base, table, key, ask)
        errors = (IntegrityError, UsageError)
        fuzz(f"row {table}", [valid, encode([])], decode, errors, seed)
    fuzz("row own", [OWN], with_row(base, "meta", b"own", index.own), (IntegrityError,), seed)
    base.write(lambda txn: txn.delete("meta", b"own"))
    for what, valid, decode in (
        ("event", encode(records.EventRow(5, 1, ACTOR)), records.decode_event_row),
        ("approval", APPROVAL, records.decode_approval_row),
        ("archived", encode(records.ArchivedRow("r", "cold", 5, 1)), records.decode_archived_row),
        ("disposition", GONE, records.decode_disposition_row),
    ):
        fuzz(f"row {what}", [valid, encode([])], decode, (IntegrityError,), seed)


APPROVAL = encode(records.ApprovalRow("r", H.hex(), H.hex(), 5, 1, ACTOR))
GONE = encode(records.DispositionRow("r", "GRS", 5, 1, ("hot",)))


@how_many()
@given(SEEDS)
def test_rows_by_themselves(seed: int) -> None:
    inode = rows.InodeRow(
        5, 1, 0o644, 0, 0, 0, 10, 1, 1, 2, 3, 4, content=Content(10, H), xattrs=((b"a", b"b"),)
    )
    for what, valid, decode in (
        ("pack", PACK, decode_pack),
        ("place", PLACE, decode_place),
        ("inode", encode(inode), rows.decode_inode),
        ("dentry", encode(rows.Dentry(5, 6, 7)), rows.decode_dentry),
        ("staged dataset", encode(rows.DatasetRow(1, 5, 2, H, 3)), rows.decode_dataset),
        ("number", encode(7), rows.decode_number),
    ):
        fuzz(f"row {what}", [valid], decode, (IntegrityError,), seed)


def journal_files(directory: Path) -> list[bytes]:
    """Journals as `Journal` writes them."""
    directory.mkdir()
    journal = Journal(Disk(directory), directory, 1_000)
    for number in range(5):
        journal.append(encode([("inode", b"owner", b"%d" % number, b"value" * number)]))
        if number == 2:
            journal.sync()
    journal.close()
    return [(directory / "journal.0").read_bytes()]


@how_many(0.1)
@given(seed=SEEDS)
def test_journals(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    top = tmp_path_factory.mktemp("journal", numbered=True)
    valid = journal_files(top / "made")
    sound = [record.payload for record in read_journal(top / "made", 1_000)]
    assert len(sound) == 5

    def decode(data: bytes) -> None:
        (top / "journal.0").write_bytes(data)
        found = [record.payload for record in read_journal(top, 1_000)]
        assert found == sound[: len(found)], "a record that nobody wrote was read"

    fuzz("journal", valid, decode, (IntegrityError,), seed)


def test_a_damaged_journal_of_anything_is_read_in_proportion(tmp_path: Path) -> None:
    """Bytes that look like the heads of long records at every place must not each be summed up."""
    for pattern in (b"\0\0\1\0", b"\1\0\0\0\0\0\0\0", b"\0\0\x10\0\0\0\0\0", bytes(8), b"\1"):
        (tmp_path / "journal.0").write_bytes(pattern * ((256 << 10) // len(pattern)))
        assert read_journal(tmp_path, 1_000) == []


@how_many()
@given(SEEDS)
def test_messages_of_the_control_socket(seed: int) -> None:
    valid = [
        encode_line({"call": "commit", "program": "p", "arguments": {"dataset": "D", "wait": 1.5}}),
        encode_line({"call": "put", "arguments": {"paths": ["a\udcff"]}}),
        encode_line({"error": {"kind": "busy", "message": "no"}}),
    ]

    def decode(line: bytes) -> None:
        call, program, arguments = decode_call(decode_line(line))
        assert isinstance(call, str) and isinstance(program, str) and isinstance(arguments, dict)

    fuzz("control message", valid, decode, (UsageError,), seed)


def test_a_deep_message_is_refused() -> None:
    for line in (b"[" * 1_000_000, b'{"a":' * 200_000, b'{"call":' + b"9" * 10_000 + b"}"):
        with pytest.raises(UsageError, match="not JSON"):
            decode_line(line)


def text_of(decode: Callable[[str], object]) -> Callable[[bytes], object]:
    """A decoder of text; bytes that are no UTF-8 come as they do on a command line."""
    return lambda data: decode(data.decode(errors="surrogateescape"))


def spec_and_back(text: str) -> None:
    assert parse_spec(str(parse_spec(text))) == parse_spec(text)


@how_many()
@given(SEEDS)
def test_names_specs_times_and_quantities(seed: int) -> None:
    words = [b"WF-2024-07", b"D:v3", b"D:raw", b"D@2024-07-04T12:00Z", b"D:latest", "é:ü".encode()]
    times = [b"2024-07-04", b"9999-12-31T23:59:59.999999999-23:59", b"0001-01-01 00:00+23:59"]
    times += ["\u0662\u0660-07-04T12:00:00.\u0665Z".encode()]
    for what, valid, decode in (
        ("name", words, check_dataset_name),
        ("tag", words, check_tag),
        ("spec", words + [b"D@" + time for time in times], spec_and_back),
        ("time", times, lambda text: format_time(parse_time(text))),
        ("duration", [b"30d", b"0", b"1e300w", b"1_0s"], parse_duration_s),
        ("size", [b"50M", b"2GiB", b"1e308T", b"12"], parse_size_bytes),
    ):
        fuzz(what, valid, text_of(decode), (UsageError,), seed)


@how_many(0.05)
@given(seed=SEEDS)
def test_files_of_the_host(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Settings and the key are refused; marks and ledgers are begun anew, which loses nothing."""
    top = tmp_path_factory.mktemp("host", numbered=True)
    (top / "upkeep").mkdir()
    settings = b"[cache]\nframes_mib = 48\n[ingest]\nthreads = 0\n[collect]\ngrace_days = 7.0\n"
    marks = json.dumps({H.hex(): {"since_ns": 5, "reason": "unreached"}}).encode()
    ledger = msgspec.json.encode({H.hex(): Verified(5, "")})
    pem = Signer.generate()[1]

    def stored(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def decode(data: bytes) -> object:
            path.touch(0o600)
            path.write_bytes(data)
            return read(path)

        return decode

    for what, valid, name, read, errors in (
        ("config.toml", settings, "config.toml", load_config, (UsageError,)),
        ("signing key", pem, "key", Signer.load, (IntegrityError,)),
        ("marks", marks, "upkeep/condemned", lambda _path: read_marks(top), ()),
        ("ledger", ledger, "upkeep/verified", lambda _path: read_ledger(top), ()),
    ):
        fuzz(what, [valid], stored(top / name, read), (*errors, NotFoundError), seed)


def test_extreme_patterns_are_no_slower(tmp_path: Path) -> None:
    """Deep and long settings and marks end in their own error as well."""
    path = tmp_path / "config.toml"
    for text in (b"a = " + b"[" * 100_000, b"[" + b"a." * 50_000 + b"b]", b"a" * 500_000):
        path.write_bytes(text)
        with pytest.raises(UsageError):
            load_config(path)
    (tmp_path / "upkeep").mkdir()
    for data in (b"[" * 100_000, b'{"a":' * 100_000, random.Random(1).randbytes(10_000)):
        (tmp_path / "upkeep" / "condemned").write_bytes(data)
        (tmp_path / "upkeep" / "verified").write_bytes(data)
        assert read_marks(tmp_path) == {} and read_ledger(tmp_path) == {}
