"""Commit: from staging to an immutable version.

Two steps. `prepare` chunks what is staged while everybody goes on working, and does most of the
work. `finish` needs staging to hold still, which its caller sees to: it seals what is left, builds
the tree, and logs the version. The order of `finish`, and what a crash leaves after each step:

1. packs of content and metadata, durable and noted as pending       staging as it was
2. the intent: version and root that are about to be logged          staging as it was
3. the log entry, created if absent: **the commit point**            the version is there
4. the index follows, the version in one txn                         the version is there
5. the packs are pending no more, staging is moved onto the version  the version is there

After 3 or 4 the next open completes the rest (`complete_commit`): the intent tells that what is in
staging is what was committed. Where only 5 failed, for want of room, and staging was written to since,
it stays on the version before: it holds all that was committed and more, and the next commit is right.

Both block and may run in any thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice

import msgspec

from dtafs.core.format import PackKind
from dtafs.core.names import check_tag
from dtafs.core.tree import edit, seal_root
from dtafs.core.values import Actor, Manifest, Source, Transform
from dtafs.errors import BusyError, IntegrityError, RefusedError, StorageError, StorageFullError
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.packs import Pack, read_footer
from dtafs.store.placement.removal import doom
from dtafs.store.progress import Meter, Progress, Report
from dtafs.store.reachable import require_all
from dtafs.store.sealing import Sealer
from dtafs.store.spool import Spool
from dtafs.store.staging.sealing import Build
from dtafs.store.staging.staging import Staging

PROBLEMS_NAMED = 5
"""So many of the things that cannot be sealed are in the sentence that refuses a commit."""

ROUND_FILES = 8_192
"""Files sealed between two flushes: bounds what is repeated after a failure, and the memory."""

PASSES = 3
"""Each pass takes what was written during the one before it, which is less each time unless somebody
goes on writing for ever: then `finish`, which lets nobody write, takes the rest."""

ATTEMPTS = 5
"""Times that `finish` builds the tree again because a file was not sealed yet."""

MESSAGE_MAX_BYTES = 64 * 1024


def prepare(lake: Lake, dataset: str, report: Report | None = None) -> int:
    """Seal every staged file that is not sealed yet; the number of files.

    Files that go on changing are left for `finish`. Raises what kept a file from being read.
    """
    staging = lake.staging(dataset)
    meter = None
    if report is not None:
        files = size = 0
        for _ino, _generation, own in staging.unsealed():
            files, size = files + 1, size + own
        meter = Meter(report, Progress("commit", 0, 0, files, size))
    count = 0
    for _ in range(PASSES):
        todo = staging.unsealed()
        while some := list(islice(todo, ROUND_FILES)):
            count += seal_files(lake, dataset, staging, some, meter)
        if next(staging.unsealed(), None) is None:
            break
    return count


def seal_files(
    lake: Lake,
    dataset: str,
    staging: Staging,
    files: list[tuple[int, int, int]],
    meter: Meter | None = None,
) -> int:
    """Seal staged files, given as (ino, generation, size); how many were still unchanged after it."""
    with Sealer(lake, dataset, meter) as sealer:
        for ino, generation, size in files:
            sealer.submit((ino, generation), partial(staging.open_source, ino), size)
        results = sealer.flush()
        done = 0
        for (ino, generation), content, _error in results:
            if content is not None:
                done += staging.sealed(ino, generation, content)
    for (ino, generation), _content, error in results:
        # A file that was written or removed while it was read is no failure: it comes again, or not.
        if error is not None and (staging.generation(ino) or (0, 0))[0] == generation:
            raise error
    return done


def finish(
    lake: Lake,
    dataset: str,
    *,
    message: str,
    actor: Actor,
    tags: tuple[str, ...] = (),
    allow_empty: bool = False,
    sources: tuple[Source, ...] = (),
    transform: Transform | None = None,
    report: Report | None = None,
) -> VersionRow:
    """Make the version. Nothing may write to the dataset's staging meanwhile.

    Raises RefusedError when nothing changed (unless `allow_empty`) or staging holds what cannot be
    sealed, BusyError when files do not hold still, ConflictError when another commit came first; then
    staging is as it was.
    """
    if len(message.encode(errors="replace")) > MESSAGE_MAX_BYTES:
        raise RefusedError(f"a message has at most {MESSAGE_MAX_BYTES} bytes")
    for tag in tags:
        check_tag(tag)
    _complete_last(lake, dataset)
    row = lake.dataset(dataset)
    parent = lake.index.version(dataset, row.newest) if row.newest else None
    staging = lake.staging(dataset)
    with Spool(lake.disk) as nodes, Sealer(lake, dataset) as sealer:
        built = _build(lake, staging, nodes, report)
        root, root_bytes = seal_root(built.top)
        below = parent if parent is not None and not parent.disposed else None
        unchanged = root == below.root if below else not built.top.below.entries
        if unchanged and not allow_empty:
            base = below.name if below else "an empty dataset"
            raise RefusedError(f"nothing to commit: staging of {dataset!r} is the same as {base}")
        first_tags = row.tags if parent is None else ()
        sealer.add_nodes(chain(nodes.items(), [(root, root_bytes)]))
        sealer.flush()
        packs = _claim_packs(lake, dataset)
        require_all(lake, dataset, nodes, [pack for _kind, pack in packs])
        manifest = Manifest(
            dataset=dataset,
            version=row.newest + 1,
            root=root.hex(),
            parent=parent.manifest_sha256.hex() if parent else None,
            files=built.top.below.files,
            size_bytes=built.top.below.size,
            message=message,
            tags=tuple(sorted({*tags, *first_tags})),
            sources=sources,
            transform=transform,
            packs=tuple(pack.hex() for _kind, pack in packs),
        )
        assert lake.pending is not None
        lake.pending.intend(dataset, manifest.version, root)
        lake.record(dataset, "committed", msgspec.to_builtins(manifest), actor)
    version = lake.index.version(dataset, manifest.version)
    assert version is not None and version.root == root
    try:
        staging.rebase(version.number, version.root, built.directories)
        lake.pending.settle(dataset, _readable(lake, dataset, [pack for _kind, pack in packs]))
    except (StorageError, StorageFullError) as error:
        raise type(error)(
            f"{version.name} is sealed and safe, but staging could not follow ({error}); "
            "it will when the lake is next opened"
        ) from error
    return version


def _claim_packs(lake: Lake, dataset: str) -> list[tuple[PackKind, bytes]]:
    """The packs that the version brings, sorted: all of its uncommitted work. No collection takes one
    now. IntegrityError when the footer of one cannot be read."""
    assert lake.pending is not None
    with lake.condemned.lock:
        packs = lake.pending.packs(dataset)
        lake.condemned.spare(packs)
    return sorted((read_footer(lake.path, pack).kind, pack) for pack in packs)


def commit(
    lake: Lake,
    dataset: str,
    message: str,
    actor: Actor,
    *,
    tags: tuple[str, ...] = (),
    allow_empty: bool = False,
) -> VersionRow:
    """`prepare` and `finish`, for a caller that alone uses the lake."""
    prepare(lake, dataset)
    return finish(lake, dataset, message=message, actor=actor, tags=tags, allow_empty=allow_empty)


def _build(lake: Lake, staging: Staging, nodes: Spool, report: Report | None) -> Build:
    """The tree of staging, its new nodes in `nodes`, when everything in it is sealed and can be."""
    for _ in range(ATTEMPTS):
        nodes.clear()
        try:
            return staging.build(lake.objects.node, edit, nodes.add)
        except BusyError:  # not sealed yet, or written to since
            prepare(lake, staging.dataset, report)
        except RefusedError:
            problems = [str(problem) for problem in staging.problems()]
            named = "; ".join(problems[:PROBLEMS_NAMED])
            left = len(problems) - PROBLEMS_NAMED
            more = f"; and {left} more" if left > 0 else ""
            raise RefusedError(f"{staging.dataset!r} cannot be committed: {named}{more}") from None
    path = staging.path_of(next(staging.unsealed())[0]).decode(errors="replace")
    raise BusyError(
        f"{path} in staging of {staging.dataset!r} keeps changing; commit when it is written"
    )


def _complete_last(lake: Lake, dataset: str) -> None:
    """Make up for a commit whose entry is there and that the index or staging could not follow."""
    lake.catch_up()
    assert lake.pending is not None
    for name, number, root in lake.pending.intents():
        if name == dataset:
            complete_commit(lake, dataset, number, root)


def complete_commit(lake: Lake, dataset: str, number: int, root: bytes) -> None:
    """After a crash or a failure: move staging onto a version that was made from it, or forget the
    intent. Nothing may write to the dataset's staging meanwhile."""
    assert lake.pending is not None
    version = lake.index.version(dataset, number)
    if version is None or version.root != root:
        lake.pending.settle(dataset)
        return
    staging = lake.staging(dataset)
    packs = [bytes.fromhex(pack) for pack in version.manifest.packs]
    if staging.base.version >= number:
        lake.pending.settle(dataset)
        _forget(lake, dataset, packs)
        return
    try:
        built = staging.build(lake.objects.node, edit, _drop)
        same = seal_root(built.top)[0] == root
    except (BusyError, RefusedError):
        same = False
    # Staging that was written to since, because only moving it on had failed, stays as it is: it holds
    # all of the version and what came after, and the next commit follows the version.
    if same:
        staging.rebase(version.number, version.root, built.directories)
    lake.pending.settle(dataset)
    _forget(lake, dataset, packs)


