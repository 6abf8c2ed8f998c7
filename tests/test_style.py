"""Rules of style that a linter does not know: sizes, docstrings, and documents that stay true."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import ROOT

MODULE_LINES = 400
"""One purpose fits; what does not is two modules."""

FUNCTION_LINES = 70
"""A function can be seen whole on a screen."""

SOURCES = sorted((ROOT / "dtafs").rglob("*.py"))
OURS = [*SOURCES, *sorted((ROOT / "scripts").glob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "dtafs").glob("*.md"))]

# Spelt in two parts so that this file does not match itself.
UNFINISHED = re.compile(
    "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3, "raise NotImplemented" + "Error"])
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> Iterator[tuple[str, Function, bool]]:
    """Every function of a module: its qualified name, its node, and whether it is public.

    Public: no name on the way to it starts with an underscore, and it is not inside a function.
    """
    pending: list[tuple[str, ast.AST, bool]] = [("", ast.parse(path.read_bytes()), True)]
    while pending:
        prefix, parent, public = pending.pop()
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Function | ast.ClassDef):
                name = f"{prefix}{node.name}"
                open_ = public and not node.name.startswith("_")
                if isinstance(node, Function):
                    yield name, node, open_
                pending.append((name + ".", node, open_ and isinstance(node, ast.ClassDef)))
            else:
                pending.append((prefix, node, public))


def classes() -> dict[str, tuple[set[str], set[str]]]:
    """Every class of the package: the names of its bases, and of its documented methods."""
    found = {}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).partition("[")[0].split(".")[-1] for base in node.bases}
                methods = [child for child in node.body if isinstance(child, Function)]
                documented = {child.name for child in methods if ast.get_docstring(child)}
                found[node.name] = bases, documented
    return found


CLASSES = classes()
DOCUMENTED_ELSEWHERE = {"Operations"}  # pyfuse3's


def inherited(name: str) -> bool:
    """Whether a method (`Class.method`) is documented where a base class has it."""
    parts = name.split(".")
    pending = list(CLASSES[parts[-2]][0]) if len(parts) > 1 and parts[-2] in CLASSES else []
    while pending:
        base = pending.pop()
        if base in DOCUMENTED_ELSEWHERE:
            return True
        bases, documented = CLASSES.get(base, (set(), set()))
        if parts[-1] in documented:
            return True
        pending.extend(bases)
    return False


@pytest.mark.parametrize("path", OURS, ids=relative)
def test_sizes(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MODULE_LINES, f"{lines} lines: find where to cut"
    for name, node, _ in functions(path):
        length = (node.end_lineno or 0) - node.lineno + 1
        assert length <= FUNCTION_LINES, f"{name} has {length} lines"


@pytest.mark.parametrize("path", [*OURS, *DOCUMENTS], ids=relative)
def test_nothing_unfinished(path: Path) -> None:
    found = UNFINISHED.search(path.read_text())
    assert not found, f"{found[0] if found else ''} in {relative(path)}"


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_docstrings(path: Path) -> None:
    """Every module, public class and public function says what it is for.

    A function of one statement may go without: its name says it. So may a method that a base class
    documents, or pyfuse3, whose contract `Operations` fulfils.
    """
    tree = ast.parse(path.read_bytes())
    if tree.body:
        assert ast.get_docstring(tree), f"{relative(path)} has no docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"class {node.name} has no docstring"
    missing = [
        name
        for name, node, public in functions(path)
        if public and not ast.get_docstring(node) and len(node.body) > 1 and not inherited(name)
    ]
    assert not missing, f"no docstring: {', '.join(missing)}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_documents_name_what_exists(path: Path) -> None:
    """A path into the checkout that a document names in backquotes is there."""
    for name in re.findall(r"`((?:dtafs|scripts|tests)/[\w./*-]+)`", path.read_text()):
        assert list(ROOT.glob(name.rstrip("/"))), (
            f"{relative(path)} names {name}, which is not there"
        )


def commands_of(document: str) -> set[tuple[str, str]]:
    """The (program, subcommand) pairs in a document's code fences, options before them left out."""
    found = set()
    for fence in re.findall(r"^```\w*\n(.*?)^```", document, re.M | re.S):
        pattern = r"^\s*(?:[$#] )?(dtafsctl|dtafs)((?: --?[a-z]\S*(?: [A-Z]\S*)?)*) ([a-z][\w-]*)"
        for program, _, name in re.findall(pattern, fence, re.M):
            found.add((program, name))
    return found


def test_commands_in_the_readme_exist() -> None:
    from dtafs.cli.commands import ctl as dtafsctl
    from dtafs.cli.daemon import main as dtafs

    known = {"dtafsctl": _subcommands(dtafsctl), "dtafs": _subcommands(dtafs)}
    named = commands_of((ROOT / "README.md").read_text())
    assert named, "the README shows no command"
    for program, name in named:
        assert name in known[program], f"the README shows `{program} {name}`, which does not exist"


def test_every_command_is_in_the_readme() -> None:
    from dtafs.cli.commands import ctl as dtafsctl
    from dtafs.cli.daemon import main as dtafs

    readme = (ROOT / "README.md").read_text()
    for program, group in (("dtafsctl", dtafsctl), ("dtafs", dtafs)):
        for name in _subcommands(group):
            assert f"{program} {name}" in readme, f"the README does not show `{program} {name}`"


def test_every_configuration_field_is_in_the_readme() -> None:
    from dtafs.store.config import Config, TierSettings

    readme = (ROOT / "README.md").read_text()
    tables = {name: getattr(Config(), name) for name in Config.__struct_fields__}
    tables["tiers.warm"] = TierSettings()
    del tables["tiers"]
    for table, shape in tables.items():
        assert f"[{table}]" in readme, f"the README does not describe [{table}] of config.toml"
        for field in shape.__struct_fields__:
            assert re.search(rf"\b{field}\b", readme), f"the README does not describe {field}"


def _subcommands(command: object) -> set[str]:
    """The names of a click group's commands, whether `main` is the group or calls it."""
    commands = getattr(command, "commands", None)
    if commands is None:
        module = __import__(getattr(command, "__module__", ""), fromlist=["*"])
        groups = [value for value in vars(module).values() if hasattr(value, "commands")]
        commands = {name: c for group in groups for name, c in group.commands.items()}
    return set(commands)
