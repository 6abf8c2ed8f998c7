"""How results are worded: sizes, tables, changes; and the progress that only a terminal sees."""

from __future__ import annotations

import errno
import os
import pty
import re
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.cli import datasets, evidence, words
from dtafs.core.difference import Change
from dtafs.core.values import Entry, Kind
from dtafs.store.compare import describe_change, describe_path, printable, summarise
from dtafs.store.progress import Meter, Progress
from dtafs.store.verify import Verified
from tests.cli.conftest import Commands
from tests.support.programs import CTL, command_line, environment


def entry(kind: Kind = Kind.FILE, **fields: object) -> Entry:
    """A file of one byte, unless said otherwise."""
    plain: dict[str, object] = {"mode": 0o644, "uid": 0, "gid": 0, "mtime_ns": 0, "size": 1}
    return Entry(b"name", kind, **{**plain, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1_536, "1.5 KiB"), (1_048_576, "1 MiB"), (2**40, "1 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert words.size_text(size) == text


@given(st.integers(0, 2**60))
def test_a_size_is_short(size: int) -> None:
    assert len(words.size_text(size)) <= 8


def test_tables_line_up() -> None:
    rows = [("NAME", "SIZE"), ("a", "1,000"), ("longer", "2")]
    assert list(words.table(rows, right=[1])) == ["NAME     SIZE", "a       1,000", "longer      2"]


def test_fields_go_on_below_themselves() -> None:
    pairs = [("Tags", "a\nb"), ("Message", "")]
    assert list(words.fields(pairs)) == ["Tags     a", "         b", "Message"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain", "plain"),
        ("\u00fc".encode(), "\u00fc"),
        (b"\xff", "\\xff"),
        (b"a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        ("\u202e".encode(), "\\u202e"),
    ],
)
def test_no_name_can_play_with_the_terminal(name: bytes, text: str) -> None:
    assert printable(name) == text


ESCAPE = "\x1b[2J\n"


def test_no_person_and_no_program_can_play_with_the_terminal() -> None:
    """What an export or another lake says of who made it is not this user's own."""
    actor = {"user": f"ann{ESCAPE}", "uid": 1, "host": f"host{ESCAPE}", "program": f"p{ESCAPE}"}
    facts = {
        "id": "D:v1",
        "sha256": "00",
        "time": "2024-07-04T12:00:00.000000000Z",
        "actor": actor,
        "message": ESCAPE,
        "tags": [],
        "files": 1,
        "size_bytes": 1,
        "disposed": False,
        "entries": 1,
        "public_key": "00",
    }
    entry = {"actor": actor, "dataset": "D", "sequence": 1, "summary": "", "time": facts["time"]}
    made = {"name": f"trim{ESCAPE}", "parameters": {f"a{ESCAPE}": ESCAPE}}
    shown = [
        *words.fields(words.version_fields(facts)),
        *evidence._verified_lines(Verified("D:v1", facts, [])),
        *datasets._log_lines([entry]),
        datasets.transform_text(made),
    ]
    assert "trim\\x1b" in shown[-1]
    assert all(line.isprintable() for line in shown)


@given(st.binary(max_size=40))
def test_any_name_is_printable(name: bytes) -> None:
    assert printable(name).isprintable()
    facts = describe_path(name)
    exact = bytes.fromhex(facts["path_hex"]) if "path_hex" in facts else facts["path"].encode()
    assert exact == name


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (None, entry(), "A name"),
        (entry(), None, "D name"),
        (entry(sha256=b"a"), entry(sha256=b"b", size=11), "M name  (+10 bytes)"),
        (entry(sha256=b"a"), entry(sha256=b"b"), "M name"),
        (entry(), entry(mode=0o600, mtime_ns=5), "M name  (mode, mtime)"),
        (entry(), entry(link=7, nlink=2), "M name  (links)"),
        (entry(), entry(xattrs=((b"user.a", b"1"),)), "M name  (xattrs)"),
        (entry(), entry(Kind.SYMLINK, ref=b"x"), "M name  (kind)"),
        (entry(Kind.SYMLINK, ref=b"x"), entry(Kind.SYMLINK, ref=b"y"), "M name  (target)"),
        (None, entry(Kind.DIRECTORY), "A name/"),
    ],
)
def test_changes_say_what_changed(before: Entry | None, after: Entry | None, line: str) -> None:
    facts = describe_change(Change((b"name",), before, after))
    assert list(words.change_lines([facts], everything=False)) == [line]


def test_times_of_directories_are_counted_and_not_shown() -> None:
    change = Change((), entry(Kind.DIRECTORY), entry(Kind.DIRECTORY, mtime_ns=9))
    facts = describe_change(change)
    (line,) = words.change_lines([facts], everything=False)
    assert line.startswith("(1 of the changes")
    assert list(words.change_lines([facts], everything=True)) == ["M ./  (mtime)"]


def test_sums() -> None:
    changes = [
        Change((b"a",), None, entry(size=5, sha256=b"a")),
        Change((b"b",), entry(size=7, sha256=b"b"), None),
        Change((b"c",), entry(size=1, sha256=b"c"), entry(size=2, sha256=b"d")),
        Change((b"d",), entry(mode=0), entry(mode=1)),
    ]
    totals = summarise(changes)
    assert totals == {
        "added": 1,
        "removed": 1,
        "changed": 2,
        "bytes_added": 7,
        "bytes_removed": 8,
    }
    assert words.totals_line(totals) == ("1 added, 2 changed, 1 removed; 7 bytes came, 8 went")


def test_a_meter_reports_now_and_then() -> None:
    seen: list[Progress] = []
    meter = Meter(seen.append, Progress("put", files_total=100, size_total_bytes=1_000))
    threads = [threading.Thread(target=lambda: [meter(1, 10) for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(seen) < 100
    assert seen[0].stage == "put" and seen[0].files_total == 100
    assert not Meter(None, Progress("x")).wanted


def on_a_terminal(*arguments: object) -> tuple[str, str]:
    """Run dtafsctl with stderr on a terminal; what it printed on stdout and there."""
    ours, theirs = pty.openpty()
    command = command_line(CTL, *arguments)
    with subprocess.Popen(
        command, env=environment({"TERM": "xterm"}), stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = bytearray()
        while True:
            try:
                data = os.read(ours, 65_536)
            except OSError as error:
                assert error.errno == errno.EIO  # what Linux says when the other end has closed
                break
            if not data:
                break
            shown += data
        assert process.stdout is not None
        printed = process.stdout.read()
    os.close(ours)
    assert process.returncode == 0, shown
    return printed.decode(), shown.decode(errors="replace")


def test_progress_is_for_terminals(alone: Commands, tmp_path: Path) -> None:
    alone("create", "D")
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 300)
    printed, shown = on_a_terminal("--lake", alone.lake, "put", "D", tmp_path / "large")
    assert printed == "Staged 1 file, 314,572,800 bytes\n"
    columns = (r"put ", r"[01]/1 files ", r"\d/300\.0 MiB", r"\d [kMG]B/s", r"\d:\d\d:\d\d")
    assert re.search(r"[^\r]*".join(columns), shown), "files, bytes, rate and time left, at once"
    printed, _ = on_a_terminal("--lake", alone.lake, "commit", "D", "-m", "m")
    assert printed.startswith("D:v1 ")
