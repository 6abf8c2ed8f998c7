"""Fixtures of every test: lakes that are checked when the test is over, and mounts of them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.support.tried import SOAK, TRIED, USUAL, record

if TYPE_CHECKING:  # tests of the pure core must not need a store that works
    from dtafs.store.lake import Lake
    from tests.support.mounts import Mount
    from tests.support.object_stores import ObjectStore

# No deadline: two busy cores make any example slow. No database: a run leaves nothing in the
# checkout, and the blob that is printed with a failure reproduces it.
_COMMON: dict[str, Any] = {"deadline": None, "database": None, "print_blob": True}
hypothesis.settings.register_profile("default", max_examples=100, **_COMMON)
hypothesis.settings.register_profile("soak", max_examples=2_000, **_COMMON)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="also run what takes many minutes")
    parser.addoption("--record", action="store_true", help="write the counts to tests/tried.json")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.load_profile("soak" if config.getoption("--soak") else "default")
    # A shell starts what it runs in the background with interrupts ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    for what, count in sorted(TRIED.items()):
        terminalreporter.write_line(f"tried {what}: {count:,}")
    if config.getoption("--record") and not exitstatus:
        record(SOAK if config.getoption("--soak") else USUAL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak"):
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture
def lake_path(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The directory of a new, empty lake that nobody has open; checked when the test is over."""
    from dtafs.store.lake import Lake
    from tests.support.lakes import assert_sound

    path = tmp_path / "lake"
    Lake.create(path).close()
    yield path
    if not request.node.get_closest_marker("damages_lake"):
        assert_sound(path)


@pytest.fixture
def lake(lake_path: Path) -> Iterator[Lake]:
    """A new, empty lake, open for writing; closed, then checked."""
    from dtafs.store.lake import Lake

    with Lake.open(lake_path, write=True) as opened:
        yield opened


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Mount]]:
    """`mount(lake_path, *options)` mounts a lake for the rest of the test."""
    from tests.support.mounts import mounted

    with ExitStack() as mounts:
        numbers = iter(range(100))

        def start(path: Path, *options: str, **how: Any) -> Mount:
            mountpoint = tmp_path / f"mnt{next(numbers)}"
            return mounts.enter_context(mounted(path, mountpoint, *options, **how))

        yield start


@pytest.fixture
def mounted_lake(lake_path: Path, mount: Callable[..., Mount]) -> Mount:
    """A new, empty lake, mounted; unmounted, its log read, then checked."""
    return mount(lake_path)


@pytest.fixture(scope="session")
def seaweed_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A SeaweedFS with a bucket, for the whole run; each test takes a prefix of its own."""
    from tests.support.object_stores import seaweedfs

    with seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as store:
        yield store


@pytest.fixture(scope="session")
def moto_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A moto with a bucket, whose archived objects must be restored; for the whole run."""
    from tests.support.object_stores import moto

    with moto(tmp_path_factory.mktemp("moto")) as store:
        yield store
