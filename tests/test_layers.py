"""The layers of dtafs, as rules over its imports: what may know of what, and why.

The modules are parsed, not imported, so that an import inside a function counts too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.programs import ROOT

PACKAGE = ROOT / "dtafs"


class Layer(NamedTuple):
    """Modules below `name` may import from dtafs only what lies below one of `may_import`."""

    name: str
    may_import: tuple[str, ...]
    reason: str


# The nearest rule wins: the one with the longest name that a module lies below.
LAYERS = (
    Layer("dtafs.errors", (), "everything raises them, so they can depend on nothing"),
    Layer(
        "dtafs.core",
        ("dtafs.core", "dtafs.errors"),
        "pure algorithms: testable without a disk, and the same on every store",
    ),
    Layer(
        "dtafs.store",
        ("dtafs.store", "dtafs.core", "dtafs.errors"),
        "the lake works without a mount, a daemon or an event loop",
    ),
    Layer(
        "dtafs.fs",
        ("dtafs.fs", "dtafs.store", "dtafs.core", "dtafs.errors"),
        "what the mount looks like does not depend on who serves or commands it",
    ),
    Layer(
        "dtafs.services",
        ("dtafs.services", "dtafs.fs", "dtafs.store", "dtafs.core", "dtafs.errors"),
        "a daemon can be started by anything, so it knows no command",
    ),
    Layer(
        "dtafs.services.client",
        ("dtafs.services", "dtafs.store", "dtafs.core", "dtafs.errors"),
        "every command uses it to ask a daemon, and must not load the mount for that",
    ),
    Layer(
        "dtafs.api",
        ("dtafs.services.client", "dtafs.store", "dtafs.core", "dtafs.errors"),
        "a program that uses the API needs no FUSE and no event loop",
    ),
    Layer(
        "dtafs",
        ("dtafs.api", "dtafs.errors"),
        "what `import dtafs` gives is the API and its errors, and nothing behind them",
    ),
    Layer(
        "dtafs.hms_dta",
        ("dtafs", "dtafs.api", "dtafs.errors"),
        "another name for the API, and no more",
    ),
    Layer(
        "dtafs.cli",
        (
            "dtafs",
            "dtafs.cli",
            "dtafs.api",
            "dtafs.services",
            "dtafs.store",
            "dtafs.core",
            "dtafs.errors",
        ),
        "commands print what the API and the store say; they touch no inode",
    ),
)

# One gate per third-party package: to replace it, or to guard every use of it, is one change.
GATES = {
    "lmdb": {"dtafs.store.database"},
    "cryptography": {"dtafs.store.crypto"},
    "pyfuse3": {"dtafs.fs.operations", "dtafs.fs.requests", "dtafs.services.daemon"},
    "pyfastcdc": {"dtafs.core.chunking"},
    "rfc8785": {"dtafs.core.canonical"},
    "zfec": {"dtafs.store.parity"},
    "obstore": {"dtafs.store.tiers.bucket"},
}

# Packages that only some layers may know, with the layers.
CONFINED = {
    "trio": ("dtafs.services", "dtafs.fs"),
    "click": ("dtafs.cli",),
    "rich": ("dtafs.cli",),
    "zstandard": ("dtafs.store",),
}

# The core takes time, randomness and bytes as arguments; `os` would give it all three.
IMPURE = frozenset(
    "asyncio concurrent ctypes datetime fcntl getpass glob io logging mmap multiprocessing os "
    "pathlib platform pwd grp queue random secrets select shutil signal socket sqlite3 subprocess "
    "tempfile threading time uuid".split()
)
PURE_AFTER_ALL = {("dtafs.core.names", "datetime"): "parses times; never asks what time it is"}

# What changes the directory of a lake, so that a simulated disk sees each such step.
DURABLE = "dtafs.store.durable"
DISK_CALLS = frozenset(
    "rename replace renames unlink remove rmdir removedirs link symlink mkdir makedirs "
    "fsync fdatasync truncate ftruncate".split()
)
DISK_EXCEPTIONS = {
    "dtafs.store.lock": "notes who holds the lock in the lock's own file, which nothing relies on",
    "dtafs.store.export": "writes what the user asked for, outside of the lake",
    "dtafs.store.sinks": "writes what the user asked for, outside of the lake",
}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its dotted name; a package goes by its own name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imports(module: str) -> set[str]:
    """The dotted names that a module imports, at any depth of its code; `from a import b` is `a.b`
    where that is a module of dtafs, else `a`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                found.add(whole if whole in MODULES else base)
    return found


