"""Checks of what versions reach: every node, every chunk, and that they add up.

Every node is read once, however many versions share it. What a node says of a node below it (level,
totals, size) is compared with what that one says of its own items, so that by induction every total
is the sum of what is there, up to the numbers in the manifest.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from dtafs.core.nodes import CHUNK_LIST_NODE, DIRECTORY_NODE, Node
from dtafs.core.quantities import counted
from dtafs.core.tree import open_root
from dtafs.core.values import NOTHING_BELOW, Content, Entry, Kind, Totals
from dtafs.errors import IntegrityError
from dtafs.store.affected import affected
from dtafs.store.findings import Affected
from dtafs.store.survey import DAMAGE, LoggedVersion, Spot, Survey, in_time_order

EMPTY_SHA256 = hashlib.sha256().digest()


class Claim(NamedTuple):
    """What a parent says of a node: of a directory (totals, names), or of a chunk list (size)."""

    kind: int
    level: int | None
    """None for a root, whose level nobody says."""
    totals: Totals = NOTHING_BELOW
    names: int | None = None
    first: bytes | None = None
    size: int = 0
    chunks: int | None = None


class _Sum(NamedTuple):
    """What a node is, by its own items."""

    kind: int
    level: int
    totals: Totals
    names: int
    first: bytes
    size: int
    chunks: int


class Reach:
    """The walk over all versions. Its results are what the checks judge."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._sums: dict[bytes, _Sum | None] = {}
        self.contents: dict[tuple[bytes, bytes], Content] = {}
        """The distinct contents of more than one chunk."""
        self.without_row: set[bytes] = set()
        self.unreadable: dict[bytes, str] = {}
        self.malformed: list[tuple[str, Spot]] = []

    def walk(self) -> None:
        """Visit everything that a version reaches."""
        versions = list(in_time_order(self._survey.kept_versions()))
        for done, version in enumerate(versions):
            self._survey.progress("check versions", done, len(versions))
            self._version(version)
        self._survey.progress("check versions", len(versions), len(versions))

    def _version(self, version: LoggedVersion) -> None:
        spot = Spot(version.dataset, version.number, b"")
        root = bytes.fromhex(version.manifest.root)
        if not self._readable(root, None):
            return
        try:
            top = open_root(self._survey.objects.node, root)
        except DAMAGE as error:
            self.unreadable[root] = str(error)
            return
        found = f"{counted(top.below.files, 'file')} of {top.below.size} bytes"
        said = f"{counted(version.manifest.files, 'file')} of {version.manifest.size_bytes} bytes"
        if found != said:
            self.malformed.append((f"{version.name} holds {found} and says {said}", spot))
        self._directory(top, spot)

    def _directory(self, top: Entry, spot: Spot) -> None:
        if not top.ref:
            return
        todo = [(top.ref, Claim(DIRECTORY_NODE, None, top.below), spot.path)]
        while todo:
            wanted, claim, path = todo.pop()
            known = wanted in self._sums
            if known:
                own = self._sums[wanted]
            else:
                node = self._node(wanted)
                own = self._sums[wanted] = None if node is None else _sum(node)
                if node is not None:
                    todo.extend(self._below(node, spot, path))
            wrong = _contradiction(claim, own)
            if wrong:
                self.malformed.append((f"node {wanted.hex()} {wrong}", spot._replace(path=path)))

    def _below(self, node: Node, spot: Spot, path: bytes) -> Iterator[tuple[bytes, Claim, bytes]]:
        """The nodes that a node refers to; its chunks and files are looked at here."""
        if node.kind == CHUNK_LIST_NODE:
            for span in node.spans:
                if node.level:
                    claim = Claim(
                        CHUNK_LIST_NODE, node.level - 1, size=span.size, chunks=span.chunks
                    )
                    yield span.id, claim, path
                else:
                    self._readable(span.id, span.size, spot._replace(path=path))
        elif node.level:
            for branch in node.branches:
                yield (
                    branch.node,
                    Claim(
                        DIRECTORY_NODE, node.level - 1, branch.totals, branch.names, branch.first
                    ),
                    path,
                )
        else:
            for entry in node.entries:
                here = path + b"/" + entry.name if path else entry.name
                if entry.kind == Kind.DIRECTORY and entry.ref:
                    yield entry.ref, Claim(DIRECTORY_NODE, None, entry.below), here
                elif entry.kind == Kind.FILE:
                    yield from self._file(entry, spot._replace(path=here))

    def _file(self, entry: Entry, spot: Spot) -> Iterator[tuple[bytes, Claim, bytes]]:
        if entry.ref:
            self.contents.setdefault((entry.ref, entry.sha256), entry.content)
            yield entry.ref, Claim(CHUNK_LIST_NODE, None, size=entry.size), spot.path
        elif entry.size:
            self._readable(self._survey.objects.chunk_id(entry.sha256), entry.size, spot)
        elif entry.sha256 != EMPTY_SHA256:
            self.malformed.append(("an empty file has the hash of another content", spot))

    def _node(self, wanted: bytes) -> Node | None:
        if not self._readable(wanted, None):
            return None
        try:
            return self._survey.objects.node(wanted)
        except DAMAGE as error:
            self.unreadable[wanted] = str(error)
            return None

    def _readable(self, chunk: bytes, size: int | None, spot: Spot | None = None) -> bool:
        """Whether a chunk can be read as far as is known yet; notes it when it cannot."""
        survey = self._survey
        try:
            place = survey.lake.index.place(chunk)
        except IntegrityError as error:
            self.unreadable[chunk] = str(error)
            return False
        if place is None:
            self.without_row.add(chunk)
            return False
        problem = survey.why_unreadable(chunk, place)
        if problem is not None:
            self.unreadable[chunk] = problem
            return False
        if size is not None and place.size != size and spot is not None:
            self.malformed.append(
                (f"chunk {chunk.hex()} has {place.size} bytes and its file says {size}", spot)
            )
        return True

    def read_contents(self) -> None:
        """Compare the SHA-256 of each content of several chunks with its bytes."""
        done_bytes = 0
        total = len(self.contents)
        for done, ((ref, sha256), content) in enumerate(self.contents.items()):
            self._survey.progress("check contents", done, total, done_bytes)
            digest = hashlib.sha256()
            try:
                for part in self._survey.objects.stream(content):
                    digest.update(part)
            except DAMAGE:
                continue  # its chunks are reported
            done_bytes += content.size
            if digest.digest() != sha256:
                self.unreadable.setdefault(
                    ref,
                    f"the content of chunk list {ref.hex()} has not the hash that its file says",
                )


