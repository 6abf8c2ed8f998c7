"""What staging changes against its base, in the terms of `dtafs.core.difference.compare`."""

from __future__ import annotations

from collections.abc import Iterator

from dtafs.core import tree
from dtafs.core.difference import Change, compare
from dtafs.core.nodes import Fetch
from dtafs.core.tree import Path
from dtafs.core.values import Entry, Kind
from dtafs.store.staging.overlay import Overlay
from dtafs.store.staging.rows import InodeRow
from dtafs.store.staging.walk import dirty_names, entry_of, peek_dentry

Step = Change | Iterator["Step"]
"""A result, or an iterator of results to go on with: nesting without recursion."""


def status(overlay: Overlay, fetch: Fetch) -> Iterator[Change]:
    """The changes in preorder.

    `after` of a file that no sealer has read yet has an empty hash. Sizes and totals of directories
    in `after` are those of the base: to know them would take building the tree. Blocks; any thread.
    """
    stack: list[Iterator[Step]] = [_top(overlay, fetch)]
    while stack:
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
        elif isinstance(step, Change):
            yield step
        else:
            stack.append(step)


def _top(overlay: Overlay, fetch: Fetch) -> Iterator[Step]:
    row = overlay.peek_row(overlay.root_ino)
    assert row is not None, "staging always has a row for its root"
    before = tree.open_root(fetch, overlay.row.root) if overlay.row.root else None
    if before is not None:
        after = entry_of(row, b"", before.ref, before.below)
        if after != before:
            yield Change((), before, after)
    yield _in_directory(overlay, fetch, (), row, before)


def _in_directory(
    overlay: Overlay, fetch: Fetch, path: Path, row: InodeRow, before: Entry | None
) -> Iterator[Step]:
    """What differs below a directory that the base has at the same path."""
    root = before.ref if before is not None else b""
    for _, name, after in dirty_names(overlay, row.ino):
        located = tree.find(fetch, root, name)
        yield _at(overlay, fetch, (*path, name), None if located is None else located.entry, after)


def _at(
    overlay: Overlay, fetch: Fetch, here: Path, old: Entry | None, after: InodeRow | None
) -> Iterator[Step]:
    """What differs at a path: what the base has there, and what staging has."""
    if old is not None and after is not None and Kind.DIRECTORY == old.kind == after.kind:
        new = entry_of(after, here[-1], old.ref, old.below)
        if new != old:
            yield Change(here, old, new)
        if after.base_root == old.ref:
            yield _in_directory(overlay, fetch, here, after, old)
        else:
            yield _in_another(overlay, fetch, here, after, old)
    elif old is not None and after is not None and Kind.DIRECTORY not in (old.kind, after.kind):
        new = entry_of(after, here[-1])
        if new != old:
            yield Change(here, old, new)
    else:
        if old is not None:
            yield _removed(fetch, here, old)
        if after is not None:
            yield _added(overlay, fetch, here, after)


def _in_another(
    overlay: Overlay, fetch: Fetch, path: Path, row: InodeRow, before: Entry
) -> Iterator[Step]:
    """What differs below a path where another directory has taken the place of the base's."""
    for located in tree.scan(fetch, before.ref):
        name = located.entry.name
        dentry = peek_dentry(overlay, row.ino, name)
        there = dentry.ino if dentry is not None else tree.find(fetch, row.base_root, name)
        if not there:
            yield _removed(fetch, (*path, name), located.entry)
    for name, now in _names(overlay, fetch, row):
        found, here = tree.find(fetch, before.ref, name), (*path, name)
        old = None if found is None else found.entry
        if isinstance(now, InodeRow):
            yield _at(overlay, fetch, here, old, now)
        elif old is None:
            yield _untouched(fetch, here, now)
        else:
            yield _compared(fetch, here, old, now)


def _compared(fetch: Fetch, path: Path, old: Entry, now: Entry) -> Iterator[Step]:
    """Two entries of the base, one of which has moved to where the other one is."""
    if Kind.DIRECTORY == old.kind == now.kind:
        for change in compare(fetch, old, now):
            yield change._replace(path=(*path, *change.path))
    elif Kind.DIRECTORY not in (old.kind, now.kind):
        if old != now:
            yield Change(path, old, now)
    else:
        yield _removed(fetch, path, old)
        yield _untouched(fetch, path, now)


def _removed(fetch: Fetch, path: Path, entry: Entry) -> Iterator[Step]:
    for below, old in tree.walk(fetch, entry):
        yield Change((*path, *below), old, None)


def _untouched(fetch: Fetch, path: Path, entry: Entry) -> Iterator[Step]:
    """What the base has elsewhere, and nobody has touched."""
    for below, new in tree.walk(fetch, entry):
        yield Change((*path, *below), None, new)


def _added(overlay: Overlay, fetch: Fetch, path: Path, row: InodeRow) -> Iterator[Step]:
    yield Change(path, None, entry_of(row, path[-1]))
    if row.kind == Kind.DIRECTORY:
        for name, now in _names(overlay, fetch, row):
            if isinstance(now, InodeRow):
                yield _added(overlay, fetch, (*path, name), now)
            else:
                yield _untouched(fetch, (*path, name), now)


def _names(
    overlay: Overlay, fetch: Fetch, row: InodeRow
) -> Iterator[tuple[bytes, InodeRow | Entry]]:
    """What is in a directory: entries of the base that nobody has touched, then rows."""
    for located in tree.scan(fetch, row.base_root):
        entry = located.entry
        if peek_dentry(overlay, row.ino, entry.name) is None:
            group = overlay.peek_row(entry.link) if entry.link else None
            yield entry.name, entry if group is None else group
    for name, data in overlay.tables.scan("dentry", overlay.owner(row.ino)):
        dentry = peek_dentry(overlay, row.ino, name)
        found = overlay.peek_row(dentry.ino) if data and dentry is not None and dentry.ino else None
        if found is not None:
            yield name, found
