"""Staging files and directory trees of this host without a mount.

Regular files are sealed where they lie: read once, chunked, hashed and written to packs, never
copied into staging. Attributes go to staging when the bytes are durable.

What lands where is as with `cp -a`: PATH arrives under its own last name in the directory `into` of
the dataset; `PATH/.` puts the contents of PATH there, and PATH's own mode, owner and times on that
directory. Symlinks are kept as such. Names of one file within one call stay hard
links. With `delete`, names that a staged directory has and its source has not are removed.

A file that changes while it is read is read again, `READS_MAX` times in all. What cannot be staged
(such a file, one that may not be read, a socket, a device, the lake itself or its mount) is
left out and named at the end in one error; everything else is staged by then.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dtafs.core.values import Content, Entry, Kind
from dtafs.errors import (
    BusyError,
    ConflictError,
    DtafsError,
    RefusedError,
    UsageError,
    from_os_error,
)
from dtafs.store.progress import Meter, Progress, Report
from dtafs.store.sources import (
    Path,
    Source,
    SteadyFile,
    identity,
    measure,
    quoted,
    split_path,
    targets_of,
)
from dtafs.store.staging.placing import Placing

if TYPE_CHECKING:
    from dtafs.store.lake import Lake
    from dtafs.store.staging.staging import Staging

T = TypeVar("T")
OnStaging = Callable[[Callable[[], T]], T]

READS_MAX = 3
BATCH_FILES = 4_096
BATCH_BYTES = 1 << 30
"""A batch ends in one flush: packs are synced once for so many files or bytes."""
KNOWN_FROM_BYTES = 128 * 1024
"""From here on a file has several chunks, and to look up what staging has in its place takes less
than the second hash, which the file needs only when it is another one."""
PLACED_AT_ONCE = 64
"""How many names one call changes in staging, which nothing else can use meanwhile."""
LISTED_AT_ONCE = 1_024
"""A directory with more names is listed step by step, since nothing else can use staging meanwhile."""
NAMED_MAX = 3
"""How many refused names an error spells out."""


class Ingest:
    """One call of `put`. Used by one thread; what it needs of staging it asks of `on_staging`."""

    def __init__(
        self,
        lake: Lake,
        dataset: str,
        staging: Staging,
        on_staging: OnStaging[Any],
        report: Report | None = None,
        read_bytes: int = 0,
        mirrors: Sequence[str] = (),
    ) -> None:
        """`mirrors` are directories that show the lake: staging them would never end."""
        from dtafs.store.sealing import BUFFER_BYTES, Sealer

        self._staging, self._on_staging = staging, on_staging
        self._own_places = {identity(os.stat(place)) for place in [os.fspath(lake.path), *mirrors]}
        self._now_ns = lake.now_ns
        self._meter = Meter(report, Progress("put"))
        self._sealer = Sealer(lake, dataset, self._meter, read_bytes or BUFFER_BYTES)
        self._batch: dict[int, Source] = {}
        self._batch_bytes = 0
        self._ready: list[tuple[Source, Content | None]] = []
        self._numbers = count()
        self._delete = False
        self._fresh: set[Path] = set()
        """Directories that staging did not have: neither has it what is in them."""
        self._links: dict[tuple[int, int], Path] = {}
        self._later: list[Source] = []
        self._directories: list[Source] = []
        self._placed: set[Path] = set()
        """Where those go: they get the times of their sources, whatever is put into them."""
        self._refused: list[tuple[type[DtafsError], str]] = []
        self._counts = {"files": 0, "directories": 0, "others": 0, "removed": 0, "size_bytes": 0}

    def run(self, paths: Sequence[bytes], into: bytes, delete: bool) -> dict[str, int]:
        """Stage `paths`; returns counts. Raises after everything else is staged, see above."""
        self._delete = delete
        try:
            sources = targets_of(paths, split_path(into))
            if self._meter.wanted:
                self._meter.total = measure([path for path, _ in sources])
            for path, target in sources:
                self._walk(path, target)
            self._flush()
            for source in self._later:
                self._on_staging(partial(self._link_one, source))
            self._counts["files"] += len(self._later)
            if self._later or self._delete:  # links and removals move the times of directories
                self._place([(directory, None) for directory in reversed(self._directories)])
            self._counts["directories"] = len(self._directories)
        finally:
            self._sealer.close()
        self._raise_refused()
        return self._counts

    def _walk(self, top: bytes, target: Path) -> None:
        stack = [iter([(top, target)])]
        while stack:
            following = next(stack[-1], None)
            if following is None:
                stack.pop()
                continue
            path, here = following
            try:
                source = Source.at(path, here, next(self._numbers))
                is_directory = source.kind == Kind.DIRECTORY
                names = sorted(os.listdir(path)) if is_directory else []
            except OSError as error:
                self._refuse(from_os_error(error, "reading"))
                continue
            if not is_directory:
                self._take(source)
                continue
            if identity(source.status) in self._own_places:
                self._refuse(UsageError(f"{quoted(path)} is the lake itself"))
                continue
            self._ready.append((source, None))
            self._directories.append(source)
            self._placed.add(here)
            if self._delete:
                self._clear(here, names)
            stack.append(_below(path, here, names))

    def _clear(self, directory: Path, keep: Sequence[bytes]) -> None:
        """Remove from a staged directory what its source does not have."""
        there: Iterable[bytes] = ()
        if not directory or directory[:-1] not in self._fresh:
            there = self._names_in(directory)
        if not there:
            self._fresh.add(directory)
        for name in set(there).difference(keep):
            self._remove((*directory, name))
            self._counts["removed"] += 1

    def _remove(self, path: Path) -> None:
        """Remove a path in parts, or a large tree would hold up everybody."""
        remove = self._on_staging(lambda: self._staging.removal(path, self._now_ns()))
        while remove is not None and self._on_staging(remove):
            pass

    def _take(self, source: Source) -> None:
        """Seal a file, or stage what needs no sealing, or refuse what cannot be staged."""
        if source.kind in (Kind.SYMLINK, Kind.FIFO):
            self._ready.append((source, None))
            self._counts["others"] += 1
        elif source.kind != Kind.FILE:
            what = source.kind.name.lower().replace("_", " ")
            text = f"{quoted(source.path)} is a {what}, which cannot be sealed"
            self._refuse(RefusedError(text))
        elif source.status.st_nlink > 1 and identity(source.status) in self._links:
            self._later.append(source)
        else:
            if source.status.st_nlink > 1:
                self._links[identity(source.status)] = source.target
            self._submit(source)
            self._batch_bytes += source.status.st_size
            if len(self._batch) >= BATCH_FILES or self._batch_bytes >= BATCH_BYTES:
                self._flush()

    def _submit(self, source: Source) -> None:
        known, size = None, source.status.st_size
        if size >= KNOWN_FROM_BYTES:
            known = self._on_staging(partial(self._staging.content_at, source.target))
        self._batch[source.number] = source
        self._sealer.submit(source.number, partial(SteadyFile, source), size, known)

    def _flush(self) -> None:
        """Make the batch durable and put it in staging; what changed meanwhile is read again."""
        while self._batch:
            batch, self._batch, self._batch_bytes = self._batch, {}, 0
            for sealed in self._sealer.flush():
                source = batch[cast(int, sealed.key)]
                if sealed.error is not None:
                    self._refuse(_as_ours(sealed.error))
                elif source.steady:
                    self._ready.append((source, sealed.content))
                    self._counts["files"] += 1
                    self._counts["size_bytes"] += source.status.st_size
                elif source.reads < READS_MAX:
                    self._submit(source)
                else:
                    text = (
                        f"{quoted(source.path)} changed each of the {READS_MAX} times it was read"
                    )
                    self._refuse(BusyError(text))
        ready, self._ready = self._ready, []
        ready.sort(key=lambda pair: pair[0].number)
        self._place(ready)

    def _place(self, group: Sequence[tuple[Source, Content | None]]) -> None:
        """Put names into staging, a few at a time, each after the directory it is in."""
        for start in range(0, len(group), PLACED_AT_ONCE):
            some = group[start : start + PLACED_AT_ONCE]
            things = [
                Placing(s.target, _entry_of(s), content, s.target[:-1] in self._placed)
                for s, content in some
            ]
            call = partial(self._staging.place_all, things, self._now_ns(), self._delete)
            for path in self._on_staging(call):
                source = next(source for source, _ in some if source.target == path)
                self._refuse(ConflictError(f"{quoted(source.path)} would replace a directory"))

    def _link_one(self, source: Source) -> None:
        """On staging's thread: another name for a file that was staged in this call."""
        staging, now_ns = self._staging, self._now_ns()
        first = staging.resolve(self._links[identity(source.status)])
        parent = staging.resolve(source.target[:-1])
        if first is None or parent is None:
            self._refuse(BusyError(f"{quoted(source.path)} has no other name that could be staged"))
            return
        there = staging.resolve(source.target)
        if there is not None and there.ino == first.ino:
            return
        if there is not None:
            staging.remove_path(source.target, now_ns)
        staging.link(first.ino, parent.ino, source.target[-1], now_ns)

    def _names_in(self, path: Path) -> Iterable[bytes]:
        """The names in a directory, none where there is no directory."""
        staging, found = self._staging, list[bytes]()
        few: Iterable[bytes] | None = self._on_staging(
            partial(staging.names_at, path, LISTED_AT_ONCE)
        )
        if few is not None:
            return few
        there = self._on_staging(lambda: staging.resolve(path))
        if there is None or there.kind != Kind.DIRECTORY:
            return []
        handle = self._on_staging(partial(staging.open_directory, there.ino))
        following: int | None = 0
        try:
            while following is not None:
                some, following = self._on_staging(partial(staging.list_some, handle, following))
                found += [name for name, _, _ in some]
        finally:
            self._on_staging(partial(staging.close_directory, handle))
        return found

    def _raise_refused(self) -> None:
        if not self._refused:
            return
        texts = [text for _, text in self._refused]
        named = "; ".join(texts[:NAMED_MAX])
        more = len(texts) - NAMED_MAX
        rest = f"; and {more} more" if more > 0 else ""
        raise self._refused[0][0](f"{named}{rest} (everything else is staged)")

    def _refuse(self, error: DtafsError) -> None:
        self._refused.append((type(error), str(error)))


def _below(path: bytes, target: Path, names: Iterable[bytes]) -> Iterator[tuple[bytes, Path]]:
    """Names of a directory with where they go, one by one: of a million there is only the name."""
    for name in names:
        yield os.path.join(path, name), (*target, name)


def _entry_of(source: Source) -> Entry:
    """The attributes that staging is to have."""
    status, kind = source.status, source.kind
    return Entry(
        b"",
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        0,
        ref=source.link,
        xattrs=source.xattrs,
        nlink=status.st_nlink if kind == Kind.FILE else 1,
    )


def _as_ours(error: BaseException) -> DtafsError:
    if isinstance(error, DtafsError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, "reading")
    raise error
