"""The scenarios, on a real mount: in a fresh staging, and over what a version has sealed."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from tests.posix import acts
from tests.posix.scenarios import ROOT, USERS, Scenario, scenarios
from tests.support.actors import Actor
from tests.support.mounts import Mount, mounted
from tests.support.twins import await_tick

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

ALL = list(scenarios())
IDS = [f"{scenario.name} {scenario.kind}".strip() for scenario in ALL]
LETTERS = "amc"
LONGEST = {"{4095}": "t" * 4_095, "{4096}": "t" * 4_096}


class Cast:
    """One process for each user, started when it is first needed."""

    def __init__(self) -> None:
        self._actors: dict[str, Actor] = {}

    def of(self, user: str) -> Actor:
        """The process of a user."""
        if user not in self._actors:
            self._actors[user] = Actor(*USERS[user])
        return self._actors[user]

    def close(self) -> None:
        """End all of them."""
        for actor in self._actors.values():
            actor.close()


@pytest.fixture(scope="module")
def cast() -> Iterator[Cast]:
    """The users of the scenarios."""
    with ExitStack() as stack:
        made = Cast()
        stack.callback(made.close)
        yield made


class Run:
    """A scenario being played in a directory."""

    def __init__(self, cast: Cast, place: Path) -> None:
        self._cast, self._place = cast, place
        self._entered: set[str] = set()
        self._kept: dict[str, str] = {}
        self._marks: dict[str, tuple[int, ...]] = {}

    def play(self, lines: tuple[str, ...]) -> None:
        """Play lines; the first that comes out otherwise fails the test."""
        for line in lines:
            said, _, wanted = line.partition(" =")
            words = self._filled(said).split()
            found = self._one(words)
            expected = self._filled(wanted).strip().replace("\\0", "\0")
            if expected:
                assert found in expected.split("|"), f"{line}: {found}"
            else:
                assert not found or found.upper() != found, f"{line}: {found}"

    def _filled(self, text: str) -> str:
        for name, value in [*LONGEST.items(), *((f"${k}", v) for k, v in self._kept.items())]:
            text = text.replace(name, value)
        return text

    def _one(self, words: list[str]) -> str:
        if words[0] == "let":
            self._kept[words[1]] = self._call(ROOT, words[2:])
            return ""
        if words[0] == "mark":
            self._marks = {path: self._times(path) for path in words[1:]}
            await_tick(time.time_ns())
            return ""
        if words[0] == "newer":
            before = self._marks[words[2]][2]
            return "" if all(now > before for now in self._times(words[1])) else "NOT NEWER"
        if words[0] == "moved":
            pairs = zip(LETTERS, self._marks[words[1]], self._times(words[1]), strict=True)
            return "".join(letter for letter, a, b in pairs if a != b) or "none"
        if words[0].endswith(":"):
            return self._call(words[0][:-1], words[1:])
        return self._call(ROOT, words)

    def _times(self, path: str) -> tuple[int, ...]:
        self._enter(ROOT)
        return self._cast.of(ROOT).do(acts.times, path)

    def _enter(self, user: str) -> None:
        if user not in self._entered:
            self._entered.add(user)
            self._cast.of(user).do(acts.enter, str(self._place), "/")

    def _call(self, user: str, words: list[str]) -> str:
        self._enter(user)
        call: Callable[..., object] = getattr(acts, words[0])
        try:
            result = self._cast.of(user).do(call, *words[1:])
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "" if result is None else str(result)


def new_place(above: Path) -> Path:
    """A new directory of root's that everybody can look into."""
    place = above / f"s{sum(1 for _ in above.iterdir())}"
    place.mkdir()
    place.chmod(0o755)
    return place


@pytest.mark.parametrize("scenario", ALL, ids=IDS)
def test_in_staging(module_mount: Mount, cast: Cast, scenario: Scenario) -> None:
    run = Run(cast, new_place(module_mount / "D/staging"))
    run.play(scenario.before)
    run.play(scenario.lines)