def _drop(node: bytes, data: bytes) -> None:
    """A sink for nodes that the lake has already."""


def _forget(lake: Lake, dataset: str, packs: list[bytes]) -> None:
    """Drop the rows of pending packs, damaged ones too."""
    assert lake.pending is not None
    lake.pending.drop(dataset, _readable(lake, dataset, packs))


def _readable(lake: Lake, dataset: str, packs: Iterable[bytes]) -> Iterator[Pack]:
    """Those of some pending packs whose footer can be read, one at a time; the rows of others go."""
    assert lake.pending is not None
    for pack in packs:
        try:
            yield read_footer(lake.path, pack)
        except IntegrityError:
            lake.pending.drop_unreadable(dataset, pack)


def release_pending(lake: Lake) -> None:
    """Remove the packs of staged work that was discarded: those of datasets whose staging is clean.

    Called when the lake is opened, when no file handle can need them any more.
    """
    assert lake.pending is not None
    for pack, dataset in lake.pending.all_packs():
        if lake.index.dataset(dataset) is not None and not lake.staging(dataset).is_clean():
            continue
        named = lake.index.pack(pack) is not None
        _forget(lake, dataset, [pack])
        shared = any(other == pack for other, _dataset in lake.pending.all_packs())
        if not named and not shared:
            doom(lake, pack)