def _sum(node: Node) -> _Sum:
    if node.kind == CHUNK_LIST_NODE:
        chunks = sum(span.chunks for span in node.spans)
        return _Sum(node.kind, node.level, NOTHING_BELOW, 0, b"", node.offsets[-1], chunks)
    totals = NOTHING_BELOW
    for item in node.branches if node.level else node.entries:
        totals = totals.plus(item.totals)
    return _Sum(
        node.kind, node.level, totals, node.positions[-1], node.keys[0] if node.keys else b"", 0, 0
    )


def _contradiction(claim: Claim, own: _Sum | None) -> str:
    """How a node differs from what its parent says of it; empty when it does not."""
    if own is None:
        return ""  # it cannot be read, which is reported
    if own.kind != claim.kind:
        return "is of another kind than the node above it says"
    if claim.level is not None and own.level != claim.level:
        return "is at another level of its tree than the node above it says"
    if claim.kind == CHUNK_LIST_NODE:
        same = own.size == claim.size and claim.chunks in (None, own.chunks)
        return "" if same else "lists other chunks than the node or file above it says"
    if own.totals != claim.totals or claim.names not in (None, own.names):
        return "holds other totals than the node above it says"
    if claim.first is not None and own.first != claim.first:
        return "begins with another name than the node above it says"
    return ""


def check_rows_exist(survey: Survey, reach: Reach) -> None:
    """I2: every chunk that a version reaches has a row."""
    if reach.without_row:
        spots = Attribution(survey, reach.without_row).spots()
        survey.add(
            2,
            f"the index lacks {counted(len(reach.without_row), 'chunk')} that versions need",
            affected(survey, chain.from_iterable(spots.values()), reach.without_row),
        )


def check_readable(survey: Survey, reach: Reach) -> None:
    """I6: every chunk that a version reaches can be read from where it lies."""
    if not reach.unreadable:
        return
    spots = Attribution(survey, set(reach.unreadable)).spots()
    by_reason: dict[str, list[bytes]] = {}
    for chunk, problem in reach.unreadable.items():
        by_reason.setdefault(problem, []).append(chunk)
    for problem, chunks in by_reason.items():
        touched = [spot for chunk in chunks for spot in spots.get(chunk, ())]
        survey.add(
            6,
            f"{problem}: {counted(len(chunks), 'chunk')} of versions cannot be read",
            affected(survey, touched, reach.unreadable),
        )


