"""The caches behind every read: what is at hand without blocking, and who decodes a frame."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dtafs.core.tree import find
from dtafs.core.values import Content, Kind
from dtafs.errors import IntegrityError
from dtafs.store.lake import Lake
from dtafs.store.objects import INLINE_HASH_BYTES, ColdNode, Objects
from dtafs.store.packfiles import PackFiles
from dtafs.store.packs import Place
from tests.support.small_lakes import ACTOR, Item, commit, put_tree

READERS = 8
LARGE = random.Random(3).randbytes(1_000_000)
SMALL = b"a few letters"


class CountedFiles(PackFiles):
    """Packs that count the frames read from them, and garble them when told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.frames: list[tuple[bytes, int]] = []
        self.spoil = False

    def read_frame(self, place: Place, near: bool = False) -> bytes:
        self.frames.append((place.pack, place.offset))
        data = super().read_frame(place)
        return data.swapcase() if self.spoil else data


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    """A lake with one version of a small and a large file."""
    with Lake.create(tmp_path / "lake") as lake:
        lake.create_dataset("d", ACTOR)
        tree = {
            b"small": Item(Kind.FILE, 0o644, SMALL),
            b"large": Item(Kind.FILE, 0o644, LARGE),
        }
        put_tree(lake, "d", tree, tmp_path / "scratch")
        commit(lake, "d")
        yield lake


def fresh(lake: Lake) -> tuple[Objects, CountedFiles]:
    """The lake's objects with empty caches and counted reads."""
    files = CountedFiles(lake.path)
    return Objects(files, lake.locate, locate_all=lake.locate_all), files


def content_of(lake: Lake, name: bytes) -> Content:
    """The content of a file of the version."""
    found = find(lake.objects.node, lake.objects.top(lake.resolve("d:v1")).ref, name)
    assert found is not None
    return found.entry.content


def test_nothing_is_at_hand_at_first(lake: Lake) -> None:
    objects, files = fresh(lake)
    small, large = content_of(lake, b"small"), content_of(lake, b"large")
    assert objects.read_at_hand(small, 0, 100) is None
    assert objects.read_at_hand(large, 0, 100) is None
    with pytest.raises(ColdNode):
        objects.cached_node(large.chunk_list)
    assert not files.frames


def test_what_was_read_is_at_hand(lake: Lake) -> None:
    objects, files = fresh(lake)
    small, large = content_of(lake, b"small"), content_of(lake, b"large")
    assert objects.read(small, 0, 100) == SMALL
    assert objects.read(large, 0, len(LARGE)) == LARGE
    count = len(files.frames)
    assert objects.read_at_hand(small, 2, 100) == SMALL[2:]
    assert objects.read_at_hand(large, 10, 100) == LARGE[10:110]
    assert objects.read_at_hand(large, 0, len(LARGE)) is None, "of several chunks"
    assert len(files.frames) == count


def test_a_node_whose_frame_is_in_memory_is_at_hand(lake: Lake) -> None:
    objects, files = fresh(lake)
    row = lake.resolve("d:v1")
    top = objects.top(row)
    count = len(files.frames)
    assert objects.cached_node(top.ref).level == 0
    assert len(files.frames) == count, "the metadata of so small a version is one frame"


def test_much_is_not_hashed_where_nothing_may_block(lake: Lake) -> None:
    objects, _files = fresh(lake)
    large = content_of(lake, b"large")
    pieces = list(objects.pieces(large))
    offset = 0
    for piece in pieces:
        objects.clear()
        list(objects.pieces(large))
        place = lake.locate(piece.id)
        assert place is not None
        objects._frame(place, False)
        got = objects.read_at_hand(large, offset, 10)
        if piece.chunk_size > INLINE_HASH_BYTES:
            assert got is None
            objects.chunk(piece.id)
            got = objects.read_at_hand(large, offset, 10)
        assert got == LARGE[offset : offset + 10]
        offset += piece.chunk_size
    assert any(piece.chunk_size > INLINE_HASH_BYTES for piece in pieces)


@pytest.mark.parametrize("seed", range(5))
def test_places_that_are_looked_up_together_need_not_be_right(lake: Lake, seed: int) -> None:
    """What is read is the same whatever they are: some, none, those of other chunks, or out of date."""
    dice = random.Random(seed)
    large = content_of(lake, b"large")
    every = [place for _chunk, place in lake.index.places()]

    def some(chunks: Sequence[bytes]) -> dict[bytes, Place]:
        found = lake.locate_all(chunks)
        for chunk in list(found):
            fate = dice.randrange(5)
            if fate == 0:
                del found[chunk]
            elif fate == 1:
                found[chunk] = dice.choice(every)
            elif fate == 2:
                found[chunk] = found[chunk]._replace(pack=bytes(32))
            elif fate == 3:
                found[chunk] = found[chunk]._replace(start=found[chunk].start + 1)
        return found

    objects = Objects(CountedFiles(lake.path), lake.locate, locate_all=some)
    for _ in range(20):
        offset = dice.randrange(len(LARGE))
        size = dice.randrange(1, len(LARGE))
        assert objects.read(large, offset, size) == LARGE[offset : offset + size]
        if dice.random() < 0.3:
            objects.clear()


def test_neighbours_in_a_frame_are_read_and_checked_once(lake: Lake) -> None:
    objects, files = fresh(lake)
    large = content_of(lake, b"large")
    frames = {
        (place.pack, place.offset) for place in map(lake.locate, ids_of(objects, large)) if place
    }
    list(objects.pieces(large))  # the nodes of its list
    files.frames.clear()
    assert objects.read(large, 0, len(LARGE)) == LARGE
    assert len(files.frames) == len(frames) < len(ids_of(objects, large))
    files.spoil = True
    objects.clear()
    with pytest.raises(IntegrityError, match="damaged in pack"):
        objects.read(large, 0, len(LARGE))


def ids_of(objects: Objects, content: Content) -> list[bytes]:
    return [piece.id for piece in objects.pieces(content)]


def test_damage_is_never_at_hand(lake: Lake) -> None:
    objects, files = fresh(lake)
    small = content_of(lake, b"small")
    files.spoil = True
    with pytest.raises(IntegrityError, match="damaged in pack"):
        objects.read(small, 0, 100)
    assert objects.read_at_hand(small, 0, 100) is None


def test_of_many_readers_one_decodes(lake: Lake) -> None:
    objects, files = fresh(lake)
    large = content_of(lake, b"large")
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda _: objects.read(large, 0, len(LARGE)), range(READERS)))
    assert found == [LARGE] * READERS
    assert len(files.frames) == len(set(files.frames))


def test_a_reader_that_fails_leaves_the_others_to_try(lake: Lake) -> None:
    objects, files = fresh(lake)
    small = content_of(lake, b"small")
    files.spoil = True
    with pytest.raises(IntegrityError):
        objects.read(small, 0, 100)
    objects.clear()
    files.spoil = False
    assert objects.read(small, 0, 100) == SMALL
