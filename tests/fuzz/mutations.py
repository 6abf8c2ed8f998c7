"""Valid bytes, altered: what a disk, a network or a stranger makes of them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from hypothesis import note, settings
from hypothesis import strategies as st

from tests.support.tried import tried

BATCH = 20
"""So many mutants are made of each example of hypothesis, whose own work takes longer than theirs."""

TRIED: Counter[str] = Counter()
ACCEPTED: Counter[str] = Counter()
"""Inputs by what was fuzzed, and how many of them were taken for valid; printed at the end."""

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
_TOKENS = (
    *(bytes((head,)) for head in range(0x80, 0xE0)),  # MessagePack's containers and numbers
    *b'{ } [ ] , : " null true 1e999 -0 \\ud800 \\u0000 9007199254740993'.split(),
    *(b"/", b"\0", b"..", b".", b"\xff\xfe", b"\xc0\x80", b"../", b"\r\n", b"%s"),
)


def mutant(valid: Sequence[bytes], dice: random.Random) -> bytes:
    """One of `valid` after one to four alterations; at times a splice of two, or pure noise."""
    if dice.random() < 0.02:
        return dice.randbytes(dice.randrange(300))
    data = bytearray(dice.choice(valid))
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        _ALTERATIONS[dice.randrange(len(_ALTERATIONS))](data, valid, dice)
    return bytes(data)


def _flip(data: bytearray, _valid: Sequence[bytes], dice: random.Random) -> None:
    if data:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def _set(data: bytearray, _valid: Sequence[bytes], dice: random.Random) -> None:
    if data:
        data[dice.randrange(len(data))] = dice.randrange(256)


def _cut(data: bytearray, _valid: Sequence[bytes], dice: random.Random) -> None:
    del data[dice.randrange(len(data) + 1) :]


def _remove(data: bytearray, _valid: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randrange(len(data) + 1)
    del data[at : at + dice.choice((1, 2, 4, 8, 40))]


def _repeat(data: bytearray, _valid: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randrange(len(data) + 1)
    data[at:at] = data[at : at + dice.choice((1, 4, 40, 200))] * dice.choice((1, 1, 3, 50))


def _number(data: bytearray, _valid: Sequence[bytes], dice: random.Random) -> None:
    size = dice.choice((1, 2, 4, 8))
    number = dice.choice(_NUMBERS) % (1 << 8 * size)
    at = dice.randrange(len(data) + 1)
    data[at : at + size] = number.to_bytes(size, dice.choice(("big", "little")))


def _insert(data: bytearray, _valid: Sequence[bytes], dice: random.Random) -> None:
    at = dice.randrange(len(data) + 1)
    data[at:at] = dice.choice(_TOKENS) * dice.choice((1, 1, 1, 3))


def _splice(data: bytearray, valid: Sequence[bytes], dice: random.Random) -> None:
    other = dice.choice(valid)
    data[dice.randrange(len(data) + 1) :] = other[dice.randrange(len(other) + 1) :]


_ALTERATIONS: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    _flip,
    _set,
    _cut,
    _remove,
    _repeat,
    _number,
    _insert,
    _splice,
)


SEEDS = st.integers(0, 2**64 - 1)


def how_many(share: float = 1.0) -> settings:
    """A share of the examples of the profile that was chosen: `--soak` has a hundred times as many."""
    usual = settings.default
    long = usual.max_examples > 500
    return settings(usual, max_examples=max(5, int((5_000 if long else 200) * share)))


def fuzz(
    what: str,
    valid: Sequence[bytes],
    decode: Callable[[bytes], object],
    allowed: tuple[type[Exception], ...],
    seed: int,
) -> None:
    """Give a batch of mutants to a decoder: it takes them or raises one of `allowed`."""
    dice = random.Random(seed)
    for _ in range(BATCH):
        data = mutant(valid, dice)
        TRIED[what] += 1
        tried("malformed inputs")
        try:
            decode(data)
        except allowed as error:
            assert str(error), "an error says what is wrong"
        except BaseException:
            note(f"{what} was given {data!r}")
            raise
        else:
            ACCEPTED[what] += 1
