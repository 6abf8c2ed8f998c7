"""Rows in memory, in order; values of very many numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dtafs.store.staging import batch
from dtafs.store.staging.batch import Batch
from dtafs.store.staging.counts import Counts

KEYS = st.integers(0, 300).map(lambda n: n.to_bytes(2, "big"))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(KEYS, max_size=90)),
        st.tuples(st.just("range"), KEYS),
    ),
    max_size=12,
)


@given(STEPS)
def test_ranges_are_in_order_whatever_was_added_between_them(
    steps: list[tuple[str, list[bytes] | bytes]],
) -> None:
    rows, model = Batch(["t"]), dict[bytes, bytes | None]()
    for number, (_step, given_) in enumerate(steps):
        if isinstance(given_, list):
            value = None if number % 3 == 0 else b"%d" % number
            rows.add(("t", b"o", rest, value) for rest in given_)
            model.update(dict.fromkeys(given_, value))
        else:
            expected = sorted(row for row in model.items() if row[0] >= given_)
            for limit in (1, 7, 1000):
                assert rows.range("t", b"o", given_, limit) == expected[:limit]
    assert rows.range("t", b"another", b"", 10) == []


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), KEYS), max_size=50), st.integers(1, 60))
def test_parts_hold_every_row_once(keys: list[tuple[bytes, bytes]], size: int) -> None:
    rows = Batch(["t", "u"])
    rows.add(("t" if n % 2 else "u", *key, b"%d" % n) for n, key in enumerate(keys))
    parts = list(rows.parts(size))
    assert parts
    assert all(len(part) == size for part in parts[:-1])
    flat = [row for part in parts for row in part]
    assert len({row[:2] for row in flat}) == len(flat)
    for table, owner_and_rest, value in flat:
        assert rows.of(table, owner_and_rest[:1])[owner_and_rest[1:]] == value
    assert len(flat) == sum(len(r) for owners in rows.rows.values() for r in owners.values())


def test_few_rows_keep_no_order() -> None:
    rows = Batch(["t"])
    rows.add(("t", b"o", b"%03d" % n, b"") for n in range(batch.SORTED_EACH_TIME))
    assert len(rows.range("t", b"o", b"", 1000)) == batch.SORTED_EACH_TIME
    assert not rows._orders


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 2))))
def test_counts_are_those_that_were_set(changes: list[tuple[int, int]]) -> None:
    counts, model = Counts(), dict[int, int]()
    for number, value in changes:
        counts.set((1 << 60) + number, value)
        model[(1 << 60) + number] = value
    assert all(counts.get(number) == value for number, value in model.items())
    assert all((number in counts) == bool(value) for number, value in model.items())
    assert sorted(counts) == sorted(number for number, value in model.items() if value)
    for number in model:
        counts.set(number, 0)
    assert not counts._pages
