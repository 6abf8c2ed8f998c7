"""git, make, a C compiler, editors, Python environments: what people do in a working directory."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.programs.conftest import Place

MAKEFILE = """\
prog: main.o part.o
\tgcc -o $@ $^
%.o: %.c part.h
\tgcc -O1 -c -o $@ $<
clean:
\trm -f prog *.o
"""
SOURCES = {
    "Makefile": MAKEFILE,
    "part.h": "int part(int);\n",
    "part.c": '#include "part.h"\nint part(int n) { return n * 2; }\n',
    "main.c": '#include <stdio.h>\n#include "part.h"\nint main(void) '
    '{ printf("%d\\n", part(21)); return 0; }\n',
}


def write_sources(top: Path) -> None:
    for name, text in SOURCES.items():
        (top / name).write_text(text)


@pytest.fixture
def repository(tmp_path: Path, place: Place) -> Path:
    """A git repository on this machine, with some history."""
    top = tmp_path / "repository"
    top.mkdir()
    place.run("git", "init", "-q", "-b", "main", top)
    for number in range(5):
        for name in range(40):
            (top / f"file{name}").write_text(f"{name}\n" * (number + 1) * 20)
        place.run("git", "add", "-A", cwd=top)
        place.run("git", "commit", "-q", "-m", f"Change {number}", cwd=top)
    return top


def test_git(place: Place, repository: Path, tmp_path: Path) -> None:
    place.run("git", "clone", "-q", "--no-local", repository, place.staging / "clone")
    clone = place.staging / "clone"
    (clone / "file3").write_text("mine\n")
    place.run("git", "checkout", "-q", "-b", "work", cwd=clone)
    place.run("git", "commit", "-q", "-a", "-m", "Mine", cwd=clone)
    place.run("git", "gc", "-q", "--aggressive", "--prune=now", cwd=clone)
    place.run("git", "fsck", "--full", "--strict", cwd=clone)
    place.run("git", "checkout", "-q", "main~3", cwd=clone)
    place.run("git", "checkout", "-q", "work", cwd=clone)
    assert place.run("git", "status", "--porcelain", cwd=clone) == ""
    place.run("git", "worktree", "add", "-q", place.staging / "tree", "main", cwd=clone)
    head = place.run("git", "rev-parse", "HEAD", cwd=clone)
    version = place.commit()
    assert place.run("git", "status", "--porcelain", cwd=clone) == ""
    safe = ("git", "-c", "safe.directory=*")
    place.run(*safe, "fsck", "--full", cwd=version / "clone")
    place.run("git", "clone", "-q", version / "clone", tmp_path / "back")
    assert place.run("git", "rev-parse", "HEAD", cwd=tmp_path / "back") == head


def test_git_clones_beside_itself(place: Place, repository: Path) -> None:
    """A clone on one file system is made of hard links."""
    place.run("git", "clone", "-q", "--bare", "--no-local", repository, place.staging / "bare.git")
    place.run("git", "clone", "-q", "bare.git", "clone")
    objects = [path for path in (place.staging / "clone/.git/objects").rglob("*") if path.is_file()]
    assert objects and all(path.stat().st_nlink == 2 for path in objects)
    place.commit()
    clone = place.staging / "clone"
    (clone / "file1").write_text("pushed\n")
    place.run("git", "commit", "-q", "-a", "-m", "Pushed", cwd=clone)
    place.run("git", "push", "-q", "origin", "main", cwd=clone)
    place.run("git", "repack", "-q", "-a", "-d", cwd=place.staging / "bare.git")
    place.run("git", "fsck", "--full", cwd=place.staging / "bare.git")
    shown = place.run("git", "show", "main:file1", cwd=place.staging / "bare.git")
    assert shown == "pushed\n"


def test_make_builds_what_has_changed(place: Place) -> None:
    write_sources(place.staging)
    place.run("make", "-j2")
    assert place.run("./prog") == "42\n"
    assert "up to date" in place.run("make")
    (place.staging / "part.c").write_text(SOURCES["part.c"].replace("* 2", "* 3"))
    made = place.run("make", "-j2")
    assert "part.o" in made and "main.o main.c" not in made
    assert place.run("./prog") == "63\n"
    version = place.commit()
    assert place.run(version / "prog") == "63\n"
    assert "up to date" in place.run("make"), "times are those from before the commit"
    place.run("make", "clean")
    place.run("make")


def test_an_editor_saves(place: Place) -> None:
    """As vim does with backups: the old file is renamed, a new one takes its name."""
    (place.staging / "text").write_text("one\n")
    (place.staging / "text").chmod(0o640)
    script = (
        "-Nu",
        "NONE",
        "-es",
        "+set backup writebackup backupcopy=no backupskip=",
        "+%s/one/two/",
        "+wq",
    )
    place.run("vim", *script, "text")
    assert (place.staging / "text").read_text() == "two\n"
    assert (place.staging / "text~").read_text() == "one\n"
    assert (place.staging / "text").stat().st_mode & 0o777 == 0o640
    version = place.commit()
    place.run("vim", "-Nu", "NONE", "-es", "+set backupcopy=yes", "+%s/two/three/", "+wq", "text")
    assert (place.staging / "text").read_text() == "three\n"
    assert (version / "text").read_text() == "two\n"


def test_sed_in_place_and_patch(place: Place) -> None:
    (place.staging / "text").write_text("one\ntwo\n")
    place.commit()
    place.run("sed", "-i.orig", "s/one/1/", "text")
    assert (place.staging / "text").read_text() == "1\ntwo\n"
    assert (place.staging / "text.orig").read_text() == "one\ntwo\n"
    (place.staging / "change").write_text("--- text\n+++ text\n@@ -1,2 +1,2 @@\n 1\n-two\n+2\n")
    place.run("patch", "-p0", "-i", "change")
    assert (place.staging / "text").read_text() == "1\n2\n"
    place.run("install", "-m", "0751", "text", "installed")
    assert (place.staging / "installed").stat().st_mode & 0o777 == 0o751


def test_a_python_environment(place: Place) -> None:
    place.run(sys.executable, "-m", "venv", "--without-pip", "env")
    python = place.staging / "env/bin/python"
    (place.staging / "module.py").write_text("NUMBER = 7\n")
    command = (python, "-c", "import module, sys; print(module.NUMBER, sys.prefix)")
    for _ in range(2):
        assert place.run(*command) == f"7 {place.staging / 'env'}\n"
    assert list(place.staging.glob("__pycache__/module*.pyc"))
    place.run(python, "-m", "zipfile", "-c", "env.zip", "env/pyvenv.cfg", "module.py")
    place.run(python, "-m", "zipfile", "-t", "env.zip")


WHEEL = {
    "pointer.py": "def point() -> str:\n    return 'there'\n",
    "pointer-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: pointer\nVersion: 1.0\n",
    "pointer-1.0.dist-info/WHEEL": (
        "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ),
    "pointer-1.0.dist-info/entry_points.txt": "[console_scripts]\npoint = pointer:point\n",
}


INSTALLERS = {
    "pip of its own": ((), ("env/bin/python", "-m", "pip")),
    "pip from outside": (
        ("--without-pip",),
        (sys.executable, "-m", "pip", "--python", "env/bin/python"),
    ),
}


@pytest.mark.parametrize(
    "installer",
    [pytest.param("pip of its own", marks=pytest.mark.soak), "pip from outside"],
)
def test_packages_are_installed_in_a_python_environment(place: Place, installer: str) -> None:
    options, pip = INSTALLERS[installer]
    wheel = "pointer-1.0-py3-none-any.whl"
    with zipfile.ZipFile(place.staging / wheel, "w") as made:
        for name, text in WHEEL.items():
            made.writestr(name, text)
        record = [f"{name},," for name in (*WHEEL, "pointer-1.0.dist-info/RECORD")]
        made.writestr("pointer-1.0.dist-info/RECORD", "\n".join(record))
    place.run(sys.executable, "-m", "venv", *options, "env")
    python = place.staging / "env/bin/python"
    place.run(*pip, "install", "-q", "--no-index", f"./{wheel}")
    call = "import pointer; print(pointer.point())"
    assert place.run(python, "-c", call) == "there\n"
    place.commit()
    assert place.run(python, "-c", call) == "there\n"
    place.run(*pip, "uninstall", "-q", "-y", "pointer")
    assert not list((place.staging / "env").rglob("pointer*"))


def test_a_directory_is_removed_while_it_is_listed(place: Place) -> None:
    for number in range(700):
        (place.staging / "many" / f"{number}").parent.mkdir(exist_ok=True)
        (place.staging / "many" / f"{number}").touch()
    place.commit()
    (place.staging / "many/late").touch()
    place.run("rm", "-r", "many")
    assert not list(place.staging.iterdir())
    write_sources(place.staging)
    shutil.rmtree(place.staging, ignore_errors=True)  # staging itself stays
    assert subprocess.run(["ls", place.staging], check=True, capture_output=True).stdout == b""
