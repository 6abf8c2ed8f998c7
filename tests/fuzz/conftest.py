"""Says at the end of a run how many inputs were tried."""

from __future__ import annotations

import pytest

from tests.fuzz.mutations import ACCEPTED, TRIED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, count in sorted(TRIED.items()):
        taken = ACCEPTED[what]
        terminalreporter.write_line(f"fuzzed {what}: {count:,} inputs, {taken:,} of them valid")
