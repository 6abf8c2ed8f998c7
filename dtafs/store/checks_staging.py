"""Checks of staging: that its rows agree with each other, with the base, and with the data files.

The tables are documented in `dtafs.store.staging.rows`. Rows of a tree or directory that is being
removed in the background say nothing, and are passed over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from msgspec import Struct, field

from dtafs.core.chunklist import parts_of
from dtafs.core.values import Content, Kind
from dtafs.store.affected import ranges_of
from dtafs.store.database import Database, Txn
from dtafs.store.findings import WARNING, Affected, Range
from dtafs.store.staging.rows import (
    EMPTY,
    NOWHERE,
    PATCHES,
    TABLES,
    DatasetRow,
    InodeRow,
    decode_dataset,
    decode_dentry,
    decode_inode,
    decode_number,
    from_number,
    number,
)
from dtafs.store.survey import DAMAGE, Survey

INO_LIMIT = 1 << 61
"""Numbers from here on belong to sealed files and to the views of the mount."""

DEPTH_MAX = 10_000
"""A path with more components is a cycle."""

TREE_BYTES = 4
INO_BYTES = 8


class StagingFacts(Struct):
    """What reading staging has found; each problem with the dataset that it is in."""

    structure: list[tuple[str, str]] = field(default_factory=list)
    numbers: list[tuple[str, str]] = field(default_factory=list)
    needed: list[tuple[str, bytes, Content]] = field(default_factory=list)
    """Sealed contents that staged files consist of, with a path."""
    stray_files: list[str] = field(default_factory=list)


@contextlib.contextmanager
def _tables(survey: Survey) -> Iterator[Database | None]:
    """The LMDB environment of staging, with every change in it; None where there is none."""
    path = survey.root / "staging"
    if survey.lake.can_write:
        area = survey.lake.area
        area.flush()
        yield area.database
        return
    if not (path / "data.mdb").exists():
        yield None
        return
    database = Database(path, TABLES, write=False)
    try:
        yield database
    finally:
        database.close()


def gather(survey: Survey, facts: StagingFacts) -> None:
    """Read all rows of staging and note what contradicts what."""
    with _tables(survey) as database:
        if database is None:
            return
        with database.read() as txn:
            value = txn.get("area", b"next_ino")
            top = INO_LIMIT if value is None else int(decode_number(value))
            trees: dict[int, str] = {}
            owners: set[int] = set()
            for key, value in txn.scan("dataset"):
                row = decode_dataset(value)
                if trees.setdefault(row.tree, key.decode()) != key.decode():
                    facts.structure.append((key.decode(), "shares its tree with another dataset"))
                owners |= _Tree(survey, facts, txn, key.decode(), row, top).check()
    if survey.lake.can_write:  # otherwise a file may belong to a row that is not in LMDB yet
        _check_files(survey, facts, owners)


def _check_files(survey: Survey, facts: StagingFacts, owners: set[int]) -> None:
    folder = survey.root / "staging" / "data"
    for file in os.listdir(folder) if folder.is_dir() else ():
        try:
            owned = int(file, 16) in owners
        except ValueError:
            owned = False
        if not owned:
            facts.stray_files.append(file)


class _Tree:
    """The rows of one dataset's staging."""

    def __init__(
        self, survey: Survey, facts: StagingFacts, txn: Txn, name: str, row: DatasetRow, top: int
    ) -> None:
        self.survey, self.facts, self.txn = survey, facts, txn
        self.name, self.row, self.top = name, row, top
        self.prefix = row.tree.to_bytes(TREE_BYTES, "big")

    def wrong(self, text: str) -> None:
        self.facts.structure.append((self.name, text))

    def key(self, ino: int, rest: bytes = b"") -> bytes:
        return self.prefix + number(ino) + rest

    def inode(self, ino: int) -> InodeRow | None:
        value = self.txn.get("inode", self.key(ino))
        return None if value is None else decode_inode(value)

    def is_doomed(self, ino: int) -> bool:
        return self.txn.get("doomed", self.key(ino)) is not None

    def check(self) -> set[int]:
        """Check everything; the inodes that have a data file."""
        self._check_base()
        owners = set()
        for key, value in self.txn.scan("inode", self.prefix):
            ino = from_number(key[TREE_BYTES:])
            row = decode_inode(value)
            if row.ino != ino:
                self.wrong(f"the row of inode {ino} is that of inode {row.ino}")
                continue
            if row.local != NOWHERE:
                owners.add(ino)
            if not 0 < ino < min(self.top, INO_LIMIT):
                self.facts.numbers.append(
                    (self.name, f"inode {ino} has a number that was not given yet")
                )
            self._check_links(row)
            if row.kind == Kind.FILE:
                self._check_data(row)
        self._check_dentries()
        return owners

    def _check_base(self) -> None:
        row, root = self.row, self.inode(self.row.root_ino)
        if root is None or root.kind != Kind.DIRECTORY:
            self.wrong("its staging has no root directory")
        dataset = self.survey.lake.index.dataset(self.name)
        if dataset is None:
            self.wrong("has staging but no log")
        elif row.version and self.survey.lake.index.version(self.name, row.version) is None:
            self.wrong(f"its staging lies on v{row.version}, which does not exist")

    def _check_links(self, row: InodeRow) -> None:
        ino, count = row.ino, 0
        for key, _value in self.txn.scan("link", self.key(ino)):
            count += 1
            rest = key[TREE_BYTES + INO_BYTES :]
            value = self.txn.get("dentry", self.prefix + rest)
            if value is None or decode_dentry(value).ino != ino:
                self.wrong(f"inode {ino} has a name {rest[INO_BYTES:]!r} that does not lead to it")
        if ino == self.row.root_ino:
            return
        if row.nlink == 0:
            if count:
                self.wrong(f"inode {ino} has {count} names and counts none")
            if self.txn.get("orphan", self.key(ino)) is None and not self.is_doomed(ino):
                self.wrong(f"inode {ino} has no name and nobody has it open")
            return
        if row.kind == Kind.DIRECTORY:
            if count != 1:
                self.wrong(f"directory {ino} has {count} names")
        elif self.txn.get("group", self.key(ino)) is not None:
            if count > row.nlink:
                self.wrong(f"inode {ino} has {count} names and counts {row.nlink}")
        elif count != row.nlink:
            self.wrong(f"inode {ino} has {count} names and counts {row.nlink}")

    def _check_data(self, row: InodeRow) -> None:
        end = 0
        for key, value in self.txn.scan("extent", self.key(row.ino)):
            start, until = from_number(key[TREE_BYTES + INO_BYTES :]), int(decode_number(value))
            if row.local != PATCHES or not end <= start < until <= row.size:
                self.wrong(f"inode {row.ino} has a range {start} to {until} that cannot be")
            end = until
        base, size = row.content, row.size
        held = self.txn.get("bytes", self.key(row.ino)) or b""
        if held and not row.is_held:
            self.wrong(f"inode {row.ino} has bytes that nothing shows")
        if (
            row.limit > (base.size if base else len(held))
            or row.limit > size
            or (row.sealed or EMPTY).size not in (0, size)
        ):
            self.wrong(f"inode {row.ino} has more bytes below it than its size allows")
        if row.sealed is not None:
            self.facts.needed.append((self.name, self.path(row.ino), row.sealed))
        if base is not None and row.limit:
            self.facts.needed.append((self.name, self.path(row.ino), base))

    def _check_dentries(self) -> None:
        for key, value in self.txn.scan("dentry", self.prefix):
            directory = from_number(key[TREE_BYTES : TREE_BYTES + INO_BYTES])
            name, dentry = key[TREE_BYTES + INO_BYTES :], decode_dentry(value)
            if self.is_doomed(directory):
                continue
            above = self.inode(directory)
            if above is None or above.kind != Kind.DIRECTORY:
                self.wrong(f"the name {name!r} is in inode {directory}, which is no directory")
            if dentry.ino and self.inode(dentry.ino) is None:
                self.wrong(f"the name {name!r} leads to inode {dentry.ino}, which does not exist")
            elif (
                dentry.ino
                and self.txn.get("link", self.key(dentry.ino, number(directory) + name)) is None
            ):
                self.wrong(f"inode {dentry.ino} does not know that {name!r} leads to it")
            if dentry.seq:
                listed = self.txn.get("order", self.key(directory, number(dentry.seq)))
                if listed != name:
                    self.wrong(f"the name {name!r} is not listed in its directory")

    def path(self, ino: int) -> bytes:
        """One path of an inode, as far up as it can be followed."""
        parts: list[bytes] = []
        while ino != self.row.root_ino and len(parts) < DEPTH_MAX:
            found = next(iter(self.txn.scan("link", self.key(ino))), None)
            if found is None:
                break
            rest = found[0][TREE_BYTES + INO_BYTES :]
            parts.append(rest[INO_BYTES:])
            ino = from_number(rest[:INO_BYTES])
        return b"/".join(reversed(parts))