def below(name: str, top: str) -> bool:
    """Whether a dotted name is `top` or lies below it."""
    return name == top or name.startswith(top + ".")


def layer_of(module: str) -> Layer:
    """The rule that a module is under."""
    return max(
        (layer for layer in LAYERS if below(module, layer.name)), key=lambda layer: len(layer.name)
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_downwards(module: str) -> None:
    layer = layer_of(module)
    # `dtafs` allows the package itself and not all that is below it.
    wrong = [
        name
        for name in imports(module)
        if below(name, "dtafs")
        and not any(
            name == top or (top != "dtafs" and below(name, top)) for top in layer.may_import
        )
    ]
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}: {layer.reason}"


@pytest.mark.parametrize("package", GATES)
def test_one_gate_per_package(package: str) -> None:
    users = {module for module in MODULES if any(below(name, package) for name in imports(module))}
    assert users <= GATES[package], f"only {sorted(GATES[package])} may import {package}"


@pytest.mark.parametrize("package", CONFINED)
def test_packages_stay_in_their_layers(package: str) -> None:
    for module in MODULES:
        if any(below(name, package) for name in imports(module)):
            assert any(below(module, top) for top in CONFINED[package]), (
                f"{module} may not import {package}: only {', '.join(CONFINED[package])} may"
            )


def test_only_known_packages() -> None:
    """Everything imported is the standard library's, ours, or a declared dependency."""
    third_party = {*GATES, *CONFINED, "msgspec"}
    for module in MODULES:
        for name in imports(module):
            top = name.partition(".")[0]
            assert top == "dtafs" or top in sys.stdlib_module_names or top in third_party, (
                f"{module} imports {name}, which pyproject.toml does not name"
            )


@pytest.mark.parametrize("module", [name for name in MODULES if below(name, "dtafs.core")])
def test_core_is_pure(module: str) -> None:
    used = {name.partition(".")[0] for name in imports(module)}
    wrong = {name for name in used & IMPURE if (module, name) not in PURE_AFTER_ALL}
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}; the core is pure"
    tree = ast.walk(ast.parse(MODULES[module].read_bytes()))
    names = {node.id for node in tree if isinstance(node, ast.Name)}
    assert not names & {"open", "print", "input"}, f"{module} does input or output"


@pytest.mark.parametrize("module", [name for name in MODULES if below(name, "dtafs.store")])
def test_only_the_durable_module_changes_files(module: str) -> None:
    if module == DURABLE or module in DISK_EXCEPTIONS:
        return
    for node in ast.walk(ast.parse(MODULES[module].read_bytes())):
        if isinstance(node, ast.Call):
            wrong = _changes_files(node)
            assert not wrong, f"{module}, line {node.lineno}: {wrong} belongs into {DURABLE}"


def test_rules_name_what_exists() -> None:
    """A rule for a module that is gone would be a rule that nothing is under."""
    for name in [layer.name for layer in LAYERS] + [*DISK_EXCEPTIONS, DURABLE]:
        assert name in MODULES or name == "dtafs", f"no module {name}"
    for package, gates in GATES.items():
        assert gates & MODULES.keys(), f"no module of the gate of {package} exists"


def _changes_files(call: ast.Call) -> str:
    """The name of the call if it creates, renames, syncs, links or removes a file, else ""."""
    function = call.func
    if isinstance(function, ast.Attribute):
        if function.attr in ("write_bytes", "write_text", "touch"):
            return function.attr
        of_os = isinstance(function.value, ast.Name) and function.value.id == "os"
        if of_os and function.attr in DISK_CALLS:
            return f"os.{function.attr}"
        if of_os and function.attr == "open" and "O_CREAT" in ast.dump(call):
            return "os.open with O_CREAT"
        return ""
    if isinstance(function, ast.Name) and function.id == "open":
        mode = next((k.value for k in call.keywords if k.arg == "mode"), None)
        mode = call.args[1] if len(call.args) > 1 else mode
        if isinstance(mode, ast.Constant) and set(str(mode.value)) & set("wax+"):
            return "open for writing"
    return ""
