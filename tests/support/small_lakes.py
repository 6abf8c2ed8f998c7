"""Small trees and lakes, and reading them whole: for tests that need many of them."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import NamedTuple

from dtafs.core.tree import walk
from dtafs.core.values import Actor, Entry, Kind
from dtafs.store.index import VersionRow
from dtafs.store.lake import Lake
from dtafs.store.session import Session

ACTOR = Actor(user="tester", uid=1000, host="host", program="tests")


class Item(NamedTuple):
    """What a name is: kind, permission bits, and bytes of a file or target of a symlink."""

    kind: int
    mode: int
    content: bytes = b""


Tree = dict[bytes, Item]
"""Paths below a version's top directory."""


def tree_of_seed(seed: int) -> Tree:
    """A tree of about twenty names: empty, small, and two of several chunks that share most."""
    dice = random.Random(seed)
    common = random.Random(0).randbytes(300_000)
    tree: Tree = {b"empty": Item(Kind.FILE, 0o600), b"dir": Item(Kind.DIRECTORY, 0o755)}
    tree[b"dir/inner"] = Item(Kind.DIRECTORY, 0o700)
    tree[b"dir/bare"] = Item(Kind.DIRECTORY, 0o755)
    tree[b"link"] = Item(Kind.SYMLINK, 0o777, b"dir/file %d" % seed)
    tree[b"big"] = Item(Kind.FILE, 0o644, common[:200_000] + bytes([seed % 256]) + common[200_000:])
    tree[b"dir/inner/\xff odd\n"] = Item(Kind.FILE, 0o444, b"a name of bytes")
    for number in range(10):
        size = dice.choice((1, 17, 900, 5_000))
        path = b"dir/file %d" % number if number % 2 else b"dir/inner/file %d" % number
        tree[path] = Item(Kind.FILE, 0o644, dice.randbytes(size))
    return tree


def write_tree(tree: Tree, top: Path) -> None:
    """Make a tree on this host, in place of what is there."""
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    for path in sorted(tree):
        item, place = tree[path], os.path.join(os.fsencode(top), path)
        if item.kind == Kind.DIRECTORY:
            os.mkdir(place)
        elif item.kind == Kind.SYMLINK:
            os.symlink(item.content, place)
        else:
            with open(place, "wb") as file:
                file.write(item.content)
        if item.kind != Kind.SYMLINK:
            os.chmod(place, item.mode)


def read_version(lake: Lake, version: VersionRow) -> Tree:
    """A version as it reads, every byte of it."""
    tree: Tree = {}
    for path, entry in walk(lake.objects.node, lake.objects.top(version)):
        if path:
            tree[b"/".join(path)] = _item(lake, entry)
    return tree


def _item(lake: Lake, entry: Entry) -> Item:
    if entry.kind == Kind.FILE:
        return Item(entry.kind, entry.mode, lake.objects.read(entry.content, 0, entry.size))
    return Item(entry.kind, entry.mode, entry.ref if entry.kind == Kind.SYMLINK else b"")


def put_tree(lake: Lake, dataset: str, tree: Tree, scratch: Path) -> None:
    """Make staging this tree, and nothing else."""
    write_tree(tree, scratch)
    Session(lake, ACTOR).put(dataset, [f"{scratch}/."], delete=True)


def commit(lake: Lake, dataset: str, message: str = "", tags: tuple[str, ...] = ()) -> VersionRow:
    """Commit whatever is staged, also nothing."""
    facts = Session(lake, ACTOR).commit(dataset, message, tags, allow_empty=True)
    return lake.resolve(facts["id"])