def check_whole(survey: Survey, reach: Reach) -> None:
    """I7: a version is wholly there: its parts add up to what its manifest says."""
    for problem, spot in reach.malformed:
        survey.add(7, problem, affected(survey, [spot]))
    by_name: dict[str, list[int]] = {}
    for version in survey.versions:
        by_name.setdefault(version.dataset, []).append(version.number)
    for name, numbers in by_name.items():
        if len(set(numbers)) != len(numbers):
            survey.add(7, f"two entries of {name!r} seal the same version", [Affected(name)])


class Attribution:
    """Finds the paths that need some chunks: one more walk, only when something is wrong.

    Node by node, each once, it notes who refers to whom; then it goes up from the chunks in
    question, and down again along the nodes found, naming paths. Chains of directories may be long,
    so nothing here is recursive.
    """

    SPOTS_MAX = 10_000
    """Paths that are noted in all; a lake with more of them wrong needs no longer list."""

    def __init__(self, survey: Survey, wanted: set[bytes]) -> None:
        self._survey, self._wanted = survey, wanted
        self._below: dict[bytes, list[tuple[bytes, bytes]]] = {}
        """Node -> what it refers to, with the name that this adds to the path (or none)."""

    def spots(self) -> dict[bytes, list[Spot]]:
        """The wanted chunks with the paths that need them, in every version."""
        tops: list[tuple[LoggedVersion, bytes]] = []
        found: dict[bytes, list[Spot]] = {}
        for version in self._survey.kept_versions():
            root = bytes.fromhex(version.manifest.root)
            if root in self._wanted:
                found.setdefault(root, []).append(Spot(version.dataset, version.number, b""))
                continue
            try:
                top = open_root(self._survey.objects.node, root)
            except DAMAGE:
                continue
            if top.ref:
                tops.append((version, top.ref))
        self._gather(ref for _version, ref in tops)
        touched = self._touched()
        count = 0
        for version, ref in tops:
            todo = deque([(ref, b"")]) if ref in touched else deque()
            while todo and count < self.SPOTS_MAX:
                node, path = todo.popleft()
                if node in self._wanted:
                    spot = Spot(version.dataset, version.number, path)
                    found.setdefault(node, []).append(spot)
                    count += 1
                    continue
                for child, name in self._below.get(node, ()):
                    if child in touched:
                        here = path + b"/" + name if path and name else path or name
                        todo.append((child, here))
        return found

    def _gather(self, roots: Iterable[bytes]) -> None:
        todo = list(roots)
        while todo:
            wanted = todo.pop()
            if wanted in self._below or wanted in self._wanted:
                continue
            try:
                node = self._survey.objects.node(wanted)
            except DAMAGE:
                self._below[wanted] = []
                continue
            self._below[wanted], nodes = self._references(node)
            todo.extend(nodes)

    def _references(self, node: Node) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """What a node refers to that matters here, and which of that are nodes."""
        if node.kind == CHUNK_LIST_NODE:
            nodes = [span.id for span in node.spans] if node.level else []
            return [(s.id, b"") for s in node.spans if node.level or s.id in self._wanted], nodes
        if node.level:
            nodes = [branch.node for branch in node.branches]
            return [(wanted, b"") for wanted in nodes], nodes
        links, nodes = [], []
        for entry in node.entries:
            if entry.ref and entry.kind in (Kind.DIRECTORY, Kind.FILE):
                links.append((entry.ref, entry.name))
                nodes.append(entry.ref)
            elif entry.kind == Kind.FILE and entry.size:
                chunk = self._survey.objects.chunk_id(entry.sha256)
                if chunk in self._wanted:
                    links.append((chunk, entry.name))
        return links, nodes

    def _touched(self) -> set[bytes]:
        """Everything from which a wanted chunk can be reached."""
        above: dict[bytes, list[bytes]] = {}
        for node, links in self._below.items():
            for child, _name in links:
                above.setdefault(child, []).append(node)
        touched: set[bytes] = set()
        todo = list(self._wanted)
        while todo:
            here = todo.pop()
            if here not in touched:
                touched.add(here)
                todo.extend(above.get(here, ()))
        return touched
