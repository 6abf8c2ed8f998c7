"""What a check knows of a lake while it runs: the facts, gathered once, that the checks judge.

Nothing is taken from a cache: objects are read from the disk by descriptors of the survey's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from dtafs.core.entries import LogEntry, decode_collection, decode_manifest, manifest_hash
from dtafs.core.placed import Stub
from dtafs.core.record_checks import decode_disposed
from dtafs.core.values import Manifest
from dtafs.errors import DtafsError
from dtafs.store.findings import ERROR, Affected, Finding
from dtafs.store.log import parse_entry
from dtafs.store.objects import Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import Place
from dtafs.store.progress import Progress, Report
from dtafs.store.replay import packs_brought

if TYPE_CHECKING:
    from dtafs.store.lake import Lake
    from dtafs.store.scrub import Scrub

DAMAGE = (DtafsError, OSError, msgspec.MsgspecError, ValueError, LookupError)
"""What reading damaged input may raise; anything else is a defect of the checker."""


class LoggedEntry(NamedTuple):
    """The object of a log entry: what it says, or what is wrong with it."""

    dataset: str
    sequence: int
    digest: bytes
    entry: LogEntry | None
    problem: str = ""


class LoggedVersion(NamedTuple):
    """A version as its log entry describes it."""

    dataset: str
    number: int
    sequence: int
    time_ns: int
    manifest: Manifest
    digest: bytes

    @property
    def name(self) -> str:
        return f"{self.dataset}:v{self.number}"


class Bringer(NamedTuple):
    """The log entry that brought a pack: of a version, or (number 0) of a collection."""

    dataset: str
    number: int
    sequence: int

    @property
    def name(self) -> str:
        """How a finding names it."""
        if self.number:
            return f"{self.dataset}:v{self.number}"
        return f"entry {self.sequence} of {self.dataset!r}"


class Spot(NamedTuple):
    """A path in a version."""

    dataset: str
    version: int
    path: bytes


class Survey:
    """The facts about one lake, and the findings so far. `entries` are by the name of their log."""

    def __init__(
        self, lake: Lake, *, read_data: bool, report: Report | None, scrub: Scrub | None = None
    ) -> None:
        self.lake, self.read_data, self._report = lake, read_data, report
        self.scrub = scrub
        """Says which packs to read, and remembers it; None where all are read."""
        self.root: Path = lake.path
        self.findings: list[Finding] = []
        self.files = PackFiles(lake.path, lake.far)
        self._closing: list[Callable[[], None]] = [self.files.close]
        self.objects = Objects(self.files, self.locate)
        self.entries: dict[str, list[LoggedEntry]] = {}
        self.versions: list[LoggedVersion] = []
        self.disposed: set[tuple[str, int]] = set()
        """Versions that an entry disposed of, whose bytes may be gone."""
        self.named: dict[bytes, Bringer] = {}
        """Packs that entries name and no later one removes, each with the first that does."""
        self.condemned: frozenset[bytes] = frozenset()
        """Packs that a collection is going to delete."""
        self.pending: dict[bytes, str] = {}
        """Packs of uncommitted work, with the dataset whose staging needs them."""
        self.pending_place: Callable[[bytes], Place | None] = lambda _chunk: None
        self.stubs: dict[bytes, Stub] = {}
        """Of content packs that have copies in other tiers."""
        self.bad_stubs: dict[bytes, str] = {}
        self.bad_copies: dict[bytes, dict[str, str]] = {}
        """Packs whose copy in a tier is gone or wrong: tier -> what is wrong."""
        self.lost_packs: set[bytes] = set()
        """Those of them that are nowhere else."""
        self.bad_packs: dict[bytes, str] = {}
        """Packs from which nothing can be read, and why."""
        self.bad_frames: dict[tuple[bytes, int], str] = {}
        """Frames, by pack and offset, that do not decode."""
        self.bad_chunks: dict[bytes, str] = {}
        """Chunks whose bytes are not what their id says."""
        self.misplaced: dict[bytes, str] = {}
        """Chunks that do not lie where the index says."""
        self.altered: dict[bytes, str] = {}
        """Packs whose bytes are not what their name says, though they may decode."""

    @property
    def skips_contents(self) -> bool:
        """Whether files are not hashed as a whole, since not everything is to be read."""
        return self.scrub is not None and self.scrub.is_partial

    def locate(self, chunk: bytes) -> Place | None:
        """Where the index, or the table of uncommitted work, says that a chunk lies."""
        return self.lake.index.place(chunk) or self.pending_place(chunk)

    def add(
        self,
        invariant: int,
        message: str,
        affects: Iterable[Affected] = (),
        severity: Literal["error", "warning"] = ERROR,
    ) -> None:
        """Note a broken invariant."""
        self.findings.append(Finding(invariant, severity, message, tuple(affects)))

    def attempt(self, invariant: int, what: str, step: Callable[[], None]) -> None:
        """Run one step of the check; what stops it is a finding too."""
        try:
            step()
        except DAMAGE as error:
            self.add(invariant, f"{what} could not be finished: {error}")

    def progress(self, stage: str, done: int, total: int, size_bytes: int = 0) -> None:
        """Tell whoever waits how far the check is."""
        if self._report is not None:
            self._report(Progress(stage, done, size_bytes, total))

    def why_unreadable(self, chunk: bytes, place: Place) -> str | None:
        """What keeps a chunk from being read, as far as the check has found; None if nothing."""
        return (
            self.bad_packs.get(place.pack)
            or self.bad_frames.get((place.pack, place.offset))
            or self.bad_chunks.get(chunk)
            or self.misplaced.get(chunk)
        )

    def log_is_whole(self, dataset: str) -> bool:
        """Whether every entry of a log that there ever was can be read, as far as is known."""
        logged = self.entries.get(dataset, [])
        known = (self.lake.index.head(dataset) or (0, b""))[0]
        return (
            not any(one.problem for one in logged)
            and [one.sequence for one in logged] == list(range(1, len(logged) + 1))
            and (len(logged) >= known or self.lake.log.exists(dataset, known))
        )

    def read_log(self) -> None:
        """Fill `entries`, `versions` and `named` from the objects of the log."""
        for name in self.lake.log.names():
            logged = self.entries[name] = [
                self._read_entry(name, sequence) for sequence in self.lake.log.sequences(name)
            ]
            for one in logged:
                if one.entry is not None and one.entry.kind == "committed":
                    self._add_version(one.entry)
        read = [one.entry for logged in self.entries.values() for one in logged if one.entry]
        for entry in sorted(read, key=lambda e: (e.time_ns, e.dataset, e.sequence)):
            if entry.kind in ("committed", "collected", "disposed"):
                step = partial(self._name_packs, entry)
                self.attempt(4, f"entry {entry.sequence} of {entry.dataset!r}", step)

    def kept_versions(self) -> list[LoggedVersion]:
        """The versions whose bytes must be there."""
        return [v for v in self.versions if (v.dataset, v.number) not in self.disposed]

    def _name_packs(self, entry: LogEntry) -> None:
        if entry.kind == "disposed":
            refs = decode_disposed(entry.body).versions
            self.disposed |= {(ref.dataset, ref.version) for ref in refs}
            return
        number = entry.body.get("version", 0)
        bringer = Bringer(entry.dataset, number, entry.sequence)
        if entry.kind == "collected":
            bringer = Bringer(entry.dataset, 0, entry.sequence)
            for pack in decode_collection(entry.body).removed:
                self.named.pop(bytes.fromhex(pack), None)
        for pack in packs_brought(entry):
            self.named.setdefault(bytes.fromhex(pack), bringer)

    def _read_entry(self, dataset: str, sequence: int) -> LoggedEntry:
        try:
            data = self.lake.log.read_object(dataset, sequence)
        except DAMAGE as error:
            return LoggedEntry(dataset, sequence, b"", None, str(error))
        digest = hashlib.sha256(data).digest()
        try:
            entry = parse_entry(self.lake.superblock, dataset, sequence, data).entry
        except DAMAGE as error:
            return LoggedEntry(dataset, sequence, digest, None, str(error))
        return LoggedEntry(dataset, sequence, digest, entry)

    def _add_version(self, entry: LogEntry) -> None:
        try:
            manifest = decode_manifest(entry.body)
        except DAMAGE as error:
            self.add(4, f"entry {entry.sequence} of {entry.dataset!r} seals no version: {error}")
            return
        digest = manifest_hash(manifest)
        version = LoggedVersion(
            entry.dataset, manifest.version, entry.sequence, entry.time_ns, manifest, digest
        )
        self.versions.append(version)

    def on_close(self, call: Callable[[], None]) -> None:
        """Have something closed at the end of the check."""
        self._closing.append(call)

    def close(self) -> None:
        """Close the descriptors."""
        for call in self._closing:
            call()


def in_time_order(versions: Iterable[LoggedVersion]) -> Iterator[LoggedVersion]:
    """Versions of all datasets in the order in which they were committed."""
    yield from sorted(versions, key=lambda v: (v.time_ns, v.dataset, v.sequence))
