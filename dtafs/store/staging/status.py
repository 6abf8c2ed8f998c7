"""What staging changes against its base, in the terms of `dtafs.core.difference.compare`."""

from __future__ import annotations

from collections.abc import Iterator

from dtafs.core import tree
from dtafs.core.difference import Change
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
        old, here = None if located is None else located.entry, (*path, name)
        both = old is not None and after is not None and Kind.DIRECTORY == old.kind == after.kind
        if old is not None and after is not None and both:
            new = entry_of(after, name, old.ref, old.below)
            if new != old:
                yield Change(here, old, new)
            if after.base_root == old.ref:
                yield _in_directory(overlay, fetch, here, after, old)
            else:
                yield _removed(fetch, here, old, below_only=True)
                yield _added_below(overlay, fetch, here, after)
        elif old is not None and after is not None and Kind.DIRECTORY not in (old.kind, after.kind):
            new = entry_of(after, name)
            if new != old:
                yield Change(here, old, new)
        else:
            if old is not None:
                yield _removed(fetch, here, old)
            if after is not None:
                yield _added(overlay, fetch, here, after)


def _removed(fetch: Fetch, path: Path, entry: Entry, below_only: bool = False) -> Iterator[Step]:
    for below, old in tree.walk(fetch, entry):
        if below or not below_only:
            yield Change((*path, *below), old, None)


def _added(overlay: Overlay, fetch: Fetch, path: Path, row: InodeRow) -> Iterator[Step]:
    yield Change(path, None, entry_of(row, path[-1]))
    if row.kind == Kind.DIRECTORY:
        yield _added_below(overlay, fetch, path, row)


def _added_below(overlay: Overlay, fetch: Fetch, path: Path, row: InodeRow) -> Iterator[Step]:
    """Everything in a directory that the base does not have at this path."""
    for located in tree.scan(fetch, row.base_root):
        entry = located.entry
        if peek_dentry(overlay, row.ino, entry.name) is not None:
            continue
        group = overlay.peek_row(entry.link) if entry.link else None
        if group is not None:
            yield _added(overlay, fetch, (*path, entry.name), group)
            continue
        for below, new in tree.walk(fetch, entry):
            yield Change((*path, entry.name, *below), None, new)
    for name, data in overlay.tables.scan("dentry", overlay.owner(row.ino)):
        dentry = peek_dentry(overlay, row.ino, name)
        found = overlay.peek_row(dentry.ino) if data and dentry is not None and dentry.ino else None
        if found is not None:
            yield _added(overlay, fetch, (*path, name), found)