def check_structure(survey: Survey, facts: StagingFacts) -> None:
    """I7: staging is as it was left: every name leads somewhere, every file has its bytes."""
    for dataset, problem in facts.structure:
        survey.add(7, f"staging of {dataset!r}: {problem}", [Affected(dataset)])
    for file in facts.stray_files:
        survey.add(7, f"staging/data/{file} belongs to no staged file", (), WARNING)


def check_numbers(survey: Survey, facts: StagingFacts) -> None:
    """I9: every inode number in use is below the mark from which new ones are given."""
    for dataset, problem in facts.numbers:
        survey.add(9, f"staging of {dataset!r}: {problem}", [Affected(dataset)])


def check_contents(survey: Survey, facts: StagingFacts) -> None:
    """I8: the sealed bytes that staged files consist of can be found and read."""
    done: dict[Content, tuple[str, tuple[Range, ...]]] = {}
    for dataset, path, content in facts.needed:
        if content not in done:
            done[content] = _why_unreadable(survey, content)
        problem, ranges = done[content]
        if problem:
            affects = Affected(dataset, (), (os.fsdecode(path),), 0, (ranges,))
            survey.add(8, f"a staged file cannot be read: {problem}", [affects])


def _why_unreadable(survey: Survey, content: Content) -> tuple[str, tuple[Range, ...]]:
    """What keeps a content from being read, and which of its bytes; no text when nothing does."""
    if not content.size:
        return "", ()
    lost: dict[bytes, str] = {}

    def is_sound(part: bytes) -> bool:
        problem = _why_lost(survey, part)
        if problem:
            lost[part] = problem
        return not problem

    try:
        if content.chunk_list:
            for part in parts_of(survey.objects.node, content, is_sound):
                is_sound(part)
        else:
            is_sound(survey.objects.chunk_id(content.sha256))
    except DAMAGE as error:
        return str(error), ()
    return next(iter(lost.values()), ""), tuple(ranges_of(survey, content, lost) or ())


def _why_lost(survey: Survey, chunk: bytes) -> str:
    # Asked twice, since another process may be moving a row from one table to the other.
    place = survey.locate(chunk) or survey.locate(chunk)
    if place is None:
        return f"chunk {chunk.hex()} is in no pack that is known"
    return survey.why_unreadable(chunk, place) or ""
