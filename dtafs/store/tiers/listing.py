"""How far the logs reach that a tier has, by its listing."""

from __future__ import annotations

from dtafs.store.tiers.base import Tier


def last_sequences(tier: Tier) -> dict[str, int]:
    """Log -> its last entry in a tier, whether or not all before it are there."""
    return {name: max(numbers) for name, numbers in _entries_in(tier).items()}


def _entries_in(tier: Tier) -> dict[str, set[int]]:
    there: dict[str, set[int]] = {}
    for key, _size in tier.keys("log/"):
        _top, _, rest = key.partition("/")
        name, _, number = rest.rpartition("/")
        if len(number) == 10 and number.isascii() and number.isdigit() and int(number):
            there.setdefault(name, set()).add(int(number))
    return there


def whole_sequences(tier: Tier) -> dict[str, int]:
    """Log -> its last entry in a tier before the first gap."""
    found = {}
    for name, numbers in _entries_in(tier).items():
        last = 0
        while last + 1 in numbers:
            last += 1
        found[name] = last
    return found
