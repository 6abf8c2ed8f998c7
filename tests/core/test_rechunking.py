"""Cutting anew where a file changed gives the chunks that cutting all of it would give."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtafs.core.chunking import Chunker, ChunkParameters
from dtafs.core.rechunking import Kept, Rechunking, Stretch, Where, zero_chunk
from dtafs.core.values import Span

SMALL = ChunkParameters(minimum=64, average=256, maximum=1024)


def spans_of(chunker: Chunker, data: bytes) -> list[Span]:
    cuts = chunker.cuts(memoryview(data), True)
    return [Span(hashlib.sha256(chunk).digest(), len(chunk)) for chunk in cuts]


class Edited:
    """An old file, patches and holes over it, and the new file that they make."""

    def __init__(self, old: bytes, size: int, changes: list[tuple[int, bytes | int]]) -> None:
        self.old = old
        data = bytearray(old[:size]) + bytes(max(0, size - len(old)))
        marks = [Where.OLD] * min(size, len(old)) + [Where.ZEROS] * max(0, size - len(old))
        for at, change in changes:
            where = Where.ZEROS if isinstance(change, int) else Where.NEW
            put = (bytes(change) if isinstance(change, int) else change)[: max(0, size - at)]
            data[at : at + len(put)] = put
            marks[at : at + len(put)] = [where] * len(put)
        self.new = bytes(data)
        ends = [i for i, (a, b) in enumerate(pairwise(marks), 1) if a != b]
        borders = [0, *ends, size] if size else []
        self.layout = [Stretch(a, b, marks[a]) for a, b in pairwise(borders)]
        self.read_bytes = 0

    def read(self, at: int, size: int) -> memoryview:
        self.read_bytes += size
        return memoryview(self.new)[at : at + size]

    def rechunk(self, chunker: Chunker) -> list[Span]:
        zeros = zero_chunk(chunker)
        zero = Span(hashlib.sha256(zeros).digest(), len(zeros))
        found: list[Span] = []
        old = spans_of(chunker, self.old)
        for step in Rechunking(chunker, zero, old, self.layout, self.read):
            if isinstance(step, Kept):
                assert step.zeros == (step.span.id == zero.id)
                found += [step.span] * step.times
            else:
                assert step
                found += [Span(hashlib.sha256(c).digest(), len(c)) for c in step]
        return found


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


@st.composite
def edits(draw: st.DrawFn) -> Edited:
    """Old files of noise, zeros and repeats; sizes near the old one; patches of all three."""
    runs = st.tuples(st.sampled_from(["noise", "zeros", "ab"]), st.integers(0, 3_000))
    seeds = st.integers(0, 9)

    def filled(run: tuple[str, int]) -> bytes:
        kind, size = run
        return {"noise": noise(size, draw(seeds)), "zeros": bytes(size)}.get(kind, b"ab" * size)

    old = b"".join(map(filled, draw(st.lists(runs, max_size=4))))
    size = draw(
        st.one_of(
            st.just(len(old)),
            st.integers(0, len(old)),
            st.integers(len(old), len(old) + 5_000),
            st.sampled_from(list_ends(old)),
        )
    )
    patch = st.one_of(st.binary(min_size=1, max_size=40), runs.map(filled), st.integers(1, 3_000))
    places = st.one_of(st.integers(0, max(0, size - 1)), st.sampled_from(list_ends(old)))
    return Edited(old, size, draw(st.lists(st.tuples(places, patch), max_size=4)))


def list_ends(old: bytes) -> list[int]:
    """Offsets at and around the cuts of a file, where mistakes would be."""
    ends, at = [0], 0
    for span in spans_of(Chunker(SMALL), old):
        at += span.size
        ends += [at - 1, at, at + 1, at + 2]
    return ends


@given(edits())
def test_the_chunks_are_those_of_the_whole_file(edited: Edited) -> None:
    chunker = Chunker(SMALL)
    assert edited.rechunk(chunker) == spans_of(chunker, edited.new)


@pytest.mark.parametrize("more", range(5))
def test_a_few_bytes_more_or_less_at_the_end(more: int) -> None:
    """A cut that one byte follows depends on whether that is the last byte."""
    chunker, old = Chunker(SMALL), noise(40_000, 1)
    for end in list_ends(old):
        for size in (end + more, max(0, end - more)):
            edited = Edited(old, size, [])
            assert edited.rechunk(chunker) == spans_of(chunker, edited.new)


def test_little_is_read_for_a_little_change() -> None:
    chunker = Chunker(ChunkParameters())
    old = noise(8_000_000, 2)
    limit = chunker.parameters.maximum
    appended = Edited(old, len(old) + 1_000_000, [(len(old), noise(1_000_000, 3))])
    patched = Edited(old, len(old), [(3_000_000, b"!"), (6_000_000, b"?")])
    for edited, changed, places in ((appended, 1_000_000, 1), (patched, 2, 2)):
        assert edited.rechunk(chunker) == spans_of(chunker, edited.new)
        assert edited.read_bytes <= changed + places * 6 * limit


def test_zeros_are_neither_read_nor_cut() -> None:
    chunker = Chunker(ChunkParameters())
    edited = Edited(b"", 50_000_000, [(7_000_001, b"island"), (49_000_000, b"shore")])
    assert edited.rechunk(chunker) == spans_of(chunker, edited.new)
    assert edited.read_bytes <= 6 * chunker.parameters.maximum


def test_an_empty_file_has_no_chunks() -> None:
    assert Edited(noise(5_000, 4), 0, []).rechunk(Chunker(SMALL)) == []
