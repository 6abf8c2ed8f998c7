"""Sizes of a test of scale: a moderate one in every run, the one that the README names with --soak."""

from __future__ import annotations

import pytest


def sizes(moderate: int, full: int) -> pytest.MarkDecorator:
    """A mark that gives a test the argument `size`."""
    return pytest.mark.parametrize("size", [moderate, pytest.param(full, marks=pytest.mark.soak)])