def test_over_a_sealed_version(lake_path: Path, tmp_path: Path, cast: Cast) -> None:
    """What is there at first was sealed, and is shown by a daemon that knows nothing of it."""
    chosen = [scenario for scenario in ALL if scenario.sealable]
    first, second = tmp_path / "first", tmp_path / "second"
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    with mounted(lake_path, first, "--allow-other") as mount:
        (mount / "D").mkdir()
        for scenario in chosen:
            Run(cast, new_place(mount / "D/staging")).play(scenario.before)
        cast.of(ROOT).do(acts.enter, "/", "/")
        os.rename(mount / "D/staging", mount / "D/v1")
    differences = []
    with mounted(lake_path, second, "--allow-other") as mount:
        for number, scenario in enumerate(chosen):
            try:
                Run(cast, mount / f"D/staging/s{number}").play(scenario.lines)
            except AssertionError as difference:
                differences.append(f"{scenario.name} {scenario.kind}: {difference}")
        for user in USERS:
            cast.of(user).do(acts.enter, "/", "/")
    assert not differences, "\n".join(differences)


NAME, LONG = "n" * 255, "n" * 256
CALLS = """chmod P 0644; chown P 65534 65534; lchown P 65534 65534; truncate P 1; open P rdonly;
    open P wronly; utime P now now; lutime P 1 2; stat_of P kind; lstat_of P kind; readlink P;
    unlink P; rmdir P; link P new; rename P new; exchange P f""".split(";")
MAKING = """open P creat,wronly; open P creat,excl,rdwr; mkdir P 0755; mkfifo P 0644;
    mknod P none 0644; mknod P block 0644; symlink x P; link f P; rename f P; make socket P""".split(
    ";"
)
FAULTS = (
    ("f/x", "ENOTDIR"),
    ("p/x", "ENOTDIR"),
    ("to_file/x", "ENOTDIR"),
    ("gone/x", "ENOENT"),
    ("to_gone/x", "ENOENT"),
    ("d/gone/x", "ENOENT"),
    (LONG, "ENAMETOOLONG"),
    (f"{LONG}/x", "ENAMETOOLONG"),
    (f"d/{LONG}", "ENAMETOOLONG"),
    ("d/" * 2_048, "ENAMETOOLONG"),
    ("loop/x", "ELOOP"),
    ("loop2/x", "ELOOP"),
    ("x/" * 41, "ENOENT"),
    ("many41/x", "ELOOP"),
)
BUILT = """put f text; make fifo p; make dir d; symlink f to_file; symlink gone to_gone;
    symlink loop loop; symlink loop3 loop2; symlink loop2 loop3; make dir many0""".split(";")


@pytest.fixture(scope="module")
def faults(module_mount: Mount, cast: Cast) -> Run:
    """A directory where everything that is wrong with a path can be met."""
    run = Run(cast, new_place(module_mount / "D/staging"))
    run.play(tuple(BUILT))
    run.play(tuple(f"symlink many{n} many{n + 1}" for n in range(41)))
    return run


@pytest.mark.parametrize(("path", "wanted"), FAULTS, ids=[path[:12] for path, _ in FAULTS])
def test_paths_that_lead_nowhere(faults: Run, path: str, wanted: str) -> None:
    for call in (*CALLS, *MAKING):
        too_long_for_a_socket = "socket" in call and wanted == "ENAMETOOLONG"
        if not too_long_for_a_socket:
            faults.play((f"{call.replace('P', path)} = {wanted}",))


def test_what_may_be_as_long_as_that(faults: Run) -> None:
    for call, after in product(
        ("open P creat,wronly", "mkfifo P 0644", "symlink x P"), ("P", "d/P")
    ):
        path = after.replace("P", NAME)
        faults.play((call.replace("P", path), f"rename {path} new", "unlink new"))
    faults.play((f"mkdir {NAME} 0755", f"link f {NAME}/{NAME}", f"unlink {NAME}/{NAME}"))
    faults.play(("lstat_of many40/. kind = dir", f"rmdir {NAME}"))


def test_directories_that_cannot_be_searched(faults: Run, module_mount: Mount, cast: Cast) -> None:
    run = Run(cast, new_place(module_mount / "D/staging"))
    run.play(("chmod . 0777", "put f text", "chown f 65534 65534", "make dir d 0700"))
    run.play(("make regular d/x 0666 65534 65534", "make dir d/sub 0777"))
    for call in (*CALLS, *MAKING):
        for path in ("d/x", "d/gone"):
            run.play((f"alice: {call.replace('P', path)} = EACCES",))
