"""What differs between two directory trees, without reading what they share."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from dtafs.core.nodes import Fetch
from dtafs.core.tree import Path, directory_node, walk
from dtafs.core.values import Branch, Entry, Kind


class Change(NamedTuple):
    """One path that differs: `before` is None where it was added, `after` where it was removed."""

    path: Path
    before: Entry | None
    after: Entry | None


def compare(fetch: Fetch, before: Entry, after: Entry) -> Iterator[Change]:
    """The changes from one directory to another, in preorder.

    A directory that came or went yields itself and everything below it. A directory whose own
    attributes are the same yields only what changed below.
    """
    if _own(before) != _own(after):
        yield Change((), before, after)
    yield from _compare_below(fetch, (), before, after)


def _own(entry: Entry) -> tuple[object, ...]:
    """What `entry` says of itself, apart from what lies below it."""
    own = (entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.xattrs)
    if entry.kind == Kind.DIRECTORY:
        return own
    return (*own, entry.size, entry.sha256, entry.ref, entry.link, entry.nlink)


def _compare_below(fetch: Fetch, path: Path, before: Entry, after: Entry) -> Iterator[Change]:
    for old, new in _pairs(fetch, before.ref, after.ref):
        if old is None or new is None:
            yield from _whole(fetch, path, old, new)
        elif Kind.DIRECTORY in (old.kind, new.kind) and old.kind != new.kind:
            yield from _whole(fetch, path, old, None)
            yield from _whole(fetch, path, None, new)
        else:
            here = (*path, new.name)
            if _own(old) != _own(new):
                yield Change(here, old, new)
            if new.kind == Kind.DIRECTORY and old.ref != new.ref:
                yield from _compare_below(fetch, here, old, new)


def _whole(fetch: Fetch, path: Path, old: Entry | None, new: Entry | None) -> Iterator[Change]:
    top = old if old is not None else new
    assert top is not None
    for below, entry in walk(fetch, top):
        here = (*path, top.name, *below)
        yield Change(here, entry, None) if old is not None else Change(here, None, entry)


class _Frontier:
    """One side of the comparison: the items not consumed yet, expanded only where they must be."""

    def __init__(self, fetch: Fetch, root: bytes) -> None:
        self._fetch = fetch
        self._items: deque[tuple[int, Entry | Branch]] = deque()
        if root:
            node = directory_node(fetch, root)
            self._items.extend((node.level, item) for item in node.items)  # type: ignore[misc]

    def head(self) -> tuple[int, Entry | Branch] | None:
        """The level and item that come next, or None at the end."""
        return self._items[0] if self._items else None

    def drop(self) -> None:
        self._items.popleft()

    def expand(self) -> None:
        """Replace the branch at the head by its children."""
        _level, item = self._items.popleft()
        assert isinstance(item, Branch)
        node = directory_node(self._fetch, item.node)
        self._items.extendleft((node.level, child) for child in reversed(node.items))  # type: ignore[misc]


def _pairs(
    fetch: Fetch, before: bytes, after: bytes
) -> Iterator[tuple[Entry | None, Entry | None]]:
    """Entries that differ, paired by name, in order of names."""
    if before == after:
        return
    a, b = _Frontier(fetch, before), _Frontier(fetch, after)
    while True:
        left, right = a.head(), b.head()
        if left is None and right is None:
            return
        if left is not None and right is not None:
            if left == right:
                a.drop()
                b.drop()
                continue
            if left[0] != right[0]:
                (a if left[0] > right[0] else b).expand()
                continue
        if left is not None and isinstance(left[1], Branch):
            a.expand()
            if right is not None:
                b.expand()
            continue
        if right is not None and isinstance(right[1], Branch):
            b.expand()
            continue
        yield _step(a, b, left, right)


def _step(
    a: _Frontier,
    b: _Frontier,
    left: tuple[int, Entry | Branch] | None,
    right: tuple[int, Entry | Branch] | None,
) -> tuple[Entry | None, Entry | None]:
    old = left[1] if left is not None else None
    new = right[1] if right is not None else None
    assert not isinstance(old, Branch) and not isinstance(new, Branch)
    if old is not None and (new is None or old.name <= new.name):
        a.drop()
        if new is not None and new.name == old.name:
            b.drop()
            return old, new
        return old, None
    b.drop()
    return None, new
